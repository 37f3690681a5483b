"""What docs/redis.md promises, taken from its own text."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
from stack import REPO, Port, Program, Redis, until

DOC = (REPO / "docs" / "redis.md").read_text()
KEY = "chat:{main}"
KEPT = "What is kept, and for how long"


def section(title):
    """The text below a heading."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL)[1]


def code(text):
    """Its indented lines."""
    return re.findall(r"^    (.*)$", text, re.MULTILINE)


def say(client, count):
    for i in range(count):
        client.send("message", message=f"number {i} of some")
    for _ in range(count):
        client.receive()


def redis_cli(stack, line):
    """What a documented redis-cli line answers."""
    program, *words = shlex.split(line)
    assert program == "redis-cli"
    port = str(stack.redis.address()[1])
    done = subprocess.run(
        [Redis.cli, "-p", port, *words], check=True, capture_output=True, text=True, timeout=30
    )
    assert not re.match(r"\(error\)|ERR|WRONG", done.stdout), done.stdout
    return done.stdout


class TestConfiguration:
    SETTINGS = {
        "STORE": "redis",
        "RATE_MESSAGES": 0,
        "redis": dict(line.split(" ", 1) for line in code(section("redis.conf"))),
        "api": False,
        "haproxy": False,
    }

    def test_it_is_taken(self, stack):
        assert stack.redis.config["maxmemory-policy"] == "noeviction"
        for name in self.SETTINGS["redis"]:
            assert stack.redis.call("CONFIG", "GET", name)

    def test_every_key_is_documented(self, stack):
        ann, games = stack.connect("ann", direct=True), stack.connect(direct=True, path="/minigame")
        say(ann, 1)
        play(games)
        names = re.findall(r"^\| `((?:chat|game):.*?)` \|", section("The keys"), re.MULTILINE)
        forms = {"<broker>": "[0-9a-f]{16}", "<n>": "[0-9]+", "<request>": "g[0-9a-f]{16}-[0-9]+"}
        known = {
            re.sub("<.*?>", lambda word: forms[word[0]], re.escape(name)): name for name in names
        }
        found = stack.redis.call("KEYS", "*")
        assert [name for name in found if not re.fullmatch("|".join(known), name)] == []
        assert [known[k] for k in known if not any(re.fullmatch(k, name) for name in found)] == []

    def test_what_a_message_takes(self, stack):
        ann = stack.connect("ann", direct=True)
        say(ann, 1000)
        usage, length = (redis_cli(stack, line) for line in code(section(KEPT))[-2:])
        bound = int(re.search(r"its JSON and at most (\d+) bytes more", DOC)[1])
        entries = stack.redis.call("XRANGE", KEY, "-", "+")
        json = sum(len(dict(zip(f[::2], f[1::2], strict=True))["m"]) for _, f in entries)
        assert int(length) == len(entries) >= 1000
        more = (int(usage) - json) / len(entries)
        print(f"{more:.0f} bytes more than the JSON of {json / len(entries):.0f} bytes")
        assert more <= bound

    def test_looking_at_the_keys(self, stack):
        ann = stack.connect("ann", direct=True)
        say(ann, 1)
        (broker,) = until(
            "it is in the list", lambda: stack.redis.call("ZRANGE", f"{KEY}:brokers", 0, -1)
        )
        until("she is in its", lambda: stack.redis.call("EXISTS", f"{KEY}:on:{broker}"))
        lines = code(section("The keys"))
        newest, info, users = (
            redis_cli(stack, line.replace("<broker>", broker)) for line in lines[:3]
        )
        assert "number 0 of some" in newest
        assert "entries-added" in info
        assert "dev-ann" in users


def test_clearing_the_chat(start_stack):
    stack = start_stack(STORE="redis", brokers=2, api=False)
    ann = stack.connect("ann")
    say(ann, 2)
    assert len(ann.history()) == 2
    stack.close_clients()
    for broker in stack.brokers:
        broker.stop()
    redis_cli(stack, code(section("The keys"))[-1])
    for broker in stack.brokers:
        broker.start()
        ann = stack.connect("ann", direct=broker)
        assert ann.history() == []
        say(ann, 1)
        stack.redis.call("DEL", KEY)


# The least rights ---------------------------------------------------------------------------------

RIGHTS = code(section("The least rights"))[0].removeprefix("user hlchat ")


def online(stack):
    """The users in the lists of all brokers."""
    keys = stack.redis.call("KEYS", f"{KEY}:on:*")
    return stack.redis.call("SUNION", *keys) if keys else []


def reconnects(broker):
    return broker.metrics()['hlchat_redis_reconnects_total{link="publish"}']


def play(games):
    """A game, and its end; dev-ann is online."""
    until(
        "ann is there",
        lambda: "dev-ann" in games.ask("online_players")["online_players"],
    )
    games.send("scheduler_start")
    assert games.receive() == {"info": "update"}
    assert games.receive() == {"info": "scheduler is running"}
    games.send("game_end", id="HLG-1", leaderboard=[{"id": "dev-ann", "position": 1}])
    assert games.receive()["data"]


def test_the_rights_are_enough_and_not_too_many(start_stack):
    stack = start_stack(
        STORE="redis", redis={"user hlchat": RIGHTS}, brokers=0, haproxy=False, api=False
    )
    url = stack.redis.url().replace("redis://", "redis://hlchat:SECRET@")
    stack.redis.call("CONFIG", "RESETSTAT")
    broker = stack.add_broker(REDIS_URL=url)
    ann = stack.connect("ann", direct=broker)
    bob = stack.connect("bob", direct=broker)
    say(ann, 3)
    bob.close()
    until("bob is gone", lambda: online(stack) == ["dev-ann"])

    # Two ways to pick players: of some, and of very many.
    games = stack.connect(direct=broker, path="/minigame")
    play(games)
    (name,) = until("it is listed", lambda: stack.redis.call("ZRANGE", f"{KEY}:brokers", 0, -1))
    stack.redis.call("SADD", f"{KEY}:on:{name}", *(f"HL{i}" for i in range(1500)))
    for action in ("scheduler_start", "scheduler_stop"):
        games.send(action)
        while "scheduler" not in games.receive()["info"]:
            pass
    assert len(games.ask("online_players")["online_players"]) == 1501
    assert broker.http("/api/gaming/events").status == 200

    # Its connections are lost, then all that it has read.
    before = broker.metrics()['hlchat_redis_reconnects_total{link="publish"}']
    assert stack.redis.call("CLIENT", "KILL", "USER", "hlchat") >= 2
    until(
        "it is back",
        lambda: (
            broker.is_ready()
            and broker.metrics()['hlchat_redis_reconnects_total{link="publish"}'] > before
        ),
    )
    stack.redis.call("DEL", KEY)
    until("it is noticed", lambda: broker.metrics()["hlchat_log_resets_total"] > 0)
    until("it is ready", broker.is_ready)
    broker.stop()

    denied = [dict(zip(e[::2], e[1::2], strict=True)) for e in stack.redis.call("ACL", "LOG")]
    assert [entry["object"] for entry in denied] == []
    granted = set(re.findall(r"\+(\S+)", RIGHTS))
    used = set(re.findall(r"^cmdstat_(\S+?):", stack.redis.call("INFO", "commandstats"), re.M))
    assert granted - used == set()


def test_without_client_kill_it_warns_once(start_stack):
    rights = RIGHTS.replace("+client|kill ", "")
    assert rights != RIGHTS
    stack = start_stack(
        STORE="redis", redis={"user hlchat": rights}, brokers=0, haproxy=False, api=False
    )
    broker = stack.add_broker(
        REDIS_URL=stack.redis.url().replace("redis://", "redis://hlchat:SECRET@")
    )
    for times in (1, 2):
        stack.redis.call("CLIENT", "KILL", "USER", "hlchat")
        until("it saw that", lambda times=times: reconnects(broker) >= times)
        until("it is back", broker.is_ready)
    say(stack.connect("ann", direct=broker), 1)
    assert len(re.findall("client.kill", broker.log())) == 1


# TLS ----------------------------------------------------------------------------------------------


class TlsFront(Program):
    """The documented HAProxy, with other addresses."""

    port_names = ("bind",)

    def __init__(self, stack, server, ca):
        super().__init__(stack, "tls-front")
        self._pick_ports()
        text = "\n".join(line.removeprefix("    ") for line in section("TLS").splitlines())
        text = re.search(r"^defaults$.*verifyhost redis\.example$", text, re.M | re.S)[0]
        for old, new in (
            ("127.0.0.1:6380", "{}:{}".format(*self.address())),
            ("redis.example:6379", server),
            ("/etc/ssl/redis-ca.pem", str(ca)),
        ):
            assert old in text
            text = text.replace(old, new)
        self.file = stack.folder / "tls-front.cfg"
        self.file.write_text(text + "\n")

    def address(self):
        return ("127.0.0.1", self.ports["bind"].number)

    def command(self):
        program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        return [program, "-db", "-f", str(self.file)]

    def environment(self):
        return {}

    def is_ready(self):
        return True


@pytest.mark.parametrize("name", ["redis.example", "another.example"])
def test_tls(start_stack, tmp_path, name):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
        + ["-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    port = Port()
    config = {
        "tls-port": port.number,
        "tls-cert-file": certificate,
        "tls-key-file": key,
        "tls-auth-clients": "no",
        "requirepass": "SECRET",
    }
    stack = start_stack(STORE="redis", redis=config, brokers=0, haproxy=False, api=False)
    front = TlsFront(stack, f"127.0.0.1:{port.number}", certificate)
    front.start()
    try:
        broker = stack.add_broker(
            wait_ready=False, REDIS_URL="redis://:SECRET@{}:{}".format(*front.address())
        )
        if name == "redis.example":
            until("it is ready", lambda: broker.http("/readyz").status == 200)
            say(stack.connect("ann", direct=broker), 1)
        else:
            # Somebody else's certificate.
            until("it tried", lambda: "redis down" in broker.log())
            assert broker.http("/readyz").status == 503
    finally:
        front.kill()
        front.ports["bind"].release()
        port.release()


def test_the_front_s_environment():
    lines = [line for line in code(section("Failover")) if re.match(r"(REDIS|SENTINEL)_", line)]
    assert len(lines) == 8
    environment = dict(line.split("=", 1) for line in lines)
    program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    done = subprocess.run(
        [program, "-dW", "-c", "-f", REPO / "haproxy" / "redis.cfg"],
        env=environment, check=False, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
