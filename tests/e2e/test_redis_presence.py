"""STORE=redis: who is online, over all brokers."""

import re
from functools import partial

from redis_faults import out_of_memory
from stack import until

KEY = "chat:{main}"
LEASE_S = 30
REFRESH_S = 10
ALL = "hlchat_users_online_all"


def counted(stack, number):
    until(
        f"each broker counts {number} users",
        lambda: all(b.metrics()[ALL] == number for b in stack.brokers if b.running),
        interval=0.1,
    )


def lists(stack):
    """{key: user ids} of each broker's list."""
    keys = stack.redis.call("KEYS", f"{KEY}:on:*")
    return {key: set(stack.redis.call("SMEMBERS", key)) for key in keys}


class TestUsersOnline:
    SETTINGS = {
        "STORE": "redis",
        "brokers": 2,
        "haproxy": False,
        "api": False,
        "RATE_MESSAGES": 1,
        "RATE_BURST": 100,
    }

    def test_distinct_users_of_all_brokers(self, stack):
        one, two = stack.brokers
        clients = [stack.connect(name, direct=one) for name in ("ann", "bob", "ann")]
        clients += [stack.connect(name, direct=two) for name in ("ann", "cid")]
        everybody = [["dev-ann", "dev-bob"], ["dev-ann", "dev-cid"]]
        until("they are there", lambda: sorted(map(sorted, lists(stack).values())) == everybody)
        for client in clients[2:4]:  # one of two of ann's here, and the one there
            client.close()
        until("it is off the list", lambda: {"dev-cid"} in lists(stack).values())
        assert {"dev-ann", "dev-bob"} in lists(stack).values()
        stack.connect("bob", direct=two)
        counted(stack, 3)

    def test_each_list_has_a_lease(self, stack):
        stack.connect_each("u0", "u1")
        until("they are there", lambda: len(lists(stack)) == 2)
        for key in lists(stack):
            assert re.fullmatch(re.escape(KEY) + r":on:\w+", key)
            assert LEASE_S - REFRESH_S - 10 <= stack.redis.call("TTL", key) <= LEASE_S
        until("both are listed", lambda: stack.redis.call("ZCARD", f"{KEY}:brokers") == 2)

    def test_lost_lists_are_made_again(self, stack):
        """Many users take more than one command; who has left, but is remembered for the rate of
        messages, is none of them."""
        gone = stack.connect("gone", direct=stack.brokers[0])
        for i in range(90):
            gone.ask("message", message=f"{i}")
        gone.close()
        for i in range(120):
            stack.connect(f"u{i}", direct=stack.brokers[i % 2])
        everybody = [{f"dev-u{i}" for i in range(first, 120, 2)} for first in (0, 1)]
        until("they are there", lambda: everybody == sorted_lists(stack))
        until("both are listed", lambda: stack.redis.call("ZCARD", f"{KEY}:brokers") == 2)
        stack.redis.call("FLUSHALL")
        until("they are back", lambda: everybody == sorted_lists(stack))
        # One transaction each, so that nobody was missing meanwhile.
        assert not refused(stack.redis, "exec")


class TestRedisIsNotThere:
    """Or refuses: the lists are right again afterwards, with the names for /minigame."""

    SETTINGS = {
        "STORE": "redis",
        "haproxy": False,
        "api": False,
        "relays": True,
        "MINIGAME_SECRET": "s3cret",
    }

    def test_who_comes_while_redis_refuses(self, stack):
        stack.connect("ann", direct=True)
        until("ann is there", lambda: sorted_lists(stack) == [{"dev-ann"}])
        until("the first refresh is over", lambda: stack.redis.call("ZCARD", f"{KEY}:brokers"))
        refusing = out_of_memory(stack.redis)
        next(refusing)
        stack.connect("bob", direct=True)
        for command in ("sadd", "hset"):
            until(f"{command} was refused", partial(refused, stack.redis, command))
        assert sorted_lists(stack) == [{"dev-ann"}]
        next(refusing, None)
        until("both are there", lambda: sorted_lists(stack) == [{"dev-ann", "dev-bob"}])
        assert names(stack) == {"dev-ann": "ann", "dev-bob": "bob"}

    def test_who_comes_as_the_connection_breaks(self, stack):
        """It is back so soon that nobody else takes notice."""
        stack.connect("eve", direct=True)
        until("eve is there", lambda: sorted_lists(stack) == [{"dev-eve"}])
        until("the first refresh is over", lambda: stack.redis.call("ZCARD", f"{KEY}:brokers"))
        stack.broker.relay.hold("up")
        stack.connect("fay", direct=True)
        until("it is on its way", lambda: b"dev-fay" in stack.broker.relay.held())
        stack.broker.relay.cut()
        stack.broker.relay.release()
        until("both are there", lambda: sorted_lists(stack) == [{"dev-eve", "dev-fay"}])

    def test_who_leaves_while_redis_is_away(self, stack):
        stack.connect("cid", direct=True)
        gone = stack.connect("dan", direct=True)
        until("both are there", lambda: sorted_lists(stack) == [{"dev-cid", "dev-dan"}])
        stack.broker.relay.target = lambda: None
        stack.broker.relay.cut()
        gone.close()
        until("dan has left", lambda: stack.broker.metrics()["hlchat_users_online"] == 1)
        stack.broker.relay.target = stack.redis.address
        until("only cid is there", lambda: sorted_lists(stack) == [{"dev-cid"}])
        assert names(stack) == {"dev-cid": "cid"}


def test_the_names_of_who_leaves_go_too(start_stack):
    stack = start_stack(STORE="redis", haproxy=False, api=False)
    stack.connect("ann", direct=True)
    gone = stack.connect("bob", direct=True)
    until("both are there", lambda: sorted_lists(stack) == [{"dev-ann", "dev-bob"}])
    assert names(stack) == {"dev-ann": "ann", "dev-bob": "bob"}
    until("the first refresh is over", lambda: stack.redis.call("ZCARD", f"{KEY}:brokers"))
    gone.close()
    until("bob has left", lambda: names(stack) == {"dev-ann": "ann"})


def refused(redis, command):
    """Whether Redis ever refused such a command."""
    stats = redis.call("INFO", "commandstats")
    return re.search(rf"cmdstat_{command}:.*(rejected|failed)_calls=[1-9]", stats)


def names(stack):
    (key,) = stack.redis.call("KEYS", f"{KEY}:names:*")
    fields = stack.redis.call("HGETALL", key)
    return dict(zip(fields[::2], fields[1::2], strict=True))


class TestManyBrokers:
    SETTINGS = {"STORE": "redis", "haproxy": False, "api": False}

    def test_all_are_counted_but_those_that_are_silent(self, stack):
        now = int(stack.redis.call("TIME")[0])
        for i in range(300):
            stack.redis.call("SADD", f"{KEY}:on:other-{i}", f"user {i}", "everywhere")
            heard_of = now + 60 if i != 7 else now - REFRESH_S - LEASE_S
            stack.redis.call("ZADD", f"{KEY}:brokers", heard_of, f"other-{i}")
        stack.connect("ann", direct=True)
        counted(stack, 301)
        assert stack.redis.call("ZSCORE", f"{KEY}:brokers", "other-7") is None


def sorted_lists(stack):
    return sorted(lists(stack).values(), key=sorted)


class TestBrokersThatLeave:
    SETTINGS = {"STORE": "redis", "brokers": 3, "haproxy": False, "api": False}

    def test_their_users_leave_too(self, stack):
        """At once with one that stops, with its lease after a kill (all of it: tests/chaos)."""
        stack.connect_each("u0", "u1", "u2")
        counted(stack, 3)
        _, stopped, killed = stack.brokers
        stopped.stop()
        assert sorted_lists(stack) == [{"dev-u0"}, {"dev-u2"}]
        killed.kill()
        (key,) = (key for key, users in lists(stack).items() if "dev-u2" in users)
        assert 0 < stack.redis.call("TTL", key) <= LEASE_S
        stack.redis.call("PEXPIRE", key, 1)  # the rest of its lease
        counted(stack, 1)
