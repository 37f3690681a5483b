"""/minigame: game servers, the scheduler, the games and what they pay. docs/minigame.md."""

import contextlib
import json
import re
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from redis_faults import out_of_memory
from relay import DOWN, UP
from stack import BUILD, REPO, until
from websockets.exceptions import InvalidStatus

SECRET = "s3cret-of-the-game-servers"
STORES = ["memory", "redis"]


def server(stack, *, secret=SECRET, broker=None, raw=False, headers=None):
    """A game server, in the group when it has a secret."""
    headers = dict(headers or ())
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    return stack.connect(
        path="/minigame",
        direct=broker or False,
        raw=raw,
        **({"headers": headers} if raw else {"additional_headers": headers}),
    )


def status_of(stack, **options):
    """With which HTTP status the handshake was refused."""
    with pytest.raises(InvalidStatus) as refusal:
        server(stack, **options)
    response = refusal.value.response
    assert json.loads(response.body)["error"]
    return response.status_code


def events(stack):
    response = stack.http("GET", "/api/gaming/events")
    assert response.status == 200
    return json.loads(response.body)


def start(stack, servers, **fields):
    servers[0].send("scheduler_start", **fields)
    for one in servers:
        assert one.receive() == {"info": "update"}
        assert one.receive() == {"info": "scheduler is running"}
    return events(stack)[0]


def evals(redis):
    """How many scripts Redis has run, or refused to run."""
    stats = redis.call("INFO", "commandstats")
    found = re.search(r"cmdstat_eval:calls=(\d+),.*rejected_calls=(\d+)", stats)
    return sum(map(int, found.groups())) if found else 0


def received(stack):
    return stack.broker.metrics()["hlchat_received_bytes_total"]


# The document ---------------------------------------------------------------------------------


def test_the_documented_conversation(start_stack):
    lines = re.findall(r"^    (\{.*\})$", (REPO / "docs" / "minigame.md").read_text(), re.MULTILINE)
    stack = start_stack(MINIGAME_SECRET="s3cret", STORE="redis", brokers=2)
    players(stack, "Anna", "Bob", secret="s3cret")
    one = server(stack, secret="s3cret")
    assert len(lines) > 10
    for line in lines:
        frame = json.loads(line)
        if frame.get("action") not in (None, "balance_update"):
            one.send_text(line)
            continue
        answer = one.receive()
        if "online_players" in frame:
            answer["online_players"].sort()
        assert answer == frame


# Who may come -------------------------------------------------------------------------------------


class TestSecret:
    SETTINGS = {"MINIGAME_SECRET": SECRET, "LOGIN_FAILURES_PER_MINUTE": 0}

    @pytest.mark.parametrize("path", ["/minigame", "/minigame/", "/minigame?x=1"])
    def test_in_the_handshake(self, stack, path):
        client = stack.connect(path=path, additional_headers={"Authorization": f"Bearer {SECRET}"})
        client.send("scheduler_info")
        assert client.receive()["info"].startswith("scheduler is")

    @pytest.mark.parametrize(
        "value",
        [
            "Bearer wrong",
            "Bearer",
            "Bearer ",
            f"Basic {SECRET}",
            SECRET,
            f"Bearer {SECRET}x",
            f"Bearer {SECRET[:-1]}",
            f"Bearer {SECRET.upper()}",
            f"Bearer {SECRET} {SECRET}",
            "Bearer " + "x" * 3000,
        ],
    )
    def test_wrong_in_the_handshake(self, stack, value):
        assert status_of(stack, secret=None, headers={"Authorization": value}) == 401

    def test_as_first_frame(self, stack):
        client = server(stack, secret=None)
        for action in ("scheduler_info", "online_players", "scheduler_start", "game_end"):
            client.send(action, id="HLG-1", leaderboard=[{"id": "HL1", "position": 1}])
            assert client.error() == "not logged in: send login first"
        client.send("login", token="wrong")
        assert client.error() == "the secret is wrong"
        client.send("login", username="a", password=SECRET)
        assert client.error() == "the secret is wrong"
        client.send("login", token=SECRET)
        assert client.receive() == {"info": "connected"}
        client.send("scheduler_info")
        assert client.receive()["info"].startswith("scheduler is")

    def test_who_has_not_logged_in_hears_nothing(self, stack):
        stranger, known = server(stack, secret=None), server(stack)
        known.send("scheduler_info")
        known.receive()
        stranger.send("login")
        assert stranger.error().startswith("login: ")

    def test_login_attempts_end(self, stack):
        client = server(stack, secret=None)
        for _ in range(5):
            client.send("login", token="wrong")
            client.error()
        assert client.close_code() == 4501

    def test_a_player_reaches_none_of_it(self, stack):
        player = stack.connect("pia")
        for action in ("scheduler_start", "scheduler_stop", "game_end", "online_players"):
            player.send(action)
            assert player.error().startswith("unknown action: one of login, message, history")

    def test_a_game_server_does_not_chat(self, stack):
        one, player = server(stack), stack.connect("paul")
        one.send("message", message="hi")
        assert one.error().startswith("unknown action: one of login, scheduler_start, ")
        player.send("message", message="not for servers")
        assert player.receive()["message"] == "not for servers"
        one.send("scheduler_info")
        assert one.receive()["info"].startswith("scheduler is")


class TestCanaries:
    SETTINGS = {
        "MINIGAME_SECRET": "canary-right",
        "WEBHOOK_SECRET": "canary-hook",
        "LOG_LEVEL": "debug",
    }

    def test_they_appear_nowhere(self, stack):
        """Neither the right secrets nor wrong ones."""
        errors = []
        server(stack, secret="canary-right")
        with pytest.raises(InvalidStatus) as refusal:
            server(stack, secret="canary-wrong")
        errors.append(refusal.value.response.body.decode())
        client = server(stack, secret=None)
        for token in ("canary-wrong", "canary-right"):
            errors.append(json.dumps(client.ask("login", token=token)))
        for secret in ("canary-hook", "canary-wrong"):
            headers = {"Authorization": f"Bearer {secret}"}
            errors.append(stack.http("GET", "/api/webhook/minigame", headers).text())
        config = subprocess.run(
            [BUILD / "ws-broker", "--print-config"],
            env={k: str(v) for k, v in stack.broker.environment().items()},
            capture_output=True,
            text=True,
            check=True,
        )
        places = {
            "/metrics": stack.broker.ops("/metrics").text(),
            "--print-config": config.stdout + config.stderr,
            "what was answered": "\n".join(errors),
            **{
                f"{program.name}'s arguments": Path(f"/proc/{program.pid}/cmdline").read_text()
                for program in stack.programs
            },
        }
        stack.haproxy.stop()  # now its log is whole
        places.update((program.name, program.log()) for program in stack.programs)
        assert "client_open" in places["ws-broker-1"]
        assert [name for name, text in places.items() if "canary" in text] == []


class TestGuessing:
    SETTINGS = {"MINIGAME_SECRET": SECRET, "WEBHOOK_SECRET": "hook", "LOGIN_FAILURES_PER_MINUTE": 3}

    def test_is_limited_per_address(self, stack):
        for _ in range(3):
            assert status_of(stack, secret="wrong") == 401
        assert status_of(stack, secret=SECRET) == 429
        hook = stack.http("GET", "/api/webhook/minigame", {"Authorization": "Bearer hook"})
        assert hook.status == 429


class TestAllowedAddress:
    SETTINGS = {"MINIGAME_ALLOW_FROM": "10.1.0.0/16", "CHAT_ENV": "dev"}

    def test_without_a_secret(self, stack):
        allowed = {"X-Forwarded-For": "10.1.2.3"}
        one = server(stack, secret=None, broker=stack.broker, headers=allowed)
        one.send("scheduler_info")
        assert one.receive() == {"info": "scheduler is not running"}

    def test_from_elsewhere(self, stack):
        assert status_of(stack, secret=None) == 403
        assert status_of(stack, secret="anything") == 403


class TestNotConfigured:
    def test_it_is_open_in_development(self, start_stack):
        one = server(start_stack(), secret=None)
        one.send("login", token="by habit")
        assert one.receive() == {"info": "connected"}
        one.send("scheduler_info")
        assert one.receive() == {"info": "scheduler is not running"}

    def test_it_is_not_there_elsewhere(self, start_stack, tmp_path):
        stack = start_stack(
            CHAT_ENV="prod", STORE="redis", IDENTITY="jwt", JWKS_URL="http://127.0.0.1:1/"
        )
        assert status_of(stack, secret=None) == 404
        assert stack.broker.http("/minigame").status == 404
        assert stack.http("GET", "/api/gaming/events").status == 404
        assert stack.http("GET", "/api/webhook/minigame").status == 404
        assert stack.broker.log().count("minigame_off") == 1


# The scheduler and the games ----------------------------------------------------------------------


@pytest.fixture(params=STORES)
def games(request, start_stack):
    """A stack; with Redis two brokers."""
    brokers = 2 if request.param == "redis" else 1
    return start_stack(
        MINIGAME_SECRET=SECRET, STORE=request.param, brokers=brokers, RATE_MESSAGES=0
    )


def group(stack):
    """Game servers, one on each broker at least."""
    return [server(stack, broker=broker) for broker in (stack.brokers * 2)[:2]]


def players(stack, *names, secret=SECRET):
    """Players on all brokers, once the games know of them."""
    clients = [
        stack.connect(name, direct=stack.brokers[i % len(stack.brokers)])
        for i, name in enumerate(names)
    ]
    one = server(stack, secret=secret)
    ids = {f"dev-{name}" for name in names}
    until("all are online", lambda: set(one.ask("online_players")["online_players"]) == ids)
    return clients


class TestScheduler:
    def test_start_info_stop(self, games):
        servers = group(games)
        assert events(games) == []
        servers[0].send("scheduler_stop")
        assert "never started" in servers[0].error()
        servers[0].send("scheduler_info")
        for one in servers:
            assert one.receive() == {"info": "scheduler is not running"}
        before = int(time.time())
        game = start(games, servers)
        assert game["id"] == "HLG-1"
        assert game["miniGame"] == "boomer"
        assert game["players"] == []
        [times] = game["parameters"]
        assert before <= times["registrationStartsAt"] <= time.time()
        assert times["registrationEndsAt"] == times["registrationStartsAt"]
        assert times["startsAt"] == times["registrationStartsAt"] + 300
        servers[1].send("scheduler_info")
        for one in servers:
            assert one.receive() == {
                "info": "scheduler is running",
                "period": 600,
                "offset": 300,
            }
        servers[1].send("scheduler_stop")
        for one in servers:
            assert one.receive() == {"info": "scheduler is stopped"}
        servers[1].send("scheduler_info")
        for one in servers:
            assert one.receive() == {"info": "scheduler is not running"}
        servers[0].send("scheduler_stop")
        for one in servers:
            assert one.receive() == {"info": "scheduler is stopped"}

    def test_the_shape_of_a_game(self, games):
        players(games, "ann", "bob/")
        start(games, group(games), period=100, offset=7)
        response = games.http("GET", "/api/gaming/events")
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        [game] = json.loads(response.body)
        at = game["parameters"][0]["registrationStartsAt"]
        everybody = sorted(game["players"], key=lambda player: player["id"])
        assert everybody == [
            {"id": "dev-ann", "nickname": "ann", "paragonAddress": "string"},
            {"id": "dev-bob/", "nickname": "bob/", "paragonAddress": "string"},
        ]
        named = json.dumps(game["players"], separators=(",", ":"))
        expected = (
            '[{"id":"HLG-1","miniGame":"boomer","parameters":[{'
            f'"startsAt":{at + 7},"registrationStartsAt":{at},"registrationEndsAt":{at},'
            '"currency":"HTO","entryFee":200,"rewardPool":50000}],'
            '"settings":{"numberOfLaps":20,"numberOfPlayers":10,"map":"some map"},'
            f'"players":{named},"results":null,"policyLink":"string"}}]'
        )
        assert response.text() == expected
        for broker in games.brokers:
            assert broker.http("/api/gaming/events").text() == expected

    def test_it_goes_on_every_period(self, games):
        servers = group(games)
        start(games, servers, period=1, offset=1)
        for number in (2, 3):
            for one in servers:
                assert one.receive() == {"info": "update"}
            assert int(events(games)[0]["id"][4:]) >= number
        assert events(games)[0]["miniGame"] in ("boomer", "speedspinner")
        servers[0].send("scheduler_stop")

    def test_ten_players_at_most_picked_at_random(self, games):
        names = [f"p{i}" for i in range(30)]
        players(games, *names)
        servers = group(games)
        picks = []
        for _ in range(4):
            picked = [player["id"] for player in start(games, servers)["players"]]
            assert len(set(picked)) == 10
            assert set(picked) <= {f"dev-{name}" for name in names}
            picks.append(frozenset(picked))
        assert len(set(picks)) > 1


class TestBadStart:
    SETTINGS = {"MINIGAME_SECRET": SECRET}

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"period": 0}, "period"),
            ({"period": 86401}, "period"),
            ({"period": -1}, "period"),
            ({"period": 1.5}, "period"),
            ({"period": "600"}, "period"),
            ({"period": True}, "period"),
            ({"offset": 0}, "offset"),
            ({"offset": 86401}, "offset"),
            ({"offset": []}, "offset"),
        ],
    )
    def test_bad_input_changes_nothing(self, stack, fields, named):
        one = server(stack)
        one.send("scheduler_start", **fields)
        assert one.error().startswith(f"{named}: an integer from 1 to 86400")
        one.send("scheduler_info")
        assert one.receive() == {"info": "scheduler is not running"}
        assert events(stack) == []


class TestOnline:
    def test_distinct_users_of_all_brokers(self, games):
        first = players(games, "ann", "bob", "cat")
        games.connect("ann", direct=games.brokers[-1])
        one = server(games)
        online = one.ask("online_players")["online_players"]
        assert sorted(online) == ["dev-ann", "dev-bob", "dev-cat"]
        first[1].close()
        until(
            "bob has left",
            lambda: sorted(one.ask("online_players")["online_players"]) == ["dev-ann", "dev-cat"],
        )


# Payouts ------------------------------------------------------------------------------------------


def board(*ids):
    return [{"id": f"dev-{name}", "position": i} for i, name in enumerate(ids, 1)]


class TestGameEnd:
    def test_pays_by_position(self, games):
        names = ["a", "b", "c", "d", "e", "f"]
        players(games, *names)
        servers = group(games)
        start(games, servers)
        servers[0].send("game_end", id="HLG-1", leaderboard=board(*names))
        expected = (
            '{"action":"balance_update","data":['
            '{"id":"dev-a","won":576.0,"balance":576.0},'
            '{"id":"dev-b","won":416.0,"balance":416.0},'
            '{"id":"dev-c","won":288.0,"balance":288.0},'
            '{"id":"dev-d","won":192.0,"balance":192.0},'
            '{"id":"dev-e","won":128.0,"balance":128.0},'
            '{"id":"dev-f","won":0.0,"balance":0.0}]}'
        )
        for one in servers:
            assert one.receive_text() == expected
        start(games, servers)
        servers[1].send("game_end", id="HLG-2", leaderboard=board("b", "a"))
        for one in servers:
            assert one.receive()["data"] == [
                {"id": "dev-b", "won": 432.0, "balance": 848.0},
                {"id": "dev-a", "won": 312.0, "balance": 888.0},
            ]

    def test_what_is_refused_changes_nothing(self, games):
        players(games, "a", "b")
        servers = group(games)
        one = servers[0]
        one.send("game_end", id="HLG-1", leaderboard=board("a"))
        assert "never started" in one.error()
        start(games, servers)
        good = {"id": "HLG-1", "leaderboard": board("a", "b")}
        for change, named in [
            ({"id": None}, "id: "),
            ({"id": 1}, "id: "),
            ({"id": "HLG-2"}, "id: there is no such game"),
            ({"id": "HLG-01"}, "id: there is no such game"),
            ({"id": "log"}, "id: there is no such game"),
            ({"leaderboard": None}, "leaderboard: "),
            ({"leaderboard": []}, "leaderboard: "),
            ({"leaderboard": {}}, "leaderboard: "),
            ({"leaderboard": board(*"abcdefghijk")}, "leaderboard: "),
            ({"leaderboard": ["dev-a"]}, "leaderboard[0]: "),
            ({"leaderboard": [{"position": 1}]}, "leaderboard[0].id: "),
            ({"leaderboard": [{"id": "dev-a"}]}, "leaderboard[0].position: "),
            ({"leaderboard": [{"id": "dev-a", "position": 0}]}, "leaderboard[0].position: "),
            ({"leaderboard": [{"id": "dev-a", "position": "1"}]}, "leaderboard[0].position: "),
            ({"leaderboard": board("a", "a")}, "leaderboard[1].id: "),
            (
                {"leaderboard": [{**place, "position": 1} for place in board("a", "b")]},
                "leaderboard[1].position: ",
            ),
            ({"leaderboard": board("a", "zoe")}, "leaderboard[1].id: not a player"),
        ]:
            one.send("game_end", **{**good, **change})
            assert one.error().startswith(named), change
        one.send("game_end", **good)
        for each in servers:
            assert [entry["balance"] for entry in each.receive()["data"]] == [432.0, 312.0]
        servers[1].send("game_end", **good)
        assert servers[1].error() == "id: this game has ended already"

    def test_twenty_at_once_pay_once(self, games):
        players(games, "a", "b")
        servers = [server(games, broker=games.brokers[i % len(games.brokers)]) for i in range(20)]
        start(games, servers)
        barrier = threading.Barrier(len(servers))

        def end(one):
            barrier.wait(10)
            one.send("game_end", id="HLG-1", leaderboard=board("a", "b"))
            one.send("scheduler_stop")

        threads = [threading.Thread(target=end, args=(one,)) for one in servers]
        for thread in threads:
            thread.start()
        refused = []
        for one in servers:
            payouts, stops = [], 0
            while stops < len(servers):
                frame = one.receive()
                stops += frame == {"info": "scheduler is stopped"}
                payouts += frame.get("data", [])
                refused += [frame["error"]] if "error" in frame else []
            assert [entry["balance"] for entry in payouts] == [432.0, 312.0]
        assert refused == ["id: this game has ended already"] * 19


# HTTP ---------------------------------------------------------------------------------------------


class TestWebhook:
    def test_tells_the_group(self, games):
        servers = group(games)
        response = games.http("GET", "/api/webhook/minigame")
        assert (response.status, response.body) == (200, b"")
        for one in servers:
            assert one.receive() == {"info": "update"}

    def test_wants_the_secret(self, start_stack):
        stack = start_stack(WEBHOOK_SECRET="hook", MINIGAME_SECRET=SECRET)
        one = server(stack)
        assert stack.http("GET", "/api/webhook/minigame").status == 401
        assert events(stack) == []  # what is only read is for all
        wrong = stack.http("GET", "/api/webhook/minigame", {"Authorization": f"Bearer {SECRET}"})
        assert wrong.status == 401
        right = stack.http("GET", "/api/webhook/minigame", {"Authorization": "Bearer hook"})
        assert right.status == 200
        assert one.receive() == {"info": "update"}
        one.send("scheduler_info")
        assert one.receive() == {"info": "scheduler is not running"}

    def test_is_rate_limited(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET)
        answers = [stack.http("GET", "/api/webhook/minigame").status for _ in range(60)]
        assert answers[0] == 200
        assert 429 in answers


# Several brokers ----------------------------------------------------------------------------------


class TestCluster:
    def test_one_order_for_all(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=2, RATE_MESSAGES=0)
        servers = [server(stack, broker=stack.brokers[i % 2]) for i in range(4)]

        def speak(one, number):
            for i in range(25):
                one.send("scheduler_start", period=1000 + 100 * number + i)
                one.send("scheduler_info")

        threads = [threading.Thread(target=speak, args=(one, i)) for i, one in enumerate(servers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        heard = [[one.receive_text() for _ in range(4 * 25 * 3)] for one in servers]
        assert heard[0] == heard[1] == heard[2] == heard[3]
        assert events(stack)[0]["id"] == "HLG-100"

    @pytest.mark.parametrize("dead", [0, 1])
    def test_the_next_announcement_comes(self, start_stack, dead):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=2)
        servers = group(stack)
        start(stack, servers, period=1, offset=1)
        stack.brokers[dead].kill()
        alive = servers[1 - dead]
        for _ in range(3):
            assert alive.receive() == {"info": "update"}

    def test_a_restart_keeps_all(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        players(stack, "a")
        one = server(stack)
        start(stack, [one])
        before = start(stack, [one], period=1000)
        one.send("game_end", id="HLG-2", leaderboard=board("a"))
        assert one.receive()["data"][0]["balance"] == 396.0
        stack.broker.stop()
        stack.broker.start()
        until("HAProxy knows", lambda: stack.http("GET", "/api/gaming/events").status == 200)
        assert events(stack) == [before]
        players(stack, "a")
        one = server(stack)
        one.send("scheduler_info")
        assert one.receive()["period"] == 1000
        one.send("game_end", id="HLG-1", leaderboard=board("a"))
        assert one.receive()["data"][0]["balance"] == 792.0
        start(stack, [one])
        assert events(stack)[0]["id"] == "HLG-3"

    def test_after_an_outage_one_announcement(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=2)
        servers = group(stack)
        start(stack, servers, period=100, offset=1)
        # As if every broker had been away for ten periods.
        key = "game:{main}"
        due = int(stack.redis.call("HGET", key, "due")) - 1_100_000
        stack.redis.call("HSET", key, "due", str(due))
        for one in servers:
            assert one.receive() == {"info": "update"}
        after = int(stack.redis.call("HGET", key, "due"))
        assert (after - due) % 100_000 == 0
        assert stack.redis.call("HGET", key, "newest") == "2"
        assert after > due + 1_100_000 - 100_000

    def test_a_clock_that_was_set_back(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        start(stack, [one], period=2, offset=1)
        stack.redis.call("HSET", "game:{main}", "due", str(int(time.time() * 1000) + 3_600_000))
        assert one.receive(20) == {"info": "update"}

    def test_what_redis_has_lost_is_told(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        start(stack, [one])

        # One broker, whose next ticks see it run.
        def ticks():
            stats = stack.redis.call("INFO", "commandstats")
            return int(re.search(r"cmdstat_eval:calls=(\d+)", stats)[1])

        before = ticks()
        until("it has ticked", lambda: ticks() >= before + 2)
        stack.redis.call("FLUSHALL")
        until("it is told", lambda: " error games scheduler_gone " in stack.broker.log())
        start(stack, [server(stack)])

    @pytest.mark.parametrize("lost", ["answer", "request"])
    def test_what_is_sent_twice_pays_once(self, start_stack, lost):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1, relays=True)
        relay = stack.broker.relay
        players(stack, "a")
        one = server(stack)
        start(stack, [one])
        if lost == "answer":
            relay.hold(DOWN)
            one.send("game_end", id="HLG-1", leaderboard=board("a"))
            paid = lambda: stack.redis.call("HGET", "game:{main}:balances", "dev-a")  # noqa: E731
            until("it was paid", paid)
            relay.cut()
            relay.release()
        else:  # it comes late, after the one that was sent again
            relay.hold(UP)
            one.send("game_end", id="HLG-1", leaderboard=board("a"))
            until("it is on its way", lambda: b"HLG-" in relay.held())
            relay.cut_late()
        assert one.receive(20)["data"] == [{"id": "dev-a", "won": 396.0, "balance": 396.0}]
        relay.release()
        one.send("scheduler_stop")
        assert one.receive(20) == {"info": "scheduler is stopped"}
        assert stack.redis.call("HGET", "game:{main}:balances", "dev-a") == "39600"

    def test_who_has_missed_something_is_closed(self, start_stack):
        """As a player is: the broker was away for longer than the group's log is deep."""
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack, broker=stack.broker)
        start(stack, [one])
        stack.broker.pause()
        log, frame = "game:{main}:log", '{"info":"update"}'
        with stack.redis.open() as admin:
            for i in range(50):
                admin.call("XADD", log, "*", "k", f"other-{i}", "m", frame)
            admin.call("XTRIM", log, "MAXLEN", "5")
        stack.broker.resume()
        assert one.close_code() == 4004
        gaps = "hlchat_minigame_log_gaps_total"
        assert stack.broker.metrics()[gaps] >= 1
        again = server(stack, broker=stack.broker)
        again.send("scheduler_info")
        assert again.receive()["info"] == "scheduler is running"

    def test_without_redis_there_is_an_error(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        stack.redis.kill()
        # Sent before the broker knows, it might have been done.
        up = 'hlchat_minigame_redis_up{link="publish"}'
        until("the broker knows", lambda: stack.broker.metrics()[up] == 0)
        one.send("scheduler_start")
        assert one.receive(20)["error"] == "the games are unavailable: try again"
        one.send("online_players")
        assert one.receive(20)["error"] == "the games are unavailable: try again"
        assert stack.broker.http("/api/gaming/events").status == 503
        assert stack.broker.http("/api/webhook/minigame").status == 503
        stack.redis.start()
        until("it works again", lambda: stack.broker.http("/api/gaming/events").status == 200, 20)
        assert events(stack) == []

    def test_many_online(self, start_stack):
        """The picking has another way for many, and the list of them is one long frame."""
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        brokers = lambda: stack.redis.call("ZRANGE", "chat:{main}:brokers", "0", "-1")  # noqa: E731
        name = until("the broker is known", brokers)[0]
        ids = [f"HL{i}" for i in range(3000)]
        stack.redis.call("SADD", f"chat:{{main}}:on:{name}", *ids)
        one = server(stack)
        picked = [player["id"] for player in start(stack, [one])["players"]]
        assert len(set(picked)) == 10
        assert set(picked) <= set(ids)
        assert sorted(one.ask("online_players")["online_players"]) == sorted(ids)

    def test_many_brokers_with_the_same_players(self, start_stack):
        """Nobody is picked twice, and not only who is on the first broker."""
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        later = int(stack.redis.call("TIME")[0]) + 60  # so that they are not taken for dead
        stack.redis.call("ZADD", "chat:{main}:brokers", later, "first")
        stack.redis.call("SADD", "chat:{main}:on:first", "HL0")
        everywhere = [f"HL{i}" for i in range(1, 13)]
        with stack.redis.open() as admin:
            for i in range(100):
                admin.call("ZADD", "chat:{main}:brokers", later + 1, f"other-{i}")
                admin.call("SADD", f"chat:{{main}}:on:other-{i}", *everywhere)
        one = server(stack)
        picked = [player["id"] for player in start(stack, [one])["players"]]
        assert len(set(picked)) == len(picked) == 10
        assert set(picked) <= {"HL0", *everywhere}
        online = one.ask("online_players")["online_players"]
        assert sorted(online) == sorted(["HL0", *everywhere])

    def test_it_stays_stopped(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        start(stack, [one], period=1, offset=1)
        one.send("scheduler_stop")
        while one.receive() != {"info": "scheduler is stopped"}:
            pass
        newest = stack.redis.call("HGET", "game:{main}", "newest")
        stack.redis.call("HSET", "game:{main}", "due", "0")
        before = evals(stack.redis)
        until("it was looked at", lambda: evals(stack.redis) >= before + 3)
        assert stack.redis.call("HGET", "game:{main}", "newest") == newest

    def test_an_answer_that_never_came(self, start_stack):
        """What may have been done is not called undone; a question that was lost is only that."""
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1, relays=True)
        relay = stack.broker.relay
        one, other = server(stack), server(stack)
        start(stack, [one, other])
        relay.hold(DOWN)
        one.send("scheduler_start")
        started = lambda: stack.redis.call("HGET", "game:{main}", "newest") == "2"  # noqa: E731
        until("it was started", started)
        asked = evals(stack.redis)
        other.send("online_players")
        until("it was asked", lambda: evals(stack.redis) > asked)
        relay.target = lambda: None
        relay.cut()
        assert one.receive(20)["error"] == "not confirmed: this may have been done, or not"
        assert other.receive(20)["error"] == "the games are unavailable: try again"

    def test_redis_refuses_for_a_moment(self, start_stack):
        """It is tried again, and not without end: five times a second."""
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        refusing = out_of_memory(stack.redis)
        next(refusing)
        before = evals(stack.redis)
        one.send("scheduler_start")
        assert one.receive(20)["error"] == "the games are unavailable: try again"
        assert 5 < evals(stack.redis) - before < 100
        assert "games refused_by_redis" in stack.broker.log()
        began = time.monotonic()
        one.send("scheduler_start")
        next(refusing, None)
        was_quick = time.monotonic() - began < 3
        assert one.receive(20) == {"info": "update"} or not was_quick

    def test_many_questions_are_one(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1, RATE_MESSAGES=0)
        one = server(stack)
        before, bytes_before = evals(stack.redis), received(stack)
        stack.redis.pause()
        for _ in range(100):
            one.send("online_players")
        until(
            "all have come", lambda: received(stack) - bytes_before >= 100 * len("online_players")
        )
        stack.redis.resume()
        for _ in range(100):
            assert one.receive(20) == {"online_players": []}
        assert evals(stack.redis) - before < 50

    def test_its_log_and_its_answers_are_forgotten(self, start_stack):
        stack = start_stack(
            MINIGAME_SECRET=SECRET, STORE="redis", brokers=1, RATE_MESSAGES=0, LOG_MAXLEN=200
        )
        one = server(stack)
        for _ in range(500):
            one.ask("scheduler_info")
        # Redis drops whole nodes of 100 entries at most.
        assert 200 <= stack.redis.call("XLEN", "game:{main}:log") <= 300
        answers = stack.redis.call("KEYS", "game:{main}:answer:*")
        assert answers
        assert all(stack.redis.call("PTTL", key) != -1 for key in answers)

    def test_old_games_are_forgotten(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        start(stack, [one])
        stack.redis.call("HSET", "game:{main}", "newest", "1000")
        assert start(stack, [one])["id"] == "HLG-1001"
        assert stack.redis.call("EXISTS", "game:{main}:HLG-1") == 0


class TestBrokenKeys:
    """What is of a wrong type costs an error, and nothing is half done."""

    def test_a_balance_that_is_no_number(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        players(stack, "a", "b")
        one = server(stack)
        start(stack, [one])
        balances = "game:{main}:balances"
        stack.redis.call("HSET", balances, "dev-b", "12.50")
        end = {"id": "HLG-1", "leaderboard": board("a", "b")}
        assert one.ask("game_end", **end)["error"] == "the games are unavailable: try again"
        assert stack.redis.call("HGETALL", balances) == ["dev-b", "12.50"]
        assert "no whole number" in stack.broker.log()
        stack.redis.call("HSET", balances, "dev-b", "-31205")
        assert [place["balance"] for place in one.ask("game_end", **end)["data"]] == [432.0, -0.05]

    def test_a_log_that_is_none(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        start(stack, [one], period=1, offset=1)
        stack.redis.call("SET", "game:{main}:log", "no stream")
        until("it is noticed", lambda: "games cannot_tick" in stack.broker.log())
        before = stack.redis.call("HGETALL", "game:{main}")
        one.send("scheduler_stop")
        while "error" not in (answer := one.receive()):
            pass
        assert answer["error"] == "the games are unavailable: try again"
        assert stack.redis.call("HGETALL", "game:{main}") == before

    def test_a_game_ends_in_a_log_that_is_none(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        players(stack, "a")
        one = server(stack)
        start(stack, [one])
        stack.redis.transaction(
            ["RENAME", "game:{main}:log", "aside"], ["SET", "game:{main}:log", "no stream"]
        )
        end = {"id": "HLG-1", "leaderboard": board("a")}
        assert one.ask("game_end", **end)["error"] == "the games are unavailable: try again"
        assert stack.redis.call("EXISTS", "game:{main}:balances") == 0
        stack.redis.transaction(["DEL", "game:{main}:log"], ["RENAME", "aside", "game:{main}:log"])
        answer = one.ask("game_end", **end)
        assert answer["data"] == [{"id": "dev-a", "won": 396.0, "balance": 396.0}]


class TestAnsweredLater:
    """Requests over HTTP that wait for Redis."""

    def ask(self, stack, path="/api/gaming/events", method="GET", more=""):
        connection = socket.create_connection(stack.broker.address(), 30)
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
        return connection

    def test_whoever_has_gone_costs_nothing(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        stack.redis.pause()
        gone = [self.ask(stack) for _ in range(20)]
        stays = self.ask(stack)
        for connection in gone:
            connection.close()
        stack.redis.resume()
        assert stays.makefile("rb").read().endswith(b"[]")
        assert events(stack) == []

    @pytest.mark.parametrize("more", ["Content-Length: 50\r\n", "Transfer-Encoding: chunked\r\n"])
    def test_a_body_is_refused(self, start_stack, more):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        stack.redis.pause()
        connections = [self.ask(stack, more=more) for _ in range(10)]
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(b"x" * 50)
            with contextlib.suppress(ConnectionResetError):
                assert connection.makefile("rb").read().startswith(b"HTTP/1.1 413 ")
            connection.close()
        stack.redis.resume()
        until("it lives", lambda: stack.broker.http("/api/gaming/events").status == 200)

    def test_many_questions_hold_up_no_game(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        one = server(stack)
        stack.redis.pause()
        asking = [self.ask(stack) for _ in range(1010)]
        answered = select.poll()
        for connection in asking:
            answered.register(connection, select.POLLIN)
        until("ten have no place", lambda: len(answered.poll(0)) == 10)
        one.send("scheduler_start")
        stack.redis.resume()
        assert one.receive() == {"info": "update"}
        for connection in asking:
            connection.close()

    def test_it_is_answered_before_the_broker_ends(self, start_stack):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE="redis", brokers=1)
        stack.redis.pause()
        waiting = self.ask(stack, "/api/webhook/minigame")
        until("it has come", lambda: stack.broker.http("/healthz").status == 200)
        stack.broker.signal(signal.SIGTERM)
        until("it drains", lambda: " drain " in stack.broker.log())
        stack.redis.resume()
        assert waiting.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
        stack.broker.stop()

    @pytest.mark.parametrize("store", STORES)
    def test_head(self, start_stack, store):
        stack = start_stack(MINIGAME_SECRET=SECRET, STORE=store)
        answer = self.ask(stack, method="HEAD").makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")
        answer = self.ask(stack, "/api/webhook/minigame", method="HEAD").makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 405 ")


class TestLeavesNothing:
    SETTINGS = {"MINIGAME_SECRET": SECRET}

    def test_a_wrong_frame_closes_nobody_else(self, stack):
        bad, good = server(stack, raw=True), server(stack)
        bad.send_text("{")
        assert bad.error().startswith("not JSON")
        good.send("scheduler_info")
        assert good.receive()["info"]

    def test_fifty_refusals_close(self, stack):
        one = server(stack)
        for _ in range(50):
            one.send("scheduler_start", period=0)
        assert one.close_code() == 1008
