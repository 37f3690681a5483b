"""STORE=redis when Redis is away or refuses: what people and operators see."""

import itertools
import time

import pytest
from redis_faults import FAULTS, KEY, no_replicas, out_of_memory
from relay import DOWN, UP, Relay
from stack import until

WAIT_S = 5  # longest that a message waits for the store


def status(broker):
    return broker.http("/readyz").status


def not_ready(broker):
    until("readyz says so", lambda: status(broker) == 503)
    assert broker.http("/healthz").status == 200


def ready(broker):
    until("it is ready", lambda: status(broker) == 200)


def test_down_at_start(start_stack):
    stack = start_stack(STORE="redis", brokers=0, redis=False, haproxy=False, api=False)
    broker = stack.add_broker(wait_ready=False)
    not_ready(broker)
    ann = stack.connect(direct=broker)
    ann.send("login", token="ann")
    assert "try again" in ann.error()
    assert broker.metrics()['hlchat_redis_up{link="publish"}'] == 0
    game_server = stack.connect(raw=True, path="/minigame", direct=broker, upgrade=False)
    assert game_server.status == 503
    assert b"starting" in game_server.body
    stack.redis.start()
    ready(broker)
    ann.login("ann")
    assert ann.ask("message", message="hi")["message"] == "hi"


def test_killed_and_back(start_stack):
    stack = start_stack(STORE="redis", brokers=2, api=False, relays=True)
    clients = stack.connect_each("ann", "bob")
    clients[0].send("message", message="before")
    for client in clients:
        assert client.receive()["message"] == "before"
    # It may be shown before its sender's broker has Redis' answer: then it would not be confirmed.
    stored = 'hlchat_appends_total{result="stored"}'
    until("it is stored", lambda: sum(b.metrics()[stored] for b in stack.brokers) == 1)

    stack.redis.kill()
    began = time.monotonic()
    clients[0].send("message", message="too early")
    assert [m["message"] for m in clients[1].history()] == ["before"]
    for broker in stack.brokers:
        not_ready(broker)
        assert broker.metrics()['hlchat_redis_up{link="follow"}'] == 0
    # People still get in and read.
    late = stack.connect("late")
    assert [m["message"] for m in late.history()] == ["before"]
    clients[0].send("history")  # which waits for the answer to what was sent before it
    error = clients[0].error()
    waited = time.monotonic() - began
    assert [m["message"] for m in clients[0].receive()["history"]] == ["before"]
    assert "unavailable" in error or "not confirmed" in error
    assert WAIT_S - 1 < waited < WAIT_S + 10

    # Redis is back before the next one gives up. Its start, which may take longer, nobody sees.
    for broker in stack.brokers:
        broker.relay.target = lambda: None
    stack.redis.start()
    clients[1].send("message", message="in time")
    back = time.monotonic()
    for broker in stack.brokers:
        broker.relay.target = stack.redis.address
    for client in (*clients, late):
        assert client.receive()["message"] == "in time"
    print(f"recovered in {time.monotonic() - back:.2f} s")  # how fast it must be: tests/chaos
    for broker in stack.brokers:
        ready(broker)
        assert broker.metrics()['hlchat_redis_up{link="follow"}'] == 1
    assert [m["message"] for m in clients[0].history()] == ["in time", "before"]
    for link in ("publish", "follow"):
        name = f'hlchat_redis_reconnects_total{{link="{link}"}}'
        assert all(broker.metrics()[name] >= 1 for broker in stack.brokers)


def refusing_stack(start_stack, fault):
    """A stack, ann and bob who have said one thing, and the fault, begun."""
    stack = start_stack(STORE="redis", haproxy=False, api=False)
    ann, bob = (stack.connect(name, direct=True) for name in ("ann", "bob"))
    ann.send("message", message="before")
    assert ann.receive() == bob.receive()
    refusing = fault(stack.redis)
    next(refusing)
    return stack, ann, bob, refusing


def ends_well(broker, ann, bob, refusing, before):
    """bob's message, sent just now, is stored; before: all others, the newest first."""
    next(refusing, None)
    for client in (ann, bob):
        assert client.receive()["message"] == "waits"
    ready(broker)
    assert [m["message"] for m in ann.history()] == ["waits", *before]
    assert broker.metrics()["hlchat_log_lost_entries_total"] == 0


@pytest.mark.parametrize(("fault", "word"), FAULTS.items())
def test_redis_refuses_for_a_moment(start_stack, fault, word):
    stack, ann, bob, refusing = refusing_stack(start_stack, fault)
    failed = 'hlchat_appends_total{result="failed"}'
    began = time.monotonic()
    ann.send("message", message="refused")
    not_ready(stack.broker)
    assert [m["message"] for m in bob.history()] == ["before"]
    until("the operator is told why", lambda: word in stack.broker.log())
    bob.send("message", message="waits")
    next(refusing, None)
    was_quick = time.monotonic() - began < WAIT_S - 4
    first = ann.receive()
    if "error" in first and not was_quick:
        before, errors = ["before"], 1
    else:
        assert first["message"] == bob.receive()["message"] == "refused"
        before, errors = ["refused", "before"], 0
    ends_well(stack.broker, ann, bob, refusing, before)
    assert stack.broker.metrics()[failed] == errors
    assert stack.broker.log().count(word) < 30, "told, not repeated without end"


def test_an_answer_that_never_came(start_stack):
    """The message may be stored: its sender is told that nobody knows, and it appears once."""
    stack = start_stack(STORE="redis", haproxy=False, api=False, relays=True)
    relay = stack.broker.relay
    ann = stack.connect("ann", direct=True)
    relay.hold(DOWN)
    ann.send("message", message="stored")
    until("it is stored", lambda: stack.redis.call("XLEN", KEY) == 1)
    relay.target = lambda: None
    relay.cut()
    assert "not confirmed" in ann.error()
    assert stack.broker.metrics()['hlchat_appends_total{result="uncertain"}'] == 1
    relay.release()
    relay.target = stack.redis.address
    assert ann.receive()["message"] == "stored"
    ready(stack.broker)
    assert [m["message"] for m in ann.history()] == ["stored"]


@pytest.mark.parametrize("lost", ["answer", "message"])
def test_what_was_lost_on_the_way_is_stored_once(start_stack, lost):
    """It is looked for before it is sent again, and the old connection is ended: readers would
    drop the second one, but it would be there."""
    stack = start_stack(STORE="redis", haproxy=False, api=False, relays=True)
    relay = stack.broker.relay
    ann = stack.connect("ann", direct=True)
    if lost == "answer":
        relay.hold(DOWN)
        ann.send("message", message="once")
        until("it is stored", lambda: stack.redis.call("XLEN", KEY) == 1)
        relay.cut()
        relay.release()
    else:
        relay.hold(UP)
        ann.send("message", message="once")
        until("it is on its way", lambda: b"once" in relay.held())
        relay.cut_late()
    answer = ann.receive()
    if "error" in answer:  # a busy machine may need longer than the 5 s
        assert "not confirmed" in answer["error"]
        return
    assert answer["message"] == "once"
    relay.release()  # the late one
    ready(stack.broker)
    assert ann.ask("message", message="next")["message"] == "next"
    assert stack.redis.call("XLEN", KEY) == 2


def test_redis_refuses_and_nobody_speaks(start_stack):
    """A broker finds out by itself, before it is the next one's message."""
    stack, _, _, refusing = refusing_stack(start_stack, no_replicas)
    not_ready(stack.broker)
    next(refusing, None)
    ready(stack.broker)


def test_more_than_may_wait(start_stack):
    """4 MiB of messages wait for Redis at most, so that a broker cannot grow without end."""
    settings = {"MESSAGE_MAX_BYTES": 16384, "FRAME_MAX_BYTES": 131072, "RATE_MESSAGES": 0}
    stack = start_stack(STORE="redis", haproxy=False, api=False, **settings)
    # One message each: behind one that waits, an error would wait too.
    clients = [stack.connect(f"c{i}", raw=True, direct=True) for i in range(320)]
    stack.redis.pause()
    for client in clients:
        client.send("message", message="x" * 16000)
    errors = [client.receive(WAIT_S + 20)["error"] for client in clients]
    busy = sum("the chat is busy" in error for error in errors)
    assert 320 - (4 << 20) // 16000 <= busy < 320
    stack.redis.resume()


def test_redis_refuses_for_long(start_stack):
    stack, ann, bob, refusing = refusing_stack(start_stack, out_of_memory)
    began = time.monotonic()
    ann.send("message", message="refused")
    error = ann.error()
    assert "unavailable" in error
    assert "not sent" in error
    assert WAIT_S - 1 < time.monotonic() - began < WAIT_S + 10
    bob.send("message", message="waits")
    ends_well(stack.broker, ann, bob, refusing, ["before"])
    assert stack.broker.log().count("chatlog append_refused") == 1, "told, not with every try"
    assert stack.broker.metrics()['hlchat_appends_total{result="failed"}'] == 1


class TestOneBrokerIsCutOff:
    """It keeps its clients and gets no new ones while another can publish."""

    def test_new_clients_go_elsewhere(self, start_stack):
        stack = start_stack(STORE="redis", brokers=2, api=False, relays=True)
        good, cut_off = stack.brokers
        until("HAProxy knows both", lambda: spread(stack) == [True, True], interval=0.2)
        old = stack.connect("old", direct=cut_off)

        cut_off.relay.target = lambda: None
        cut_off.relay.cut()
        not_ready(cut_off)
        assert status(good) == 200
        until("HAProxy leads to the good one", lambda: spread(stack) == [True, False], interval=0.2)

        # If none can, people still get in and read.
        stack.redis.pause()
        not_ready(good)
        until("HAProxy leads to any", lambda: spread(stack) == [True, True], interval=0.2)
        stack.redis.resume()
        cut_off.relay.target = stack.redis.address
        for broker in stack.brokers:
            ready(broker)
        assert old.ask("message", message="back")["message"] == "back"


def spread(stack):
    """Which brokers get some of six new clients."""
    before = [b.metrics()["hlchat_connections_total"] for b in stack.brokers]
    clients = [stack.connect(raw=True) for _ in range(6)]
    after = [b.metrics()["hlchat_connections_total"] for b in stack.brokers]
    for client in clients:
        client.close()
        stack.clients.remove(client)
    return [b > a for a, b in zip(before, after, strict=True)]


def test_silence_is_noticed(start_stack):
    """No reset, no refusal: nothing comes any more."""
    stack = start_stack(STORE="redis", haproxy=False, api=False, relays=True)
    stack.broker.relay.hold("up", "down")
    not_ready(stack.broker)
    stack.broker.relay.cut()
    stack.broker.relay.release()
    ready(stack.broker)


def test_a_message_into_silence(start_stack):
    """It is noticed soon enough to send it again, on a new connection."""
    stack = start_stack(STORE="redis", haproxy=False, api=False, relays=True)
    ann = stack.connect("ann", direct=True)
    stack.broker.relay.silence()
    stack.connect("bob", direct=True)  # whose place on the online list is asked for first
    ann.send("message", message="into the void")
    assert ann.receive()["message"] == "into the void"


def test_the_lag_grows_while_nothing_comes(start_stack):
    stack = start_stack(STORE="redis", haproxy=False, api=False, relays=True)

    def lag():
        return stack.broker.metrics()["hlchat_log_lag_seconds"]

    def is_low():
        nonlocal began
        began = time.monotonic()
        return lag() < 1

    began = 0.0
    until("it reads", is_low)
    stack.broker.relay.hold("down")
    until("it has not read for some seconds", lambda: lag() > 4)
    # Up to 2 s without an answer are no lag; then they are, too.
    assert lag() < time.monotonic() - began + 3
    later = lag() + 1
    until("it goes on", lambda: lag() > later)
    stack.broker.relay.cut()
    stack.broker.relay.release()
    until("it is there again", lambda: lag() < 1)


def test_a_host_that_is_not_known(start_stack):
    """Names are looked up without stopping the broker."""
    stack = start_stack(STORE="redis", brokers=0, redis=False, haproxy=False, api=False)
    broker = stack.add_broker(REDIS_URL="redis://no-such-host.invalid", wait_ready=False)
    not_ready(broker)
    began = time.monotonic()
    assert broker.http("/healthz").status == 200
    assert time.monotonic() - began < 5


def test_a_stop_while_redis_is_away(start_stack):
    stack = start_stack(STORE="redis", haproxy=False, api=False)
    ann = stack.connect("ann", direct=True)
    stack.redis.kill()
    ann.send("message", message="never")
    stack.broker.stop()


def test_the_connections_lead_to_two_servers(start_stack):
    """As while HAProxy changes over: what is written to one would not be read from the other."""
    stack = start_stack(STORE="redis", replicas=1, relays=True, haproxy=False, api=False)
    relay, why = stack.broker.relay, "the two connections are to different servers"
    servers = itertools.cycle([stack.redis, stack.replicas[0]])
    relay.target = lambda: next(servers).address()

    def is_noticed():  # those of the chat may have met at one, and those of the games at the other
        return why in stack.broker.log() or relay.cut()

    until("it is noticed", is_noticed, interval=1.5)
    relay.target = stack.redis.address
    relay.cut()
    ready(stack.broker)
    assert stack.connect("ann", direct=True).ask("message", message="hi")["message"] == "hi"


def test_another_redis_behind_the_address(start_stack):
    """What was just said is stored again, with the mark, and shown once."""
    first, second = (start_stack(STORE="redis", brokers=0, haproxy=False, api=False) for _ in "12")
    relay = Relay(first.redis.address)
    try:
        broker = first.add_broker(REDIS_URL=relay.redis_url)
        ann = first.connect("ann", direct=broker)
        assert ann.ask("message", message="in the first")["message"] == "in the first"
        stored = 'hlchat_appends_total{result="stored"}'
        until("the broker knows, too", lambda: broker.metrics()[stored] == 1)
        relay.target = second.redis.address
        relay.cut()
        assert ann.ask("message", message="in the second")["message"] == "in the second"
        until("it is stored again", lambda: second.redis.call("XLEN", KEY) == 2)
        marks = ["o" in fields for _, fields in second.redis.call("XRANGE", KEY, "-", "+")]
        assert sorted(marks) == [False, True]
        again = "hlchat_append_again_total"
        until("the broker knows, too", lambda: broker.metrics()[again] == 1)
        assert [m["message"] for m in ann.history()] == ["in the second", "in the first"]
        assert ann.barrier() == []
        broker.stop()
    finally:
        relay.close()
