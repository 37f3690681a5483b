"""A server double: what the real server cannot be made to do, or does not tell.

with Double() as double:
    client = Client(library, double.url)
    peer = double.accept()                  # answers the handshake; its `headers`
    peer.send_frame(CLOSE, close_payload(4001))
    assert peer.receive_frame().opcode == CLOSE
"""

import base64
import contextlib
import hashlib
import socket
import struct

from client import CLOSE, TIMEOUT_S, Frame, frame_bytes


def close_payload(code, reason=b"because"):
    return struct.pack("!H", code) + reason


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock):
        self._sock = sock
        self._buffer = b""
        sock.settimeout(TIMEOUT_S)
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        fields = (line.partition(":") for line in head.decode().split("\r\n")[1:])
        self.headers = {name.lower(): value.strip() for name, _, value in fields}

    def answer(self, select):
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"]
        lines += [f"Sec-WebSocket-Accept: {accept}"]
        lines += [f"Sec-WebSocket-Protocol: {select}"] if select else []
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode())

    def _more(self):
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the client is gone")
        self._buffer += data

    def _take(self, size):
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def send_frame(self, opcode, payload):
        self._sock.sendall(frame_bytes(opcode, payload, masked=False))

    def receive_frame(self, timeout=TIMEOUT_S):
        """The next frame, of at most 125 bytes."""
        self._sock.settimeout(timeout)
        first, size = self._take(2)
        assert 0x80 <= size < 0x80 + 126, "a short frame with a mask"
        mask, payload = self._take(4), self._take(size - 0x80)
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        return Frame(first & 0x0F, bool(first & 0x80), payload)

    def close(self, code):
        """As the broker does: a close frame, and the end of the stream once it is answered."""
        self.send_frame(CLOSE, close_payload(code))
        with contextlib.suppress(ConnectionError):
            self.receive_frame()
        self.end()

    def end(self):
        self._sock.close()


class Double:
    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT_S)
        self.url = "ws://127.0.0.1:{}/chat".format(*self._listener.getsockname()[1:])
        self._peers = []
        return self

    def accept(self, select=None):
        """The next connection; select: the subprotocol that the answer names."""
        while True:
            sock, _ = self._listener.accept()
            with contextlib.suppress(ConnectionError):  # Chromium opens some for nothing
                peer = Peer(sock)
                self._peers.append(peer)
                peer.answer(select)
                return peer

    def __exit__(self, kind, value, trace):
        for peer in self._peers:
            peer.end()
        self._listener.close()
