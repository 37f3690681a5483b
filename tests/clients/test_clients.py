"""What real client libraries do with the chat, and what they report: docs/clients.md.

`make test-clients` tries all of them; `make test` those that come with the test tools.
"""

import re
from contextlib import ExitStack

import pytest
from client import PING, PONG, TEXT, Closed
from double import Double
from library import LIBRARIES, Client, Page
from stack import REPO, Stack
from table import Table

LONG = 16384  # bytes of a message

# Of docs/protocol.md, which has a test below.
SENT_CODES = [1001, 1003, 1007, 1008, 1009, 1011, 4001, 4002, 4003, 4004, 4005, 4501]
UNSENT_CODES = [1012, 1013]  # which some libraries cannot read


def libraries(gate=False, without=""):
    """Parametrizes a test with all libraries; `make test` leaves out the ones marked long."""
    return pytest.mark.parametrize(
        "library",
        [
            pytest.param(library, marks=[] if gate and library.gate else [pytest.mark.long])
            for library in LIBRARIES.values()
            if without not in library.lacks
        ],
        ids=lambda library: library.name,
    )


@pytest.fixture(scope="module", autouse=True)
def _browser():
    yield
    Page.quit()


@pytest.fixture(scope="module")
def table():
    """Takes what was seen, and writes the rows of those libraries that were seen wholly."""
    table = Table()
    yield table
    table.write()


@pytest.fixture
def connect():
    """Makes clients that end with the test: connect(library, url, "chat")."""
    with ExitStack() as ending:

        def connect(library, url, *offered):
            client = Client(library, url, *offered)
            ending.callback(client.close)
            return client

        yield connect


@pytest.fixture
def double():
    with Double() as double:
        yield double


def chat_url(program):
    return f"ws://127.0.0.1:{program.address()[1]}/chat"


def login(client, name):
    client.opened()
    return client.login(name)


def unicode_samples():
    """Characters of every plane, and what programs stumble over."""
    lows = (0x0000, 0x0001, 0x00E9, 0x0300, 0x1F600 & 0xFFFF, 0x8000, 0xFFFD, 0xFFFF)
    planes = [chr(plane << 16 | low) for plane in range(17) for low in lows if plane or low]
    codes = [*range(0x01, 0x20), 0x7F, 0x85, 0x2028, 0x2029, 0xD7FF, 0xE000, 0xFEFF]
    joined = ["e\u0301", "\u1112\u1161\u11ab", "\U0001f468\u200d\U0001f469", "\u202eabc"]
    return "".join([*planes, *map(chr, codes), *joined])


def said_by(client, text):
    """The text of a message as it comes back."""
    answer = client.ask("message", message=text)
    assert "message" in answer, answer
    return answer["message"]


class TestTalking:
    SETTINGS = {
        "MESSAGE_MAX_BYTES": LONG,
        "FRAME_MAX_BYTES": 131072,
        "RATE_MESSAGES": 0,
        "reload": True,
    }

    @libraries(gate=True)
    def test_messages_of_all_sizes_and_all_of_unicode(self, stack, connect, library):
        client = login(connect(library, chat_url(stack.haproxy)), library.name)
        for size in [1, 2, 125, 126, 127, 2048, LONG - 1, LONG]:
            assert said_by(client, "x" * size) == "x" * size
        samples = unicode_samples()
        assert said_by(client, samples) == samples
        escapes = "\u0001" * LONG  # a frame of 98,000 bytes
        assert said_by(client, escapes) == escapes
        astral = "\U0001f600" * (LONG // 4)
        client.send_text(f'{{"action":"message","message":"{astral}"}}')  # without escapes
        assert client.receive()["message"] == astral

    @libraries(gate=True, without="fragments")
    def test_fragmented_messages(self, stack, connect, library):
        client = login(connect(library, chat_url(stack.haproxy)), library.name)
        for size in [10, LONG // 4]:
            text = "\U0001f600" * size
            client.send_fragments('{"action":"mess', 'age","message":"', text, '"}')
            assert client.receive()["message"] == text

    @libraries(gate=True)
    def test_the_subprotocol_that_it_offers_is_named(self, stack, connect, library):
        for program in [stack.haproxy, stack.broker]:
            client = connect(library, chat_url(program), "chat")
            assert client.opened() in ["chat", "?"]
            client.login(library.name)

    @libraries()
    def test_a_reload_of_haproxy_is_not_noticed(self, stack, connect, library):
        client = login(connect(library, chat_url(stack.haproxy)), library.name)
        stack.haproxy.reload()
        assert said_by(client, "on the old worker") == "on the old worker"


class TestPings:
    SETTINGS = {"PING_INTERVAL_S": 1}

    @libraries()
    def test_pings_both_ways(self, stack, connect, library):
        """For four of the server's pings, of which two without an answer are too many."""
        client = login(connect(library, chat_url(stack.haproxy)), library.name)
        watch = stack.connect(raw=True)
        if "ping" not in library.lacks:
            client.ping()
        pings = 0
        while pings < 4:
            frame = watch.receive_frame()
            if frame.opcode == PING:
                watch.send_frame(PONG, frame.payload)
                pings += 1
                if "idle" in library.lacks:
                    client.ping()  # the late answer goes out before it
        assert said_by(client, "still here") == "still here"
        assert (client.pongs > 0) == (not library.lacks & {"ping", "pong"})


class TestRealCloses:
    SETTINGS = {"RATE_MESSAGES": 0, "LOGIN_TIMEOUT_S": 3}

    @libraries()
    def test_the_code_of_what_a_client_did(self, stack, connect, library):
        def after(*frames):
            client = connect(library, chat_url(stack.haproxy))
            client.opened()
            for frame in frames:
                client.send_text(frame)
            return client.ending().code

        login = '{"action":"login","token":"dev"}'
        assert after(login, *["not JSON"] * 50) == 1008
        assert after(login, "x" * 16385) == 1009
        assert after(*['{"action":"login","token":"%s"}' % ("x" * 65)] * 5) == 4501
        assert after() == 4003


@pytest.fixture(scope="module")
def drained():
    """How each library reports a broker that is stopped under all of them."""
    with ExitStack() as ending:
        stack = ending.enter_context(Stack())
        clients = {}
        for name, library in LIBRARIES.items():
            if not library.missing:
                clients[name] = client = Client(library, chat_url(stack.haproxy))
                ending.callback(client.close)
                login(client, name)
        stack.broker.stop()
        yield {name: client.ending() for name, client in clients.items()}


@libraries()
def test_a_restart_is_1001(drained, library):
    if library.missing:
        pytest.skip(library.missing)
    assert drained[library.name].code == 1001


class TestDouble:
    @libraries(gate=True)
    def test_every_close_code_is_read(self, double, connect, table, library):
        def reported(code):
            client = connect(library, double.url)
            peer = double.accept()
            client.opened()
            peer.close(code)
            return client.ending()

        endings = {code: reported(code) for code in SENT_CODES}
        assert [ending.code for ending in endings.values()] == SENT_CODES
        assert {ending.reason for ending in endings.values()} == {"because"}
        unsent = [reported(code) for code in UNSENT_CODES]
        table.record(library, "1012, 1013", ", ".join(str(ending.code or "-") for ending in unsent))

    @libraries()
    def test_it_answers_pings(self, double, connect, table, library):
        client = connect(library, double.url)
        peer = double.accept()
        client.opened()
        peer.send_frame(PING, b"are you there")
        try:
            frame, when = peer.receive_frame(2.0), "at once"
        except TimeoutError:
            peer.send_frame(TEXT, b"{}")
            frame, when = peer.receive_frame(), "with the next message"
        assert (frame.opcode, frame.payload) == (PONG, b"are you there")
        assert (when == "at once") == ("idle" not in library.lacks)
        assert "sec-websocket-protocol" not in peer.headers
        extensions = peer.headers.get("sec-websocket-extensions", "-")
        table.record(library, "answers a ping", when)
        table.record(library, "extensions offered", extensions.partition(";")[0])

    @libraries()
    def test_a_subprotocol_that_is_not_answered(self, double, connect, table, library):
        client = connect(library, double.url, "chat")
        double.accept()
        try:
            client.opened()
            outcome = "connects"
        except Closed:
            outcome = "fails"
        table.record(library, "subprotocol unanswered", outcome)


class TestDocs:
    def test_the_table_has_these_libraries_and_their_versions(self):
        rows = {row["library"]: row for row in Table.read()}
        assert list(rows) == list(LIBRARIES)
        for name, library in LIBRARIES.items():
            assert rows[name]["language"] == library.language
            if isinstance(library.version, str):  # the same on all machines
                assert rows[name]["version"] == library.version

    def test_the_codes_are_those_of_the_protocol(self):
        text = (REPO / "docs" / "protocol.md").read_text()
        rows = re.findall(r"^\| (\d{4}.*?) \|", text, re.MULTILINE)
        codes = {int(code) for row in rows for code in re.findall(r"\d{4}", row)}
        made_up = {1000, 1002, 1005, 1006}  # by a library, or what a client may say itself
        assert codes - made_up == set(SENT_CODES)
