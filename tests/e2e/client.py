"""Two WebSocket clients with the same chat helpers; `Stack.connect()` makes them.

`Client` is the `websockets` library: what a user's program would do. `RawClient` writes and reads
the bytes itself, for all that a proper library refuses to do: frames in pieces, unmasked, binary,
with bad UTF-8, pings between fragments, a reader that stops reading.

Both: `send("history", limit=5)`, `send_text(anything)`, `receive_text()`, `receive()` (parsed),
`ask("history", limit=5)` = send and receive, `login("bob")`, `error()` (the next frame must be an
error; its text), `barrier()` (what came so far), `close_code()`.
"""

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import time
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websockets_connect

TIMEOUT_S = 30.0  # to answer, on a busy machine

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Closed(AssertionError):
    """The connection ended where a frame was expected; `code` is 1006 without a close frame."""

    def __init__(self, code):
        super().__init__(f"the connection was closed, code {code}")
        self.code = code


class Chat:
    """What a chat client says, above send_text() and receive_text()."""

    def send_text(self, text):
        raise NotImplementedError

    def receive_text(self, timeout=TIMEOUT_S):
        raise NotImplementedError

    def send(self, action, **fields):
        self.send_text(json.dumps({"action": action, **fields}))

    def receive(self, timeout=TIMEOUT_S):
        return json.loads(self.receive_text(timeout))

    def ask(self, action, **fields):
        self.send(action, **fields)
        return self.receive()

    def ask_text(self, text):
        self.send_text(text)
        return self.receive()

    def login(self, token):
        answer = self.ask("login", token=token)
        assert answer == {"info": "connected"}, answer
        return self

    def error(self):
        """The next frame must be an error; its text."""
        answer = self.receive()
        assert list(answer) == ["error"], answer
        assert isinstance(answer["error"], str)
        assert answer["error"].strip()
        return answer["error"]

    def refused(self, text):
        """What the server says against this frame."""
        self.send_text(text)
        return self.error()

    def history(self, **fields):
        answer = self.ask("history", **fields)
        assert list(answer) == ["history"], answer
        return answer["history"]

    def barrier(self):
        """All frames that came before the answer to a request made now, parsed.

        Replies and broadcasts are one sequence, so what anybody has received by now is in the
        list, or was not sent to this client.
        """
        self.send("barrier of the test")
        frames = []
        while True:
            frame = self.receive()
            if "error" in frame:
                return frames
            frames.append(frame)

    def close_code(self, timeout=TIMEOUT_S):
        """Reads until the end and returns the close code; 1006: there was no close frame."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self.receive_text(max(0.01, deadline - time.monotonic()))
        except Closed as closed:
            return closed.code


class Client(Chat):
    """A client over the websockets library. options: path, and those of websockets' connect()."""

    def __init__(self, sock, path="/chat", **options):
        defaults = {"compression": None, "ping_interval": None, "proxy": None, "max_size": None}
        # All that comes is taken in, or close() would wait behind it for the other side's close.
        options = {**defaults, "max_queue": None, **options}
        self._open = contextlib.ExitStack()
        self._connection = self._open.enter_context(
            websockets_connect(f"ws://localhost{path}", sock=sock, **options)
        )
        self.subprotocol = self._connection.subprotocol

    def send_text(self, text):
        try:
            self._connection.send(text)
        except ConnectionClosed as closed:
            raise Closed(closed.rcvd.code if closed.rcvd else 1006) from None

    def receive_text(self, timeout=TIMEOUT_S):
        try:
            return self._connection.recv(timeout)
        except TimeoutError:
            raise AssertionError(f"no frame within {timeout:.1f} s") from None
        except ConnectionClosed as closed:
            raise Closed(closed.rcvd.code if closed.rcvd else 1006) from None

    def close(self):
        self._open.close()


@dataclass
class Frame:
    opcode: int
    final: bool
    payload: bytes

    @property
    def text(self):
        return self.payload.decode()

    @property
    def code(self):
        """Of a close frame."""
        return struct.unpack("!H", self.payload[:2])[0] if len(self.payload) >= 2 else 1005


def frame_bytes(opcode, payload, *, final=True, masked=True, reserved=0):
    """One frame as it goes over the wire; `masked` as a client must."""
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += struct.pack("!BH", mask_bit | 126, size)
    else:
        head += struct.pack("!BQ", mask_bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    stream = mask * (size // 4 + 1)
    covered = int.from_bytes(payload, "big") ^ int.from_bytes(stream[:size], "big")
    return head + mask + covered.to_bytes(size, "big")


class RawClient(Chat):
    """A client that handles its own bytes.

    path, headers (a dict, added to or replacing the handshake's; None leaves one out), subprotocol.
    answer_pings: False makes it a peer that is gone. upgrade: the handshake must be accepted;
    False: look at `status`, `headers` and `body` afterwards.
    """

    def __init__(
        self,
        sock,
        path="/chat",
        headers=None,
        subprotocol=None,
        answer_pings=True,
        upgrade=True,
    ):
        self.sock = sock
        self.answer_pings = answer_pings
        self.pings = 0  # received so far
        self._buffer = b""
        self._handshake(path, headers or {}, subprotocol)
        assert not upgrade or self.status == 101, f"handshake answered {self.status} {self.body}"

    def _handshake(self, path, headers, subprotocol):
        key = base64.b64encode(os.urandom(16)).decode()
        request = {
            "Host": "localhost",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Protocol": subprotocol,
            **headers,
        }
        lines = [f"GET {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.items() if value is not None]
        self.send_bytes("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
        self.subprotocol = self.headers.get("sec-websocket-protocol")
        self.body = b""
        if self.status == 101:
            guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode() + guid).digest()).decode()
            assert self.headers["sec-websocket-accept"] == accept
        else:
            size = int(self.headers.get("content-length", 0))
            while len(self._buffer) < size:
                self._read()
            self.body = self._buffer[:size]

    # writing

    def send_bytes(self, data):
        self.sock.sendall(data)

    def send_frame(self, opcode, payload, **options):
        self.send_bytes(frame_bytes(opcode, payload, **options))

    def send_text(self, text):
        self.send_frame(TEXT, text.encode() if isinstance(text, str) else text)

    def send_at_once(self, *frames):
        """Several frames in one write: texts, or requests as dicts."""
        texts = [frame if isinstance(frame, str) else json.dumps(frame) for frame in frames]
        self.send_bytes(b"".join(frame_bytes(TEXT, text.encode()) for text in texts))

    # reading

    def _read(self, timeout=TIMEOUT_S):
        self.sock.settimeout(max(timeout, 0.001))
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            raise AssertionError(f"nothing came within {timeout:.1f} s") from None
        except ConnectionError:
            data = b""
        if not data:
            raise Closed(1006)
        self._buffer += data

    def _frame_in_buffer(self):
        if len(self._buffer) < 2:
            return None
        first, size = self._buffer[:2]
        assert size < 128, "a server must not mask"
        assert not first & 0x70, "no extension was agreed on"
        start = 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(self._buffer) < start:
                return None
            size = int.from_bytes(self._buffer[2:start], "big")
        if len(self._buffer) < start + size:
            return None
        payload = self._buffer[start : start + size]
        self._buffer = self._buffer[start + size :]
        return Frame(first & 0x0F, bool(first & 0x80), payload)

    def receive_frame(self, timeout=TIMEOUT_S):
        """The next frame of any kind; raises Closed at the end of the stream."""
        deadline = time.monotonic() + timeout
        while True:
            frame = self._frame_in_buffer()
            if frame:
                return frame
            self._read(deadline - time.monotonic())

    def receive_text(self, timeout=TIMEOUT_S):
        deadline = time.monotonic() + timeout
        while True:
            frame = self.receive_frame(deadline - time.monotonic())
            if frame.opcode == PING:
                self.pings += 1
                if self.answer_pings:
                    self.send_frame(PONG, frame.payload)
            elif frame.opcode == CLOSE:
                with contextlib.suppress(OSError):  # it may not wait for an answer
                    self.send_frame(CLOSE, frame.payload[:2])
                raise Closed(frame.code)
            elif frame.opcode == TEXT:
                assert frame.final, "the server sends whole messages"
                return frame.text
            else:
                assert frame.opcode == PONG, frame

    def close(self):
        self.sock.close()

    def shutdown(self):
        """Ends our direction: the server sees the end of the stream."""
        self.sock.shutdown(socket.SHUT_WR)
