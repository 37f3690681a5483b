"""`make run`: the whole chat as one foreground job (shared/scripts/run.sh)."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from certificate import make_certificate, serial_of
from client import Client, RawClient
from stack import (
    BUILD,
    REPO,
    SANITIZED,
    START_S,
    STOP_S,
    Port,
    http_request,
    open_socket,
    program_name,
    until,
    unverified_tls,
)

SCRIPT = REPO / "shared" / "scripts" / "run.sh"
MAKE = ["make", "--no-print-directory", *(["SANITIZE=address,undefined"] if SANITIZED else [])]


class Run:
    """One `make run`, or its script alone, with a folder for temporary files of its own."""

    def __init__(self, *arguments, by_make=False, port=None, **settings):
        self.folder = Path(tempfile.mkdtemp(prefix="hlchat-test-"))
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self._port = port or Port()
        self.port = self._port.number
        # Not what an outer make has put there, and nothing that is a setting.
        keep = {
            k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "STORE_PROGRAM")
        }
        keep |= {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}
        settings = {"HTTP_PORT": self.port, **settings}
        self.url = f"http://127.0.0.1:{self.port}/"
        if by_make:
            command = [*MAKE, "run", *(f"{k}={v}" for k, v in settings.items()), *arguments]
        else:
            command = [SCRIPT, *arguments]
            settings.setdefault("HLCHAT_BUILD", BUILD.relative_to(REPO))
            keep |= {k: str(v) for k, v in settings.items()}
        self.began = time.monotonic()
        with self.output_path.open("wb") as output:
            # A group of its own, as a shell gives to a foreground job.
            self.process = subprocess.Popen(
                command,
                cwd=REPO,
                env={**keep, "TMPDIR": str(self.temporary)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output_path(self):
        return self.folder / "output"

    def output(self):
        return self.output_path.read_text(errors="replace")

    def complaints(self):
        """The lines that the script itself says, or a program that refuses its settings."""
        return re.findall(r"^(?:run|make|api-fcgi|ws-broker): .*", self.output(), re.MULTILINE)

    def wait_up(self):
        until("the chat is up", lambda: self.url in self.output() or self.ended(), START_S)
        assert not self.ended(), self.output()
        self.took = time.monotonic() - self.began
        return self

    def ended(self):
        return self.process.poll() is not None

    def wait(self):
        return self.process.wait(STOP_S)

    def wait_stopped(self):
        self.process.terminate()
        return self.wait()

    def http(self, path):
        return http_request(("127.0.0.1", self.port), "GET", path)

    def processes(self):
        """{pid: name} of all that was started by this run and is still there."""
        mark = f"TMPDIR={self.temporary}".encode()
        found = {}
        for proc in Path("/proc").iterdir():
            try:
                # Of a broker all but root see the arguments alone. Redis writes its title over its
                # environment, but works in the run's folder.
                if proc.name.isdigit() and (
                    os.fsencode(self.temporary) in (proc / "cmdline").read_bytes()
                    or mark in (proc / "environ").read_bytes()
                    or os.readlink(proc / "cwd").startswith(f"{self.temporary}/")
                ):
                    found[int(proc.name)] = program_name(proc.name)
            except OSError:
                pass  # gone, or not ours
        return found

    def pid_of(self, program):
        return next(pid for pid, name in self.processes().items() if re.fullmatch(program, name))

    def ops(self, broker, path):
        """The answer of a broker's OPS_LISTEN."""
        (folder,) = self.temporary.iterdir()
        return http_request(str(folder / f"broker{broker}-ops.sock"), "GET", path).text()

    def assert_nothing_left(self):
        until(f"all of it is gone: {self.processes()}", lambda: not self.processes())
        assert list(self.temporary.iterdir()) == []
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))

    def close(self):
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._port.release()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def run():
    """Starts it: run(HISTORY_LIMIT=5), run(by_make=True)."""
    with ExitStack() as running:

        def start(*arguments, **settings):
            started = Run(*arguments, **settings)
            running.callback(started.close)
            return started

        yield start


def chat(run, token):
    client = Client(open_socket(("127.0.0.1", run.port)))
    client.login(token)
    return client


def test_it_answers_as_soon_as_it_says_so(run):
    up = run().wait_up()
    assert up.http("/").status == 200
    assert up.http("/api").status == 200
    client = chat(up, "ann")
    client.send("message", message="hi")
    assert client.receive()["message"] == "hi"
    client.close()
    print(f"up after {up.took:.2f} s")


def lines_to_paste(up):
    """{"page": URL, "api": command ...}; that commands work is tried out."""
    lines = [line.split(maxsplit=1) for line in up.output().splitlines()]
    pasted = {words[0]: words[1] for words in lines if len(words) == 2}
    assert pasted["page"] == up.url
    said = '{"action":"login","token":"Anna"}\n'
    for name, stdin in (("api", ""), ("metrics", ""), ("chat", said)):
        answer = subprocess.run(
            pasted[name].split(),
            input=stdin, check=True, capture_output=True, text=True, timeout=30, cwd=REPO,
        )  # fmt: skip
        assert answer.stdout or name == "chat", name
    return pasted


def test_it_prints_lines_to_paste(run):
    up = run().wait_up()
    assert lines_to_paste(up)["chat"].endswith(f" ws://127.0.0.1:{up.port}/chat")
    for line in ('{"action":"login","token":"Anna"}', '{"action":"history","limit":10}'):
        assert line in up.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it(run, number):
    up = run().wait_up()
    client = chat(up, "ann")
    up.process.send_signal(number)
    assert up.wait() == 0
    client.close()
    up.assert_nothing_left()
    assert up.complaints() == []


def test_a_signal_while_it_starts(run):
    starting = run()
    until("a part runs", lambda: "ws-broker" in starting.processes().values())
    starting.process.terminate()
    assert starting.wait() == 0
    starting.assert_nothing_left()


def test_a_kill_leaves_no_process(run):
    up = run().wait_up()
    up.process.kill()
    up.wait()
    until("all of it is gone", lambda: not up.processes())


class TestMake:
    def test_settings_of_the_make_line(self, run):
        up = run(by_make=True, BROKERS=1, STORE="memory", IDENTITY="dev", HISTORY_LIMIT=2).wait_up()
        print(f"up after {up.took:.2f} s")
        client = chat(up, "ann")
        for text in "abc":
            client.send("message", message=text)
            client.receive()
        assert [m["message"] for m in client.history(limit=9)] == ["c", "b"]
        client.close()

    def test_ctrl_c(self, run):
        up = run(by_make=True).wait_up()
        os.killpg(up.process.pid, signal.SIGINT)
        up.wait()
        up.assert_nothing_left()

    def test_sigterm(self, run):
        up = run(by_make=True).wait_up()
        up.process.terminate()
        up.wait()
        up.assert_nothing_left()

    def test_sigkill(self, run):
        up = run(by_make=True).wait_up()
        up.process.kill()
        up.wait()
        up.assert_nothing_left()

    def test_a_port_in_use(self, run):
        with socket.create_server(("127.0.0.1", 0)) as other:
            started = run(by_make=True, HTTP_PORT=other.getsockname()[1])
            assert started.wait() == 2
        assert len([line for line in started.complaints() if line.startswith("run: ")]) == 1


class TestRedis:
    def test_brokers_are_one_chat(self, run):
        up = run(by_make=True, STORE="redis", BROKERS=2).wait_up()
        print(f"up after {up.took:.2f} s")
        clients = [chat(up, token) for token in ("ann", "bob")]
        for broker in (1, 2):  # least connections
            until(
                "each has one",
                lambda broker=broker: "\nhlchat_connections 1\n" in up.ops(broker, "/metrics"),
            )
        for sender in clients:
            sender.send("message", message="hi")
            for client in clients:
                assert client.receive()["message"] == "hi"
        histories = [client.history() for client in clients]
        assert len(histories[0]) == 2
        assert histories[0] == histories[1]
        for client in clients:
            client.close()
        up.process.terminate()
        up.wait()
        up.assert_nothing_left()

    def test_a_private_redis(self, run):
        first, second = (run(STORE="redis").wait_up() for _ in range(2))
        for up in (first, second):
            client = chat(up, "ann")
            client.send("message", message="ours")
            client.receive()
            assert len(client.history()) == 1
            client.close()
            command = re.search(
                r"^  redis +((?:redis|valkey)-cli -s .*)$", up.output(), re.MULTILINE
            )[1]
            answer = subprocess.run(
                [*command.split(), "XLEN", "chat:{main}"],
                check=True, capture_output=True, text=True, timeout=30,
            )  # fmt: skip
            assert answer.stdout == "1\n"
        assert first.wait_stopped() == 0
        assert first.complaints() == []
        first.assert_nothing_left()

    def test_one_that_is_there_already(self, run, tmp_path):
        """Nobody starts or stops it, and what is in it stays."""
        url = f"unix://{tmp_path}/redis.sock"
        server = subprocess.Popen(
            [REPO / "shared/scripts/redis-server.sh", "--port", "0", "--save", ""]
            + ["--unixsocket", f"{tmp_path}/redis.sock", "--dir", str(tmp_path)],
            stdout=subprocess.DEVNULL,
        )
        try:
            until("Redis listens", (tmp_path / "redis.sock").exists)
            for earlier in (0, 1):
                up = run(STORE="redis", REDIS_URL=url).wait_up()
                assert not {"redis-server", "valkey-server"} & set(up.processes().values())
                client = chat(up, "ann")
                assert len(client.history()) == earlier
                client.send("message", message="stays")
                client.receive()
                client.close()
                assert up.wait_stopped() == 0
                up.assert_nothing_left()
            assert server.poll() is None
        finally:
            server.kill()
            server.wait()


class TestStoreProgram:
    """redis-server.sh and deps.sh, on a machine that has these programs alone."""

    @staticmethod
    def script(folder, installed, name, *words, **environment):
        (folder / "id").write_text("#!/bin/sh\necho 1000\n")
        (folder / "dpkg-query").write_text("#!/bin/sh\n")
        for program in ("id", "dpkg-query"):
            (folder / program).chmod(0o755)
        for program in ("bash", "sed", "grep"):
            (folder / program).symlink_to(shutil.which(program))
        for program in installed:
            (folder / program).symlink_to(shutil.which("bash"))
        return subprocess.run(
            [REPO / "shared" / "scripts" / name, *words],
            env={"PATH": str(folder), **environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )

    @pytest.mark.parametrize(
        ("installed", "wanted", "found"),
        [
            (["redis-server", "redis-check-rdb"], "", "redis-server"),
            (["redis-check-rdb"], "", "redis-server"),
            (["valkey-server", "valkey-check-rdb"], "", "valkey-server"),
            (["valkey-check-rdb"], "", "valkey-server"),
            (["valkey-check-rdb", "redis-check-rdb"], "", "redis-server"),
            (["valkey-check-rdb", "redis-check-rdb"], "valkey-server", "valkey-server"),
            (["redis-check-rdb"], "redis-server", "redis-server"),
        ],
        ids=str,
    )
    def test_what_is_there(self, tmp_path, installed, wanted, found):
        started = self.script(
            tmp_path, installed, "redis-server.sh", "-c", "echo $0", STORE_PROGRAM=wanted
        )
        assert (started.stdout, started.stderr) == (f"{found}\n", "")

    @pytest.mark.parametrize(
        ("installed", "wanted", "told"),
        [
            ([], "", "redis-server is not installed: make deps"),
            (["redis-check-rdb"], "valkey-server", "valkey-server is not installed: make deps"),
            (["valkey-server"], "redis-server", "redis-server is not installed: make deps"),
            ([], "keydb", "STORE_PROGRAM is 'keydb': must be redis-server or valkey-server"),
        ],
        ids=str,
    )
    def test_what_is_not(self, tmp_path, installed, wanted, told):
        started = self.script(tmp_path, installed, "redis-server.sh", STORE_PROGRAM=wanted)
        assert (started.returncode, started.stderr) == (1, f"{told}\n")

    @pytest.mark.parametrize(
        ("installed", "wanted", "package"),
        [
            ([], "", ["redis-tools"]),
            ([], "valkey-server", ["valkey-tools"]),
            (["redis-check-rdb"], "valkey-server", ["valkey-tools"]),
            (["redis-check-rdb"], "", []),
            (["valkey-check-rdb"], "", []),
        ],
        ids=str,
    )
    def test_what_is_installed(self, tmp_path, installed, wanted, package):
        asked = self.script(
            tmp_path, installed, "deps.sh", "run", STORE="redis", STORE_PROGRAM=wanted
        )
        assert asked.returncode == 1
        assert re.findall(r"\b(?:redis|valkey)\S*", asked.stderr) == package


def test_a_port_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        started = run(HTTP_PORT=port)
        assert started.wait() == 1
        assert started.output().splitlines() == started.complaints()
        assert f"port {port} is in use" in started.output()
        assert len(started.complaints()) == 1
    started.assert_nothing_left()


@pytest.mark.parametrize(
    ("program", "name", "line"),
    [
        ("api-fcgi", "api", " info "),
        ("ws-broker", "broker1", " info "),
        ("haproxy", "haproxy", " info "),
        ("(redis|valkey)-server", "redis", "[Rr]eady to accept connections"),
    ],
)
def test_a_part_that_dies_takes_the_others_along(run, program, name, line):
    up = run(STORE="redis" if name == "redis" else "memory").wait_up()
    os.kill(up.pid_of(program), signal.SIGKILL)
    assert up.wait() == 1
    assert up.complaints() == [f"run: {name} was killed by SIGKILL; its last lines:"]
    last = up.output().split("its last lines:\n")[1]
    assert re.match(rf"(?is){name} \| .*{line}", last)
    up.assert_nothing_left()


def test_a_part_that_cannot_start(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        started = run(HAPROXY_OPS_BIND=address)
        assert started.wait() == 1
    assert started.complaints() == ["run: haproxy ended with status 1; its last lines:"]
    assert address in started.output().split("its last lines:\n")[1]
    started.assert_nothing_left()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"BROKERS": 2}, "2 separate chats"),
        ({"BROKERS": 2, "STORE": "memory"}, "2 separate chats"),
        ({"BROKERS": 0}, "BROKERS=0: must be 1 to 8"),
        ({"BROKERS": "many"}, "BROKERS=many: must be 1 to 8"),
        ({"HTTP_PORT": "http"}, "HTTP_PORT=http: must be 1 to 65535"),
        ({"HTTP_PORT": 0}, "HTTP_PORT=0: must be 1 to 65535"),
        ({"PORT": 65536}, "must be"),
        ({"TLS": "yes"}, "TLS=yes: must be 0 or 1"),
        ({"TLS": 1, "HTTPS_PORT": "https"}, "HTTPS_PORT=https: must be 1 to 65535"),
        ({"STORE": "paper"}, "STORE is 'paper'"),
        ({"IDENTITY": "anyone"}, "IDENTITY is 'anyone'"),
        ({"HISTORY_LIMIT": -1}, "HISTORY_LIMIT is '-1'"),
        ({"CHAT_ENV": "prod"}, "prod"),
        ({"HLCHAT_BUILD": "nowhere"}, "nowhere/api-fcgi is not there"),
    ],
    ids=str,
)
def test_bad_settings_are_one_line(run, settings, named):
    started = run(**settings)
    assert started.wait() != 0
    assert len(started.output().splitlines()) == 1
    assert len(started.complaints()) == 1
    assert named in started.output()
    started.assert_nothing_left()


class TestTls:
    @pytest.fixture
    def build(self, tmp_path):
        """Where the programs are, and nothing else."""
        for program in ("api-fcgi", "ws-broker"):
            (tmp_path / program).symlink_to(BUILD / program)
        return tmp_path

    @pytest.fixture
    def run_tls(self, run):
        def start(**settings):
            port = Port()
            started = run(**{"TLS": 1, "HTTPS_PORT": port.number, **settings})
            started.url = f"https://127.0.0.1:{port.number}/"
            started.https = ("127.0.0.1", port.number)
            return started

        return start

    def test_by_make(self, run_tls):
        up = run_tls(by_make=True).wait_up()
        assert lines_to_paste(up)["chat"].endswith(f" --insecure wss{up.url[5:]}chat")
        assert up.http("/x").headers["Location"] == f"https://localhost:{up.https[1]}/x"
        client = RawClient(open_socket(up.https, tls=unverified_tls()))
        client.login("ann")
        client.close()
        up.process.terminate()
        up.wait()
        up.assert_nothing_left()

    def test_the_certificate_is_kept_while_it_is_good(self, run_tls, build):
        file = build / "run" / "localhost.pem"

        def serial():
            up = run_tls(HLCHAT_BUILD=build).wait_up()
            # Verified, by the flag that is printed.
            lines_to_paste(up)
            answer = http_request(up.https, "GET", "/", tls=unverified_tls())
            # For nothing else on this machine.
            assert answer.headers["Strict-Transport-Security"] == "max-age=0"
            assert up.wait_stopped() == 0
            assert file.stat().st_mode & 0o777 == 0o600
            return serial_of(file)

        first = serial()
        assert serial() == first
        expiring = serial_of(make_certificate(file, file, days=0))
        assert serial() not in (first, expiring)
        file.write_text("nonsense")
        serial()

    def test_a_certificate_of_somebody(self, run_tls, build, tmp_path):
        certificate = make_certificate(tmp_path / "c.pem", tmp_path / "c.pem")
        up = run_tls(TLS="", TLS_CERT=certificate, HLCHAT_BUILD=build).wait_up()
        lines_to_paste(up)
        assert not (build / "run").exists()

    def test_two_at_once(self, run_tls, build):
        both = [run_tls(HLCHAT_BUILD=build) for _ in range(2)]
        for up in both:
            lines_to_paste(up.wait_up())

    @pytest.mark.parametrize("tls", [{"TLS": 1}, {"TLS": "", "TLS_CERT": "nowhere.pem"}], ids=str)
    def test_a_port_in_use(self, run, tls):
        with socket.create_server(("127.0.0.1", 0)) as other:
            started = run(HTTPS_PORT=other.getsockname()[1], **tls)
            assert started.wait() == 1
            assert f"port {other.getsockname()[1]} is in use" in started.output()
        assert len(started.output().splitlines()) == 1
        port = Port()
        started = run(port=port, HTTPS_PORT=port.number, **tls)
        assert started.wait() == 1
        assert f"port {port.number} is in use" in started.output()

    def test_no_certificate(self, run_tls):
        started = run_tls(TLS_CERT="nowhere.pem")
        assert started.wait() == 1
        assert started.complaints() == ["run: haproxy ended with status 1; its last lines:"]
        assert "'nowhere.pem'" in started.output().split("its last lines:\n")[1]
        started.assert_nothing_left()


def test_two_at_once(run):
    first, second = run(), run()
    clients = [chat(started.wait_up(), "ann") for started in (first, second)]
    for client, text in zip(clients, ("one", "two"), strict=True):
        client.send("message", message=text)
        assert client.receive()["message"] == text
        assert len(client.history()) == 1
        client.close()
    first.process.terminate()
    assert first.wait() == 0
    assert second.http("/api").status == 200


def test_two_on_one_port(run):
    port = Port()
    both = [run(port=port), run(port=port)]
    until("one has given up", lambda: any(started.ended() for started in both), START_S)
    loser, winner = sorted(both, key=lambda started: not started.ended())
    assert loser.wait() == 1
    assert len(loser.complaints()) == 1
    assert "in use" in loser.output()
    assert winner.wait_up().http("/api").status == 200


def test_an_empty_setting_is_none(run):
    up = run(PORT="", HTTP_BIND="", BROKERS="", STORE="", CHAT_ENV="").wait_up()
    assert up.http("/api").status == 200


def test_port_wins(run):
    port = Port()
    up = run(port=port, HTTP_PORT="1", PORT=port.number).wait_up()
    assert up.http("/api").status == 200


def test_on_all_addresses(run):
    up = run(HTTP_BIND="0.0.0.0").wait_up()
    assert up.http("/api").status == 200


def test_a_proxy_in_the_environment_is_not_asked(run):
    run(http_proxy="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1").wait_up()


def test_it_runs_from_anywhere(run, tmp_path):
    started = subprocess.run(
        [SCRIPT],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "BROKERS": "9"},
        check=False,
        timeout=20,
    )
    assert started.returncode == 1
