"""What operators see of a broker: health, metrics, logs, its end."""

import json
import re
import signal
import socket
import subprocess
from datetime import UTC, datetime

import pytest
from client import TIMEOUT_S
from jwt_tokens import signing_key
from stack import BUILD, REPO, SANITIZED, until


class TestEndpoints:
    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_alive_and_ready(self, stack, path, method):
        assert stack.broker.http(path, method).status == 200

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
    def test_the_public_gets_none_of_them(self, stack, path):
        assert stack.http("GET", path).status == 404

    @pytest.mark.parametrize("path", ["/metrics", "/", "/healthz/", "/nothing"])
    def test_players_port_has_nothing_else(self, stack, path):
        answer = stack.broker.http(path)
        assert answer.status == 404
        assert list(json.loads(answer.body)) == ["error"]

    @pytest.mark.parametrize("path", ["/", "/chat", "/nothing"])
    def test_operators_port_has_nothing_else(self, stack, path):
        answer = stack.broker.ops(path)
        assert answer.status == 404
        assert list(json.loads(answer.body)) == ["error"]

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    def test_other_methods(self, stack, method):
        assert stack.broker.http("/healthz", method).status == 405
        assert stack.broker.ops("/metrics", method).status == 405

    @pytest.mark.parametrize("path", ["/healthz", "/nothing"])
    def test_head_has_no_body(self, stack, path):
        with socket.create_connection(stack.broker.address(), TIMEOUT_S) as sock:
            sock.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
        assert b"\r\nCache-Control: no-store\r\n" in head
        assert body == b""

    def test_chat_without_an_upgrade(self, stack):
        answer = stack.broker.http("/chat")
        assert answer.status in (400, 426)
        assert list(json.loads(answer.body)) == ["error"]

    def test_they_answer_beside_connections_that_say_nothing(self, stack):
        silent = [socket.create_connection(stack.broker.address()) for _ in range(20)]
        try:
            assert stack.broker.http("/readyz").status == 200
        finally:
            for sock in silent:
                sock.close()


class TestUnixSockets:
    SETTINGS = {"unix": True}

    def test_the_whole_chat_works_over_them(self, stack):
        assert stack.http("GET", "/api").status == 200
        client = stack.connect("alice")
        assert client.ask("message", message="hi")["message"] == "hi"
        assert stack.broker.http("/readyz").status == 200
        where = stack.broker.setting(), stack.broker.setting("ops")
        assert "ready listen={} ops_listen={} ".format(*where) in stack.broker.log()


@pytest.mark.parametrize(
    ("listen", "warns"), [("0.0.0.0:0", True), ("[::]:0", True), ("127.0.0.1:0", False)]
)
def test_development_logins_for_more_than_this_machine(listen, warns):
    command = [BUILD / "ws-broker", "--listen", listen, "--ops-listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as broker:
        log = []
        for line in broker.stderr:
            log.append(line)
            if " info broker ready " in line:
                break
        broker.terminate()
        assert broker.wait(timeout=30) == 0, log
    hints = [line for line in log if " warn broker identity_dev " in line]
    assert len(hints) == warns, log


# Metrics ------------------------------------------------------------------------------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(\{{{LABEL}(?:,{LABEL})*\}})? (\S+)")


def parse_exposition(text):
    """Checks the text format 0.0.4 as a scraper does; {family: (type, {sample: value})}."""
    assert text.endswith("\n")
    families, helped = {}, set()
    family = None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, explanation = line.split(" ", 3)
            assert name not in helped, f"{name} is explained twice"
            assert explanation
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in families, f"{family} is in two places"
            assert kind in ("counter", "gauge", "histogram")
            families[family] = (kind, {})
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, f"not a sample: {line!r}"
            name, labels, value = sample.groups()
            kind, samples = families[family]
            base = re.sub("_(bucket|sum|count)$", "", name) if kind == "histogram" else name
            assert base == family, f"{line!r} stands below {family}"
            assert name + (labels or "") not in samples, f"twice: {line!r}"
            samples[name + (labels or "")] = float(value)
    assert helped == set(families)
    return families


class TestMetrics:
    SETTINGS = {"RATE_MESSAGES": 0, "api": False}

    @pytest.fixture
    def moved(self, stack):
        """moved(name, do): by how much the metric changes when do() is done."""

        def measure(name, do, at_least=1):
            before = stack.broker.metrics().get(name, 0)
            do()
            until(
                f"{name} to rise by {at_least}",
                lambda: stack.broker.metrics()[name] - before >= at_least,
            )
            return stack.broker.metrics()[name] - before

        return measure

    def test_the_format(self, stack):
        stack.connect("alice").ask("message", message="hi")
        answer = stack.broker.ops("/metrics")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = parse_exposition(answer.text())
        assert families
        for name, (kind, samples) in families.items():
            assert name.startswith("hlchat_")
            assert samples, f"{name} has no samples"
            assert (kind == "counter") == name.endswith("_total")

    def test_histograms_add_up(self, stack):
        stack.connect("alice").ask("message", message="hi")
        families = parse_exposition(stack.broker.ops("/metrics").text())
        histograms = [(n, s) for n, (kind, s) in families.items() if kind == "histogram"]
        assert histograms
        for name, samples in histograms:
            buckets = [
                (float(re.search('le="([^"]*)"', sample).group(1)), value)
                for sample, value in samples.items()
                if sample.startswith(f"{name}_bucket")
            ]
            assert buckets == sorted(buckets)
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1] == (float("inf"), samples[f"{name}_count"])
            assert f"{name}_sum" in samples

    def test_the_version_is_told(self, stack):
        version = (REPO / "VERSION").read_text().strip()
        name = next(n for n in stack.broker.metrics() if n.startswith("hlchat_build_info"))
        assert f'version="{version}"' in name

    def test_connections(self, stack, moved):
        assert moved("hlchat_connections_total", stack.connect) == 1
        before = stack.broker.metrics()
        clients = [stack.connect("same"), stack.connect("same"), stack.connect()]
        now = stack.broker.metrics()
        assert now["hlchat_connections"] - before["hlchat_connections"] == 3
        assert now["hlchat_clients_logged_in"] - before["hlchat_clients_logged_in"] == 2
        assert now["hlchat_users_online"] - before["hlchat_users_online"] == 1
        for client in clients:
            client.close()
        for name in ("hlchat_connections", "hlchat_clients_logged_in", "hlchat_users_online"):
            until(
                f"{name} falls again",
                lambda name=name: stack.broker.metrics()[name] == before[name],
            )

    def test_logins_by_result(self, stack, moved):
        client = stack.connect()
        refuse = json.dumps({"action": "login", "token": "x" * 65})
        assert moved('hlchat_logins_total{result="refused"}', lambda: client.refused(refuse)) == 1
        assert moved('hlchat_logins_total{result="accepted"}', lambda: client.login("a")) == 1

    def test_messages_deliveries_and_bytes(self, stack, moved):
        clients = [stack.connect(f"user {i}") for i in range(4)]

        def say():
            for i in range(10):
                clients[0].send("message", message=f"{i}" + "x" * 1000)
            for client in clients:
                for _ in range(10):
                    client.receive()

        assert moved("hlchat_messages_total", say, 10) == 10
        assert moved("hlchat_deliveries_total", say, 40) == 40
        assert moved("hlchat_sent_bytes_total", say, 40_000) >= 40_000
        assert moved("hlchat_received_bytes_total", say, 10_000) >= 10_000
        assert moved("hlchat_replies_total", clients[1].history) == 1

    @pytest.mark.parametrize(
        ("token", "text"),
        [
            ("a", "no JSON"),
            ("a", '{"action":"message","message":""}'),
            ("a", '{"action":"something"}'),
            (None, '{"action":"history"}'),
            ("a", '{"action":"login","token":"somebody else"}'),
        ],
    )
    def test_refusals_by_reason(self, stack, token, text):
        client = stack.connect(token)

        def refusals():
            samples = stack.broker.metrics().items()
            return {k: v for k, v in samples if k.startswith("hlchat_refusals_total{reason=")}

        before = refusals()
        client.refused(text)
        rose = {k: v - before[k] for k, v in refusals().items() if v != before[k]}
        assert list(rose.values()) == [1]

    def test_refusals_of_the_rate(self, start_stack):
        stack = start_stack(api=False, RATE_MESSAGES=1, RATE_BURST=1)
        client = stack.connect("hasty")
        for _ in range(10):
            client.send("message", message="hi")
        answers = [client.receive() for _ in range(10)]
        assert sum("error" in answer for answer in answers) >= 5
        assert stack.broker.metrics()['hlchat_refusals_total{reason="rate"}'] >= 5

    def test_flushes_and_loop_turns(self, stack, moved):
        alice = stack.connect("alice")
        assert moved("hlchat_flush_messages_count", lambda: alice.ask("message", message="x")) >= 1
        assert moved("hlchat_flush_messages_sum", lambda: alice.ask("message", message="x")) == 1
        assert moved("hlchat_loop_lag_seconds_count", alice.history) >= 1


# Logs ---------------------------------------------------------------------------------------------

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (error|warn|info|debug) [\w-]+ .+")


class TestLogs:
    SETTINGS = {"LOG_LEVEL": "debug", "RATE_MESSAGES": 0}

    def converse(self, stack):
        client = stack.connect("alice", path="/chat?token=sesame-query")
        client.ask("message", message="sesame-message", channel="sesame-channel")
        client.history()
        for text in (
            "sesame-not-json",
            '{"action":"sesame-action"}',
            '{"action":"message","message":["sesame-type"]}',
            '{"action":"message","message":"hi","channel":["sesame-type"]}',
            json.dumps({"action": "message", "message": "sesame-long" * 1000}),
            '{"action":"login","token":"sesame-other-user"}',
        ):
            client.refused(text)
        stranger = stack.connect()
        stranger.refused('{"action":"message","message":"sesame-stranger"}')
        stranger.refused('{"action":"login","username":"bob","password":"sesame-password"}')
        stranger.refused(json.dumps({"action": "login", "token": "sesame-token" * 6}))
        raw = stack.connect("carol", raw=True)
        raw.send_frame(0x1, b"sesame-bytes \xff")
        assert raw.close_code() == 1007

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_no_text_and_no_secret_is_in_any_log(self, start_stack, form):
        stack = start_stack(LOG_LEVEL="debug", LOG_FORMAT=form, RATE_MESSAGES=0)
        self.converse(stack)
        stack.broker.stop()
        for program in stack.programs:
            assert "sesame" not in program.log(), program.name
        assert len(stack.broker.log().splitlines()) > 5

    def test_every_line_is_one_event(self, stack):
        self.converse(stack)
        for line in stack.broker.log().splitlines():
            match = LINE.fullmatch(line)
            assert match, line
            at = datetime.fromisoformat(match.group(1))
            assert abs((datetime.now(UTC) - at).total_seconds()) < 600

    def test_json_lines_are_json(self, start_stack):
        stack = start_stack(LOG_LEVEL="debug", LOG_FORMAT="json", api=False)
        self.converse(stack)
        for line in stack.broker.log().splitlines():
            event = json.loads(line)
            assert {"time", "level", "module", "event"} <= set(event), line

    def test_nobody_can_forge_a_line(self, stack):
        nickname = "x\n2026-01-01T00:00:00.000Z info broker forged"
        stack.connect().ask("login", token=nickname)
        for line in stack.broker.log().splitlines():
            assert not line.startswith("2026-01-01T00:00:00.000Z"), line

    def test_the_level_is_respected(self, start_stack):
        stack = start_stack(LOG_LEVEL="error", api=False)
        stack.connect("alice").refused("no JSON")
        stack.broker.stop()
        assert stack.broker.log() == ""

    def test_the_client_address_is_what_a_trusted_proxy_says(self, stack):
        headers = {"X-Forwarded-For": "203.0.113.77"}
        stack.connect("alice", raw=True, direct=True, headers=headers)
        until("the address in the log", lambda: "203.0.113.77" in stack.broker.log())

    def test_of_a_chain_the_nearest_untrusted_address_counts(self, stack):
        headers = {"X-Forwarded-For": "203.0.113.80, 203.0.113.81, 127.0.0.9"}
        stack.connect("alice", raw=True, direct=True, headers=headers)
        until("the address in the log", lambda: "203.0.113.81" in stack.broker.log())
        assert "203.0.113.80" not in stack.broker.log()

    def test_haproxy_says_who_it_is_whatever_the_client_claims(self, stack):
        headers = {"X-Forwarded-For": "203.0.113.78"}
        stack.connect("alice", raw=True, headers=headers).ask("history")
        assert "203.0.113.78" not in stack.broker.log()

    @pytest.mark.parametrize(
        "value", ["nonsense", "", "256.1.1.1", ",,,", "203.0.113.79:x", "%s%n"]
    )
    def test_what_is_no_address_does_no_harm(self, stack, value):
        client = stack.connect(raw=True, direct=True, headers={"X-Forwarded-For": value})
        client.login("alice")

    def test_an_untrusted_peer_is_not_believed(self, start_stack):
        stack = start_stack(api=False, LOG_LEVEL="debug", TRUSTED_PROXIES="10.0.0.0/8")
        headers = {"X-Forwarded-For": "203.0.113.77"}
        stack.connect("alice", raw=True, direct=True, headers=headers).ask("history")
        assert "203.0.113.77" not in stack.broker.log()
        assert "127.0.0.1" in stack.broker.log()


# Its beginning and end ----------------------------------------------------------------------------


def test_systemd_is_told_how_long_a_stop_may_take(start_stack):
    """The drain's deadline may have changed since it was started: and 10 s for the rest."""
    stack = start_stack(api=False, haproxy=False, DRAIN_DEADLINE_S=7)
    path = stack.folder / f"{stack.broker.name}.notify.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(TIMEOUT_S)
        stack.broker.signal(signal.SIGTERM)
        assert systemd.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=17000000"
        assert stack.broker.wait() == 0


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
    @pytest.mark.parametrize("direct", [True, False], ids=["direct", "haproxy"])
    def test_clients_are_told_and_the_status_is_0(self, start_stack, number, direct):
        stack = start_stack(api=False)
        clients = [stack.connect(f"user {i}", direct=direct) for i in range(10)]
        stranger = stack.connect(direct=direct)
        stack.broker.signal(number)
        assert stack.broker.wait() == 0
        for client in (*clients, stranger):
            assert client.close_code() == 1001

    def test_beside_clients_who_do_not_react(self, start_stack):
        stack = start_stack(api=False, haproxy=False)
        silent = socket.create_connection(stack.broker.address())
        half = socket.create_connection(stack.broker.address())
        half.sendall(b"GET /chat HTTP/1.1\r\nHost: x\r\n")
        deaf = [stack.connect(f"deaf {i}", raw=True, direct=True) for i in range(10)]
        deaf[0].send_bytes(b"\x81")
        stack.broker.stop()
        silent.close()
        half.close()

    def test_in_the_middle_of_a_busy_chat(self, start_stack):
        stack = start_stack(api=False, RATE_MESSAGES=0)
        clients = [stack.connect(f"user {i}", raw=True) for i in range(10)]
        for client in clients:
            for _ in range(50):
                client.send("message", message="x" * 1000)
        clients[0].receive()
        stack.broker.stop()
        for client in clients:
            assert client.close_code() in (1001, 1006)

    def test_a_second_signal_does_no_harm(self, start_stack):
        stack = start_stack(api=False)
        stack.connect("alice")
        stack.broker.signal()
        stack.broker.signal()
        assert stack.broker.wait() == 0

    def test_the_port_is_free_again_and_clients_come_back(self, start_stack):
        stack = start_stack(api=False)
        stack.connect("alice").ask("message", message="before")
        stack.broker.stop()
        stack.broker.start()

        def back():
            client = stack.connect(raw=True, upgrade=False)
            return client.status == 101 and client.login("alice")

        client = until("HAProxy leads to the broker again", back, interval=0.2)
        assert client.history() == []  # the memory log went with the old process

    def test_an_unanswered_listener_socket_is_removed(self, start_stack):
        stack = start_stack(api=False, unix=True)
        path = stack.folder / "ws-broker-1.listen.sock"
        assert path.is_socket()
        stack.broker.kill()
        stack.broker.start()  # what a crash left is no obstacle
        stack.broker.stop()
        assert not path.exists()


class TestCommandLine:
    def run(self, *arguments, **environment):
        return subprocess.run(
            [BUILD / "ws-broker", *arguments],
            env={"PATH": "/usr/bin:/bin", **environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )

    def test_version(self):
        result = self.run("--version")
        assert result.returncode == 0
        assert (REPO / "VERSION").read_text().strip() in result.stdout

    def test_check(self):
        assert self.run("--check").returncode == 0

    def test_check_reads_the_keys(self, tmp_path):
        good, bad = tmp_path / "good.pem", tmp_path / "bad.pem"
        signing_key("key").write_public(good)
        bad.write_text("junk\n")
        files = {"JWT_PUBLIC_KEY_FILE": f"{good}, {bad}"}
        result = self.run("--check", IDENTITY="jwt", **files)
        assert (result.returncode, result.stdout) == (2, "")
        assert re.fullmatch(f"ws-broker: JWT_PUBLIC_KEY_FILE: {bad}: [^\n]+\n", result.stderr), (
            result.stderr
        )
        assert self.run("--check", IDENTITY="dev", **files).returncode == 0  # which has no use
        bad.write_bytes(good.read_bytes())
        assert self.run("--check", IDENTITY="jwt", **files).returncode == 0

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("LISTEN", "nonsense"),
            ("RATE_MESSAGES", "-1"),
            ("HISTORY_LIMIT", "1001"),
            ("LOG_LEVEL", "loud"),
            ("STORE", "paper"),
        ],
    )
    def test_a_bad_setting_is_one_clear_line_and_exit_2(self, name, value):
        for result in (
            self.run(**{name: value}),
            self.run("--check", **{name: value}),
            self.run(f"--{name.lower().replace('_', '-')}={value}"),
        ):
            assert result.returncode == 2
            assert result.stdout == ""
            assert len(result.stderr.splitlines()) == 1
            assert name in result.stderr.upper().replace("-", "_")
            assert value in result.stderr

    @pytest.mark.parametrize("profile", ["prod", "cloud_run"])
    def test_production_refuses_the_dev_identity_and_the_memory_store(self, profile):
        result = self.run("--check", CHAT_ENV=profile, IDENTITY="dev", STORE="memory")
        assert result.returncode == 2
        assert "IDENTITY" in result.stderr or "STORE" in result.stderr

    def test_a_port_in_use_is_one_clear_line(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            result = self.run("--listen", f"127.0.0.1:{port}", "--ops-listen", "127.0.0.1:0")
        assert result.returncode not in (0, 2)
        assert result.returncode > 0
        complaints = [line for line in result.stderr.splitlines() if " error " in line]
        assert len(complaints) == 1
        assert port in complaints[0]
        assert not SANITIZED or "Sanitizer" not in result.stderr
