"""STORE=redis: who is online, over all brokers."""

import re

from stack import until

KEY = "chat:{main}"
LEASE_S = 30
REFRESH_S = 10
ALL = "hlchat_users_online_all"


def counted(stack, number, timeout=REFRESH_S + 5):
    until(
        f"each broker counts {number} users",
        lambda: all(b.metrics()[ALL] == number for b in stack.brokers if b.running),
        timeout,
        interval=0.1,
    )


def lists(stack):
    """{key: user ids} of each broker's list."""
    keys = stack.redis.call("KEYS", f"{KEY}:on:*")
    return {key: set(stack.redis.call("SMEMBERS", key)) for key in keys}


class TestUsersOnline:
    SETTINGS = {"STORE": "redis", "brokers": 2, "haproxy": False, "api": False}

    def test_distinct_users_of_all_brokers(self, stack):
        one, two = stack.brokers
        clients = [stack.connect(name, direct=one) for name in ("ann", "bob", "ann")]
        clients += [stack.connect(name, direct=two) for name in ("ann", "cid")]
        # Before "connected" was sent.
        assert sorted(map(sorted, lists(stack).values())) == [
            ["dev-ann", "dev-bob"],
            ["dev-ann", "dev-cid"],
        ]
        counted(stack, 3)
        for client in clients[2:4]:  # one of two of ann's here, and the one there
            client.close()
        until("it is off the list", lambda: {"dev-cid"} in lists(stack).values())
        assert {"dev-ann", "dev-bob"} in lists(stack).values()
        counted(stack, 3)

    def test_nobody(self, stack):
        counted(stack, 0)

    def test_each_list_has_a_lease(self, stack):
        stack.connect_each("u0", "u1")
        for key in lists(stack):
            assert re.fullmatch(re.escape(KEY) + r":on:\w+", key)
            assert LEASE_S - REFRESH_S - 2 <= stack.redis.call("TTL", key) <= LEASE_S
        assert stack.redis.call("ZCARD", f"{KEY}:brokers") == 2

    def test_a_lost_list_is_made_again(self, stack):
        stack.connect("ann", direct=True)
        until("it is there", lambda: {"dev-ann"} in lists(stack).values())
        (key,) = (key for key, users in lists(stack).items() if "dev-ann" in users)
        stack.redis.call("DEL", key)
        until("it is back", lambda: lists(stack).get(key) == {"dev-ann"}, REFRESH_S + 2)


def test_a_broker_that_stops_takes_its_users_along(start_stack):
    stack = start_stack(STORE="redis", brokers=2, haproxy=False, api=False)
    stack.connect_each("u0", "u1")
    counted(stack, 2)
    stack.brokers[1].stop()
    until("its list is gone", lambda: list(lists(stack).values()) == [{"dev-u0"}])
    counted(stack, 1)


def test_a_broker_that_was_killed_is_forgotten_with_its_lease(start_stack):
    stack = start_stack(STORE="redis", brokers=2, haproxy=False, api=False)
    stack.connect_each("u0", "u1")
    counted(stack, 2)
    stack.brokers[1].kill()
    (key,) = (key for key, users in lists(stack).items() if "dev-u1" in users)
    assert stack.redis.call("TTL", key) <= LEASE_S
    # The rest of its lease passes at once; the whole of it: tests/chaos.
    stack.redis.call("PEXPIRE", key, 1)
    counted(stack, 1)


def test_lists_outlive_a_redis_that_lost_them(start_stack):
    stack = start_stack(STORE="redis", brokers=2, haproxy=False, api=False)
    stack.connect_each("u0", "u1")
    counted(stack, 2)
    stack.redis.call("FLUSHALL")
    until(
        "both are back",
        lambda: sorted(map(sorted, lists(stack).values())) == [["dev-u0"], ["dev-u1"]],
        REFRESH_S + 2,
    )
    counted(stack, 2)
