"""What README.md and docs/ promise, taken from their own text."""

import re
import subprocess

import pytest
from browser import Browser
from stack import BUILD, REPO

README = (REPO / "README.md").read_text()
SETTINGS = (REPO / "docs" / "settings.md").read_text()

TIME = 1666259380  # stands for the time in README


def conversation():
    """The lines between the fences: ("send" or "receive", text)."""
    block = re.search(r"```\n(> .*?)```", README, re.DOTALL).group(1)
    return [("send" if line[0] == ">" else "receive", line[2:]) for line in block.splitlines()]


def same(got, promised):
    """Word for word, but for the time."""
    assert re.sub(r'"timestamp":\d{10}', f'"timestamp":{TIME}', got) == promised


class Websocat:
    def __init__(self, stack, path):
        host, port = stack.haproxy.address()
        self._process = subprocess.Popen(
            [REPO / "build" / "venv" / "bin" / "websocat", f"ws://{host}:{port}{path}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, text):
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def receive(self):
        return self._process.stdout.readline().rstrip("\n")

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class PythonClient:
    """The websockets library, offering a subprotocol, which it gets."""

    def __init__(self, stack, path):
        self._client = stack.connect(path=path, subprotocols=["some.game.v7"])
        assert self._client.subprotocol == "some.game.v7"
        self.send, self.receive = self._client.send_text, self._client.receive_text

    def close(self):
        self._client.close()


class PageClient:
    """A browser's own WebSocket, on our page."""

    SCRIPT = """
        window.frames_ = []; window.wants_ = [];
        const url = `ws://${location.host}` + arguments[0];
        const socket = window.socket_ = new WebSocket(url, 'a.habit');
        socket.onmessage = event => {
            const want = window.wants_.shift();
            if (want) want(event.data); else window.frames_.push(event.data);
        };
        const done = arguments[1];
        socket.onopen = () => done();
    """
    RECEIVE = """
        const done = arguments[0];
        if (window.frames_.length) done(window.frames_.shift()); else window.wants_.push(done);
    """

    def __init__(self, stack, path):
        self._browser = Browser().__enter__()
        self._browser.open(stack)
        self._driver = self._browser.driver
        self._driver.execute_async_script(self.SCRIPT, path)

    def send(self, text):
        self._driver.execute_script("window.socket_.send(arguments[0])", text)

    def receive(self):
        return self._driver.execute_async_script(self.RECEIVE)

    def close(self):
        self._browser.__exit__(None, None, None)


class TestConversation:
    @pytest.mark.parametrize("client_class", [Websocat, PythonClient, PageClient])
    @pytest.mark.parametrize("path", ["/chat", "/chat?game=7"])
    def test_word_for_word(self, start_stack, client_class, path):
        client = client_class(start_stack(api=False), path)
        try:
            for verb, text in conversation():
                if verb == "send":
                    client.send(text)
                else:
                    same(client.receive(), text)
        finally:
            client.close()

    def test_version(self, stack):
        promised = re.search(r"\$ curl .*/api/version\n +(\{.*\})", README).group(1)
        assert stack.http("GET", "/api/version").body.decode() == promised


def printed_config(program):
    output = subprocess.run(
        [BUILD / program, "--print-config"], capture_output=True, text=True, check=True, env={}
    ).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def documented(text):
    """{name: default} of all table rows `NAME` | default | ...; some rows have several names."""
    rows = {}
    for names, default in re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) \|", text, re.MULTILINE):
        names = re.findall(r"`([A-Z_]+)`", names)
        defaults = default.split(", ") if len(names) > 1 and ", " in default else [default]
        defaults = defaults if len(defaults) == len(names) else [default] * len(names)
        rows.update(zip(names, defaults, strict=True))
    return rows


class TestSettings:
    @pytest.mark.parametrize("program", ["ws-broker", "api-fcgi"])
    def test_every_setting_is_documented_with_its_default(self, program):
        rows = documented(SETTINGS)
        for name, default in printed_config(program).items():
            assert rows.get(name) == (default or "-"), name

    def test_nothing_else_is(self):
        known = {*printed_config("ws-broker"), *printed_config("api-fcgi")}
        assert set(documented(SETTINGS)) - known == {
            "HTTP_BIND", "HTTP_PORT", "PORT", "HAPROXY_OPS_BIND",
            "TLS_CERT", "HTTPS_PORT", "HSTS_MAX_AGE", "ACME_SERVER",
        }  # fmt: skip

    def test_readme_says_the_same(self):
        rows = documented(SETTINGS)
        for name, default in documented(README).items():
            assert rows[name] == default, name

    def test_the_example_of_a_refusal(self, tmp_path):
        example = re.search(r"\$ printf '(.*?)' .*\n +(ws-broker: .*)", SETTINGS)
        (tmp_path / "chat.env").write_text(example.group(1).replace("\\n", "\n"))
        refused = subprocess.run(
            [(BUILD / "ws-broker").resolve(), "--env-file", "chat.env", "--check"],
            capture_output=True, text=True, cwd=tmp_path, env={}, check=False,
        )  # fmt: skip
        assert (refused.returncode, refused.stderr.strip()) == (2, example.group(2))


class TestMetrics:
    def test_every_metric_is_documented(self, stack):
        text = stack.broker.ops("/metrics").body.decode()
        operating = (REPO / "docs" / "operating.md").read_text()
        names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
        assert names == set(re.findall(r"`(hlchat_\w+)", operating))


class TestErrors:
    REQUESTS = ("nix", "[]", "{}", '{"action":"x"}', '{"action":"history"}')

    @pytest.mark.parametrize("request_", REQUESTS)
    def test_the_documented_words(self, stack, request_):
        protocol = (REPO / "docs" / "protocol.md").read_text()
        assert f"`{stack.connect().refused(request_)}`" in protocol
