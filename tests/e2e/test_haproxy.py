"""haproxy/haproxy.cfg: routes, errors, limits, health, timeouts. (The api itself: test_api.py.)

Where a broker has to be in a state that the memory store never brings about (alive, but unable to
publish), or where it matters which bytes reach it, a `StandIn` takes its place behind HAProxy.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import socketserver
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack import REPO, HAProxy, Port, http_request, open_socket, until

CONFIG = REPO / "haproxy" / "haproxy.cfg"
PAGE = REPO / "haproxy" / "page"

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # what that key asks for


def without(name):
    return {key: value for key, value in HANDSHAKE.items() if key != name}


def error_of(answer, status):
    """The text of an error that HAProxy made."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    body = json.loads(answer.body)
    assert list(body) == ["error"]
    assert body["error"]
    return body["error"]


def request_bytes(stack, data):
    """The answer to a request written by hand, up to the end of the connection."""
    with open_socket(stack.haproxy.address()) as sock:
        sock.sendall(data)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return answer, answer.read()


def shake_hands(stack):
    """A new client's socket and the answer to its handshake."""
    sock = open_socket(stack.haproxy.address())
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    sock.sendall(f"GET /chat HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    return sock, answer


# The file itself ----------------------------------------------------------------------------------

REQUIRED = {
    "PAGE_DIR": str(PAGE),
    "RUN_DIR": "/tmp",
    "API_1": "127.0.0.1:9000",
    "BROKER_1": "unix@/tmp/broker.sock",
}
OPTIONAL = [
    *(f"API_{i}" for i in range(2, 5)),
    *(f"BROKER_{i}" for i in range(2, 9)),
    *("HTTP_BIND", "HTTP_PORT", "PORT", "HAPROXY_OPS_BIND", "HAPROXY_TRUSTED_PROXIES"),
    *("API_MAXCONN", "PING_INTERVAL_S", "TLS_CERT", "HTTPS_PORT", "HSTS_MAX_AGE", "ACME_SERVER"),
    *("API_DNS", "BROKERS_DNS", "DNS_SERVER"),
]


def check(**environment):
    """What HAProxy says of the file; warnings are errors."""
    return subprocess.run(
        [HAProxy.program(), "-dW", "-c", "-f", CONFIG],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )


class TestFile:
    def test_what_is_required_is_enough(self):
        result = check(**REQUIRED)
        assert result.returncode == 0, result.stderr

    def test_empty_is_not_set(self):
        result = check(**REQUIRED, **dict.fromkeys(OPTIONAL, ""))
        assert result.returncode == 0, result.stderr

    def test_all_that_can_be_set(self):
        servers = {name: "127.0.0.1:9" for name in OPTIONAL if name[-1].isdigit()}
        result = check(
            **{**REQUIRED, **servers},
            HTTP_BIND="::",
            PORT="8081",
            HAPROXY_OPS_BIND="unix@/tmp/ops.sock",
            HAPROXY_TRUSTED_PROXIES="10.0.0.0/8 fd00::/8",
            API_DNS="api:9000",
            BROKERS_DNS="ws-broker:9001",
            DNS_SERVER="127.0.0.1:53",
            API_MAXCONN="30",
            PING_INTERVAL_S="60",
        )
        assert result.returncode == 0, result.stderr

    def test_names_stand_for_addresses(self):
        named = {"API_1": "", "API_DNS": "api:9000", "BROKER_1": "", "BROKERS_DNS": "broker:9001"}
        result = check(**{**REQUIRED, **named})
        assert result.returncode == 0, result.stderr

    @pytest.mark.parametrize("name", REQUIRED)
    @pytest.mark.parametrize("how", ["unset", "empty"])
    def test_what_is_missing_is_named(self, name, how):
        environment = dict(REQUIRED)
        if how == "unset":
            del environment[name]
        else:
            environment[name] = ""
        result = check(**environment)
        assert result.returncode == 1
        alerts = [line for line in result.stderr.splitlines() if "is not set" in line]
        assert len(alerts) == 1, result.stderr
        assert f"'{name} is not set" in alerts[0]

    def test_the_page_fits_haproxy_s_buffer(self):
        sizes = {path.name: path.stat().st_size for path in PAGE.iterdir()}
        assert {name: size for name, size in sizes.items() if size > 15 * 1024} == {}


# Routes -------------------------------------------------------------------------------------------


def backend_of(stack, method, path):
    """Where the log says that the newest request of this kind went."""
    pattern = rf" method={method} path={re.escape(path)} .* backend=(\S+) "

    def found():
        return re.findall(pattern, stack.haproxy.log())

    return until(f"{method} {path} is logged", found)[-1]


class TestRoutes:
    @pytest.mark.parametrize(
        ("path", "file", "kind"),
        [
            ("/", "index.html", "text/html; charset=utf-8"),
            ("/?room=1", "index.html", "text/html; charset=utf-8"),
            ("/chat.css", "chat.css", "text/css; charset=utf-8"),
            ("/chat.js", "chat.js", "text/javascript; charset=utf-8"),
        ],
    )
    def test_the_page(self, stack, path, file, kind):
        answer = stack.http("GET", path)
        assert answer.status == 200
        assert answer.body == (PAGE / file).read_bytes()
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        head = stack.http("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == answer.headers["Content-Length"]

    @pytest.mark.parametrize(
        "path",
        [
            *("/nothing", "/index.html", "/apix", "/chatx", "/chat/x", "//api", "/minigames"),
            *("/healthz", "/readyz", "/metrics", "/stats", "/%63hat", "/../api"),
        ],
    )
    def test_all_else_is_404(self, stack, path):
        error_of(stack.http("GET", path), 404)
        error_of(stack.http("GET", path, HANDSHAKE), 404)

    @pytest.mark.parametrize("path", ["/chat", "/chat/", "/chat?token=a", "/chat/?"])
    def test_chat(self, stack, path):
        client = stack.connect("ann", path=path)
        assert client.ask("history", limit=0) == {"history": []}

    @pytest.mark.parametrize("path", ["/minigame", "/minigame/"])
    def test_minigame_is_the_broker_s(self, stack, path):
        stack.http("GET", path, HANDSHAKE)
        assert backend_of(stack, "GET", path) == "brokers_ready"

    @pytest.mark.parametrize("path", ["/api/webhook/minigame", "/api/gaming/events"])
    def test_live_paths_are_the_broker_s_for_get_only(self, stack, path):
        stack.http("GET", f"{path}?x=1")
        assert backend_of(stack, "GET", path) == "brokers_ready"
        for method in ("HEAD", "DELETE"):
            answer = stack.http(method, path)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "/", "GET, HEAD"),
            ("PUT", "/chat.js", "GET, HEAD"),
            ("POST", "/chat", "GET"),
            ("POST", "/api/webhook/minigame", "GET"),
        ],
    )
    def test_other_methods(self, stack, method, path, allowed):
        answer = stack.http(method, path)
        error_of(answer, 405)
        assert answer.headers["Allow"] == allowed

    @pytest.mark.parametrize("path", ["/chat", "/chat/", "/chat?x=1", "/minigame"])
    @pytest.mark.parametrize(
        "headers",
        [{}, {"Connection": "Upgrade", "Upgrade": "h2c"}, without("Connection")],
        ids=["plain", "another upgrade", "no Connection"],
    )
    def test_no_upgrade(self, stack, path, headers):
        answer = stack.http("GET", path, headers)
        error_of(answer, 426)
        assert answer.headers["Upgrade"] == "websocket"

    def test_another_websocket_version(self, stack):
        answer = stack.http("GET", "/chat", {**HANDSHAKE, "Sec-WebSocket-Version": "8"})
        assert "13" in error_of(answer, 426)
        assert answer.headers["Sec-WebSocket-Version"] == "13"

    def test_a_handshake_without_its_key(self, stack):
        # Of the parser, so its text is not ours.
        assert stack.http("GET", "/chat", without("Sec-WebSocket-Key")).status == 400

    def test_an_upgrade_elsewhere_is_none(self, stack):
        assert stack.http("GET", "/api", HANDSHAKE).status == 200
        assert stack.http("GET", "/", HANDSHAKE).status == 200


def http2_frame(kind, flags, stream, payload=b""):
    header = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return header + payload


# What a client that was let into HTTP/2 would say: settings, a request, its end.
HTTP2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + http2_frame(4, 0, 0)
    + http2_frame(1, 4, 3, b"\x82\x86\x04\x07/readyz\x01\x01x")
    + http2_frame(0, 32, 3, b"\0\0\0\1")
    + http2_frame(8, 1, 0, b"\0\0\0\1")
)


class TestSmuggling:
    """The library behind the broker knows HTTP/2; nobody is to get there, nor to bring it down."""

    def attack(self, address, *upgrades):
        lines = "".join(f"Upgrade: {upgrade}\r\n" for upgrade in upgrades)
        with open_socket(address) as sock:
            sock.sendall(
                (
                    "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                    f"{lines}Sec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
                ).encode()
            )
            sock.settimeout(2)
            try:
                answer = sock.recv(4096)
                sock.sendall(HTTP2)
                while more := sock.recv(4096):
                    answer += more
            except OSError:  # also: it is a WebSocket that waits for frames
                pass
        return answer

    @pytest.mark.parametrize(
        "upgrades", [("h2c", "websocket"), ("websocket", "h2c"), ("h2c, websocket",), ("h2c",)]
    )
    @pytest.mark.parametrize("direct", [False, True])
    def test_h2c(self, stack, upgrades, direct):
        address = (stack.broker if direct else stack.haproxy).address()
        answer = self.attack(address, *upgrades)
        assert b"h2c" not in answer.lower()
        assert b"ready" not in answer
        stack.connect("still-here", direct=True)  # and the broker lives


class TestTargets:
    @pytest.mark.parametrize(
        "query", ["%", "%zz", "a=%00", "a=%0a", "&".join(f"p{i}=1" for i in range(300))]
    )
    def test_any_query_is_let_in(self, stack, query):
        stack.connect("anna", raw=True, path=f"/chat?{query}")

    def test_the_absolute_form(self, stack):
        stack.connect("anna", raw=True, path="http://localhost/chat")

    @pytest.mark.parametrize("path", ["/api/%zz", "/api/%2", "/api/version%00"])
    def test_paths_of_the_api_that_cannot_be_decoded(self, stack, path):
        error_of(stack.http("GET", path), 400)


class TestCeilings:
    def test_uri(self, stack):
        longest = "/api?" + "a" * 2043
        assert len(longest) == 2048
        assert stack.http("GET", longest).status == 200
        error_of(stack.http("GET", longest + "a"), 414)
        error_of(stack.http("GET", "/" + "a" * 10000), 414)

    def test_headers(self, stack):
        assert stack.http("GET", "/api", {"X-Much": "a" * 7900}).status == 200
        answer = stack.http("GET", "/api", {"X-Much": "a" * 8192})
        error_of(answer, 431)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        error_of(stack.http("GET", "/chat", {**HANDSHAKE, "X-Much": "a" * 12000}), 431)

    def test_a_long_handshake_reaches_the_broker(self, stack):
        answer = stack.http("GET", "/chat", {**HANDSHAKE, "Cookie": "a" * 7000})
        assert answer.status == 101

    def test_body(self, stack):
        assert stack.http("POST", "/api", body=b"a" * 8192).status == 405
        answer = stack.http("POST", "/api", body=b"a" * 8193)
        error_of(answer, 413)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"

    def test_body_of_unknown_length(self, stack):
        def chunks(size):
            return {"Transfer-Encoding": "chunked"}, b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"a" * size)

        assert stack.http("POST", "/api", *chunks(100)).status == 405
        error_of(stack.http("POST", "/api", *chunks(9000)), 413)

    def test_a_body_never_reaches_a_broker(self, stack):
        error_of(stack.http("GET", "/api/gaming/events", body=b"GET /readyz HTTP/1.1\r\n\r\n"), 413)
        chunked = {"Transfer-Encoding": "chunked"}
        error_of(stack.http("GET", "/api/gaming/events", chunked, b"0\r\n\r\n"), 413)
        # By HTTP/2 it may come unannounced, and later.
        with open_socket(stack.haproxy.address()) as connection:
            headers = b"".join(
                b"\x00%c%s%c%s" % (len(name), name, len(value), value)
                for name, value in (
                    (b":method", b"GET"),
                    (b":scheme", b"http"),
                    (b":path", b"/api/gaming/events?by=h2"),
                    (b":authority", b"x"),
                )
            )
            connection.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # SETTINGS
                b"\x00\x00%c\x01\x04\x00\x00\x00\x01%s" % (len(headers), headers)
            )
            until("the server's frames", lambda: connection.recv(4096))
            connection.sendall(b"\x00\x00\x04\x00\x01\x00\x00\x00\x01body")
            refused = r"path=/api/gaming/events proto=HTTP/2.0 status=413 "
            until("it is refused", lambda: re.search(refused, stack.haproxy.log()))
        # HAProxy 2.6 takes the upgrade off such a handshake first.
        assert stack.http("GET", "/chat", HANDSHAKE, b"body").status in (413, 426)

    @pytest.mark.parametrize(
        "request_text",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET /api HTTP/1.1\r\nHost: x\r\n%s\r\n"
            % b"".join(b"X-%d: 1\r\n" % i for i in range(200)),
            b"CONNECT /api HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
        ids=["TLS", "too many headers", "CONNECT"],
    )
    def test_what_is_no_request_is_400(self, stack, request_text):
        answer, _ = request_bytes(stack, request_text)
        assert answer.status == 400
        assert stack.http("GET", "/api").status == 200

    def test_more_than_a_buffer(self, stack):
        answer, _ = request_bytes(
            stack, b"GET /api HTTP/1.1\r\nHost: x\r\nX-Much: %s\r\n\r\n" % (b"a" * 20000)
        )
        assert answer.status == (400 if HAProxy.version() < (3, 2) else 431)
        assert stack.http("GET", "/api").status == 200

    def test_two_lengths(self, stack):
        """HAProxy 3.2 and later closes the connection without an answer."""
        with open_socket(stack.haproxy.address()) as sock:
            sock.sendall(
                b"GET /api HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
            )
            start = sock.makefile("rb").read(12)
        assert start == (b"HTTP/1.1 400" if HAProxy.version() < (3, 2) else b"")
        refused = " info haproxy refused ip=127.0.0.1 status=400 "
        until("it is refused", lambda: refused in stack.haproxy.log())
        assert stack.http("GET", "/api").status == 200


# Dead, hung and overloaded parts ------------------------------------------------------------------


def test_a_dead_broker(start_stack):
    stack = start_stack()
    stack.connect("ann")
    stack.broker.kill()
    answer = stack.http("GET", "/chat", HANDSHAKE)
    error_of(answer, 503)
    assert answer.headers["Retry-After"]
    assert stack.http("GET", "/api").status == 200
    error_of(stack.http("GET", "/api/gaming/events"), 503)
    # The first one learned it the slow way, by retries; now it is known.
    error_of(stack.http("GET", "/chat", HANDSHAKE), 503)

    def retries():
        return re.findall(r" path=/chat .* status=503 .* retries=(\S+)", stack.haproxy.log())

    until("both are logged", lambda: len(retries()) == 2)
    assert retries()[1] == "0"
    stack.broker.start()
    until("the broker is found", lambda: stack.http("GET", "/chat", HANDSHAKE).status == 101)


def test_a_hung_api(start_stack):
    stack = start_stack(API_MAXCONN=1)
    stack.api.pause()
    try:
        with ThreadPoolExecutor() as pool:
            request = (http_request, stack.haproxy.address(), "GET", "/api")
            first, second = (pool.submit(*request) for _ in range(2))
            answers = sorted((first.result(), second.result()), key=lambda a: a.status)
    finally:
        stack.api.resume()
    # One waited for a place, the other one had it.
    error_of(answers[0], 503)
    assert answers[0].headers["Retry-After"]
    error_of(answers[1], 504)
    assert answers[1].headers["Access-Control-Allow-Origin"] == "*"
    until("the api is found again", lambda: stack.http("GET", "/api").status == 200)


def test_apis_are_restarted_one_after_the_other(start_stack):
    """Under load, and nobody notices."""
    stack = start_stack(apis=2)
    done = threading.Event()
    answers = []

    def load():
        while not done.wait(0.005):
            answers.append(stack.http("GET", "/api/version").status)

    def some_more():
        goal = len(answers) + 50
        until("50 more are answered", lambda: len(answers) >= goal)

    def is_up(name):
        ops = ("127.0.0.1", stack.haproxy.ports["ops"].number)
        metrics = http_request(ops, "GET", "/metrics").text()
        sample = f'haproxy_server_status{{proxy="api",server="{name}",state="UP"}} 1'
        return sample in metrics

    with ThreadPoolExecutor() as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for _ in range(2):
                for name, api in (("api1", stack.apis[0]), ("api2", stack.apis[1])):
                    api.stop()
                    some_more()
                    api.start()
                    until(f"{name} takes requests again", lambda name=name: is_up(name))
        finally:
            done.set()
        for thread in loads:
            thread.result()
    assert set(answers) == {200}


def test_an_api_that_dies_over_a_request(start_stack):
    stack = start_stack()
    stack.api.pause()
    with ThreadPoolExecutor() as pool:
        # Not a GET, which would be asked again.
        answer = pool.submit(stack.http, "POST", "/api")
        until("the request is under way", lambda: in_flight(stack) == 1)
        stack.api.kill()
        error_of(answer.result(), 502)


def in_flight(stack):
    """How many requests api-fcgi has."""
    page = http_request(("127.0.0.1", stack.haproxy.ports["ops"].number), "GET", "/metrics").text()
    metric = r'haproxy_server_current_sessions\{proxy="api",server="api1"\} (\d+)'
    return int(re.search(metric, page).group(1))


# Brokers of all states ----------------------------------------------------------------------------


class StandIn(socketserver.ThreadingTCPServer):
    """In a broker's place: `readyz` is what it says of itself, an upgrade is answered by 101 and an
    echo, any other request by the head of that request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name, host="127.0.0.1", port=0):
        super().__init__((host, port), StandInConnection)
        self.name = name
        self.readyz = 200
        self.address = f"{host}:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class StandInConnection(socketserver.StreamRequestHandler):
    def handle(self):
        with contextlib.suppress(ConnectionError):
            head = [line.decode() for line in iter(lambda: self.rfile.readline().strip(), b"")]
            if head and " /readyz " in head[0]:
                self.answer(f"{self.server.readyz} State", "Content-Length: 0")
            elif "upgrade: websocket" in head:
                upgrade = ("Connection: Upgrade", "Upgrade: websocket")
                self.answer("101 Switching", *upgrade, f"Sec-WebSocket-Accept: {ACCEPT}")
                while data := self.request.recv(100):
                    self.request.sendall(data)
            elif head:
                body = "\n".join(head)
                self.answer("200 OK", f"Content-Length: {len(body)}", body=body)

    def answer(self, status, *headers, body=""):
        lines = [f"HTTP/1.1 {status}", f"X-Broker: {self.server.name}", *headers, "", body]
        self.wfile.write("\r\n".join(lines).encode())


@contextlib.contextmanager
def stand_ins(start_stack, *names, **settings):
    brokers = {name: StandIn(name) for name in names}
    try:
        addresses = {f"BROKER_{i}": b.address for i, b in enumerate(brokers.values(), 1)}
        yield start_stack(**addresses, **settings), brokers
    finally:
        for broker in brokers.values():
            broker.stop()


def led_to(stack, count=6):
    """The names of the brokers that so many new clients are led to; a number is an error."""

    def one():
        answer = stack.http("GET", "/chat", HANDSHAKE)
        if answer.status != 101:
            error_of(answer, answer.status)
            return answer.status
        return answer.headers["X-Broker"]

    return {one() for _ in range(count)}


def test_new_clients_go_to_a_ready_broker_else_to_a_living_one(start_stack):
    with stand_ins(start_stack, "a", "b") as (stack, brokers):
        a, b = brokers["a"], brokers["b"]

        def expect(names):
            until(f"clients are led to {names}", lambda: led_to(stack) == names)

        expect({"a", "b"})
        b.readyz = 503  # alive, cannot publish
        expect({"a"})
        a.readyz = 503
        expect({"a", "b"})
        a.readyz = 404  # draining: about to go
        expect({"b"})
        b.readyz = 200
        expect({"b"})
        b.readyz = 404
        expect({503})
        a.readyz = 200
        expect({"a"})


def test_a_client_stays_where_it_is_whatever_the_checks_say(start_stack):
    with stand_ins(start_stack, "a") as (stack, brokers):
        sock, answer = shake_hands(stack)
        assert answer.status == 101
        with sock:
            for readyz, seen in ((503, {"a"}), (404, {503}), (500, {503}), (200, {"a"})):
                brokers["a"].readyz = readyz
                until(f"{readyz} is seen", lambda seen=seen: led_to(stack, 1) == seen)
                sock.sendall(b"%d" % readyz)
                assert sock.recv(10) == b"%d" % readyz


def test_clients_are_spread(start_stack):
    with stand_ins(start_stack, "a", "b", "c") as (stack, _), contextlib.ExitStack() as sockets:
        names = Counter()
        for _ in range(12):
            sock, answer = shake_hands(stack)
            sockets.enter_context(sock)
            names[answer.headers["X-Broker"]] += 1
        assert names == {"a": 4, "b": 4, "c": 4}


class Dns:
    """A DNS server of the test's own, dnsmasq."""

    def __init__(self, folder):
        self.port = Port()
        self.address = f"127.0.0.1:{self.port.number}"
        self._folder = folder
        self._process = None

    def knows(self, **addresses):
        """All that it knows from now on: {name: addresses}, of .test."""
        self.stop()
        hosts = self._folder / "hosts"
        lines = [f"{a} {name}.test\n" for name, these in addresses.items() for a in these]
        hosts.write_text("".join(lines))
        program = shutil.which("dnsmasq", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        assert program, "dnsmasq is not installed: run make deps"
        options = {"port": self.port.number, "listen-address": "127.0.0.1", "addn-hosts": hosts}
        options |= {"local": "/test/", "user": "", "pid-file": ""}
        flags = ["--no-daemon", "--conf-file", "--no-resolv", "--no-hosts", "--bind-interfaces"]
        with (self._folder / "dnsmasq.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *flags]
                + [f"--{name}={value}" for name, value in options.items()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self):
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def test_servers_by_name(start_stack):
    """Who comes and goes in DNS comes and goes here, without an edit or a reload."""
    port = Port()
    hosts = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}
    with contextlib.ExitStack() as ends:
        ends.callback(port.release)
        for name, host in hosts.items():
            ends.callback(StandIn(name, host, port.number).stop)
        stack = start_stack(haproxy=False, API_1="", BROKER_1="")
        dns = Dns(stack.folder)
        ends.callback(dns.port.release)
        ends.callback(dns.stop)
        api = {"api": ["127.0.0.1"]}
        dns.knows(**api, broker=[hosts["a"], hosts["b"]])
        stack.settings |= {
            "API_DNS": f"api.test:{stack.api.address()[1]}",
            "BROKERS_DNS": f"broker.test:{port.number}",
            "DNS_SERVER": dns.address,
        }
        stack.haproxy.start()
        assert stack.http("GET", "/api/version").status == 200

        def expect(names):
            until(f"clients are led to {names}", lambda: led_to(stack) == names, 20)

        expect({"a", "b"})
        dns.knows(**api, broker=hosts.values())
        expect({"a", "b", "c"})
        dns.knows(**api, broker=[hosts["c"]])
        expect({"c"})
        # Nobody to ask: all stays as it was.
        dns.stop()
        assert led_to(stack) == {"c"}
        assert stack.http("GET", "/api").status == 200


# What reaches a broker ----------------------------------------------------------------------------


def seen(stack, headers, connection=None):
    """The headers of a request as they reach the broker, names in lower case."""
    path = "/api/gaming/events"
    if connection is None:
        body = stack.http("GET", path, headers).body
    else:
        connection.request("GET", path, headers=headers)
        body = connection.getresponse().read()
    lines = body.decode().splitlines()[1:]
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs), pairs
    return dict(pairs)


def test_the_client_s_address_cannot_be_claimed(start_stack):
    with stand_ins(start_stack, "a") as (stack, _):
        assert seen(stack, {})["x-forwarded-for"] == "127.0.0.1"
        assert seen(stack, {"X-Forwarded-For": "6.6.6.6"})["x-forwarded-for"] == "127.0.0.1"
        twice = (
            b"GET /api/gaming/events HTTP/1.1\r\nHost: x\r\n" + b"X-Forwarded-For: 6.6.6.6\r\n" * 2
        )
        _, body = request_bytes(stack, twice + b"\r\n")
        assert body.count(b"x-forwarded-for") == 1
        assert b"6.6.6.6" not in body


def test_a_trusted_proxy_tells_the_client_s_address(start_stack):
    trusted = "10.0.0.0/8 127.0.0.0/8 fd00::/8"
    with stand_ins(start_stack, "a", HAPROXY_TRUSTED_PROXIES=trusted) as (stack, _):
        # One connection serves many clients of that proxy.
        connection = http.client.HTTPConnection(*stack.haproxy.address(), timeout=30)
        try:
            for claim, address in (
                ("6.6.6.6, 7.7.7.7", "7.7.7.7"),
                ("2001:db8::1", "2001:db8::1"),
                (None, "127.0.0.1"),
                ("", "127.0.0.1"),
                # Several in a row.
                ("6.6.6.6, 10.0.0.1", "6.6.6.6"),
                ("5.5.5.5, 6.6.6.6,10.0.0.1 , 10.0.0.2", "6.6.6.6"),
                ("2001:db8::1, fd00::1, 10.0.0.1", "2001:db8::1"),
                ("6.6.6.6, 10.0.0.1, 7.7.7.7, 10.0.0.2", "7.7.7.7"),
                ("10.0.0.1", "10.0.0.1"),
                ("10.0.0.2, 10.0.0.1", "10.0.0.2"),
                ("6.6.6.6" + ", 10.0.0.1" * 4, "6.6.6.6"),
                ("6.6.6.6" + ", 10.0.0.1" * 5, "10.0.0.1"),  # no further
                # Ports and brackets.
                ("6.6.6.6:1234", "6.6.6.6"),
                ("6.6.6.6:1234, 10.0.0.1:80", "6.6.6.6"),
                ("[2001:db8::1]:1234", "2001:db8::1"),
                ("[2001:db8::1]", "2001:db8::1"),
                ("[2001:db8::1]:1, [fd00::1]:2, 10.0.0.1:3", "2001:db8::1"),
                # What cannot be read ends it.
                ("nonsense", "127.0.0.1"),
                ("6.6.6.6, nonsense", "127.0.0.1"),
                ("6.6.6.6, nonsense, 10.0.0.1", "10.0.0.1"),
                ("6.6.6.6, 10.0.0.2, nonsense, 10.0.0.1", "10.0.0.1"),
                ("6.6.6.6, , 10.0.0.1", "10.0.0.1"),
                ("6.6.6.6,", "127.0.0.1"),
                ("6.6.6.6, unknown", "127.0.0.1"),
                ("6.6.6.6, 7.7.7", "127.0.0.1"),
                ("6.6.6.6, 7.7.7.7.7", "127.0.0.1"),
                ("6.6.6.6, 7.7.7.777", "127.0.0.1"),
                ("6.6.6.6, 7.7.7.7:", "127.0.0.1"),
                ("6.6.6.6, 7.7.7.7:x", "127.0.0.1"),
                ("6.6.6.6, 7.7.7.7/8", "127.0.0.1"),
                ("6.6.6.6, [7::7", "127.0.0.1"),
                ("6.6.6.6, 7::7]", "127.0.0.1"),
                ("6.6.6.6, [7::7]x", "127.0.0.1"),
                ("6.6.6.6, [::7::7]", "127.0.0.1"),
                ("6.6.6.6, localhost", "127.0.0.1"),
            ):
                headers = {} if claim is None else {"X-Forwarded-For": claim}
                assert seen(stack, headers, connection)["x-forwarded-for"] == address, claim
                two = [part.strip() for part in (claim or "").rsplit(",", 1)]
                if len(two) == 2:  # the same in two lines
                    lines = "".join(f"X-Forwarded-For: {part}\r\n" for part in two)
                    head = f"GET /api/gaming/events HTTP/1.1\r\nHost: x\r\n{lines}\r\n"
                    _, body = request_bytes(stack, head.encode())
                    assert f"x-forwarded-for: {address}\n".encode() in body, claim
        finally:
            connection.close()
        until("the log has it too", lambda: " ip=7.7.7.7 " in stack.haproxy.log())


@pytest.mark.parametrize("size", [1, 900, 1011, 1100, 2040])
def test_the_log_has_the_version_of_a_long_request(start_stack, size):
    stack = start_stack()
    path = "/" + "x" * size
    for version in ("1.1", "1.0"):
        request_bytes(stack, f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        line = rf"path=/x+ proto=HTTP/{version} status=404 "
        until("it is logged", lambda line=line: re.search(line, stack.haproxy.log()))


def test_headers_that_brokers_must_not_see(start_stack):
    with stand_ins(start_stack, "a") as (stack, _):
        got = seen(stack, {**HANDSHAKE, "Sec-WebSocket-Protocol": "a.habit", "X-Other": "kept"})
        assert "upgrade" not in got
        assert "sec-websocket-protocol" not in got
        assert got["x-other"] == "kept"


# Time ---------------------------------------------------------------------------------------------


def test_requests_that_dribble_in_are_cut(start_stack):
    stack = start_stack()
    head = b"GET /api HTTP/1.1\r\nHost: x\r\n"
    body = b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        slow_head, slow_body = (pool.submit(request_bytes, stack, text) for text in (head, body))
        # Nobody else waits for them.
        assert stack.http("GET", "/api").status == 200
        assert slow_head.result()[0].status == 408
        answer, text = slow_body.result()
    assert answer.status == 408
    assert list(json.loads(text)) == ["error"]
    assert 4 < time.monotonic() - began < 20


def test_an_idle_client_outlives_the_timeouts_of_requests(start_stack):
    # `timeout client` is 30 s; a ping would be a sign of life.
    stack = start_stack(PING_INTERVAL_S=60)
    ann = stack.connect("ann", raw=True)
    time.sleep(32)
    ann.send("message", message="still here")
    assert ann.receive()["message"] == "still here"


def test_a_silent_connection_ends_after_ten_ping_intervals(start_stack):
    stack = start_stack(PING_INTERVAL_S=1)
    sock, _ = shake_hands(stack)
    began = time.monotonic()
    stack.broker.pause()
    try:
        while sock.recv(100):  # a last ping
            pass
        assert 8 < time.monotonic() - began < 20
        sock.close()
    finally:
        stack.broker.resume()


# For operators ------------------------------------------------------------------------------------


class TestOperators:
    def ops(self, stack, path):
        return http_request(("127.0.0.1", stack.haproxy.ports["ops"].number), "GET", path)

    def test_metrics(self, stack):
        text = self.ops(stack, "/metrics").text()
        for backend in ("api", "brokers_ready", "brokers_alive"):
            assert f'haproxy_backend_active_servers{{proxy="{backend}"}} 1' in text

    def test_stats(self, stack):
        assert self.ops(stack, "/stats").status == 200
        assert self.ops(stack, "/nothing").status == 404

    def test_the_log_has_no_secrets(self, stack):
        secret = "tell-nobody"
        headers = {"Authorization": f"Bearer {secret}", "Cookie": secret, "Referer": secret}
        headers |= {"User-Agent": secret, "Origin": secret, "X-Forwarded-For": secret}
        stack.http("GET", f"/chat?token={secret}", {**HANDSHAKE, **headers})
        stack.http("GET", f"/api/version?token={secret}", headers)
        stack.http("GET", f"/nothing?token={secret}#{secret}", headers)
        stack.http("POST", "/api", headers, secret.encode())
        backend_of(stack, "POST", "/api")
        assert secret not in stack.haproxy.log()

    def test_one_line_a_request(self, stack):
        stack.http("GET", '/odd"path\\x')
        backend_of(stack, "GET", '/odd"path\\x')
        line = next(text for text in stack.haproxy.log().splitlines() if "odd" in text)
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ info haproxy request ip=127\.0\.0\.1 method=GET "
            r'path=/odd"path\\x proto=HTTP/1\.1 status=404 bytes=\d+ backend=nowhere .* retries=0',
            line,
        )


def test_a_reload_keeps_clients_and_the_port(start_stack):
    stack = start_stack(reload=True)
    ann = stack.connect("ann")
    stack.haproxy.reload()
    assert len(stack.haproxy.workers()) == 2
    bob = stack.connect("bob")
    ann.send("message", message="over both workers")
    for client in (ann, bob):
        assert client.receive()["message"] == "over both workers"


def test_a_reload_takes_what_the_file_of_parameters_says_now(start_stack):
    """Read before ours, as docs/packages.md has it."""
    stack = start_stack(reload=True, haproxy=False)
    haproxy = stack.haproxy
    parameters, command = haproxy.environment, haproxy.command
    file = stack.folder / "parameters.cfg"

    def write(**changes):
        lines = [
            f'    setenv {name} "{value}"\n' if value else f"    unsetenv {name}\n"
            for name, value in {**parameters(), **changes}.items()
        ]
        file.write_text("global\n" + "".join(lines))
        return {}

    def brokers():
        table = http_request(haproxy.address("ops"), "GET", "/stats;csv").text()
        return re.findall("^brokers_ready,(broker.*?),", table, re.MULTILINE)

    haproxy.environment = lambda: write(BROKER_2="127.0.0.1:9")
    haproxy.command = lambda: [*command()[:-2], "-f", str(file), *command()[-2:]]
    haproxy.start()
    assert brokers() == ["broker1", "broker2"]
    haproxy.ports["http"].release()
    haproxy.ports["http"] = Port()
    write(BROKER_2="")
    haproxy.reload()
    assert brokers() == ["broker1"]
    stack.connect("ann")


def test_a_second_one_does_not_share_the_port(start_stack):
    stack = start_stack()
    environment = {**stack.haproxy.environment(), "RUN_DIR": stack.folder / "second"}
    environment["RUN_DIR"].mkdir()
    environment["HAPROXY_OPS_BIND"] = f"unix@{stack.folder}/second/ops.sock"
    result = subprocess.run(
        stack.haproxy.command(),
        env={k: str(v) for k, v in environment.items()},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 1
    assert "Address already in use" in result.stderr


def test_an_empty_port_is_not_set(start_stack):
    stack = start_stack(PORT="", HTTP_BIND="")
    assert stack.http("GET", "/api").status == 200


def test_port_wins_over_http_port(start_stack):
    port = Port()
    stack = start_stack(haproxy=False, PORT=port.number)
    haproxy = stack.haproxy
    haproxy.ports["http"].release()
    haproxy.ports["http"] = port
    haproxy.start()
    assert stack.http("GET", "/api").status == 200
