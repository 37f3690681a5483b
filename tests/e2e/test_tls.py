"""HTTPS: haproxy/haproxy.cfg with a TLS_CERT. Renewal: test_tls_renewal.py."""

import contextlib
import json
import random
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import Browser
from certificate import make_certificate, serial_of
from http2 import Http2, Http2Client
from stack import HAProxy, Port, Stack, http_request, open_socket, until, unverified_tls
from test_haproxy import HANDSHAKE, REQUIRED, StandIn, check, error_of

YEAR_S = 365 * 24 * 3600


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    file = tmp_path_factory.mktemp("tls") / "site.pem"
    return make_certificate(file, file)


@pytest.fixture(scope="class")
def stack(certificate):
    with Stack(TLS_CERT=certificate, RATE_MESSAGES=0) as running:
        yield running


@pytest.fixture
def http2(stack):
    connection = Http2(stack.haproxy)
    yield connection
    connection.close()


def plain(stack, method="GET", path="/", headers=None):
    """The answer to a request without TLS."""
    return http_request(stack.haproxy.address("http"), method, path, headers)


class TestFile:
    """What HAProxy says of the configuration; `check` takes warnings for errors."""

    def test_all_that_can_be_set(self, certificate):
        settings = {"HTTPS_PORT": "443", "HSTS_MAX_AGE": "0", "ACME_SERVER": "127.0.0.1:8402"}
        for environment in ({}, settings, dict.fromkeys(settings, "")):
            result = check(**REQUIRED, TLS_CERT=str(certificate), **environment)
            assert result.returncode == 0, result.stderr

    def test_acme_before_the_first_certificate(self):
        assert check(**REQUIRED, ACME_SERVER="127.0.0.1:8402").returncode == 0

    @pytest.mark.parametrize("algorithm", ["EC", "RSA"])
    def test_a_folder(self, tmp_path, algorithm):
        for name in ("one.pem", "two.pem"):
            make_certificate(tmp_path / name, tmp_path / name, algorithm=algorithm)
        for folder in (tmp_path, f"{tmp_path}/"):
            result = check(**REQUIRED, TLS_CERT=str(folder))
            assert result.returncode == 0, result.stderr

    def test_a_key_in_a_file_of_its_own(self, tmp_path):
        make_certificate(tmp_path / "site.pem", tmp_path / "site.pem.key")
        result = check(**REQUIRED, TLS_CERT=f"{tmp_path}/site.pem")
        assert result.returncode == 0, result.stderr

    @pytest.mark.parametrize(
        ("fault", "named"),
        [
            ("missing", "No such file or directory"),
            ("not a certificate", "unable to load certificate"),
            ("without its key", "No Private Key found"),
            ("with another key", "inconsistencies between private key and certificate"),
        ],
    )
    def test_a_bad_file_is_one_line(self, tmp_path, fault, named):
        file, key = tmp_path / "site.pem", tmp_path / "key.pem"
        if fault == "not a certificate":
            file.write_text("hello\n")
        elif fault != "missing":
            make_certificate(file, key)
        if fault == "with another key":
            make_certificate(tmp_path / "other.pem", key)
            file.write_text(file.read_text() + key.read_text())
        result = check(**REQUIRED, TLS_CERT=str(file))
        assert result.returncode == 1
        alerts = [line for line in result.stderr.splitlines() if str(file) in line]
        assert len(alerts) == 1, result.stderr
        assert named in alerts[0]


class TestPage:
    def test_two_people_talk(self, stack):
        """All of it by HTTP/2, the WebSocket as well."""
        with Browser() as ada, Browser() as grace:
            ada.open(stack).join("Ada")
            grace.open(stack).join("Grace")
            ada.say("Hello Grace")
            grace.until_texts("Hello Grace")
            assert ada.js("return sockets[0].url").startswith("wss://")
            used = "return performance.getEntries().map((e) => e.nextHopProtocol).filter(Boolean)"
            assert set(ada.js(used)) == {"h2"}
            # A WebSocket is logged at its end. (Not at that of the browser: its page may try to
            # come back meanwhile, and without a connection to share that is by HTTP/1.1.)
            for page in (ada, grace):
                page.js("sockets[0].close()")
            chat = r" path=/chat proto=(\S+) status=101 "
            both = ["HTTP/2.0", "HTTP/2.0"]
            until("both are logged", lambda: re.findall(chat, stack.haproxy.log()) == both)

    def test_http_leads_to_it(self, stack):
        with Browser() as page:
            page.driver.get("http://{}:{}/".format(*stack.haproxy.address("http")))
            assert page.driver.current_url == f"{stack.haproxy.url()}/"
            page.join("Late")


class TestWebSocket:
    def test_http1(self, stack):
        ann, bob = stack.connect("ann"), stack.connect("bob", direct=True)
        ann.send("message", message="by wss")
        assert bob.receive()["message"] == ann.receive()["message"] == "by wss"
        assert stack.connect(raw=True).headers["strict-transport-security"]

    def test_http2(self, stack, http2):
        """Several on one connection, beside ordinary requests, in one chat with all others."""
        assert http2.speaks_websocket()
        clients = [Http2Client(http2).login("two"), Http2Client(http2, "/chat/?x=1").login("three")]
        clients.append(stack.connect("one"))
        for number, client in enumerate(clients):
            client.send("message", message=f"said {number}")
            for other in clients:
                assert other.receive()["message"] == f"said {number}"
        status, headers, body = http2.request("GET", "/api/version")
        assert status == 200
        assert headers["strict-transport-security"]
        assert json.loads(body)["env"]
        # One leaves, the others on the connection stay.
        clients[0].send_frame(8, b"\x03\xe8")
        assert clients[0].close_code() == 1000
        clients[1].ask("message", message="still here")

    def test_http2_selects_the_first_subprotocol(self, http2):
        for offered, selected in [("binary, base64", "binary"), ("a b", None), (None, None)]:
            client = Http2Client(http2, subprotocol=offered).login("two")
            assert client.subprotocol == selected

    def test_http2_waits_for_who_does_not_read(self, stack, http2):
        """More than HTTP/2 lets anybody send (64 KB) before it is read."""
        talker, reader = stack.connect("talker"), Http2Client(http2).login("reader")
        texts = [f"{number} {'x' * 2000}" for number in range(100)]
        for text in texts:
            talker.ask("message", message=text)
        assert [reader.receive()["message"] for _ in texts] == texts
        reader.send("message", message="y" * 2048)
        assert talker.receive()["message"] == "y" * 2048

    def test_http2_has_the_same_longest_target(self, http2):
        longest = "/api?" + "a" * 2043
        assert http2.request("GET", longest)[0] == 200
        assert http2.request("GET", longest + "a")[0] == 414

    def test_http2_upgrades_that_are_none(self, http2):
        for protocol in ("h2c", "connect-udp", "websocket, h2c"):
            # HAProxy 3.0 does not even take these for requests, and resets the stream.
            assert http2.request("CONNECT", "/chat", protocol=protocol)[0] in (426, 0)
        assert http2.request("GET", "/chat")[0] == 426
        assert http2.request("CONNECT", "/healthz", protocol="websocket")[0] == 404
        assert http2.request("CONNECT", "", scheme="")[0] == 404

    def test_a_broker_s_end_is_told(self, start_stack, certificate):
        stack = start_stack(TLS_CERT=certificate)
        connection = Http2(stack.haproxy)
        clients = [Http2Client(connection).login("two"), stack.connect("one")]
        with ThreadPoolExecutor() as pool:
            codes = [pool.submit(client.close_code, 20) for client in clients]
            stack.broker.stop()
            assert [code.result() for code in codes] == [1001, 1001]
        connection.close()


class TestRedirect:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
    @pytest.mark.parametrize("path", ["/", "/chat?token=a&b=%20", "/api/version", "/nothing"])
    def test_everything_goes_to_https(self, stack, method, path):
        answer = plain(stack, method, path)
        assert answer.status == 308
        port = stack.haproxy.address()[1]
        assert answer.headers["Location"] == f"https://localhost:{port}{path}"
        assert "Strict-Transport-Security" not in answer.headers
        cors = answer.headers["Access-Control-Allow-Origin"]
        assert cors == ("*" if path.startswith("/api") else None)

    @pytest.mark.parametrize(
        ("host", "name"),
        [
            *(("chat.example", "chat.example"), ("chat.example:80", "chat.example")),
            *(("[::1]", "[::1]"), ("[::1]:8080", "[::1]"), ("10.0.0.1:1", "10.0.0.1")),
        ],
    )
    def test_the_host_stays(self, stack, host, name):
        location = plain(stack, headers={"Host": host}).headers["Location"]
        assert location == f"https://{name}:{stack.haproxy.address()[1]}/"

    def test_without_a_host_there_is_no_address(self, stack):
        for head in ("GET / HTTP/1.0", "GET / HTTP/1.1\r\nHost:"):
            with open_socket(stack.haproxy.address("http")) as sock:
                sock.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
                answer = sock.makefile().read()
            assert answer.startswith("HTTP/1.1 400 ")
            assert answer.endswith('{"error":"the header Host is missing"}')

    def test_a_websocket_is_not_opened_without_tls(self, stack):
        assert plain(stack, path="/chat", headers=HANDSHAKE).status == 308

    def test_the_usual_port_is_not_named(self, start_stack, certificate):
        # An address of our own, as the port is one that others have, too.
        host = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])
        try:
            socket.create_server((host, 443)).close()
        except PermissionError:
            pytest.skip("only root may listen on port 443 here")
        settings = {"TLS_CERT": certificate, "HTTP_BIND": host, "HTTPS_PORT": 443}
        haproxy = start_stack(haproxy=False, **settings).haproxy
        haproxy.ports.pop("https").release()
        haproxy.is_ready = lambda: open_socket((host, 443)).close() or True
        haproxy.start()
        address = (host, haproxy.ports["http"].number)
        answer = http_request(address, "GET", "/x", {"Host": "chat.example:8080"})
        assert answer.headers["Location"] == "https://chat.example/x"


class TestHsts:
    @pytest.mark.parametrize("path", ["/", "/api", "/chat", "/nothing", "/api?" + "a" * 3000])
    def test_on_every_answer(self, stack, path):
        value = stack.http("GET", path).headers["Strict-Transport-Security"]
        assert int(value.removeprefix("max-age=")) >= YEAR_S

    def test_it_can_be_called_off(self, start_stack, certificate):
        stack = start_stack(TLS_CERT=certificate, HSTS_MAX_AGE=0)
        assert stack.http("GET", "/").headers["Strict-Transport-Security"] == "max-age=0"

    def test_not_without_tls(self, start_stack):
        assert "Strict-Transport-Security" not in start_stack().http("GET", "/").headers


def shake_hands(stack, **options):
    """A TLS connection with such a client: its attributes, and whatever set_ciphers takes."""
    context = unverified_tls()
    context.set_ciphers(options.pop("ciphers", "ALL:@SECLEVEL=0"))
    session = options.pop("session", None)
    for name, value in options.items():
        setattr(context, name, value)
    return context.wrap_socket(open_socket(stack.haproxy.address()), session=session)


def test_a_folder_has_a_certificate_for_each_name(start_stack, tmp_path):
    names = ("a.example", "b.example")
    files = [make_certificate(*[tmp_path / f"{name}.pem"] * 2, name=name) for name in names]
    first, second = (serial_of(file) for file in files)
    stack = start_stack(TLS_CERT=tmp_path)
    for name, serial in (*zip(names, (first, second), strict=True), ("c.example", first)):
        sock = open_socket(stack.haproxy.address())
        with unverified_tls().wrap_socket(sock, server_hostname=name) as sock:
            assert serial_of(sock.getpeercert(True)) == serial


class TestStrength:
    @pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
    def test_old_versions_are_refused(self, stack):
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                shake_hands(stack, minimum_version=version, maximum_version=version)
        until(
            "the log tells why",
            lambda: re.search(
                r"Z info haproxy refused ip=127\.0\.0\.1 status=0 tls_error=\".*protocol\"\n",
                stack.haproxy.log(),
            ),
        )

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    def test_new_ones_are_not(self, stack, version):
        with shake_hands(stack, maximum_version=ssl.TLSVersion[version]) as sock:
            assert sock.version() == version.replace("_", ".")

    @pytest.mark.parametrize(
        "cipher", ["ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA"]
    )
    def test_weak_ciphers_are_refused(self, stack, cipher):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake_hands(
                stack, ciphers=f"{cipher}:@SECLEVEL=0", maximum_version=ssl.TLSVersion.TLSv1_2
            )

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    def test_who_comes_back_is_known(self, stack, version):
        """Without tickets, whose key would have to be kept from everybody for ever."""
        context = unverified_tls()
        context.maximum_version = ssl.TLSVersion[version]
        request = b"GET /nothing HTTP/1.0\r\n\r\n"
        session = None
        for resumed in (False, True):
            sock = open_socket(stack.haproxy.address())
            with context.wrap_socket(sock, session=session) as sock:
                sock.sendall(request)
                while sock.recv(1000):
                    pass
                assert sock.session_reused == resumed
                session = sock.session
        if version == "TLSv1_2":
            assert not session.has_ticket

    def test_a_handshake_that_never_comes_is_cut(self, stack):
        if HAProxy.version() < (2, 9):
            pytest.skip("HAProxy 2.6 waits for 30 s, as for any client")
        with open_socket(stack.haproxy.address(), 20) as sock:
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert 4 < time.monotonic() - began < 15

    def test_what_is_not_tls_is_dropped(self, stack):
        with open_socket(stack.haproxy.address()) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in sock.recv(1000)
        stack.connect("still-here")


class TestAcme:
    PATH = "/.well-known/acme-challenge/a_token"

    def test_the_challenge_reaches_the_client(self, start_stack, certificate):
        client = StandIn("acme")
        try:
            for tls in ({}, {"TLS_CERT": certificate}):
                stack = start_stack(ACME_SERVER=client.address, **tls)
                answer = plain(stack, path=self.PATH)
                assert answer.status == 200
                assert answer.body.startswith(f"GET {self.PATH} ".encode())
                assert stack.http("GET", self.PATH).status == 200
                error_of(stack.http("GET", "/.well-known/other"), 404)
        finally:
            client.stop()

    def test_it_waits_rarely(self, start_stack, certificate):
        port = Port()
        stack = start_stack(TLS_CERT=certificate, ACME_SERVER=f"127.0.0.1:{port.number}")
        error_of(plain(stack, path=self.PATH), 503)
        port.release()

    def test_there_is_none(self, stack):
        error_of(plain(stack, path=self.PATH), 404)
