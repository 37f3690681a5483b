"""A TCP relay of the test's own: what a bad network does, on demand."""

import asyncio
import re
import socket
import threading

from port import Port

UP, DOWN = "up", "down"  # towards the server; towards the client


class Relay:
    """Listens on `address` and leads each connection to what `target()` is at that moment.

    A target of None refuses. `change(data)`, made by `changer()` for each connection, may change
    what goes down to the client. Runs on a thread of its own; close() ends it.
    """

    def __init__(self, target, changer=None):
        self.target = target
        self.changer = changer or (lambda: bytes)
        self._held = {}  # direction: what must be among the bytes
        self._stop_at = None
        self._swallowed = set()
        self._links = set()
        self._port = Port()
        self.address = ("127.0.0.1", self._port.number)
        self.redis_url = f"redis://127.0.0.1:{self._port.number}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(
            self._loop.create_server(lambda: _Link(self).client, *self.address)
        )

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _do(self, function, *arguments):
        async def call():
            function(*arguments)

        self._run(call())

    def close(self):
        self._do(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._port.release()

    # what can be done to all connections, now

    def cut(self):
        """Both ends see a reset."""
        self._do(lambda: [link.reset() for link in list(self._links)])

    def stopped(self):
        return self._stop_at is None

    def lead_to(self, target):
        """Cuts all, forgets what is held, and leads elsewhere from now on."""

        def turn():
            for link in list(self._links):
                link.reset()
            self._held.clear()
            self._swallowed.clear()
            self.target = target

        self._do(turn)

    def cut_late(self):
        """Only the client sees it; what is held goes up to the server when it is released.

        Connections that are made from now on are not held.
        """

        def cut():
            for link in list(self._links):
                link.late = True
                link.client.reset()
            self._held.clear()

        self._do(cut)

    def hold(self, *directions, only=b""):
        """Bytes wait here, until release(): a network that is silent. only: if these are among
        them.
        """
        self._do(self._held.update, dict.fromkeys(directions, only))

    def silence(self):
        """Holds all of the connections there are; those that are made from now on are not held."""

        def hush():
            for link in self._links:
                link.late = True

        self._do(hush)

    def hold_at(self, pattern):
        """Once such bytes (a regular expression) are on their way up, as hold("up", "down"); then
        stopped() is true.
        """

        def watch():
            self._stop_at = re.compile(pattern)

        self._do(watch)

    def swallow(self, *directions):
        """Bytes vanish, until release(). What comes later would be out of step: cut first."""
        self._do(self._swallowed.update, directions)

    def release(self):
        def go_on():
            self._held.clear()
            self._swallowed.clear()
            for link in list(self._links):
                link.late = False
                link.flush()

        self._do(go_on)

    def held(self):
        """What waits to go up, all connections together."""
        return b"".join(link.server.waiting for link in list(self._links))


class _End(asyncio.Protocol):
    """One end of a link, and what waits to go out there."""

    def __init__(self, link, direction):
        self.link = link
        self.direction = direction  # of what is written here
        self.transport = None
        self.lost = False
        self.waiting = b""

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link.made(self)

    def data_received(self, data):
        self.link.other(self).put(data)

    def connection_lost(self, _):
        self.lost = True
        self.link.closed(self)

    def put(self, data):
        relay = self.link.relay
        if self.direction in relay._swallowed:
            return
        if self.direction == UP and relay._stop_at and relay._stop_at.search(data):
            relay._stop_at = None
            relay._held.update({UP: b"", DOWN: b""})
        self.waiting += self.link.change(data) if self.direction == DOWN else data
        self.flush()

    def flush(self):
        only = self.link.relay._held.get(self.direction)
        held = self.link.late or (only is not None and only in self.waiting)
        if self.waiting and self.transport and not held:
            self.transport.write(self.waiting)
            self.waiting = b""

    def reset(self):
        if self.transport and not self.lost:
            self.transport.abort()


class _Link:
    def __init__(self, relay):
        self.relay = relay
        self.late = False
        self.change = relay.changer()
        self.client = _End(self, DOWN)
        self.server = _End(self, UP)

    def other(self, end):
        return self.server if end is self.client else self.client

    def made(self, end):
        if end is self.client:
            self.relay._links.add(self)
            self._connecting = asyncio.ensure_future(self._connect())
        else:
            end.flush()

    async def _connect(self):
        target = self.relay.target and self.relay.target()
        try:
            if target is None:
                raise ConnectionRefusedError
            await asyncio.get_running_loop().create_connection(lambda: self.server, *target)
        except OSError:
            self.reset()

    def closed(self, end):
        other = self.other(end)
        if end is self.client and other.waiting:
            return  # cut_late: the server gets that first
        if other.transport and not other.lost:
            other.transport.close()
        self.relay._links.discard(self)

    def flush(self):
        for end in (self.client, self.server):
            end.flush()
        if self.client.lost:
            self.closed(self.client)

    def reset(self):
        for end in (self.client, self.server):
            end.waiting = b""
            end.reset()
        self.relay._links.discard(self)
