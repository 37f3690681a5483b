"""The load generator tells the truth: a good run is good, what is spoiled on the way is found."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from mangle import Mangler
from relay import Relay
from stack import BUILD, freeze


def text(address):
    return address if isinstance(address, str) else "{}:{}".format(*address)


def chatload(*addresses, **options):
    """Runs it; its exit status and report. Options as in --help, with _ for -."""
    command = [BUILD / "bench" / "chatload"]
    for address in addresses:
        command += ["--connect", text(address)]
    for name, value in {"warm_up": 0, "seconds": 1, **options}.items():
        command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    """Of a process so far, in whole ticks."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return sum(map(int, stat.rpartition(") ")[2].split()[11:13])) * TICK_S


def faults(report):
    names = ("lost", "duplicates", "reordered", "altered", "undelivered", "errors")
    return {name: report[name] for name in names if report[name]}


class TestOfOneBroker:
    SETTINGS = {"RATE_MESSAGES": 0}

    def test_a_good_run(self, stack):
        began = cpu_s(stack.broker.pid)
        status, report = chatload(
            stack.haproxy.address(),
            stack.broker.address(),
            clients=50,
            publishers=7,
            rate=40,
            idle=0.1,
            pid=f"broker={stack.broker.pid}",
        )
        assert (status, faults(report)) == (0, {})
        assert report["logged_in"] == 50
        assert report["sent"] == 40
        assert report["deliveries"] == 40 * 50
        assert report["latency_ms"]["max"] >= report["fanout_ms"]["p50"] > 0
        assert 0 < report["cpu_s"]["broker"] <= cpu_s(stack.broker.pid) - began + 2 * TICK_S
        assert report["own_cpu_s"] > 0
        assert 0 <= report["sent_late_ms"]["p99"] <= report["latency_ms"]["max"]
        assert report["rss_kib"]["broker"] * 1024 == pytest.approx(stack.broker.rss(), rel=0.1)

    def test_a_closed_loop(self, stack):
        status, report = chatload(stack.broker.address(), clients=20, publishers=4, window=16)
        assert (status, faults(report)) == (0, {})
        assert report["sent"] > 100  # so it went on after the first sixteen
        assert "sent_late_ms" not in report  # nothing is due at a time

    @pytest.mark.parametrize("load", [{"rate": 40}, {"publishers": 4, "window": 16}])
    def test_what_is_measured_is_what_was_sent_meanwhile(self, stack, load):
        status, report = chatload(stack.broker.address(), clients=20, warm_up=0.3, **load)
        assert (status, faults(report)) == (0, {})
        assert report["sent"] == load.get("rate", report["sent"])
        assert report["deliveries"] == report["sent"] * 20

    def test_frames_of_the_size_that_was_asked_for(self, stack):
        _, report = chatload(stack.broker.address(), clients=1, size=2000)
        assert 2000 < report["frame_bytes"] < 2200

    @pytest.mark.parametrize(
        ("how", "found"), [("drop", "lost"), ("double", "duplicates"), ("swap", "reordered")]
    )
    @pytest.mark.parametrize("clients", [1, 8], ids=["the only client", "one of eight"])
    def test_what_is_spoiled_is_found(self, stack, how, found, clients):
        mangler = Mangler(how)
        mangler.armed = True
        with contextlib.closing(Relay(stack.broker.address, mangler.changer)) as relay:
            addresses = [relay.address, *[stack.broker.address()] * (clients - 1)]
            # A dropped one is waited for until the end.
            status, report = chatload(*addresses, clients=clients, rate=20, drain=4)
        assert mangler.done
        # What nobody has had, nobody has lost.
        if how == "drop" and clients == 1:
            found = "undelivered"
        assert (status, faults(report)) == (1, {found: 1})

    @pytest.mark.parametrize(
        ("how", "found"),
        [
            ("join", {}),
            ("drop", {"lost": 1}),
            ("double", {"duplicates": 1}),
            ("swap", {"reordered": 1}),
        ],
    )
    def test_a_text_may_be_several_messages(self, stack, how, found):
        mangler = Mangler(how)
        mangler.armed = True
        with contextlib.closing(Relay(stack.broker.address, mangler.changer)) as relay:
            addresses = [stack.broker.address(), relay.address]
            status, report = chatload(*addresses, clients=2, rate=20, drain=4, lines=True)
        assert mangler.done
        assert (status, faults(report)) == (int(bool(found)), found)

    def test_stalled_clients_are_not_waited_for(self, stack):
        status, report = chatload(stack.broker.address(), clients=10, stalled=4, rate=20)
        assert (status, faults(report)) == (0, {})
        assert report["deliveries"] == 20 * 6
        assert report["stalled"] == 4

    def test_who_cannot_log_in_is_told(self, stack):
        status, report = chatload(
            stack.broker.address(), clients=3, login='{"action":"login"}', seconds=0
        )
        assert status == 1
        assert (report["logged_in"], report["failed"]) == (0, 3)
        assert "token" in report["first_error"]

    def test_who_is_not_logged_in_in_time_takes_no_part(self, stack):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            status, report = chatload(
                stack.broker.address(), silent.getsockname(), clients=4, rate=20, connect_timeout=5
            )
        assert (status, faults(report)) == (1, {})
        assert (report["logged_in"], report["failed"]) == (2, 2)
        assert "--connect-timeout" in report["first_error"]
        assert report["deliveries"] == 20 * 2
        assert report["fanout_ms"]["p50"] > 0  # nobody else is waited for

    def test_tokens_from_a_file(self, stack, tmp_path):
        tokens = tmp_path / "tokens"
        tokens.write_text("Anna\nBertha\n")
        listener = stack.connect("listener")
        status, _ = chatload(
            stack.broker.address(),
            clients=2,
            publishers=2,
            tokens=tokens,
            login='{"action":"login","token":"%t"}',
            rate=4,
        )
        assert status == 0
        assert {listener.receive()["nickname"] for _ in range(4)} == {"Anna", "Bertha"}


def test_refused_messages_are_told(start_stack):
    stack = start_stack(api=False, haproxy=False, RATE_MESSAGES=1, RATE_BURST=5)
    status, report = chatload(stack.broker.address(), clients=3, rate=20)
    assert status == 1
    assert report["errors"] > 0
    # They are known to be nobody's, and nothing else is missing.
    assert report["undelivered"] == report["errors"]
    assert report["lost"] == report["duplicates"] == report["reordered"] == 0


def test_a_closed_connection_is_told(start_stack):
    stack = start_stack(api=False, haproxy=False)
    command = [BUILD / "bench" / "chatload", "--connect", text(stack.broker.address())]
    command += ["--clients", "5", "--seconds", "60", "--rate", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert "5 of 5 clients logged in" in running.stderr.readline()
        stack.broker.stop()
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    report = json.loads(out)
    assert report["closed"] == {"1001": 5}


@pytest.mark.parametrize("who", ["the server", "the generator"])
def test_a_stall_counts_for_all_that_was_due_meanwhile(start_stack, who):
    stack = start_stack(api=False, haproxy=False, RATE_MESSAGES=0)
    listener = stack.connect("listener", direct=True)
    command = [BUILD / "bench" / "chatload", "--connect", text(stack.broker.address())]
    command += ["--clients", "5", "--warm-up", "0", "--seconds", "6", "--rate", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        listener.receive()
        listener.close()
        pid = stack.broker.pid if who == "the server" else running.pid
        freeze(pid)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        out, _ = running.communicate(timeout=60)
    report = json.loads(out)
    assert (running.returncode, faults(report)) == (0, {})
    assert report["sent"] == 600
    # A sixth of them was due in that second, and one in a hundred waited for nearly all of it.
    assert report["latency_ms"]["p99"] >= 700


def test_an_endless_answer_to_the_handshake_is_told():
    def answer(listener):
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            peer.settimeout(60)
            peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(256):  # far more than its buffer
                peer.sendall(b"a" * (1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        server = threading.Thread(target=answer, args=[listener])
        server.start()
        status, report = chatload(listener.getsockname(), clients=1, seconds=0)
        server.join(60)
    assert (status, report["failed"]) == (1, 1)
    assert "does not end" in report["first_error"]


def test_unix_sockets(start_stack):
    stack = start_stack(api=False, haproxy=False, unix=True)
    status, report = chatload(f"unix:{stack.broker.address()}", clients=5)
    assert (status, faults(report)) == (0, {})
    assert report["deliveries"] == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--connect is required"),
        (["--connect", "localhost:80"], "numeric address"),
        (["--connect", "127.0.0.1:1", "--clients", "0"], "1 to 1e+06"),
        (["--connect", "127.0.0.1:1", "--clients", "2", "--stalled", "2"], "fewer --clients"),
        (["--connect", "127.0.0.1:1", "--rate", "1", "--window", "1"], "not both"),
        (["--connect", "127.0.0.1:1", "--message", "{}"], "must contain %m"),
        (["--connect", "127.0.0.1:1", "--pid", "broker"], "NAME=PID"),
        (["--connect", "127.0.0.1:1", "--pid", "broker=999999999"], "no such process"),
    ],
)
def test_refused_options(arguments, words):
    command = [BUILD / "bench" / "chatload", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert words in done.stderr
