"""A FastCGI client that does what HAProxy would never do: stop half-way, fall silent, keep on.

with FcgiClient(stack.api.address()) as peer:
    peer.send(request("GET", "/api"))
    assert peer.reply().startswith(b"Status: 200")
"""

import struct

from stack import open_socket

BEGIN, END, PARAMS, STDIN, STDOUT, STDERR = 1, 3, 4, 5, 6, 7
RESPONDER, KEEP_CONN = 1, 1
RECORD_MAX = 0xFFF8


def record(kind, content):
    padding = -len(content) % 8
    return struct.pack(">BBHHBB", 1, kind, 1, len(content), padding, 0) + content + bytes(padding)


def request(method, path, body=b"", keep=False, **params):
    """The bytes of a whole request."""
    params = {"REQUEST_METHOD": method, "SCRIPT_NAME": path, **params}
    pairs = b"".join(
        struct.pack(">II", len(name) | 1 << 31, len(value) | 1 << 31)
        + name.encode()
        + value.encode()
        for name, value in params.items()
    )
    begin = struct.pack(">HB5x", RESPONDER, KEEP_CONN if keep else 0)
    pieces = [body[at : at + RECORD_MAX] for at in range(0, len(body), RECORD_MAX)]
    records = [(BEGIN, begin), (PARAMS, pairs), (PARAMS, b"")]
    records += [(STDIN, piece) for piece in (*pieces, b"")]
    return b"".join(record(kind, content) for kind, content in records)


class FcgiClient:
    def __init__(self, address, timeout=15.0):
        self.sock = open_socket(address, timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def read(self, size):
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError(f"closed within a record, after {data!r}")
            data += piece
        return data

    def reply(self):
        """Headers and body of one reply that must end as it should; EOFError if it does not."""
        output = b""
        while True:
            _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", self.read(8))
            content = self.read(length)
            self.read(padding)
            assert kind != STDERR or not content, content
            if kind == STDOUT:
                output += content
            elif kind == END:
                assert content[4] == 0, "not FCGI_REQUEST_COMPLETE"
                return output

    def is_closed(self):
        """Waits for the end of the connection."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
