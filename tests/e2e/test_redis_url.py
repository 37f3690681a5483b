"""REDIS_URL: its forms, what is refused, and that it stays a secret. docs/redis.md."""

import os
import subprocess
from pathlib import Path

import pytest
from relay import Relay
from stack import BUILD, until

PASSWORD = "p@ss/w:rd?"  # every separator of a URL
ESCAPED = "p%40ss%2Fw%3Ard%3F"
SECRETS = (PASSWORD, ESCAPED, "p%40ss", "p@ss")


def run(*flags, **settings):
    """ws-broker's answer to flags that end at once."""
    return subprocess.run(
        [BUILD / "ws-broker", *flags],
        env={"PATH": os.environ["PATH"], **settings},
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )


def assert_no_secret(text):
    assert [secret for secret in SECRETS if secret in text] == []


class TestForms:
    SETTINGS = {
        "STORE": "redis",
        "LOG_LEVEL": "debug",
        "brokers": 0,
        "haproxy": False,
        "api": False,
        "redis": {
            "databases": 6,
            "requirepass": PASSWORD,
            "user": f"chat on >{PASSWORD} ~* &* +@all",
        },
    }

    @pytest.mark.parametrize(
        ("form", "db"),
        [
            ("redis://:{password}@127.0.0.1:{port}", 0),
            ("redis://:{password}@127.0.0.1:{port}/", 0),
            ("redis://:{password}@127.0.0.1:{port}/3", 3),
            ("redis://chat:{password}@127.0.0.1:{port}", 0),
            ("redis://chat:{password}@localhost:{port}/4", 4),
            ("unix://:{password}@{path}", 0),
            ("unix://chat:{password}@{path}?db=5", 5),
        ],
    )
    def test_a_form(self, stack, form, db):
        port = stack.redis.address()[1]
        url = form.format(password=ESCAPED, port=port, path=stack.redis.unix)
        chat = f"form-{len(stack.brokers)}"
        broker = stack.add_broker(REDIS_URL=url, CHAT_NAME=chat)
        client = stack.connect("ann", direct=broker)
        assert client.ask("message", message="hi")["message"] == "hi"
        with stack.redis.open() as redis:
            redis.call("SELECT", db)
            assert redis.call("XLEN", f"chat:{{{chat}}}") == 1
        assert_no_secret(broker.log())
        assert_no_secret(Path(f"/proc/{broker.pid}/cmdline").read_text())
        broker.stop()

    def test_from_a_file(self, stack):
        file = stack.folder / "url"
        file.write_text(f"redis://:{ESCAPED}@127.0.0.1:{stack.redis.address()[1]}\nnot this\n")
        # Its own word, not beside the other one.
        broker = stack.add_broker(REDIS_URL="", REDIS_URL_FILE=str(file), CHAT_NAME="file")
        client = stack.connect("ann", direct=broker)
        assert client.ask("message", message="hi")["message"] == "hi"
        assert_no_secret(broker.log())
        broker.stop()

    @pytest.mark.parametrize(
        ("form", "word"),
        [
            ("redis://127.0.0.1:{port}", "NOAUTH"),
            ("redis://:wr0ng-{password}@127.0.0.1:{port}", "WRONGPASS"),
            ("redis://nobody:{password}@127.0.0.1:{port}", "WRONGPASS"),
            ("redis://:{password}@127.0.0.1:{port}/15", "DB index"),
        ],
    )
    def test_what_redis_refuses_is_told_and_tried_again(self, stack, form, word):
        url = form.format(password=ESCAPED, port=stack.redis.address()[1])
        broker = stack.add_broker(REDIS_URL=url, CHAT_NAME="refused", wait_ready=False)
        until(f"its log has {word}", lambda: word in broker.log())
        assert broker.http("/readyz").status == 503
        assert_no_secret(broker.log())
        assert broker.log().count(word) < 30, "not a line for every try of each millisecond"
        broker.stop()


class TestRefused:
    @pytest.mark.parametrize(
        "url",
        [
            "localhost:6379",
            "http://localhost:6379",
            "redis://",
            f"redis://:{ESCAPED}@",
            f"redis://:{ESCAPED}@localhost:0",
            f"redis://:{ESCAPED}@localhost:65536",
            f"redis://:{ESCAPED}@localhost:port",
            f"redis://:{ESCAPED}@localhost/db",
            f"redis://:{ESCAPED}@localhost/-1",
            f"redis://:{ESCAPED}%zz@localhost",
            f"unix://:{ESCAPED}@relative.sock",
            "unix://",
        ],
    )
    def test_not_an_address(self, url):
        result = run("--check", STORE="redis", REDIS_URL=url)
        assert result.returncode == 2
        assert "REDIS_URL" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert_no_secret(result.stdout + result.stderr)

    def test_tls_names_the_way(self):
        result = run("--check", STORE="redis", REDIS_URL=f"rediss://:{ESCAPED}@localhost:6379")
        assert result.returncode == 2
        assert "docs/redis.md" in result.stderr
        assert_no_secret(result.stdout + result.stderr)

    def test_there_is_no_flag(self):
        result = run("--check", "--redis-url", "redis://localhost", STORE="redis")
        assert result.returncode == 2

    def test_masked(self):
        url = f"redis://chat:{ESCAPED}@localhost:6379/1"
        result = run("--print-config", STORE="redis", REDIS_URL=url)
        assert result.returncode == 0
        assert "REDIS_URL" in result.stdout
        assert_no_secret(result.stdout + result.stderr)


class TestOldRedis:
    def test_it_is_refused_by_name(self, start_stack):
        stack = start_stack(STORE="redis", brokers=0, haproxy=False, api=False)
        version = stack.redis.call("INFO", "server").partition("redis_version:")[2].split()[0]
        old = "6.2.14".ljust(len(version), "0")[: len(version)]

        def changer():
            return lambda data: data.replace(
                f"redis_version:{version}".encode(), f"redis_version:{old}".encode()
            )

        relay = Relay(stack.redis.address, changer)
        try:
            broker = stack.add_broker(REDIS_URL=relay.redis_url, wait_ready=False)
            until("it says so", lambda: old in broker.log())
            line = next(line for line in broker.log().splitlines() if old in line)
            assert "7.0" in line
            assert broker.http("/readyz").status == 503
            # An upgrade later it is fine, without a restart.
            relay.changer = lambda: bytes
            relay.cut()
            until("it is ready", lambda: broker.http("/readyz").status == 200)
        finally:
            broker.stop()
            relay.close()
