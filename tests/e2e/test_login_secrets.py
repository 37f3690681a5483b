"""What somebody logs in with is seen by nobody else. docs/identity.md, "Secrets"."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from account_stub import AccountStub
from jwt_tokens import claims, signing_key
from stack import BUILD, Stack

SETTINGS = {"IDENTITY": "heavenland", "LOG_LEVEL": "debug", "LOGIN_ATTEMPTS": "100"}


@pytest.fixture(scope="class")
def stub():
    with AccountStub() as running:
        yield running


@pytest.fixture(scope="class")
def stack(stub):
    keys = {"HEAVENLAND_API_URL": stub.url, "JWT_PUBLIC_KEY_FILE": stub.public_pem}
    with Stack(**SETTINGS, **keys) as running:
        yield running


def canary(name):
    return f"canary-{name}-3f9a1c"


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may have ended
            yield str(path), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


class TestCanaries:
    def test_they_appear_nowhere(self, stack, stub):
        secrets = set()
        errors = []

        def attempt(client, **fields):
            secrets.update(fields.values())
            answer = client.ask("login", **fields)
            errors.append(json.dumps(answer))
            return answer

        def plant(name):
            secrets.add(canary(name))
            return canary(name)

        # Logins that work, by token and by password, and a message.
        stub.account("HL1", password=plant("password"))
        client = stack.connect()
        assert "info" in attempt(client, token=stub.token("HL1", jti=plant("claim")))
        client.ask("message", message=plant("message"))
        client = stack.connect()
        assert "info" in attempt(client, username="hero", password=canary("password"))
        # Those that fail in each of their ways.
        thief = signing_key("thief")
        for token in (
            plant("token"),
            f"{plant('header')}.{plant('payload')}.{plant('signature')}",
            thief.token(claims(sub="HL1", jti=canary("claim"))),
            stub.token("HL1", exp=1),
            stub.token("\0" + plant("sub")),
            plant("long") * 500,
        ):
            assert "error" in attempt(stack.connect(), token=token)
        password = plant("wrong-password")
        assert "error" in attempt(stack.connect(), username="hero", password=password)
        # The services' own tokens and words.
        refresh = {"body": json.dumps({"refreshToken": {"value": plant("refresh")}})}
        # (Of a 5xx the errorMessage is for the log, and for nobody else.)
        for fault in ({"status": 500, "message": canary("words")}, {"body": plant("page")}):
            for step in ("login", "access_token"):
                stub.faults(**{"login": refresh, step: fault})
                fields = {"username": "hero", "password": canary("password")}
                assert "error" in attempt(stack.connect(), **fields)
            stub.faults(accounts=fault)
            assert "error" in attempt(stack.connect(), token=stub.token("HL2"))
        stub.faults()
        # Where a token does not belong, but is sent to all the same.
        headers = {"Authorization": f"Bearer {plant('bearer')}", "Cookie": plant("cookie")}
        stack.connect(raw=True, path=f"/chat?token={plant('query')}", headers=headers).close()
        stack.http("GET", f"/api?token={canary('query')}", headers)
        # Not requests at all.
        client = stack.connect()
        for text in (
            '{"action":"login","token":"' + plant("broken-json"),
            json.dumps({"action": "login", "password": [plant("wrong-type")]}),
            json.dumps({"action": plant("action")}),
        ):
            client.send_text(text)
            errors.append(client.error())

        config = subprocess.run(
            [str(BUILD / "ws-broker"), "--print-config"],
            env={k: str(v) for k, v in stack.broker.environment().items()},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = dict(command_lines())
        stack.haproxy.stop()  # now its log is whole
        stack.broker.stop()
        places = {
            **{program.log_path.name: program.log() for program in stack.programs},
            **lines,
            "--print-config": config.stdout + config.stderr,
            "what players were told": "\n".join(errors),
        }
        assert "level" in places["--print-config"].lower()
        assert " debug login " in stack.broker.log()
        assert canary("words") in stack.broker.log()
        assert canary("words") not in places["what players were told"]
        secrets.discard("hero")
        # A part is as bad as the whole, so of tokens the signature alone is looked for.
        sought = {secret[-40:] for secret in secrets}
        found = [f"{s} in {name}" for s in sought for name, text in places.items() if s in text]
        assert found == []

    @pytest.mark.parametrize("name", ["HEAVENLAND_API_URL", "JWKS_URL"])
    def test_a_url_with_a_password_in_it(self, stub, name):
        """Refused or hidden, but not shown."""
        url = f"http://somebody:{canary('url')}@127.0.0.1:1/"
        environment = {**SETTINGS, "JWT_PUBLIC_KEY_FILE": stub.public_pem, name: url}
        environment.setdefault("HEAVENLAND_API_URL", stub.url)
        for option in ("--print-config", "--check"):
            done = subprocess.run(
                [str(BUILD / "ws-broker"), option],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout + done.stderr
            assert canary("url") not in done.stdout + done.stderr


class TestCoreDumps:
    def test_there_are_none(self, stack):
        limits = Path(f"/proc/{stack.broker.pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]  # soft and hard

    def test_the_broker_is_not_dumpable(self):
        """A core that goes to a program (systemd-coredump) knows no limit.

        What may not be dumped may not be looked into by its own user either, nor by a root
        without any of root's powers.
        """
        powerless = (
            ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
        )

        def can_be_looked_into(program):
            look = [*powerless, "cat", f"/proc/{program.pid}/environ"]
            return subprocess.run(look, capture_output=True, check=False).returncode == 0

        own = Stack(haproxy=False)
        for program in (own.api, own.broker):
            command = [*powerless, *program.command()]
            program.command = lambda command=command: ["/usr/bin/env", *command]
        with own:
            assert can_be_looked_into(own.api)  # the question makes sense
            assert not can_be_looked_into(own.broker)
