"""STORE=redis: a second fault while a broker still makes up for the first.

After a failover, or when the stream is not the one it was, a broker reads all of it again, a page
of 256 entries at a time. Before that it looks for what it had sent and has no answer for.
"""

import json

import pytest
from redis_faults import KEY
from stack import until

# What a broker asks when it has read the first page and there are more.
NEXT_PAGE = (
    rb"XRANGE\s+\$11\s+chat:\{main\}\s+\$\d+\s+[1-9]\S+\s+\$1\s+\+\s+\S+\s+COUNT\s+\$3\s+256"
)
LOOKS_FOR_ITS_OWN = rb"XRANGE\r\n\$11\r\nchat:\{main\}\r\n\$\d+\r\n\("
SETTINGS = {
    "STORE": "redis",
    "RATE_MESSAGES": 0,
    "HISTORY_LIMIT": 1000,
    "HISTORY_MAX_BYTES": 1 << 20,
    "LOG_MAXLEN": 1000,
    "relays": True,
    "api": False,
    "haproxy": False,
}


def messages_in(redis):
    """[(fields, message)] of the stream, oldest first."""
    entries = [
        dict(zip(f[::2], f[1::2], strict=True)) for _, f in redis.call("XRANGE", KEY, "-", "+")
    ]
    return [(entry, json.loads(entry["m"])["message"]) for entry in entries]


def all_stored(stack, number):
    """The broker knows it of so many; their sender may know earlier, by the broadcast."""
    name = 'hlchat_appends_total{result="stored"}'
    until("it knows", lambda: stack.broker.metrics()[name] == number)


def texts(history):
    return [message["message"] for message in history[::-1]]


def promote(redis):
    redis.relay.cut()
    redis.call("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_stream_in_another_order(start_stack, times):
    """Whoever has read it otherwise is told to load it again, however often that is interrupted."""
    stack = start_stack(**SETTINGS)
    relay = stack.broker.relay
    ann = stack.connect("ann", direct=True)
    for i in range(5):
        ann.ask("message", message=f"known {i}")
    known = [entry for entry, _ in messages_in(stack.redis)]
    say = '{{"user_id":"u","timestamp":1,"message":"new {}","nickname":"u"}}'.format
    new = [{"k": f"x-{i}", "m": say(i)} for i in range(400)]
    log = [*new[:100], *known, *new[100:]]
    if times:
        relay.hold_at(NEXT_PAGE)
    # With the ids of a clock that is behind.
    adds = [["XADD", KEY, f"{i}-1", *sum(e.items(), ())] for i, e in enumerate(log, 1)]
    stack.redis.transaction(["DEL", KEY], *adds)
    for i in range(times):
        until("the first page is read", relay.stopped)
        if i + 1 < times:
            relay.hold_at(NEXT_PAGE)
        relay.lead_to(relay.target)
    assert ann.close_code() == 4004
    expected = [json.loads(entry["m"])["message"] for entry in log]
    bob = stack.connect("bob", direct=True)
    assert texts(bob.history(limit=1000)) == expected
    assert bob.ask("message", message="and on")["message"] == "and on"


def test_the_new_master_fails_too_and_the_next_one_lacks_more(start_stack):
    """What was found on the second is missing on the third: it is stored again there."""
    stack = start_stack(**SETTINGS, replicas=2)
    second, third = stack.replicas
    relay = stack.broker.relay
    third.relay.hold("up", "down")
    ann = stack.connect("ann", direct=True)
    said = [f"number {i}" for i in range(300)]
    for text in said:
        ann.send("message", message=text)
    for text in said:
        assert ann.receive()["message"] == text
    until("the second has all", lambda: second.call("XLEN", KEY) == len(said))
    all_stored(stack, len(said))

    relay.hold_at(NEXT_PAGE)
    stack.redis.kill()
    promote(second)
    relay.lead_to(second.address)
    until("the first page is read", relay.stopped)
    second.kill()
    promote(third)
    relay.lead_to(third.address)

    assert ann.ask("message", message="after")["message"] == "after"
    until("all is stored again", lambda: third.call("XLEN", KEY) == len(said) + 1)
    stored = messages_in(third)
    assert [text for entry, text in stored if "o" in entry] == said
    assert [text for entry, text in stored if "o" not in entry] == ["after"]
    assert texts(ann.history(limit=1000)) == [*said, "after"]
    assert ann.barrier() == []
    assert stack.broker.metrics()["hlchat_log_lost_entries_total"] == 0


def test_the_new_master_may_not_write_for_long(start_stack):
    """What it lacks waits for longer than a message does."""
    stack = start_stack(**SETTINGS, replicas=1)
    (replica,) = stack.replicas
    replica.relay.hold("up", "down")
    ann = stack.connect("ann", direct=True)
    said = [f"number {i}" for i in range(5)]
    for text in said:
        ann.ask("message", message=text)
    all_stored(stack, len(said))
    stack.redis.kill()
    promote(replica)
    replica.call("CONFIG", "SET", "min-replicas-to-write", 1)
    stack.broker.relay.lead_to(replica.address)
    until("it tries again", lambda: "chatlog append_again entries=5" in stack.broker.log())
    ann.send("message", message="refused")
    assert "was not sent" in ann.error()
    replica.call("CONFIG", "SET", "min-replicas-to-write", 0)
    assert ann.ask("message", message="after")["message"] == "after"
    until("all is stored again", lambda: replica.call("XLEN", KEY) == len(said) + 1)
    assert [text for entry, text in messages_in(replica) if "o" in entry] == said
    assert stack.broker.metrics()["hlchat_log_lost_entries_total"] == 0


class TestTheWriterDoesNotKnow:
    """Others have read what it has no answer for, and the new master lacks it."""

    def fail_over(self, start_stack, prepare):
        """Its client, one of the other broker, and the new master."""
        stack = start_stack(**SETTINGS, brokers=2, replicas=1)
        other, writer = stack.brokers
        (replica,) = stack.replicas
        ann, bob = stack.connect("ann", direct=other), stack.connect("bob", direct=writer)
        assert bob.ask("message", message="before")["message"] == "before"
        assert ann.receive()["message"] == "before"
        until("it is replicated", lambda: replica.call("XLEN", KEY) == 1)
        replica.relay.hold("up", "down")
        writer.relay.hold("down")
        bob.send("message", message="seen by ann")
        assert ann.receive()["message"] == "seen by ann"
        stack.redis.kill()
        promote(replica)
        prepare(replica, writer)
        for broker in stack.brokers:
            broker.relay.lead_to(replica.address)
        return stack, ann, bob, replica

    def test_and_is_cut_off_while_it_looks_for_it(self, start_stack):
        """It has another place now, and carries the mark."""

        def prepare(_, writer):
            writer.relay.hold_at(LOOKS_FOR_ITS_OWN)

        stack, ann, bob, replica = self.fail_over(start_stack, prepare)
        relay = stack.brokers[1].relay
        until("it looks for it", relay.stopped)
        relay.lead_to(relay.target)
        assert bob.receive()["message"] == "seen by ann"
        (entry,) = (entry for entry, text in messages_in(replica) if text == "seen by ann")
        assert "o" in entry
        assert ann.barrier() == []

    def test_and_may_not_write(self, start_stack):
        """It must not say that it was not sent."""

        def prepare(replica, _):
            replica.call("CONFIG", "SET", "min-replicas-to-write", 1)

        _, ann, bob, replica = self.fail_over(start_stack, prepare)
        assert "not confirmed" in bob.error()
        replica.call("CONFIG", "SET", "min-replicas-to-write", 0)
        assert bob.ask("message", message="after")["message"] == "after"
        assert ann.receive()["message"] == "after"
