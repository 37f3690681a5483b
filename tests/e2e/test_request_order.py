"""A connection's requests are answered in their order. docs/protocol.md, "Order".

Everything is sent in one write, so that nothing has been answered when the next request comes.
"""

import contextlib
import random
import threading
import time

import pytest
from account_stub import AccountStub
from jwt_tokens import claims
from relay import DOWN
from stack import Stack, until

STORES = ["memory", "redis"]
IDENTITIES = ["dev", "jwt", "heavenland"]
HELD = "hlchat_held_request_bytes"
STORED = 'hlchat_appends_total{result="stored"}'
HELD_MAX = 16384  # and one frame
FRAME_MAX = 16384
OVERHEAD = 200  # of a frame that waits
CONNECTED = {"info": "connected"}
HISTORY = {"action": "history", "limit": 100}
NONSENSE = "nonsense"


def message(text):
    return {"action": "message", "message": str(text)}


def texts(answer):
    """Of a history reply, the oldest first."""
    return [entry["message"] for entry in answer["history"][::-1]]


def said(client, count):
    return [client.receive()["message"] for _ in range(count)]


@pytest.fixture(scope="module")
def stub():
    with AccountStub() as running:
        yield running


class Logins:
    """A stack with this identity, and what logs a user in. start: start_stack, or like it."""

    def __init__(self, start, stub, identity, **settings):
        self.stub, self.identity = stub, identity
        stub.faults()
        if identity != "dev":
            settings |= {"JWT_PUBLIC_KEY_FILE": stub.public_pem}
        if identity == "heavenland":
            settings |= {"HEAVENLAND_API_URL": stub.url}
        self.stack = start(IDENTITY=identity, api=False, **settings)

    def login(self, user, filler=0):
        token = user
        if self.identity != "dev":
            token = self.stub.key.token(claims(sub=user, filler="x" * filler), kid=self.stub.kid)
        return {"action": "login", "token": token}


# Behind a login -----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("identity", IDENTITIES)
class TestBehindALogin:
    def test_all_is_answered_in_order(self, start_stack, stub, identity, store):
        logins = Logins(start_stack, stub, identity, STORE=store, RATE_MESSAGES=0)
        for round_ in range(3):
            client = logins.stack.connect(raw=True)
            before = [str(i) for i in range(round_)]
            login = logins.login(f"HL{round_}")
            client.send_at_once(login, HISTORY, message(round_), NONSENSE, login, HISTORY)
            assert client.receive() == CONNECTED
            assert texts(client.receive()) == before
            assert said(client, 1) == [str(round_)]
            assert "not JSON" in client.error()
            assert client.receive() == CONNECTED
            assert texts(client.receive()) == [*before, str(round_)]

    def test_behind_one_that_is_refused(self, start_stack, stub, identity, store):
        logins = Logins(start_stack, stub, identity, STORE=store)
        client = logins.stack.connect(raw=True)
        bad = {"action": "login", "token": "not.a\n.token"}
        client.send_at_once(bad, message("lost"), logins.login("HL1"), message("hi"))
        first = client.error()
        assert "not logged in" not in first
        assert "not logged in" in client.error()
        assert client.receive() == CONNECTED
        assert said(client, 1) == ["hi"]


@pytest.fixture(scope="module")
def tokens(stub):
    made = Logins(Stack, stub, "jwt", RATE_MESSAGES=0)
    with made.stack:
        yield made


@pytest.mark.parametrize("filler", [0, 5, *range(40, 200, 10), 1000, 4000])
def test_a_token_of_any_length(tokens, filler):
    client = tokens.stack.connect(raw=True)
    client.send_at_once(tokens.login("HL1", filler), {"action": "history"}, message("hi"))
    assert client.receive() == CONNECTED
    assert "history" in client.receive()
    assert said(client, 1) == ["hi"]


@contextlib.contextmanager
def frozen(stub):
    """No login is answered meanwhile."""
    stub.freeze()
    try:
        yield
    finally:
        stub.thaw()


class TestBehindALoginThatTakesAWhile:
    @pytest.fixture
    def logins(self, start_stack, stub):
        return Logins(start_stack, stub, "heavenland", RATE_MESSAGES=0)

    def test_what_waits_is_bounded(self, logins):
        """Beyond that nothing is read, and then all is answered, in order."""
        broker, client = logins.stack.broker, logins.stack.connect(raw=True)
        count, filler = 3000, "x" * 3000  # more than sockets and HAProxy take
        requests = [{"action": "history", "limit": 0, "x": filler}] * count
        arguments = [logins.login("HL7"), *requests]
        sender = threading.Thread(target=client.send_at_once, args=arguments, daemon=True)
        with frozen(logins.stub):
            sender.start()
            until("much waits", lambda: broker.metrics()[HELD] > HELD_MAX)
            for _ in range(50):
                metrics = broker.metrics()
                assert HELD_MAX < metrics[HELD] < HELD_MAX + FRAME_MAX + OVERHEAD
                assert metrics["hlchat_received_bytes_total"] < 100_000
        assert client.receive() == CONNECTED
        for _ in range(count):
            assert client.receive_text() == '{"history":[]}'
        sender.join()
        assert broker.metrics()[HELD] == 0

    def test_one_that_leaves(self, logins):
        broker = logins.stack.broker
        clients = [logins.stack.connect(raw=True, direct=True) for _ in range(3)]
        with frozen(logins.stub):
            for i, client in enumerate(clients):
                filler = "x" * (0, 5000, 5000)[i]
                client.send_at_once(logins.login(f"HL1{i}"), *([{**HISTORY, "x": filler}] * 50))
            until("all wait", lambda: broker.metrics()[HELD] > 2 * HELD_MAX)
            for client in clients:
                client.close()
        until("nothing is kept", lambda: broker.metrics()[HELD] == 0)
        until("they have gone", lambda: broker.metrics()["hlchat_connections"] == 0)

    def test_a_broker_that_stops(self, logins):
        broker, client = logins.stack.broker, logins.stack.connect(raw=True, direct=True)
        with frozen(logins.stub):
            client.send_at_once(logins.login("HL8"), HISTORY, message("hi"), HISTORY, NONSENSE)
            until("it waits", lambda: broker.metrics()[HELD] > 0)
            broker.signal()
            until("it stops", lambda: "drain closing" in broker.log())
        assert client.receive() == CONNECTED
        assert texts(client.receive()) == []
        assert said(client, 1) == ["hi"]
        assert texts(client.receive()) == ["hi"]
        assert "not JSON" in client.error()
        assert client.close_code() != 1006
        assert broker.wait() == 0

    def test_a_client_keeps_to_its_rate(self, start_stack, stub):
        """What was sent slowly enough is not too fast because it is handled all at once."""
        logins = Logins(start_stack, stub, "heavenland", RATE_MESSAGES=5, RATE_BURST=3)
        client = logins.stack.connect(raw=True, direct=True)
        with frozen(logins.stub):
            client.send_at_once(logins.login("HL9"))
            for i in range(8):
                client.send_at_once(message(i))
                time.sleep(0.25)
        assert client.receive() == CONNECTED
        assert said(client, 8) == [str(i) for i in range(8)]


# Behind one's own messages ------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
class TestBehindOwnMessages:
    def test_more_than_the_rate_and_the_history(self, start_stack, store):
        """24 messages, 20 of which are sent, and the history."""
        stack = start_stack(STORE=store, api=False)
        for user in range(10):
            client = stack.connect(f"u{user}", raw=True)
            client.send_at_once(*(message(f"{user}-{i}") for i in range(24)), HISTORY)
            sent = [f"{user}-{i}" for i in range(20)]
            assert said(client, 20) == sent
            for _ in range(4):
                assert "too many messages, this one was not sent" in client.error()
            assert texts(client.receive())[-20:] == sent

    @pytest.mark.parametrize("seed", range(5))
    def test_anything(self, start_stack, store, seed):
        """300 requests of all kinds; the n-th answer is that to the n-th request."""
        stack = start_stack(STORE=store, RATE_MESSAGES=0, api=False)
        client, chance = stack.connect("ann", raw=True), random.Random(seed)
        asked, talks = [], chance.choice([0.3, 0.8, 0.95])
        for i in range(300):
            if chance.random() < talks:
                asked.append(message(i))
            else:
                login = {"action": "login", "token": chance.choice(["ann", "bob"])}
                other = [HISTORY, NONSENSE, {"action": "dance"}, {"action": "message"}, login]
                asked.append(chance.choice(other))
        client.send_at_once(*asked)
        so_far = []
        for request in asked:
            answer = client.receive()
            if request == HISTORY:
                assert texts(answer) == so_far[-100:]
            elif request == NONSENSE:
                assert "not JSON" in answer["error"]
            elif request["action"] == "dance":
                assert "unknown action" in answer["error"]
            elif request["action"] == "login":
                expected = {"error": "already logged in as another user"}
                assert answer == (CONNECTED if request["token"] == "ann" else expected)
            elif "message" not in request:
                assert "message: a string" in answer["error"]
            else:
                assert answer["message"] == request["message"]
                so_far.append(answer["message"])

    def test_many_at_once(self, start_stack, store):
        """Each has its own order, and does not wait for the others'."""
        stack = start_stack(STORE=store, RATE_MESSAGES=0, HISTORY_LIMIT=1000, api=False)
        clients = [stack.connect(f"u{i}", raw=True) for i in range(20)]
        all_of_it = {**HISTORY, "limit": 1000}
        for i, client in enumerate(clients):
            client.send_at_once(*(message(f"{i}-{n}") for n in range(10)), all_of_it, NONSENSE)
        for i, client in enumerate(clients):
            own, own_in_history = [], None
            while "error" not in (answer := client.receive()):
                if "history" in answer:
                    own_in_history = [t for t in texts(answer) if t.startswith(f"{i}-")]
                elif answer["message"].startswith(f"{i}-"):
                    assert own_in_history is None
                    own.append(answer["message"])
            assert own == own_in_history == [f"{i}-{n}" for n in range(10)]


class TestRedisIsSlow:
    def test_an_answer_waits_until_ones_messages_have_come(self, start_stack):
        stack = start_stack(STORE="redis", RATE_MESSAGES=0, haproxy=False, api=False, relays=True)
        client = stack.connect("ann", raw=True, direct=True)
        other = stack.connect("bob", raw=True, direct=True)
        for round_ in range(3):
            # What is read from the stream waits; that it is stored is answered.
            stack.broker.relay.hold(DOWN, only=b"chat:{main}")
            sent = [f"{round_}-{i}" for i in range(5)]
            client.send_at_once(*map(message, sent), HISTORY, NONSENSE, message("behind"))
            total = 5 * (round_ + 1) + round_
            until("they are stored", lambda t=total: stack.broker.metrics()[STORED] == t)
            assert not any(m in sent for m in texts(other.ask("history"))), "others do not wait"
            stack.broker.relay.release()
            assert said(client, 5) == said(other, 5) == sent
            assert texts(client.receive())[-5:] == sent
            assert "not JSON" in client.error()
            assert said(client, 1) == said(other, 1) == ["behind"]

    def test_redis_is_away(self, start_stack):
        """What is not stored is an error, in its place."""
        stack = start_stack(STORE="redis", RATE_MESSAGES=0, haproxy=False, api=False)
        client = stack.connect("ann", raw=True, direct=True)
        assert client.ask("message", message="before")["message"] == "before"
        until("that is known", lambda: stack.broker.metrics()[STORED] == 1)
        stack.redis.kill()
        began = time.monotonic()
        client.send_at_once(message(1), message(2), HISTORY, NONSENSE)
        for _ in range(2):
            error = client.error()
            assert "unavailable" in error or "not confirmed" in error
        assert texts(client.receive()) == ["before"]
        assert "not JSON" in client.error()
        assert time.monotonic() - began < 15
        stack.redis.start()


# Game servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_game_servers(start_stack, store):
    stack = start_stack(STORE=store, MINIGAME_SECRET="s3cret", RATE_MESSAGES=0, api=False)
    bearer = {"Authorization": "Bearer s3cret"}
    server = stack.connect(raw=True, path="/minigame", headers=bearer)

    def action(name, **fields):
        return {"action": name, **fields}

    place = {"id": "nobody", "position": 1}
    end = action("game_end", id="HLG-1", leaderboard=[place])
    running = {"info": "scheduler is running", "period": 600, "offset": 300}
    conversation = [
        (action("scheduler_start"), [{"info": "update"}, {"info": "scheduler is running"}]),
        (action("online_players"), [{"online_players": []}]),
        (action("scheduler_info"), [running]),
        (NONSENSE, ["not JSON"]),
        (action("scheduler_info"), [running]),
        (end, ["leaderboard[0].id"]),
        (action("online_players"), [{"online_players": []}]),
        (action("online_players"), [{"online_players": []}]),
        (action("scheduler_stop"), [{"info": "scheduler is stopped"}]),
        (action("dance"), ["unknown action"]),
        (action("scheduler_stop"), [{"info": "scheduler is stopped"}]),
        (action("scheduler_info"), [{"info": "scheduler is not running"}]),
    ]
    for _ in range(10):
        server.send_at_once(*(request for request, _ in conversation))
        for _, answers in conversation:
            for expected in answers:
                answer = server.receive()
                assert answer == expected or expected in answer.get("error", "")
