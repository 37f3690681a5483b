"""/chat, the WebSocket below the chat: frames in every shape a peer may send them.

Straight to the broker where bytes must arrive in the pieces in which they were sent.
"""

import contextlib
import json
import socket
import struct
import time

import pytest
from client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Closed, frame_bytes
from stack import until

HISTORY = b'{"action":"history","limit":0}'
ANSWER = {"history": []}
FRAME_MAX = 16384


def padded(size):
    """A valid request of exactly `size` bytes."""
    head, tail = b'{"action":"history","limit":0,"x":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.fixture(params=[True, False], ids=["direct", "haproxy"])
def raw(request, stack):
    return stack.connect("raw", raw=True, direct=request.param)


@pytest.fixture
def direct(stack):
    return stack.connect("raw", raw=True, direct=True)


class TestPieces:
    SETTINGS = {"RATE_MESSAGES": 0}

    def pieces(self, client, *parts):
        for part in parts:
            client.send_bytes(part)
            time.sleep(0.0005)  # so that most arrive alone; the answer is right either way

    def test_two_pieces_cut_at_every_byte(self, direct):
        text = json.dumps({"action": "message", "message": "€😀x"}, ensure_ascii=False)
        frame = frame_bytes(TEXT, text.encode())
        for cut in range(1, len(frame)):
            self.pieces(direct, frame[:cut], frame[cut:])
            assert direct.receive()["message"] == "€😀x"

    @pytest.mark.parametrize("size", [125, 126, 127, 1000])
    def test_one_byte_at_a_time(self, direct, size):
        frame = frame_bytes(TEXT, padded(size))
        self.pieces(direct, *(frame[i : i + 1] for i in range(len(frame))))
        assert direct.receive() == ANSWER

    def test_a_large_frame_in_uneven_pieces(self, direct):
        text = "x" * 2000
        frame = frame_bytes(
            TEXT, json.dumps({"action": "message", "message": text, "pad": "y" * 13000}).encode()
        )
        for step in (997, 1024, 1025, 4096, 8191):
            self.pieces(direct, *(frame[i : i + step] for i in range(0, len(frame), step)))
            assert direct.receive()["message"] == text

    def test_many_frames_in_one_piece(self, raw):
        count = 100
        raw.send_bytes(frame_bytes(TEXT, HISTORY) * count)
        assert [raw.receive() for _ in range(count)] == [ANSWER] * count

    def test_a_frame_and_a_half_in_one_piece(self, direct):
        two = frame_bytes(TEXT, HISTORY) + frame_bytes(TEXT, HISTORY)
        self.pieces(direct, two[:-10], two[-10:])
        assert [direct.receive(), direct.receive()] == [ANSWER, ANSWER]

    def test_a_frame_that_never_ends_waits_and_harms_nobody(self, stack, direct):
        direct.send_bytes(frame_bytes(TEXT, HISTORY)[:-1])
        other = stack.connect("other")
        assert other.ask("message", message="hi")["message"] == "hi"
        assert direct.receive()["message"] == "hi"


class TestFragments:
    SETTINGS = {"RATE_MESSAGES": 0}

    def fragments(self, client, *parts):
        for i, part in enumerate(parts):
            opcode = CONTINUATION if i else TEXT
            client.send_frame(opcode, part, final=i == len(parts) - 1)

    def test_cut_at_every_byte(self, raw):
        for cut in range(len(HISTORY) + 1):
            self.fragments(raw, HISTORY[:cut], HISTORY[cut:])
            assert raw.receive() == ANSWER

    def test_a_fragment_for_every_byte(self, raw):
        text = json.dumps({"action": "message", "message": "€😀x"}, ensure_ascii=False).encode()
        self.fragments(raw, *(text[i : i + 1] for i in range(len(text))))
        assert raw.receive()["message"] == "€😀x"

    def test_empty_fragments(self, raw):
        self.fragments(raw, b"", b"", HISTORY, b"", b"")
        assert raw.receive() == ANSWER

    def test_a_ping_between_fragments_is_answered_at_once(self, raw):
        raw.send_frame(TEXT, HISTORY[:7], final=False)
        raw.send_frame(PING, b"in between")
        pong = raw.receive_frame()
        assert (pong.opcode, pong.payload) == (PONG, b"in between")
        raw.send_frame(CONTINUATION, HISTORY[7:])
        assert raw.receive() == ANSWER

    def test_broadcasts_go_on_between_fragments(self, stack, raw):
        raw.send_frame(TEXT, HISTORY[:7], final=False)
        stack.connect("other").ask("message", message="hi")
        assert raw.receive()["message"] == "hi"
        raw.send_frame(CONTINUATION, HISTORY[7:])
        assert raw.receive() == ANSWER


class TestPings:
    @pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff" * 62])
    @pytest.mark.parametrize("token", [None, "alice"])
    def test_a_ping_is_answered_with_its_payload(self, stack, payload, token):
        client = stack.connect(token, raw=True)
        client.send_frame(PING, payload)
        pong = client.receive_frame()
        assert (pong.opcode, pong.final, pong.payload) == (PONG, True, payload)

    def test_a_pong_nobody_asked_for_is_ignored(self, raw):
        raw.send_frame(PONG, b"")
        raw.send_frame(PONG, b"unasked")
        assert raw.ask("history", limit=0) == ANSWER

    def test_a_ping_split_at_every_byte(self, direct):
        for cut in range(1, 10):
            frame = frame_bytes(PING, b"ping")
            direct.send_bytes(frame[:cut])
            direct.send_bytes(frame[cut:])
            pong = direct.receive_frame()
            assert (pong.opcode, pong.payload) == (PONG, b"ping")


class TestTooBig:
    SETTINGS = {"RATE_MESSAGES": 0}

    @pytest.mark.parametrize("size", [FRAME_MAX - 1, FRAME_MAX])
    def test_the_largest_frame_is_read(self, raw, size):
        raw.send_frame(TEXT, padded(size))
        assert raw.receive() == ANSWER

    @pytest.mark.parametrize("size", [FRAME_MAX + 1, 65535, 65536, 300_000])
    def test_a_larger_one_closes_1009(self, raw, size):
        raw.send_frame(TEXT, padded(size))
        assert raw.close_code() == 1009

    def test_before_the_login_too(self, stack):
        client = stack.connect(raw=True)
        client.send_frame(TEXT, padded(FRAME_MAX + 1))
        assert client.close_code() == 1009

    def test_the_fragments_of_a_message_count_together(self, raw):
        whole = padded(FRAME_MAX)
        for i in range(0, FRAME_MAX, 1024):
            opcode = CONTINUATION if i else TEXT
            raw.send_frame(opcode, whole[i : i + 1024], final=i + 1024 == FRAME_MAX)
        assert raw.receive() == ANSWER
        for i in range(0, FRAME_MAX, 1024):
            raw.send_frame(CONTINUATION if i else TEXT, whole[i : i + 1024], final=False)
        raw.send_frame(CONTINUATION, b"x")
        assert raw.close_code() == 1009

    def flood(self, stack, client, data):
        """Sends much more than is allowed; the broker must keep none of it."""
        before = stack.broker.rss()
        with contextlib.suppress(OSError):  # it need not listen to all of it
            for _ in range(20_000_000 // len(data)):
                client.send_bytes(data)
        assert stack.broker.rss() < before + 8_000_000
        assert client.close_code() in (1009, 1006)  # a reset may overtake the close frame

    def test_endless_fragments_are_not_collected(self, stack, direct):
        direct.send_frame(TEXT, b"x" * 1000, final=False)
        self.flood(stack, direct, frame_bytes(CONTINUATION, b"x" * 1000, final=False))

    def test_an_announced_gigabyte_is_not_waited_for(self, stack, direct):
        direct.send_bytes(struct.pack("!BBQI", 0x81, 0xFF, 1 << 30, 0))  # a mask of zeros
        self.flood(stack, direct, b"x" * 65536)

    def test_others_stay(self, stack, raw):
        other = stack.connect("other")
        raw.send_frame(TEXT, padded(20_000))
        assert raw.close_code() == 1009
        assert other.history(limit=0) == []

    def test_the_limit_is_a_setting(self, start_stack):
        stack = start_stack(api=False, FRAME_MAX_BYTES=1024, MESSAGE_MAX_BYTES=80)
        client = stack.connect("small", raw=True)
        client.send_frame(TEXT, padded(1024))
        assert client.receive() == ANSWER
        client.send_frame(TEXT, padded(1025))
        assert client.close_code() == 1009


class TestRefused:
    """What a peer must not send; the others notice nothing."""

    @pytest.fixture(autouse=True)
    def bystander(self, stack):
        other = stack.connect("bystander")
        yield
        assert other.ask("history", limit=0) == ANSWER

    @pytest.mark.parametrize("payload", [b"", b"\x00\x01", HISTORY], ids=["empty", "bytes", "text"])
    def test_a_binary_frame_closes_1003(self, raw, payload):
        raw.send_frame(BINARY, payload)
        assert raw.close_code() == 1003

    def test_a_fragmented_binary_message_closes_1003(self, raw):
        raw.send_frame(BINARY, HISTORY[:5], final=False)
        raw.send_frame(CONTINUATION, HISTORY[5:])
        assert raw.close_code() == 1003

    @pytest.mark.parametrize(
        "bad",
        [
            b"\xff",
            b"\x80",
            b"\xc3",
            b"\xc3x",
            b"\xc0\x80",
            b"\xe2\x82",
            b"\xed\xa0\x80",
            b"\xf0\x9f\x98",
            b"\xf0\x80\x80\x80",
            b"\xf4\x90\x80\x80",
            b"\xfe\xfe\xff\xff",
        ],
        ids=lambda bad: bad.hex(),
    )
    def test_invalid_utf8_closes_1007(self, raw, bad):
        raw.send_frame(TEXT, b'{"action":"message","message":"' + bad + b'"}')
        assert raw.close_code() == 1007

    @pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xf0\x9f\x98"], ids=lambda bad: bad.hex())
    def test_invalid_utf8_at_the_end_closes_1007(self, raw, bad):
        raw.send_frame(TEXT, HISTORY + bad)
        assert raw.close_code() == 1007

    def test_invalid_utf8_in_a_fragment_closes_1007(self, raw):
        raw.send_frame(TEXT, b'{"action":"message","message":"', final=False)
        raw.send_frame(CONTINUATION, b"\xe2\x82x", final=False)
        raw.send_frame(CONTINUATION, b'"}')
        assert raw.close_code() == 1007

    @pytest.mark.parametrize(
        "data",
        [
            frame_bytes(TEXT, HISTORY, reserved=4),
            frame_bytes(TEXT, HISTORY, reserved=2),
            frame_bytes(0x3, HISTORY),
            frame_bytes(0xB, b""),
            frame_bytes(CONTINUATION, HISTORY),
            frame_bytes(TEXT, HISTORY[:5], final=False) + frame_bytes(TEXT, HISTORY),
            frame_bytes(PING, b"x" * 126),
            frame_bytes(PING, b"x", final=False),
        ],
        ids=[
            "rsv1",
            "rsv2",
            "opcode 3",
            "opcode 11",
            "continuation of nothing",
            "text inside text",
            "long ping",
            "fragmented ping",
        ],
    )
    def test_against_the_websocket_protocol_the_connection_ends(self, raw, data):
        raw.send_bytes(data)
        assert raw.close_code() in (1002, 1006)

    def test_an_unmasked_frame_is_at_most_read_like_any_other(self, raw):
        """libwebsockets 4.1 lets it pass, newer ones do not."""
        raw.send_frame(TEXT, HISTORY, masked=False)
        raw.send_frame(CLOSE, b"\x03\xe8")
        frames = []
        with pytest.raises(Closed) as closed:  # noqa: PT012 - until the end
            while True:
                frames.append(raw.receive())
        assert (frames, closed.value.code) in [([ANSWER], 1000), ([], 1002), ([], 1006)]


class TestFlood:
    """Frames that are no messages; the client has not even logged in."""

    SETTINGS = {"api": False}

    @pytest.mark.parametrize("direct", [False, True], ids=["haproxy", "broker"])
    @pytest.mark.parametrize(
        "frames",
        [
            frame_bytes(PING, b"") * 100,
            frame_bytes(PING, b"x" * 125) * 100,
            frame_bytes(PONG, b"") * 100,
            frame_bytes(TEXT, b"", final=False) + frame_bytes(CONTINUATION, b"", final=False) * 100,
        ],
        ids=["pings", "long pings", "pongs", "empty fragments"],
    )
    def test_it_is_closed(self, stack, direct, frames):
        flooder = stack.connect(raw=True, direct=direct)
        flooder.send_bytes(frames)
        rest = frame_bytes(CONTINUATION, b"", final=False) * 100
        frames = frames if frames[0] & 0x08 else rest
        before = stack.broker.log().count("client_flood")
        flooder.sock.settimeout(1)
        deadline = time.monotonic() + 20
        with contextlib.suppress(OSError):  # it is not told for sure, and may wait in vain
            while time.monotonic() < deadline:
                flooder.send_bytes(frames)
        assert stack.broker.log().count("client_flood") == before + 1
        until("it has gone", lambda: stack.broker.metrics()["hlchat_connections"] == 0)
        assert stack.connect("ann").history(limit=0) == []

    def test_a_moderate_pace_is_no_flood(self, stack):
        ann = stack.connect("ann", raw=True, direct=True)
        for byte in json.dumps({"action": "message", "message": "x" * 2000}).encode()[:-1]:
            first = byte == ord("{")
            ann.send_frame(TEXT if first else CONTINUATION, bytes([byte]), final=False)
        ann.send_frame(CONTINUATION, b"}")
        assert ann.receive()["message"] == "x" * 2000
        for _ in range(1000):
            ann.send_frame(PING, b"")
        assert ann.ask("history", limit=0) == {"history": []}


class TestClose:
    @pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
    def test_a_close_is_answered(self, raw, code):
        raw.send_frame(CLOSE, struct.pack("!H", code) + b"bye")
        frame = raw.receive_frame()
        assert (frame.opcode, frame.code) == (CLOSE, code)
        with pytest.raises(Closed):
            raw.receive_frame()

    def test_a_close_without_a_code(self, raw):
        raw.send_frame(CLOSE, b"")
        assert raw.receive_frame().opcode == CLOSE

    def test_replies_come_before_the_answer_to_a_close(self, raw):
        raw.send_bytes(frame_bytes(TEXT, HISTORY) + frame_bytes(CLOSE, b"\x03\xe8"))
        assert raw.receive() == ANSWER
        assert raw.close_code() == 1000

    def test_an_end_without_a_close_frame(self, stack, raw):
        raw.shutdown()
        assert raw.close_code() in (1000, 1006)
        assert stack.connect("next").history(limit=0) == []

    def test_a_reset(self, stack, direct):
        direct.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        direct.sock.close()
        assert stack.connect("next").history(limit=0) == []
