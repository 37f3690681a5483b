"""STORE=redis: one chat over any number of brokers. docs/protocol.md, "Order"."""

import asyncio
import json
import re

import pytest
from stack import until
from websockets.asyncio.client import connect

KEY = "chat:{main}"
TWO_BROKERS = {"STORE": "redis", "RATE_MESSAGES": 0, "brokers": 2, "api": False}


def say(client, texts):
    """Sends them and returns the broadcasts, as they came."""
    for text in texts:
        client.send("message", message=text)
    return [client.receive_text() for _ in texts]


def resets(broker):
    return broker.metrics()["hlchat_log_resets_total"]


def history_text(client, limit=100):
    client.send("history", limit=limit)
    return client.receive_text()


def entries(stack, key=KEY):
    """[{field: value}] of the stream, oldest first."""
    found = stack.redis.call("XRANGE", key, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in found]


class TestOneChat:
    SETTINGS = TWO_BROKERS

    def test_clients_of_both_brokers_get_the_same_bytes(self, stack):
        ann, bob = stack.connect_each("ann", "bob")
        for speaker, text in ((ann, "from ann"), (bob, "from bob")):
            speaker.send("message", message=text, channel="General")
            heard = [client.receive_text() for client in (ann, bob)]
            assert heard[0] == heard[1]
            assert json.loads(heard[0])["message"] == text

    def test_haproxy_spreads_clients_over_both(self, stack):
        clients = [stack.connect(f"spread {i}") for i in range(10)]
        counts = [broker.metrics()["hlchat_connections"] for broker in stack.brokers]
        assert min(counts) >= 4, counts
        heard = say(clients[0], ["to all"])
        assert [client.receive_text() for client in clients[1:]] == heard * 9

    def test_history_is_the_same_on_both_and_what_was_broadcast(self, stack):
        ann, bob = stack.connect_each("amy", "ben")
        heard = say(ann, [f"h {i}" for i in range(20)])
        assert [bob.receive_text() for _ in range(20)] == heard
        expected = '{"history":[' + ",".join(reversed(heard)) + "]}"
        assert [history_text(client, 20) for client in (ann, bob)] == [expected] * 2

    def test_publishers_on_both_and_one_order(self, stack):
        each, publishers, listeners = 100, 4, 10
        total = each * publishers

        async def join(number, name):
            uri = "ws://{}:{}/chat".format(*stack.brokers[number % 2].address())
            client = await connect(uri, compression=None, proxy=None, max_queue=None)
            await client.send(json.dumps({"action": "login", "token": name}))
            assert json.loads(await client.recv()) == {"info": "connected"}
            return client

        async def run():
            async with asyncio.timeout(120):
                talking = [await join(i, f"talker {i}") for i in range(publishers)]
                listening = [await join(i, f"listener {i}") for i in range(listeners)]

                async def talk(client, number):
                    for i in range(each):
                        text = f"order {number} {i}"
                        await client.send(json.dumps({"action": "message", "message": text}))

                async def listen(client):
                    return [await client.recv() for _ in range(total)]

                hearing = [asyncio.create_task(listen(c)) for c in talking + listening]
                await asyncio.gather(*(talk(c, i) for i, c in enumerate(talking)))
                views = await asyncio.gather(*hearing)
                await asyncio.gather(*(client.close() for client in talking + listening))
                return views

        views = asyncio.run(run())
        assert all(view == views[0] for view in views)
        texts = [json.loads(frame)["message"] for frame in views[0]]
        for number in range(publishers):
            mine = [text for text in texts if text.startswith(f"order {number} ")]
            assert mine == [f"order {number} {i}" for i in range(each)]

    def test_what_is_in_redis(self, stack):
        heard = say(stack.connect("keeper"), ["kept"])
        last = entries(stack)[-1]
        assert list(last) == ["k", "m"]
        assert last["m"] == heard[0]
        names = set(stack.redis.call("KEYS", "chat:*"))
        known = rf"{re.escape(KEY)}(:epoch|:brokers|:on:.+|:names:.+|:probe:.+)?"
        assert [name for name in names if not re.fullmatch(known, name)] == []
        until("the brokers' list", lambda: stack.redis.call("ZCARD", f"{KEY}:brokers") == 2)
        assert {KEY, f"{KEY}:epoch"} <= names
        keys = [entry["k"] for entry in entries(stack)]
        assert len(keys) == len(set(keys))

    def test_both_are_ready(self, stack):
        assert [b.http("/readyz").status for b in stack.brokers] == [200, 200]

    @pytest.mark.parametrize(
        ("family", "labels"),
        [
            ("hlchat_redis_up", ['link="publish"', 'link="follow"']),
            ("hlchat_redis_reconnects_total", ['link="publish"', 'link="follow"']),
            ("hlchat_append_seconds_count", [""]),
            (
                "hlchat_appends_total",
                ['result="stored"', 'result="failed"', 'result="uncertain"'],
            ),
            ("hlchat_append_retries_total", [""]),
            ("hlchat_log_repeats_total", [""]),
            ("hlchat_log_gaps_total", [""]),
            ("hlchat_log_lost_entries_total", [""]),
            ("hlchat_log_resets_total", [""]),
            ("hlchat_log_bad_entries_total", [""]),
            ("hlchat_log_lag_seconds", [""]),
            ("hlchat_users_online_all", [""]),
        ],
    )
    def test_a_metric(self, stack, family, labels):
        metrics = stack.broker.metrics()
        for label in labels:
            assert (f"{family}{{{label}}}" if label else family) in metrics

    def test_metrics_of_what_was_stored(self, stack):
        client = stack.connect("counter", direct=True)
        before = stack.broker.metrics()
        say(client, ["one", "two", "three"])
        for name in ('hlchat_appends_total{result="stored"}', "hlchat_append_seconds_count"):
            # The broadcast may be quicker than the answer to who stores it.
            until(name, lambda name=name: stack.broker.metrics()[name] - before[name] == 3)
        after = stack.broker.metrics()
        assert after['hlchat_redis_up{link="publish"}'] == 1
        assert after['hlchat_redis_up{link="follow"}'] == 1
        assert 0 <= after["hlchat_log_lag_seconds"] < 5


class TestRates:
    """A user's messages are counted by each broker on its own."""

    SETTINGS = {**TWO_BROKERS, "RATE_MESSAGES": 1, "RATE_BURST": 3}

    def test_the_limit_is_per_broker(self, stack):
        here, there = stack.connect_each("hasty", "hasty")
        for number in range(10):
            here.send("message", message=str(number))
        answers = [here.receive() for _ in range(10)]
        assert any("wait" in answer.get("error", "") for answer in answers)
        for answer in answers:
            assert "error" in answer or there.receive() == answer
        heard = say(there, ["5", "6", "7"])
        assert [json.loads(text)["message"] for text in heard] == ["5", "6", "7"]


class TestStrangeEntries:
    """Of an older or newer build, or of nobody we know."""

    SETTINGS = TWO_BROKERS

    GOOD = '{"user_id":"dev-x","timestamp":1,"message":"%s","nickname":"x"}'

    MALFORMED = [
        ["k", "x-1"],
        ["k", "x-2", "m", ""],
        ["k", "x-3", "m", "not json"],
        ["k", "x-4", "m", "[1]"],
        ["k", "x-5", "m", '{"user_id":"dev-x"'],
        ["k", "x-5b", "m", GOOD % "two" + GOOD % "in one"],
        ["k", "x-6", "m", b'{"message":"\xff"}'],
        ["k", "x-7", "m", GOOD % ("a" * 600000)],
        ["k", "x-8" * 1000, "m", GOOD % "long key"],
        ["", ""],
        ["other", "thing"],
    ]

    def add(self, stack, *fields):
        stack.redis.call("XADD", KEY, "*", *fields)

    def test_unknown_fields_are_ignored(self, stack):
        clients = stack.connect_each("reader 1", "reader 2")
        for fields in (
            ["k", "n-1", "m", self.GOOD % "of a newer build", "later", "1"],
            ["later", "1", "m", self.GOOD % "in another order", "k", "n-2"],
            ["k", "n-3", "m", self.GOOD % "Žofie, 日本語 🎮"],
        ):
            self.add(stack, *fields)
            text = next(value for value in fields if value.startswith("{"))
            assert [client.receive_text() for client in clients] == [text] * 2

    def test_a_repeated_key_is_dropped(self, stack):
        clients = stack.connect_each("once 1", "once 2")
        before = [b.metrics()["hlchat_log_repeats_total"] for b in stack.brokers]
        for text in ("first", "second"):
            self.add(stack, "k", "twice-1", "m", self.GOOD % text)
        self.add(stack, "k", "twice-2", "m", self.GOOD % "third")
        for client in clients:
            assert [client.receive()["message"] for _ in range(2)] == ["first", "third"]
            assert [m["message"] for m in client.history(limit=2)] == ["third", "first"]
        after = [b.metrics()["hlchat_log_repeats_total"] for b in stack.brokers]
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]

    def test_malformed_ones_are_skipped_and_counted(self, stack):
        clients = stack.connect_each("hard 1", "hard 2")
        before = [b.metrics()["hlchat_log_bad_entries_total"] for b in stack.brokers]
        for number, fields in enumerate(self.MALFORMED):
            self.add(stack, *fields)
            self.add(stack, "k", f"good-{number}", "m", self.GOOD % f"good {number}")
            for client in clients:
                assert client.receive()["message"] == f"good {number}", fields
        after = [b.metrics()["hlchat_log_bad_entries_total"] for b in stack.brokers]
        assert [b - a for a, b in zip(before, after, strict=True)] == [len(self.MALFORMED)] * 2

    def test_they_are_skipped_at_start_too(self, start_stack):
        stack = start_stack(STORE="redis", brokers=0, api=False, haproxy=False)
        for number, fields in enumerate(self.MALFORMED):
            self.add(stack, *fields)
            self.add(stack, "k", f"good-{number}", "m", self.GOOD % f"good {number}")
        broker = stack.add_broker()
        texts = [m["message"] for m in stack.connect("late", direct=broker).history(limit=100)]
        assert texts == [f"good {i}" for i in range(len(self.MALFORMED))][::-1]
        metrics = broker.metrics()
        assert metrics["hlchat_log_bad_entries_total"] == len(self.MALFORMED)

    def test_their_text_is_in_no_log(self, stack):
        for broker in stack.brokers:
            assert "of a newer build" not in broker.log()
            assert "long key" not in broker.log()


def test_all_stopped_and_started_again_on_the_same_redis(start_stack):
    stack = start_stack(**TWO_BROKERS)
    heard = say(stack.connect("ann"), [f"before {i}" for i in range(150)])
    expected = '{"history":[' + ",".join(heard[:49:-1]) + "]}"
    stack.close_clients()
    for program in (stack.haproxy, *stack.brokers, stack.redis):
        program.stop()
    for program in (stack.redis, *stack.brokers, stack.haproxy):
        program.start()
    readers = stack.connect_each("reader 1", "reader 2")
    assert [history_text(reader) for reader in readers] == [expected] * 2
    (after,) = say(readers[0], ["after"])
    assert readers[1].receive_text() == after


def test_a_broker_that_joins_later_has_the_history(start_stack):
    stack = start_stack(**{**TWO_BROKERS, "brokers": 1, "haproxy": False})
    ann = stack.connect("ann", direct=True)
    heard = say(ann, [f"old {i}" for i in range(10)])
    bob = stack.connect("bob", direct=stack.add_broker())
    assert history_text(bob) == '{"history":[' + ",".join(reversed(heard)) + "]}"
    assert say(ann, ["new"]) == [bob.receive_text()]


def test_the_epoch_changes_when_the_log_has_lost_entries(start_stack):
    """And only then, once; everybody knows the same one."""
    stack = start_stack(**TWO_BROKERS, LOG_MAXLEN=100)

    def epochs_known(broker):
        return re.findall(r"info chatlog epoch name=(\S+)", broker.log())

    def all_know(*epochs):
        until(
            "both know it",
            lambda: all(epochs_known(broker) == list(epochs) for broker in stack.brokers),
        )
        assert stack.redis.call("GET", f"{KEY}:epoch") == epochs[-1]

    def reset(times):
        for broker in stack.brokers:
            until("it has read again", lambda b=broker: resets(b) >= times)
            until("and is ready", broker.is_ready)

    first = until("there is one", lambda: stack.redis.call("GET", f"{KEY}:epoch"))
    all_know(first)
    ann = stack.connect("ann")
    for part in range(5):  # more than the log keeps
        say(ann, [f"{part} {i}" for i in range(100)])
    stack.redis.call("CLIENT", "KILL", "TYPE", "normal")
    stack.redis.stop()
    stack.redis.start()
    reset(1)
    all_know(first)
    stack.redis.call("DEL", KEY)
    reset(2)
    second = until(
        "it is another", lambda: (now := stack.redis.call("GET", f"{KEY}:epoch")) != first and now
    )
    all_know(first, second)
    late = stack.add_broker()
    until("who comes late knows the last", lambda: epochs_known(late) == [second])
    assert [epochs_known(broker) for broker in stack.brokers] == [[first, second]] * 2 + [[second]]


def test_chats_of_other_names_are_others(start_stack):
    stack = start_stack(STORE="redis", brokers=0, api=False, haproxy=False)
    ann = stack.connect("ann", direct=stack.add_broker(CHAT_NAME="one"))
    bob = stack.connect("bob", direct=stack.add_broker(CHAT_NAME="two"))
    say(ann, ["in one"])
    say(bob, ["in two"])
    assert [len(entries(stack, f"chat:{{{name}}}")) for name in ("one", "two")] == [1, 1]
    assert ann.barrier() == bob.barrier() == []


def test_the_log_is_kept_short(start_stack):
    stack = start_stack(**TWO_BROKERS, LOG_MAXLEN=200)
    ann = stack.connect("ann")
    for part in range(10):
        say(ann, [f"{part} {i}" for i in range(100)])
    # Redis drops whole nodes of 100 entries at most.
    assert 200 <= stack.redis.call("XLEN", KEY) <= 300


def test_what_is_cleared_is_told(start_stack):
    """FLUSHALL by an operator: nobody is thrown out, the chat goes on, and it is in a metric."""
    stack = start_stack(**TWO_BROKERS)
    clients = stack.connect_each("ann", "bob")
    say(clients[0], ["before"])
    assert clients[1].receive()["message"] == "before"
    stack.redis.call("FLUSHALL")
    for broker in stack.brokers:
        until("it is noticed", lambda broker=broker: resets(broker) == 1)
    (after,) = say(clients[0], ["after"])
    assert clients[1].receive_text() == after
    for client in clients:
        assert [m["message"] for m in client.history()] == ["after", "before"]
