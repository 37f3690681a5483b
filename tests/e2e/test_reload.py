"""SIGHUP: settings are read again, and nobody is dropped. docs/settings.md, docs/operating.md."""

import json
import re
import signal
import subprocess
import threading

import pytest
from jwt_tokens import claims, signing_key
from stack import BUILD, REPO, until

DIRECT = {"api": False, "haproxy": False}


def reload(program, event="reloaded"):
    """Sends SIGHUP; the line that tells what came of it."""

    def lines():
        return re.findall(rf".* settings (?:{event}) .*", program.log())

    before = len(lines())
    program.signal(signal.SIGHUP)
    until(f"{program.name} has said {event}", lambda: len(lines()) > before)
    return lines()[-1]


def refused(program):
    line = reload(program, "reload_refused")
    assert " error settings reload_refused error=" in line
    return line


def is_here(client):
    return client.ask("history", limit=0) == {"history": []}


class TestLog:
    @pytest.mark.parametrize("name", ["broker", "api"])
    def test_the_level_and_the_form(self, start_stack, name):
        stack = start_stack(env_file={"LOG_LEVEL": "info"})
        client = stack.connect("alice")
        program = getattr(stack, name)

        def ask():
            stack.http("GET", "/api")
            stack.broker.http("/readyz")
            client.refused("no JSON")

        ask()
        assert " debug " not in program.log()
        stack.write_env_file({"LOG_LEVEL": "debug", "LOG_FORMAT": "json"})
        assert json.loads(reload_json(program))["changed"] == "LOG_LEVEL,LOG_FORMAT"
        ask()
        until("debug lines", lambda: '"level":"debug"' in program.log())
        for line in program.log().splitlines()[-2:]:
            json.loads(line)
        stack.write_env_file({"LOG_LEVEL": "error"})
        program.signal(signal.SIGHUP)
        until("the form is text again", lambda: "changed=LOG_LEVEL,LOG_FORMAT" in program.log())
        quiet = program.log()
        ask()
        assert program.log() == quiet
        assert is_here(client)


def reload_json(program):
    program.signal(signal.SIGHUP)
    return until(
        "it has reloaded",
        lambda: next((x for x in program.log().splitlines() if '"event":"reloaded"' in x), None),
    )


class TestLimits:
    def test_of_messages(self, start_stack):
        stack = start_stack(**DIRECT, env_file={"RATE_MESSAGES": 0})
        client = stack.connect("alice", direct=True)
        for i in range(50):
            client.send("message", message=str(i))
        assert [client.receive()["message"] for _ in range(50)] == [str(i) for i in range(50)]
        stack.write_env_file({"RATE_MESSAGES": 1, "RATE_BURST": 2})
        assert "changed=RATE_MESSAGES,RATE_BURST" in reload(stack.broker)
        for i in range(10):
            client.send("message", message=str(i))
        answers = [client.receive() for _ in range(10)]
        assert sum("error" in answer for answer in answers) >= 5
        stack.write_env_file({"RATE_MESSAGES": 0})
        reload(stack.broker)
        assert client.ask("message", message="free again")["message"] == "free again"

    def test_of_clients(self, start_stack):
        """Nobody who is here has to go."""
        stack = start_stack(**DIRECT, env_file={})
        clients = [stack.connect(f"c{i}", direct=True) for i in range(5)]

        def connect():
            return stack.connect(raw=True, upgrade=False, direct=True).status

        stack.write_env_file({"MAX_CLIENTS": 3})
        assert "changed=MAX_CLIENTS" in reload(stack.broker)
        assert connect() == 503
        stack.write_env_file({"CONN_PER_ADDRESS": 5, "MAX_CLIENTS": 1000000})
        reload(stack.broker)
        assert connect() == 503  # those that came before the limit count
        assert "broker max_clients_above_file_limit max_clients=1000000" in stack.broker.log()
        stack.write_env_file({})
        reload(stack.broker)
        assert connect() == 101
        assert all(is_here(client) for client in clients)

    def test_of_logins(self, start_stack):
        stack = start_stack(**DIRECT, env_file={"LOGIN_ATTEMPTS": 5})
        wrong = json.dumps({"action": "login", "token": "x" * 65})
        client = stack.connect(direct=True)
        client.refused(wrong)
        stack.write_env_file({"LOGIN_ATTEMPTS": 2})
        reload(stack.broker)
        client.refused(wrong)
        assert client.close_code() == 4501


class TestKeys:
    def test_are_rotated(self, start_stack, tmp_path):
        """The file is another one now; its name is not."""
        old, new = signing_key("old"), signing_key("new")
        pem = tmp_path / "key.pem"
        old.write_public(pem)
        stack = start_stack(**DIRECT, IDENTITY="jwt", env_file={"JWT_PUBLIC_KEY_FILE": pem})
        tokens = [key.token(claims(sub="HL1")) for key in (old, new)]

        def answers():
            return [stack.connect(direct=True).ask("login", token=token) for token in tokens]

        here = stack.connect(tokens[0], direct=True)
        assert [list(answer) for answer in answers()] == [["info"], ["error"]]
        pem.write_text("no key at all")
        assert f"JWT_PUBLIC_KEY_FILE: {pem}: " in refused(stack.broker)
        assert [list(answer) for answer in answers()] == [["info"], ["error"]]
        new.write_public(pem)
        assert "changed=-" in reload(stack.broker)
        assert [list(answer) for answer in answers()] == [["error"], ["info"]]
        new.write_public(tmp_path / "new.pem")
        old.write_public(pem)
        pem.write_text(pem.read_text() + (tmp_path / "new.pem").read_text())
        reload(stack.broker)
        assert [list(answer) for answer in answers()] == [["info"], ["info"]]
        assert is_here(here)

    def test_the_audience_changes_with_them(self, start_stack, tmp_path):
        key = signing_key("key")
        pem = tmp_path / "key.pem"
        key.write_public(pem)
        settings = {"JWT_PUBLIC_KEY_FILE": pem, "JWT_AUDIENCE": "one"}
        stack = start_stack(**DIRECT, IDENTITY="jwt", env_file=settings)
        token = key.token(claims(sub="HL1", aud="two"))
        assert "error" in stack.connect(direct=True).ask("login", token=token)
        stack.write_env_file({**settings, "JWT_AUDIENCE": "two"})
        assert "changed=JWT_AUDIENCE" in reload(stack.broker)
        stack.connect(token, direct=True)


class TestSecrets:
    def test_of_game_servers_and_the_webhook(self, start_stack):
        stack = start_stack(env_file={"MINIGAME_SECRET": "old", "WEBHOOK_SECRET": "old"})

        def game_server(secret):
            client = stack.connect(path="/minigame")
            return client.ask("login", token=secret)

        def webhook(secret):
            headers = {"Authorization": f"Bearer {secret}"}
            return stack.http("GET", "/api/webhook/minigame", headers).status

        assert game_server("old") == {"info": "connected"}
        stack.write_env_file({"MINIGAME_SECRET": "new", "WEBHOOK_SECRET": "new"})
        assert "changed=MINIGAME_SECRET,WEBHOOK_SECRET" in reload(stack.broker)
        assert game_server("old") == {"error": "the secret is wrong"}
        assert game_server("new") == {"info": "connected"}
        assert (webhook("old"), webhook("new")) == (401, 200)
        # Who came before the secret was taken away cannot get in without one.
        waiting = stack.connect(path="/minigame")
        stack.write_env_file({"MINIGAME_ALLOW_FROM": "10.9.9.9/32"})
        reload(stack.broker)
        assert waiting.ask("login", token="new") == {"error": "the secret is wrong"}

    def test_minigame_cannot_be_switched_on(self, start_stack):
        stack = start_stack(
            **DIRECT,
            CHAT_ENV="prod",
            STORE="redis",
            IDENTITY="jwt",
            JWKS_URL="http://127.0.0.1:1/",
            env_file={},
        )
        stack.write_env_file({"MINIGAME_SECRET": "new"})
        assert "changed=MINIGAME_SECRET" in reload(stack.broker)
        until("it is told", lambda: "broker minigame_needs_a_restart" in stack.broker.log())
        assert stack.broker.http("/minigame").status == 404


class TestRefusals:
    @pytest.mark.parametrize("name", ["broker", "api"])
    def test_a_bad_value(self, start_stack, name):
        stack = start_stack(env_file={"RATE_MESSAGES": 0, "LOG_LEVEL": "info"})
        program = getattr(stack, name)
        client = stack.connect("alice")
        stack.env_file.write_text("RATE_MESSAGES=1\nRATE_BURST=1\nLOG_LEVEL=loud\n")
        line = refused(program)
        assert f"{stack.env_file}:3: LOG_LEVEL is 'loud', but must be error or warn" in line
        for i in range(5):
            assert client.ask("message", message=str(i))["message"] == str(i)
        assert stack.http("GET", "/api").status == 200

    def test_a_file_that_is_gone(self, start_stack):
        stack = start_stack(**DIRECT, env_file={})
        stack.env_file.unlink()
        assert f"{stack.env_file}: No such file or directory" in refused(stack.broker)
        stack.write_env_file({})
        reload(stack.broker)

    def test_what_needs_a_restart_is_named(self, start_stack):
        stack = start_stack(**DIRECT, env_file={"HISTORY_LIMIT": 5})
        client = stack.connect("alice", direct=True)
        stack.write_env_file({"HISTORY_LIMIT": 1, "CHAT_NAME": "other", "DRAIN_RATE": 7})
        assert "changed=DRAIN_RATE" in reload(stack.broker)
        line = reload(stack.broker, "need_a_restart")
        assert " warn settings need_a_restart names=CHAT_NAME,HISTORY_LIMIT" in line
        client.ask("message", message="one")
        client.ask("message", message="two")
        assert len(client.history()) == 2

    def test_the_environment_is_still_stronger(self, start_stack):
        stack = start_stack(**DIRECT, env_file={"RATE_MESSAGES": 0}, LOG_LEVEL="info")
        stack.write_env_file({"LOG_LEVEL": "error", "RATE_MESSAGES": 3})
        assert "changed=RATE_MESSAGES" in reload(stack.broker)


def test_under_load(start_stack):
    """A hundred times, and no request and no message fails."""
    stack = start_stack(env_file={"LOG_LEVEL": "info"}, RATE_MESSAGES=0)
    done = threading.Event()

    def hang_up():
        for i in range(100):
            stack.write_env_file({"LOG_LEVEL": ("info", "warn")[i % 2]})
            stack.broker.signal(signal.SIGHUP)
            stack.api.signal(signal.SIGHUP)
            done.wait(0.01)
        done.set()

    thread = threading.Thread(target=hang_up)
    client = stack.connect("alice")
    thread.start()
    try:
        number = 0
        while not done.is_set():
            number += 1
            assert client.ask("message", message=str(number))["message"] == str(number)
            assert stack.http("GET", "/api/version").status == 200
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("program", ["ws-broker", "api-fcgi"])
def test_the_docs_name_what_may_change(program):
    """Those that --help marks with a star."""
    text = subprocess.run(
        [BUILD / program, "--help"], capture_output=True, text=True, env={}, check=True
    ).stdout
    flags = re.findall(r"^ +(?:--)?([a-zA-Z_-]+)(?:\[_FILE\])? .*\] \*$", text, re.MULTILINE)
    live = {flag.upper().replace("-", "_") for flag in flags}
    docs = (REPO / "docs" / "settings.md").read_text()
    section = re.search(r"## Changing them while it runs\n(.*?)\n## ", docs, re.DOTALL).group(1)
    named = set(re.findall(r"`([A-Z_]+)`", section.partition("All others")[0]))
    if program == "ws-broker":
        assert named == live
    else:
        assert named > live
