"""How a broker ends: docs/operating.md, "Stopping". Under load: tests/chaos."""

import json
import re
import threading
import time
from datetime import datetime

import pytest
from account_stub import AccountStub
from client import Closed
from jwt_tokens import signing_key
from redis_faults import out_of_memory
from stack import until

RESTART = 1001
ACCEPT_S = 2.0  # for so long it goes on after the signal
KEY = "chat:{main}"


def begin(broker):
    """Asks it to stop; returns when that has begun."""
    broker.signal()
    until("the drain begins", lambda: "drain begin" in broker.log())


def end(broker, clients=()):
    """All of them get the close frame, and it exits with 0."""
    assert [client.close_code() for client in clients] == [RESTART] * len(clients)
    assert broker.wait() == 0


def at(line):
    """When a line was logged, in seconds."""
    return datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()


def read_all(client):
    """All that comes until the end, and the close code."""
    frames = []
    while True:
        try:
            frames.append(client.receive_text())
        except Closed as closed:
            return frames, closed.code


def say(talker, count, size=16000):
    """So many long messages; returns them as everybody gets them."""
    for number in range(count):
        talker.send("message", message=f"{number:04} " + "x" * size)
    return [talker.receive_text() for _ in range(count)]


BIG = {"MESSAGE_MAX_BYTES": 16384, "FRAME_MAX_BYTES": 131072, "RATE_MESSAGES": 0, "api": False}


class TestAccepting:
    def test_it_is_alive_and_not_ready_and_everything_goes_on(self, start_stack):
        """For the two seconds that HAProxy may need to look elsewhere."""
        stack = start_stack(api=False, haproxy=False)
        broker = stack.broker
        for _ in range(5):  # a busy machine may need longer for it than the two seconds
            old = stack.connect("old", direct=True)
            began = time.monotonic()
            begin(broker)
            health = [broker.http(path).status for path in ("/readyz", "/healthz")]
            draining = broker.metrics()["hlchat_draining"]
            new = stack.connect(raw=True, upgrade=False, direct=True)
            if new.status == 101:
                new.login("new").send("message", message="still here")
                heard = [c.receive_text() for c in (old, new)]
            took = time.monotonic() - began
            end(broker, [old, new] if new.status == 101 else [old])
            assert time.monotonic() - began > ACCEPT_S - 0.1
            if took < ACCEPT_S - 0.5:
                break
            broker.start()
        assert health == [404, 200]
        assert draining == 1
        assert new.status == 101
        assert heard[0] == heard[1]
        assert json.loads(heard[0])["message"] == "still here"

    def test_then_new_clients_are_refused_until_the_old_ones_have_gone(self, start_stack):
        stack = start_stack(api=False, haproxy=False)
        deaf = stack.connect("deaf", raw=True, direct=True)  # does not answer the close
        begin(stack.broker)

        def refused():
            client = stack.connect(raw=True, upgrade=False, direct=True)
            if client.status != 503:
                client.close()
                return None
            return client

        late = until("new clients are refused", refused)
        assert json.loads(late.body) == {"error": "the server restarts"}
        assert "retry-after" in late.headers
        assert stack.broker.http("/healthz").status == 200
        until("only one is left", lambda: stack.broker.metrics()["hlchat_connections"] == 1)
        assert deaf.close_code() == RESTART
        end(stack.broker)

    def test_nobody_here_is_waited_for_in_development(self, start_stack):
        stack = start_stack(api=False, haproxy=False)
        stack.connect("alice", direct=True).close()
        until("she has gone", lambda: not stack.broker.metrics()["hlchat_connections"])
        stack.broker.stop()
        (line,) = (line for line in stack.broker.log().splitlines() if "drain end" in line)
        assert int(re.search(r"ms=(\d+)", line).group(1)) < ACCEPT_S * 1000

    def test_production_waits_for_haproxy_even_when_nobody_is_here(self, start_stack, tmp_path):
        identity = {
            "IDENTITY": "jwt",
            "JWT_PUBLIC_KEY_FILE": signing_key("a").write_public(tmp_path / "key.pem"),
        }
        stack = start_stack(CHAT_ENV="prod", STORE="redis", api=False, haproxy=False, **identity)
        stack.broker.stop()
        (line,) = (line for line in stack.broker.log().splitlines() if "drain end" in line)
        assert int(re.search(r"ms=(\d+)", line).group(1)) >= ACCEPT_S * 1000


class TestClosing:
    def test_the_pace(self, start_stack):
        """The broker's own clock tells: nobody goes before it is his turn."""
        rate, count = 20, 40
        stack = start_stack(api=False, haproxy=False, DRAIN_RATE=rate, LOG_LEVEL="debug")
        clients = [stack.connect(f"c{i}", direct=True) for i in range(count)]
        begin(stack.broker)
        end(stack.broker, clients)
        log = stack.broker.log().splitlines()
        (closing,) = (line for line in log if "drain closing" in line)
        assert f"clients={count} per_second={rate}" in closing
        gone = [at(line) - at(closing) for line in log if "client_gone conn=" in line]
        assert len(gone) == count
        for number, seconds in enumerate(gone):
            assert seconds > number / rate - 0.15, gone

    def test_many_clients_and_a_short_deadline_make_it_faster(self, start_stack):
        stack = start_stack(api=False, haproxy=False, DRAIN_RATE=1, DRAIN_DEADLINE_S=5)
        clients = [stack.connect(f"c{i}", direct=True) for i in range(50)]
        begin(stack.broker)
        end(stack.broker, clients)
        assert "clients=50 per_second=50" in stack.broker.log()

    def test_a_client_that_lags_gets_all_that_was_broadcast_before_its_close(self, start_stack):
        stack = start_stack(**BIG, haproxy=False)
        lagging = stack.connect("lagging", raw=True, direct=True, rcvbuf=4096)
        frames = say(stack.connect("talker", direct=True), 60)  # 1 MB; sockets hold 130 KB of it
        begin(stack.broker)
        until("it is its turn", lambda: "drain closing" in stack.broker.log())
        assert [lagging.receive_text() for _ in frames] == frames
        end(stack.broker, [lagging])

    def test_replies_that_wait_go_first(self, start_stack):
        stack = start_stack(**BIG, haproxy=False, HISTORY_MAX_BYTES=1 << 20)
        asker = stack.connect("asker", raw=True, direct=True, rcvbuf=4096)
        say(stack.connect("talker", direct=True), 30)
        asker.send("history", limit=30)  # half a megabyte
        until(
            "the reply waits",
            lambda: stack.broker.metrics()["hlchat_queued_reply_bytes"] > 400_000,
        )
        begin(stack.broker)
        until("it is its turn", lambda: "drain closing" in stack.broker.log())
        for _ in range(30):
            asker.receive()
        assert len(asker.receive()["history"]) == 30
        end(stack.broker, [asker])

    def test_the_deadline_with_a_client_that_does_not_read(self, start_stack):
        stack = start_stack(**BIG, haproxy=False, DRAIN_DEADLINE_S=5)
        stalled = stack.connect("stalled", raw=True, direct=True, rcvbuf=4096)
        talker = stack.connect("talker", direct=True)
        frames = say(talker, 60)
        began = time.monotonic()
        begin(stack.broker)
        end(stack.broker, [talker])
        assert time.monotonic() - began > 4.9
        assert "drain deadline clients_left=1 messages_under_way=no" in stack.broker.log()
        seen, code = read_all(stalled)
        assert code == 1006
        assert seen == frames[: len(seen)]
        assert len(seen) < len(frames)

    @pytest.mark.parametrize("redis", [False, True], ids=["memory", "redis"])
    def test_what_is_accepted_is_answered_before_the_close(self, start_stack, redis):
        """Each message is there for its sender, or is refused by an error, or came too late."""
        store = {"STORE": "redis"} if redis else {}
        stack = start_stack(api=False, haproxy=False, RATE_MESSAGES=0, DRAIN_RATE=50, **store)
        clients = [stack.connect(f"c{i}", direct=True, raw=True) for i in range(10)]
        done = threading.Event()

        def talk():
            number = 0
            while not done.wait(0.02):
                number += 1
                for i, client in enumerate(clients):
                    try:
                        client.send("message", message=f"{i} {number}")
                    except OSError:
                        done.set()

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            begin(stack.broker)
            heard = {}
            for i, client in enumerate(clients):
                frames, code = read_all(client)
                assert code == RESTART
                heard[i] = [json.loads(frame) for frame in frames]
        finally:
            done.set()
            talker.join()
        assert stack.broker.wait() == 0
        texts = {i: [m["message"] for m in frames if "message" in m] for i, frames in heard.items()}
        everything = max(texts.values(), key=len)
        if redis:
            found = stack.redis.call("XRANGE", KEY, "-", "+")
            everything = [json.loads(fields[3])["message"] for _, fields in found]
        for i, mine in texts.items():
            assert mine == everything[: len(mine)], "one order, without a hole"
            sent = [text for text in everything if text.startswith(f"{i} ")]
            assert [text for text in mine if text.startswith(f"{i} ")] == sent

    def test_a_login_under_way_is_answered_before_the_close(self, start_stack):
        with AccountStub() as stub:
            stack = start_stack(
                api=False, haproxy=False, IDENTITY="heavenland", HEAVENLAND_API_URL=stub.url,
                JWT_PUBLIC_KEY_FILE=stub.public_pem,
            )  # fmt: skip
            stub.faults(accounts={"delay_ms": 4500})  # more than 5 s would be a failure
            client = stack.connect(direct=True)
            begin(stack.broker)
            client.send("login", token=stub.token("HL1"))
            until("it is its turn", lambda: "drain closing" in stack.broker.log())
            client.send("message", message="too late")
            assert client.receive() == {"info": "connected"}
            assert "the server restarts" in client.error()
            end(stack.broker, [client])

    def test_a_second_signal_ends_it(self, start_stack):
        stack = start_stack(**BIG, haproxy=False, DRAIN_RATE=1)
        stalled = stack.connect("stalled", raw=True, direct=True, rcvbuf=4096)
        talker = stack.connect("talker", direct=True)
        say(talker, 60)
        clients = [talker, *(stack.connect(f"c{i}", direct=True) for i in range(19))]
        begin(stack.broker)
        stack.broker.signal()
        end(stack.broker, clients)
        log = stack.broker.log()
        assert "drain hurry" in log
        assert "drain deadline clients_left=" in log
        assert read_all(stalled)[1] == 1006


class TestRedis:
    SETTINGS = {"STORE": "redis", "RATE_MESSAGES": 0, "haproxy": False, "api": False}

    def test_a_message_under_way_when_redis_hangs(self, start_stack):
        """Its sender is told; the others need not wait."""
        stack = start_stack(**self.SETTINGS)
        sender, other = (stack.connect(name, direct=True) for name in ("sender", "other"))
        stack.redis.pause()
        sender.send("message", message="under way")
        begin(stack.broker)
        assert other.close_code() == RESTART
        assert "not confirmed" in sender.error()
        end(stack.broker, [sender])
        stack.redis.resume()
        found = stack.redis.call("XRANGE", KEY, "-", "+")
        assert len(found) <= 1

    def test_a_message_under_way_when_redis_pauses(self, start_stack):
        stack = start_stack(**self.SETTINGS)
        sender, other = (stack.connect(name, direct=True) for name in ("sender", "other"))
        stack.redis.pause()
        sender.send("message", message="under way")
        begin(stack.broker)
        until("it is their turn", lambda: "drain closing" in stack.broker.log())
        assert other.close_code() == RESTART
        stack.redis.resume()
        answer = sender.receive()
        assert answer.get("message") == "under way" or "not confirmed" in answer["error"]
        end(stack.broker, [sender])

    def test_a_message_that_is_stored_and_not_read_back_yet(self, start_stack):
        """It is there for its sender before the close."""
        stack = start_stack(**self.SETTINGS, DRAIN_RATE=1, relays=True)
        names = ("first", "sender", "last")
        first, sender, last = (stack.connect(name, direct=True) for name in names)
        begin(stack.broker)
        assert first.close_code() == RESTART
        stack.broker.relay.hold("down", only=b'"stored"')  # however it is read
        sender.send("message", message="stored")
        assert last.close_code() == RESTART  # so it was the sender's turn before
        assert stack.redis.call("XLEN", KEY) == 1
        stack.broker.relay.release()
        assert sender.receive()["message"] == "stored"
        end(stack.broker, [sender])

    def test_a_message_whose_sender_has_gone(self, start_stack):
        """Nobody is left here, and it is stored all the same."""
        stack = start_stack(**self.SETTINGS)
        sender = stack.connect("sender", direct=True)
        refusing = out_of_memory(stack.redis)
        next(refusing)
        sent = time.monotonic()
        sender.send("message", message="the last word")
        until("it is refused", lambda: "chatlog append_refused" in stack.broker.log())
        sender.close()
        until("nobody is here", lambda: not stack.broker.metrics()["hlchat_connections"])
        begin(stack.broker)
        next(refusing, None)
        was_in_time = time.monotonic() - sent < 4  # it is tried for 5 s
        end(stack.broker)
        assert stack.redis.call("XLEN", KEY) == 1 or not was_in_time

    def test_its_users_leave_as_they_go(self, start_stack):
        stack = start_stack(**self.SETTINGS, DRAIN_RATE=1, brokers=2)
        broker, other = stack.brokers
        clients = [stack.connect(f"u{i}", direct=broker) for i in range(3)]
        stack.connect("stays", direct=other)

        def online():
            keys = stack.redis.call("KEYS", f"{KEY}:on:*")
            return sorted(user for key in keys for user in stack.redis.call("SMEMBERS", key))

        everybody = ["dev-stays", "dev-u0", "dev-u1", "dev-u2"]
        until("Redis has heard of all", lambda: online() == everybody)
        begin(broker)
        assert clients[0].close_code() == RESTART
        until("the first has left", lambda: "dev-u0" not in online())
        end(broker, clients[1:])
        assert online() == ["dev-stays"]
        assert stack.redis.call("ZCARD", f"{KEY}:brokers") == 1
