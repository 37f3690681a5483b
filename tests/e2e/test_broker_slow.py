"""One reader who is too slow costs nobody else anything."""

import json
import selectors
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from client import TEXT, frame_bytes
from stack import SANITIZED, until

TEXT_BYTES = 16384
BEYOND_THE_RING = 640  # texts: 10 MB; the ring is 1 to 4 MB and sockets hold some more
BATCH = 20  # texts: 330 KB, less than the ring
CROWD = 200
SLOW_S = 40


class Crowd(threading.Thread):
    """Logged-in connections that read all they get: a checksum and a size for each.

    All clients are sent the same bytes, so comparing checksums is comparing every frame.
    """

    def __init__(self, clients):
        super().__init__(daemon=True)
        self.size = dict.fromkeys(clients, 0)
        self.checksum = dict.fromkeys(clients, 0)
        self.ended = []
        self.done = False

    def run(self):
        with selectors.DefaultSelector() as selector:
            for client in self.size:
                assert client._buffer == b""
                client.sock.setblocking(False)
                selector.register(client.sock, selectors.EVENT_READ, client)
            while not self.done:
                for key, _ in selector.select(0.1):
                    self._read(key.data, selector)

    def _read(self, client, selector):
        try:
            data = client.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.ended.append(client)
            selector.unregister(client.sock)
        self.size[client] += len(data)
        self.checksum[client] = zlib.crc32(data, self.checksum[client])


@pytest.fixture
def start_crowd():
    crowds = []

    def start(clients):
        crowds.append(Crowd(clients))
        crowds[-1].start()
        return crowds[-1]

    yield start
    for crowd in crowds:
        crowd.done = True
        crowd.join()


def say(talker, count):
    """Says `count` long texts, each when the one before came back; returns the broadcasts."""
    frames = []
    for number in range(count):
        talker.send("message", message=f"{number:08} " + "x" * (TEXT_BYTES - 9))
        frames.append(talker.receive_text())
    texts = [json.loads(frame)["message"][:8] for frame in frames]
    assert texts == [f"{number:08}" for number in range(count)]
    return frames


class TestSlowReader:
    SETTINGS = {
        "RATE_MESSAGES": 0,
        "MESSAGE_MAX_BYTES": TEXT_BYTES,
        "FRAME_MAX_BYTES": 131072,
        "PING_INTERVAL_S": 3600,  # pings would stand between the messages
        "api": False,
        "haproxy": False,  # its buffers would hide who is slow
    }

    def test_one_slow_reader_among_two_hundred(self, stack, start_crowd):
        broker = stack.broker
        slow = stack.connect("slow", raw=True, direct=True, rcvbuf=4096)
        crowd = start_crowd([stack.connect(f"c{i}", raw=True, direct=True) for i in range(CROWD)])
        talker = stack.connect("talker", raw=True, direct=True)
        counted = broker.metrics()["hlchat_slow_clients_total"]
        rss = [broker.rss()]
        frames, code = [], None
        for _ in range(BEYOND_THE_RING // BATCH):
            frames += say(talker, BATCH)
            # Waiting for the crowd keeps it from being slow itself when this machine is busy.
            sizes = {sum(len(f) + 4 for f in frames)}  # with a header of four bytes
            until("all got all", lambda sizes=sizes: set(crowd.size.values()) == sizes)
            rss.append(broker.rss())
            if code is None and broker.metrics()["hlchat_slow_clients_total"] > counted:
                # When it reads again in time it gets what was on its way, and then the reason.
                code = slow.close_code(SLOW_S)

        # The others got everything, byte for byte, and are still there.
        wire = b"".join(frame_bytes(TEXT, f.encode(), masked=False) for f in frames)
        assert set(crowd.checksum.values()) == {zlib.crc32(wire)}
        assert crowd.ended == []

        # The ring, a partial write for each client, and what the slow one was sent at once.
        assert max(rss) - rss[0] < (32e6 if not SANITIZED else 128e6)

        assert code == 4001
        assert broker.metrics()["hlchat_slow_clients_total"] == counted + 1
        until("it is gone", lambda: broker.metrics()["hlchat_connections"] == CROWD + 1)

    def test_a_slow_reader_gets_no_hole(self, stack):
        """What it was sent until it was closed is a run without gaps, in whole frames."""
        slow = stack.connect("slow", raw=True, direct=True, rcvbuf=4096)
        talker = stack.connect("talker", raw=True, direct=True)
        counted = stack.broker.metrics()["hlchat_slow_clients_total"]
        seen = []
        with ThreadPoolExecutor() as pool:
            said = pool.submit(say, talker, BEYOND_THE_RING)
            # From then on it has ten seconds to take its end.
            until(
                "it is too slow",
                lambda: stack.broker.metrics()["hlchat_slow_clients_total"] > counted,
            )
            deadline = time.monotonic() + SLOW_S
            while time.monotonic() < deadline:
                frame = slow.receive_frame()
                if frame.opcode == 8:
                    assert frame.code == 4001
                    break
                seen.append(json.loads(frame.text)["message"][:8])
            said.result()
        assert seen
        assert seen == [f"{number:08}" for number in range(len(seen))]

    def test_a_pause_that_is_short_enough_costs_nothing(self, stack):
        pausing = stack.connect("pausing", raw=True, direct=True, rcvbuf=4096)
        talker = stack.connect("talker", raw=True, direct=True)
        frames = say(talker, 30)  # 480 KB, less than the ring
        assert [pausing.receive_text() for _ in frames] == frames
        assert pausing.ask("history", limit=0) == {"history": []}

    def test_requests_without_reading_the_replies_are_bounded(self, stack):
        """A client that asks and asks and reads nothing is stopped, not served from memory."""
        talker = stack.connect("talker", raw=True, direct=True)
        say(talker, 100)
        before = stack.broker.rss()
        asker = stack.connect("asker", raw=True, direct=True, rcvbuf=4096)
        asker.sock.setblocking(False)
        request = b"\x81\xa6\0\0\0\0" + b'{"action":"history","limit":100,"x":1}'
        sent = 0
        deadline = time.monotonic() + 2
        while sent < 5_000_000 and time.monotonic() < deadline:
            try:
                sent += asker.sock.send(request * 100)
            except BlockingIOError:
                time.sleep(0.01)
            except ConnectionError:
                break
        assert stack.broker.rss() - before < (48e6 if not SANITIZED else 160e6)
        assert talker.ask("message", message="still served")["message"] == "still served"


class TestReadingSlowly:
    SETTINGS = {**TestSlowReader.SETTINGS, "PING_INTERVAL_S": 1}

    def test_who_reads_is_not_taken_for_dead(self, stack):
        """Its socket is full each time that a ping is due, so it is not asked; but it reads."""
        slow = stack.connect("slow", raw=True, direct=True, rcvbuf=4096)
        frames = say(stack.connect("talker", raw=True, direct=True), 60)  # 1 MB behind
        seen, start = [], time.monotonic()
        while len(seen) < len(frames):
            frame = slow.receive_frame()
            if frame.opcode == TEXT:
                seen.append(frame.text)
                # Eight seconds for all of it, in which it would have missed three pings.
                wait = start + 8 * len(seen) / len(frames) - time.monotonic()
                threading.Event().wait(max(0, wait))
        assert seen == frames
        # Not only until it has what it had waited for.
        stack.connect("another", direct=True).send("message", message="still here?")
        assert slow.receive()["message"] == "still here?"


class TestNeverReading:
    SETTINGS = {**TestSlowReader.SETTINGS, "PING_INTERVAL_S": 1}

    def test_it_is_given_up_and_finds_an_end_without_a_reason(self, stack):
        never = stack.connect("never", raw=True, direct=True, rcvbuf=4096)
        talker = stack.connect("talker", direct=True)  # answers pings in the background
        say(talker, BEYOND_THE_RING)
        # Silent for three pings, then ten seconds to take the close.
        until(
            "it is dropped",
            lambda: stack.broker.metrics()["hlchat_connections"] == 1,
            SLOW_S + 10,
            0.1,
        )
        assert never.close_code() == 1006
        assert talker.ask("message", message="still served")["message"] == "still served"
