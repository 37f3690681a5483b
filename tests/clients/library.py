"""Real WebSocket client libraries, each behind a small program, and how a test talks to them.

    client = Client(LIBRARIES["gorilla/websocket"], url, "chat")    # offers a subprotocol
    assert client.opened() == "chat"
    client.login("alice")                                           # as all clients of the tests
    assert client.ending().code == 1001

A program is run as `program URL [SUBPROTOCOL]` and connects at once. Text goes over its stdin and
stdout as the hexadecimal digits of its UTF-8; `-` stands for nothing, `?` for what it cannot know.

| stdin | |
| --- | --- |
| `send TEXT` | one message |
| `fragments TEXT TEXT ...` | one message in so many fragments |
| `ping` | a ping of the client's own |
| `close` | ends the connection |

| stdout | |
| --- | --- |
| `open SUBPROTOCOL` | connected; the subprotocol that was selected |
| `text TEXT` | a message |
| `pong` | the answer to its ping |
| `close CODE REASON` | the connection was closed; the code as the library reports it |
| `error WORDS` | what the library complains of |
"""

import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest
from browser import Browser
from client import TIMEOUT_S, Chat, Closed
from stack import REPO

HERE = Path(__file__).parent
BUILT = REPO / "build" / "clients"  # by build.sh
JAVA = f"{BUILT}/java/classes:{BUILT}/java/dependency/*"

# The version that is under test ---------------------------------------------------------------


def pinned(file, pattern):
    """As the manifest `file` of this folder names it: a text."""
    return re.search(pattern, (HERE / file).read_text()).group(1)


def debian(package):
    """As this machine has it, like the next one: a function."""

    def version():
        show = ["dpkg-query", "-W", "-f", "${Version}", package]
        full = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        return re.sub(r"^\d+:|[-+].*$", "", full)

    return version


def output_of(pattern, *command):
    def version():
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return re.search(pattern, result.stdout + result.stderr).group(1)

    return version


# The libraries --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Library:
    name: str
    language: str
    version: object  # a text, or a function that asks this machine
    command: list
    needs: list = field(default_factory=list)  # files or programs; without them it is skipped
    # "fragments"; "ping": it sends none; "pong": it reports none; "idle": it answers pings
    # only when it sends or receives something
    lacks: frozenset = frozenset()
    note: str = ""
    gate: bool = False  # tested by `make test`

    @property
    def missing(self):
        """What keeps it from being tried on this machine."""
        absent = [n for n in self.needs if not (shutil.which(n) or Path(n).exists())]
        return f"not here: {' '.join(absent)}" if absent else ""


def python(name, module, **more):
    command = [sys.executable, f"{HERE}/python/with_{module}.py"]
    return Library(name, "Python", metadata.version(name), command, gate=True, **more)


def node(name, **more):
    version = pinned("node/package.json", rf'"{name}": "(.*)"')
    module = f"{BUILT}/node/node_modules/{name}"
    return Library(
        name,
        "JavaScript",
        version,
        ["node", f"{BUILT}/node/{name}.js"],
        ["node", module],
        **more,
    )


def go(name, **more):
    version = pinned("go/go.mod", rf"github.com/{name} v(\S+)")
    program = f"{BUILT}/go/{name.partition('/')[0]}"
    return Library(name, "Go", version, [program], [program], **more)


def java(name, main, version, **more):
    return Library(
        name,
        "Java",
        version,
        ["java", "-XX:TieredStopAtLevel=1", "-cp", JAVA, main],
        ["java", f"{BUILT}/java/classes/{main}.class"],
        **more,
    )


def compiled(name, language, program, package, **more):
    path = f"{BUILT}/{program}"
    return Library(name, language, debian(package), [path], [path], **more)


def jar(artifact):
    return pinned("java/pom.xml", rf"<artifactId>{artifact}</artifactId>\s*<version>(.*)</version>")


NO_FRAGMENTS = frozenset({"fragments"})
NO_PINGS = frozenset({"fragments", "ping"})

LIBRARIES = {
    library.name: library
    for library in [
        python("websockets", "websockets"),
        python("aiohttp", "aiohttp", lacks=frozenset({"fragments", "pong"})),
        python("websocket-client", "websocket_client", note="a close is an error, too"),
        Library(
            "Chromium",
            "JavaScript",
            output_of(r"Chromium ([\d]+)", "chromium", "--version"),
            [],
            lacks=NO_PINGS,
            gate=True,
        ),
        node("ws"),
        node("undici", lacks=NO_PINGS, note="also Node.js' own from 22 on"),
        go("gorilla/websocket", lacks=NO_FRAGMENTS),
        go("coder/websocket", note="reads 32 KiB at most unless `SetReadLimit` says otherwise"),
        Library(
            "tungstenite",
            "Rust",
            pinned("rust/Cargo.toml", r'tungstenite = "=(.*)"'),
            [f"{BUILT}/rust/release/tungstenite-client"],
            [f"{BUILT}/rust/release/tungstenite-client"],
        ),
        java("Java-WebSocket", "JavaWebSocket", jar("Java-WebSocket")),
        java(
            "java.net.http",
            "JavaNetHttp",
            output_of(r'version "([\d.]+)', "java", "-version"),
            note="hands a message over in parts",
        ),
        java("OkHttp", "OkHttp", jar("okhttp"), lacks=NO_PINGS),
        Library(
            "libcurl",
            "C",
            output_of(
                r"libcurl/([\d.]+)",
                f"{BUILT}/venv/bin/python",
                "-c",
                "import curl_cffi; print(curl_cffi.__curl_version__)",
            ),
            [f"{BUILT}/venv/bin/python", f"{HERE}/python/with_libcurl.py"],
            [f"{BUILT}/venv/bin/python"],
            lacks=frozenset({"idle"}),
            note="an idle client must send something, a ping for example, to stay",
        ),
        compiled(
            "libwebsockets",
            "C",
            "libwebsockets",
            "libwebsockets-dev",
            note="hands a message over in parts",
        ),
        compiled(
            "wslay",
            "C",
            "wslay",
            "libwslay-dev",
            note="in Godot 4, the C++ clients of Nakama and Colyseus; no handshake of its own",
        ),
        compiled(
            "Qt 5",
            "C++",
            "qt",
            "libqt5websockets5-dev",
            lacks=NO_FRAGMENTS,
            note="does not tell the subprotocol",
        ),
        Library(
            "faye-websocket",
            "Ruby",
            debian("ruby-faye-websocket"),
            ["ruby", f"{HERE}/ruby/faye.rb"],
            ["ruby", "/usr/lib/ruby/vendor_ruby/faye/websocket.rb"],
            lacks=NO_FRAGMENTS,
            note="the one of npm is alike",
        ),
        Library(
            "lua-http",
            "Lua",
            debian("lua-http"),
            ["lua5.1", f"{HERE}/lua/http.lua"],
            ["lua5.1", "/usr/share/lua/5.1/http/websocket.lua"],
            lacks=frozenset({"pong"}),
        ),
    ]
}

# A connection of one of them ------------------------------------------------------------------


class Process:
    """A program, its lines in and its lines out."""

    def __init__(self, library, url, offered):
        self._program = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *library.command, url, *offered],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "LANG": "C.UTF-8",
            },
        )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._program.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("end")

    def write(self, command, *texts):
        with contextlib.suppress(BrokenPipeError):  # it has ended: its last words tell why
            self._program.stdin.write(
                " ".join([command, *(t.encode().hex() for t in texts)]) + "\n"
            )
            self._program.stdin.flush()

    def read(self, timeout):
        """The next event, as words."""
        try:
            return self._lines.get(timeout=timeout).split(" ")
        except queue.Empty:
            return None

    def end(self):
        self._program.kill()
        self._program.wait()
        self._program.stdin = None


class Page:
    """The same for a page in Chromium, one for all connections."""

    OPEN = """
    const [url, offered] = arguments;
    const socket = new WebSocket(url, offered), events = [];
    socket.onopen = () => events.push(['open', socket.protocol]);
    socket.onmessage = (message) => events.push(['text', message.data]);
    socket.onclose = (closed) => events.push(['close', closed.code, closed.reason], ['end']);
    window.clients = (window.clients || []).concat({ socket, events });
    return clients.length - 1;
    """
    browser = None

    def __init__(self, url, offered):
        if not Page.browser:
            Page.browser = Browser()
            Page.browser.expected_console = ["WebSocket connection to"]
            Page.browser.driver.get((HERE / "page.html").as_uri())
        self._js = Page.browser.js
        self._number = self._js(self.OPEN, url, list(offered))
        self._events = []

    def write(self, command, *texts):
        self._js(f"clients[arguments[0]].socket.{command}(...arguments[1])", self._number, texts)

    def read(self, timeout):
        deadline = time.monotonic() + timeout
        while not self._events:
            self._events = self._js("return clients[arguments[0]].events.splice(0)", self._number)
            if not self._events and time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        event, *words = self._events.pop(0)
        if event == "text":
            return [event, words[0].encode().hex()]
        if event == "close":
            return [event, str(words[0]), words[1].encode().hex() or "-"]
        return [event, *(word or "-" for word in words)]

    def end(self):
        self.write("close")

    @classmethod
    def quit(cls):
        if cls.browser:
            cls.browser.__exit__(None, None, None)
            cls.browser = None


@dataclass
class Ending:
    code: int | None = None  # as the library reports it; None: it reports none
    reason: str = ""
    error: str = ""

    def __str__(self):
        return str(self.code or ("an error" if self.error else "nothing"))


class Client(Chat):
    """A connection by a library."""

    def __init__(self, library, url, *offered):
        if library.missing:
            pytest.skip(f"{library.name}: {library.missing}")
        page = library.name == "Chromium"
        self._wire = Page(url, offered) if page else Process(library, url, offered)
        self.pongs = 0
        self._ending = Ending()

    def opened(self):
        """The subprotocol that was selected, None for none; Closed when it does not connect."""
        event, *words = self._next(TIMEOUT_S)
        assert event == "open", (event, words)
        return None if words[0] == "-" else words[0]

    def send_text(self, text):
        self._wire.write("send", text)

    def send_fragments(self, *texts):
        self._wire.write("fragments", *texts)

    def ping(self):
        self._wire.write("ping")

    def receive_text(self, timeout=TIMEOUT_S):
        return bytes.fromhex(self._next(timeout)[1]).decode()

    def ending(self):
        """Reads until the end; how the library reports it."""
        try:
            while True:
                self._next(TIMEOUT_S)
        except Closed:
            return self._ending

    def close(self):
        self._wire.end()

    def _next(self, timeout):
        while True:
            event = self._wire.read(timeout)
            assert event, f"nothing came within {timeout:.1f} s"
            kind, *words = event
            if kind == "pong":
                self.pongs += 1
            elif kind == "close":
                self._ending.code = None if words[0] == "-" else int(words[0])
                self._ending.reason = bytes.fromhex(words[1].strip("-")).decode()
            elif kind == "error":
                self._ending.error = " ".join(words)
            elif kind == "end":
                raise Closed(self._ending)
            else:
                return event
