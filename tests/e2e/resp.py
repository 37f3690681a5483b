"""Redis' own protocol (RESP2), as much of it as tests need: words out, values back."""

import socket


class RedisError(Exception):
    """An error reply, as Redis words it; `code` is its first word (WRONGTYPE, NOAUTH ...)."""

    @property
    def code(self):
        return str(self).partition(" ")[0]


class Connection:
    """One connection; a context manager. Text is UTF-8, what is not survives as surrogates."""

    def __init__(self, address, timeout=30.0):
        self._socket = socket.create_connection(address, timeout)
        self._file = self._socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def call(self, *words):
        """The reply to one command: a string, an int, None or a list; raises RedisError."""
        reply = self.try_call(*words)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def try_call(self, *words):
        """As call(), but an error is returned."""
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self._socket.sendall(b"".join(parts))
        return self._reply()

    def _reply(self):
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return RedisError(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(size)]
        assert kind == b"$", line
        return self._file.read(size + 2)[:-2].decode(errors="surrogateescape")
