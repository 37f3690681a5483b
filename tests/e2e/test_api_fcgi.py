"""api-fcgi itself, asked by a FastCGI client that does what HAProxy never would."""

import os
import re
import resource
import signal
import socket
import stat
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fcgi import FcgiClient, request
from stack import BUILD, Port, open_socket, until
from test_api import ask_at_once

API = str(BUILD / "api-fcgi")


def run_api(*flags, **settings):
    return subprocess.run(
        [API, *flags],
        check=False,
        env={**settings, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=20,
    )


def ask(address, method="GET", path="/api", **more):
    with FcgiClient(address) as peer:
        peer.send(request(method, path, **more))
        return peer.reply()


class TestPeers:
    SETTINGS = {"LOG_LEVEL": "debug"}

    def test_a_request(self, stack):
        reply = ask(stack.api.address(), path="/api/version")
        headers, _, body = reply.partition(b"\r\n\r\n")
        assert headers.startswith(b"Status: 200 OK\r\n")
        assert body.startswith(b'{"api":"v')

    def test_the_path_may_be_in_two_parts(self, stack):
        whole = ask(stack.api.address(), path="/api/version")
        assert ask(stack.api.address(), path="/api", PATH_INFO="/version") == whole

    def test_what_is_missing_is_no_crash(self, stack):
        assert ask(stack.api.address(), method="", path="").startswith(b"Status: 404")
        assert ask(stack.api.address(), path="/api" * 5000).startswith(b"Status: 404")

    def test_a_body_is_read_before_the_connection_is_closed(self, stack):
        """More of it than fits between the two: a peer that still sends is not cut off."""
        reply = ask(stack.api.address(), "POST", body=b"x" * (16 << 20))
        assert reply.startswith(b"Status: 405")

    def test_a_request_in_single_bytes(self, stack):
        with FcgiClient(stack.api.address()) as peer:
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request("GET", "/api"):
                peer.send(bytes([byte]))
            assert peer.reply().startswith(b"Status: 200")

    def test_requests_are_logged_at_debug_only_and_whole(self, stack):
        ask(stack.api.address(), path="/api/\nforged line", QUERY_STRING="token=secret")
        line = 'api request method=GET path="/api/\\nforged line" status=404\n'
        until("the line", lambda: line in stack.api.log())
        assert "secret" not in stack.api.log()

    def test_garbage_is_dropped(self, stack):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 64):
            with FcgiClient(stack.api.address()) as peer:
                peer.send(garbage)
                peer.sock.shutdown(socket.SHUT_WR)
                assert peer.is_closed()
        assert ask(stack.api.address()).startswith(b"Status: 200")

    def test_nobody_holds_a_thread_by_keeping_its_connection(self, stack):
        with ExitStack() as peers:
            for _ in range(30):
                peer = peers.enter_context(FcgiClient(stack.api.address()))
                peer.send(request("GET", "/api", keep=True))
                assert peer.reply().startswith(b"Status: 200")
                assert peer.is_closed()
            # None of them has closed its end.
            assert ask_at_once(stack, 200) == {200: 200}


class TestManyThreads:
    SETTINGS = {"FCGI_THREADS": 64, "haproxy": False}

    def test_a_connection_does_not_wake_them_all(self, stack):
        def wakeups():
            tasks = Path(f"/proc/{stack.api.pid}/task").iterdir()
            text = "".join((task / "status").read_text() for task in tasks)
            return sum(map(int, re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.M)))

        ask(stack.api.address())
        before = wakeups()
        for _ in range(100):
            ask(stack.api.address())
        # One thread, which waits for the connection, for the request, for its end; not 64.
        assert wakeups() - before < 100 * 16


class TestFewThreads:
    SETTINGS = {"FCGI_THREADS": 2, "haproxy": False}

    def test_a_silent_peer_loses_its_thread(self, stack):
        half = request("GET", "/api")[:20]
        with ExitStack() as peers:
            for start in (b"", half):
                peer = peers.enter_context(FcgiClient(stack.api.address()))
                peer.send(start)
            assert ask(stack.api.address()).startswith(b"Status: 200")

    def test_sigterm_answers_what_has_connected(self, start_stack):
        stack = start_stack(FCGI_THREADS=2, haproxy=False)
        whole = request("GET", "/api/version")
        with ExitStack() as connected:
            peers = [connected.enter_context(FcgiClient(stack.api.address())) for _ in range(12)]
            # Two hold the threads, ten wait to be accepted.
            for peer in peers[:2]:
                peer.send(whole[:40])
            for peer in peers[2:]:
                peer.send(whole)
            stack.api.signal(signal.SIGTERM)
            until("it stops", lambda: "api stopping" in stack.api.log())
            for peer in peers[:2]:
                peer.send(whole[40:])
            for peer in peers:
                assert peer.reply().startswith(b"Status: 200")
            assert stack.api.wait() == 0
        log = stack.api.log()
        assert log.count("api stop\n") == 1
        assert "threads_left_behind" not in log


def test_sigint_is_a_clean_end_too(start_stack):
    stack = start_stack(haproxy=False)
    stack.api.signal(signal.SIGINT)
    assert stack.api.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        open_socket(stack.api.address())


def test_sigpipe_is_nobody_s_end(start_stack):
    stack = start_stack(haproxy=False)
    stack.api.signal(signal.SIGPIPE)
    assert ask(stack.api.address()).startswith(b"Status: 200")


def test_it_gets_over_a_lack_of_descriptors(start_stack):
    stack = start_stack(haproxy=False)
    used = len(os.listdir(f"/proc/{stack.api.pid}/fd"))
    limits = resource.prlimit(stack.api.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stack.api.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    with FcgiClient(stack.api.address()) as peer:
        peer.send(request("GET", "/api"))
        until("it is told", lambda: "api accept_failed" in stack.api.log())
        time.sleep(1.2)  # a dozen tries
        resource.prlimit(stack.api.pid, resource.RLIMIT_NOFILE, limits)
        assert peer.reply().startswith(b"Status: 200")
    # One line for each thread, not one for each try.
    assert stack.api.log().count("accept_failed") <= 8


# Where it listens ---------------------------------------------------------------------------------


class TestAddress:
    SETTINGS = {"haproxy": False}

    def test_a_port_in_use_is_one_line(self, stack):
        second = run_api("--fcgi-listen", stack.api.setting(), LOG_LEVEL="error")
        assert second.returncode == 1
        assert len(second.stderr.splitlines()) == 1
        assert "error api listen_failed" in second.stderr
        assert str(stack.api.address()[1]) in second.stderr
        assert "in use" in second.stderr
        assert ask(stack.api.address()).startswith(b"Status: 200")


class TestUnixSocket:
    SETTINGS = {"haproxy": False, "unix": True}

    def test_only_the_group_may_connect(self, stack):
        mode = os.stat(stack.api.address()).st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660

    def test_a_served_socket_is_not_taken(self, stack):
        second = run_api("--fcgi-listen", stack.api.setting(), LOG_LEVEL="error")
        assert second.returncode == 1
        assert len(second.stderr.splitlines()) == 1
        assert "in use" in second.stderr
        assert ask(stack.api.address()).startswith(b"Status: 200")

    def test_another_file_is_not_replaced(self, stack):
        file = stack.folder / "notes.txt"
        file.write_text("keep me")
        refused = run_api("--fcgi-listen", f"unix:{file}", LOG_LEVEL="error")
        assert refused.returncode == 1
        assert file.read_text() == "keep me"

    def test_what_a_killed_one_left_is_replaced(self, stack):
        stack.api.kill()
        assert Path(stack.api.address()).exists()
        stack.api.start()
        assert ask(stack.api.address()).startswith(b"Status: 200")

    def test_an_end_removes_it(self, stack):
        stack.api.stop()
        assert not Path(stack.api.address()).exists()
        stack.api.start()


def test_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    port = Port()
    with subprocess.Popen([API, "--fcgi-listen", f"[::1]:{port.number}"], env={}) as api:
        try:
            address = ("::1", port.number)
            until("it listens", lambda: can_connect(address))
            assert ask(address).startswith(b"Status: 200")
        finally:
            api.terminate()
        assert api.wait(20) == 0
    port.release()


def can_connect(address):
    try:
        open_socket(address).close()
    except OSError:
        return False
    return True


# The command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "status", "out", "err"),
    [
        (["--check"], 0, "api-fcgi: the settings are valid\n", ""),
        (["--check", "--chat-env=prod"], 0, "api-fcgi: the settings are valid\n", ""),
        (["--fcgi-threads", "1"], 2, "", "api-fcgi: --fcgi-threads: FCGI_THREADS is '1', but "),
        (["--nothing"], 2, "", "api-fcgi: there is no option '--nothing' (see --help)\n"),
    ],
)
def test_exit_status(flags, status, out, err):
    done = run_api(*flags)
    assert done.returncode == status
    assert done.stdout == out
    assert done.stderr.startswith(err)
    assert len(done.stderr.splitlines()) == (1 if err else 0)
