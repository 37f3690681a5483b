"""One fault at a time, under load; what must hold stands in checker.py.

`since` is when a writable master answered again (or when the fault was over, for faults that leave
it alone): from then on recovery is counted.
"""

import time

import pytest
from redis_faults import FAULTS
from stack import until
from trial import KEY, entries_of, stored_in

UNAVAILABLE = "unavailable"
UNSURE = "not confirmed"
# The store forgets what not every broker has read yet: some clients may have to come again.
LOG_LOST = {"stayed": None, "log_lost": True}


def down(seconds):
    """How long a fault lasts."""
    time.sleep(seconds)


def now():
    return time.monotonic()


# Brokers ------------------------------------------------------------------------------------------


def test_kill_a_broker(chaos):
    stack, crowd = chaos.start()
    victim = stack.brokers[1]
    there = int(victim.metrics()["hlchat_connections"])
    assert there > len(crowd.members) / 6, "clients are spread over the brokers"
    crowd.burst()
    victim.kill()
    since = now()
    others = crowd.recovered(since, [0, 2])
    victim.start()
    back = crowd.all_back(since)
    print(f"the others {others:.2f} s, all clients are back after {back:.2f} s")
    since = now()
    chaos.end(crowd.recovered(since), stayed=len(crowd.members) - there)


def test_stop_a_broker(chaos):
    """Its clients move to the others at the pace of DRAIN_RATE, and nobody misses anything."""
    stack, crowd = chaos.start(DRAIN_RATE=20)
    victim = stack.brokers[1]
    there = int(victim.metrics()["hlchat_connections"])
    crowd.burst()
    victim.signal()
    until("the first is sent away", lambda: crowd.closes)
    crowd.burst()
    since = now()
    assert victim.wait(30) == 0
    others = crowd.recovered(since, [0, 2])
    victim.start()
    back = crowd.all_back(since)
    print(f"{there} clients took {back:.2f} s, the others {others:.2f} s")
    assert crowd.closes == {1001: there}
    mine = [s for m in crowd.members for s in m.sessions if s.closed]
    since = now()
    chaos.end(crowd.recovered(since), stayed=len(crowd.members) - there, errors=["restarts"])
    stored = {message["message"] for message in stored_in(stack.redis)["stored"]}
    for session in mine:
        heard = "".join(session.frames)
        assert [t for t in session.sent if t in stored and f'"{t}"' not in heard] == []


@pytest.mark.long
def test_users_of_a_killed_broker_are_forgotten(chaos):
    """Within one lease, 30 s."""
    stack, crowd = chaos.start(brokers=2, clients=20, talkers=4)
    here, gone = stack.brokers
    gone.kill()
    crowd.residents.pop()  # who knows no other broker
    since = now()
    until(
        "the count is right",
        lambda: here.metrics()["hlchat_users_online_all"] == 21,
        32,
        interval=0.2,
    )
    print(f"right again after {now() - since:.1f} s")


@pytest.mark.long
def test_a_broker_stalls_for_longer_than_the_log_is_deep(chaos):
    """It must say so, and its clients come back to a chat without holes."""
    stack, crowd = chaos.start(brokers=2, LOG_MAXLEN=100, HISTORY_LIMIT=100)
    victim = stack.brokers[1]
    there = int(victim.metrics()["hlchat_connections"])
    # What waits in its sockets would be more than the log holds, and the others would suffer too.
    crowd.hush()
    newest = stack.redis.call("XREVRANGE", KEY, "+", "-", "COUNT", 1)[0][0]
    before = len(crowd.residents[0].session.sent)
    victim.pause()

    def trimmed():
        crowd.say(crowd.residents[0], 30)
        return not stack.redis.call("XRANGE", KEY, newest, newest)

    until("the log is past what it has seen", trimmed)
    missed = len(crowd.residents[0].session.sent) - before
    victim.resume()
    crowd.talking = True
    since = now()
    recovery = crowd.recovered(since)
    until("it has noticed", lambda: victim.metrics()["hlchat_log_gaps_total"] >= 1)
    assert victim.metrics()["hlchat_log_lost_entries_total"] >= 1
    assert "gap" in victim.log()
    assert stack.broker.metrics()["hlchat_log_gaps_total"] == 0
    crowd.all_back(since)
    chaos.end(recovery, stayed=len(crowd.members) - there, lost=missed)
    assert 4004 in crowd.closes


# Redis --------------------------------------------------------------------------------------------


def test_kill_redis_and_restart_it_with_its_file(chaos):
    stack, crowd = chaos.start()
    crowd.burst()
    stack.redis.kill()
    down(1)
    stack.redis.start()
    since = now()
    # On a busy disk it may not have written its last messages: they are stored again.
    chaos.end(crowd.recovered(since), log_lost=None)


@pytest.mark.long
def test_redis_stands_still_for_5_s(chaos):
    stack, crowd = chaos.start()
    crowd.burst()
    stack.redis.pause()
    down(5)
    stack.redis.resume()
    since = now()
    chaos.end(crowd.recovered(since), errors=[UNAVAILABLE, UNSURE])


@pytest.mark.long
def test_flushall(chaos):
    stack, crowd = chaos.start()
    crowd.burst()
    since = now()
    stack.redis.call("FLUSHALL")
    chaos.end(crowd.recovered(since), **LOG_LOST)


@pytest.mark.long
def test_flushall_when_a_writer_is_gone(chaos):
    """What only it could store again is lost, and told."""
    stack, crowd = chaos.start()
    crowd.hush()
    writer = crowd.residents[1]
    crowd.say(writer, 10)
    stored = entries_of(stack.redis)
    (last,) = (e["k"] for e in stored if f'"{writer.session.sent[-1]}"' in e["m"])
    nonce = last.partition("-")[0]
    theirs = sum(entry["k"].startswith(nonce) for entry in stored)
    stack.brokers[1].kill()
    stack.redis.call("FLUSHALL")
    since = now()
    stack.brokers[1].start()
    crowd.talking = True
    run = chaos.end(crowd.recovered(since), **LOG_LOST, lost=theirs)
    assert run.lost >= theirs >= 10


@pytest.mark.long
def test_flushall_before_one_broker_has_read_all(chaos):
    """What they had not read is stored again by who wrote it: everybody gets it, marked."""
    stack, crowd = chaos.start(relays=True)
    crowd.hush()
    chaos.relays[2].hold("down")
    crowd.say(crowd.residents[0], 10)
    since = now()
    stack.redis.call("FLUSHALL")
    crowd.say(crowd.residents[0], 1)
    chaos.relays[2].release()
    crowd.talking = True
    chaos.end(crowd.recovered(since), log_lost=True)


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_redis_refuses(chaos, fault):
    """For 2 s: less than what a message waits for."""
    stack, crowd = chaos.start()
    crowd.burst()
    refusing = fault(stack.redis)
    next(refusing)
    crowd.burst()
    until("no broker is ready", lambda: not any(b.is_ready() for b in stack.brokers), 5)
    down(1)
    next(refusing, None)
    since = now()
    chaos.end(crowd.recovered(since))


# The network --------------------------------------------------------------------------------------


@pytest.mark.long
def test_connections_are_cut(chaos):
    stack, crowd = chaos.start(relays=True)
    for _ in range(3):
        crowd.burst()
        for relay in chaos.relays:
            relay.cut()
        since = now()
        recovery = crowd.recovered(since)
    chaos.end(recovery)


@pytest.mark.long
def test_answers_are_lost(chaos):
    """Redis stored it, and nobody knows."""
    stack, crowd = chaos.start(relays=True)
    for relay in chaos.relays:
        relay.swallow("down")
    crowd.burst(each=3)
    down(0.3)
    for relay in chaos.relays:
        relay.cut()
        relay.release()
    since = now()
    chaos.end(crowd.recovered(since))


def late_bytes(chaos, **options):
    """What was on its way when the connection broke arrives a second after the new one."""
    stack, crowd = chaos.start(relays=True, **options)
    for relay in chaos.relays:
        relay.hold("up")
    crowd.burst(each=3)
    until("messages are on their way", lambda: all(b"XADD" in r.held() for r in chaos.relays))
    for relay in chaos.relays:
        relay.cut_late()
    since = now()
    recovery = crowd.recovered(since)
    for relay in chaos.relays:
        relay.release()
    return recovery


@pytest.mark.long
def test_bytes_arrive_late(chaos):
    chaos.end(late_bytes(chaos))
    assert chaos.metric("hlchat_log_repeats_total") == 0, "the old connection was fenced off"


@pytest.mark.long
def test_bytes_arrive_late_and_client_kill_is_denied(chaos):
    rights = "on nopass ~* &* +@all -client|kill"
    recovery = late_bytes(chaos, redis={"user": f"default {rights}"})
    chaos.end(recovery)
    assert chaos.metric("hlchat_log_repeats_total") > 0, "the test did not double any"
    for broker in chaos.stack.brokers:
        assert "client|kill" in broker.log()


def start_with_lag(chaos, messages=30, **options):
    """There is a replica, and it lacks the last messages."""
    stack, crowd = chaos.start(relays=True, replicas=1, **options)
    stack.replicas[0].relay.hold("up", "down")
    crowd.talk(until_back=messages)
    return stack, crowd


def fail_over(chaos, last_is_late=False):
    """The master is gone, the replica takes over; how long until all publish again.

    last_is_late: the last broker reaches it when the others are publishing already.
    """
    (replica,) = chaos.stack.replicas
    chaos.stack.redis.kill()
    replica.relay.cut()
    replica.call("REPLICAOF", "NO", "ONE")
    for relay in chaos.relays:
        late = last_is_late and relay is chaos.relays[-1]
        relay.target = replica.address if not late else lambda: None
        relay.cut()
        relay.release()
    chaos.store = replica
    since = now()
    chaos.crowd.talking = True
    if last_is_late:
        chaos.crowd.recovered(since, [0, 1])
        since = now()
        chaos.relays[-1].target = replica.address
    return chaos.crowd.recovered(since)


def test_fail_over_to_a_lagging_replica(chaos):
    _, crowd = start_with_lag(chaos)
    crowd.burst()
    chaos.end(fail_over(chaos), **LOG_LOST)


@pytest.mark.long
def test_fail_over_under_load(chaos):
    """What is stored again by the hundred goes among what is new."""
    _, crowd = start_with_lag(chaos, messages=500, per_second=5)
    crowd.burst(each=10)
    run = chaos.end(fail_over(chaos), **LOG_LOST)
    assert len(run.moved) >= 300


@pytest.mark.long
def test_fail_over_when_all_have_read_what_is_lost(chaos):
    """Nobody has a hole, so nobody is thrown out."""
    _, crowd = start_with_lag(chaos)
    crowd.hush()
    chaos.end(fail_over(chaos), log_lost=True)


@pytest.mark.long
def test_fail_over_when_one_broker_has_not_read_what_is_lost(chaos):
    _, crowd = start_with_lag(chaos)
    crowd.hush()
    chaos.relays[2].hold("down")
    crowd.say(crowd.residents[0], 10)
    chaos.end(fail_over(chaos), **LOG_LOST)


@pytest.mark.long
def test_fail_over_when_the_writer_does_not_know_what_others_have_read(chaos):
    """It sends them again: they have a new place, so they need the mark."""
    _, crowd = start_with_lag(chaos)
    crowd.hush()
    chaos.relays[2].hold("down")
    writer, other = crowd.residents[2], crowd.residents[0]
    crowd.send(writer, 5)
    last = writer.session.sent[-1]
    # The writer's messages wait for 5 s, and all of this has to happen in that time.
    until("the others have read them", lambda: crowd.has(other, last), 3)
    crowd.say(other, 5)
    chaos.end(fail_over(chaos, last_is_late=True), **LOG_LOST)


@pytest.mark.long
def test_fail_over_to_a_lagging_replica_with_a_slower_clock(chaos):
    """Its new ids are smaller than those that the brokers have seen."""
    stack, crowd = start_with_lag(chaos)
    stack.redis.call("XSETID", KEY, f"{int(time.time() * 1000) + 60000}-0")
    crowd.talk(until_back=10)
    crowd.burst()
    chaos.end(fail_over(chaos), **LOG_LOST)
    (newest, _), *_ = chaos.store.call("XREVRANGE", KEY, "+", "-", "COUNT", 1)
    assert int(newest.partition("-")[0]) < time.time() * 1000 + 30000, "the clock was not slower"


# HAProxy ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_haproxy_reloads(chaos):
    stack, crowd = chaos.start(reload=True)
    for i in range(3):
        crowd.burst()
        since = now()
        stack.haproxy.reload()
        newcomer = stack.connect(f"newcomer {i}")
        newcomer.send("history", limit=1)
        until("it gets in", lambda c=newcomer: c.receive().get("history"))  # among broadcasts
        newcomer.close()
    chaos.end(crowd.recovered(since))
