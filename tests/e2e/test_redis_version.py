"""Which Redis is good enough: 7.0 and newer, and Valkey. docs/redis.md."""

import re
import socketserver
import threading

import pytest
from relay import Relay
from stack import until


class OldRedis(socketserver.ThreadingTCPServer):
    """Says of itself what an old one says, and notes what it is asked."""

    daemon_threads = True

    def __init__(self, version, client_info):
        super().__init__(("127.0.0.1", 0), _Link)
        self.commands = []
        self.connections = 0
        self.answers = {
            ("PING",): b"+PONG\r\n",
            ("INFO", "server"): bulk(
                f"# Server\r\nredis_version:{version}\r\nredis_git_sha1:00000000\r\n"
                f"redis_mode:standalone\r\nrun_id:{'5' * 40}\r\ntcp_port:6379\r\n"
            ),
            ("CLIENT", "INFO"): client_info,
        }
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def url(self):
        return f"redis://127.0.0.1:{self.server_address[1]}"


class _Link(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.connections += 1
        while words := self._command():
            self.server.commands.append(words)
            self.wfile.write(self.server.answers.get(words, b"-ERR unknown command\r\n"))

    def _command(self):
        """The words of the next one; none at the end."""
        try:
            count = int(self.rfile.readline()[1:] or 0)
            sizes_and_words = [(self.rfile.readline(), self.rfile.readline()) for _ in range(count)]
        except OSError:
            return ()
        return tuple(word[:-2].decode() for _, word in sizes_and_words)


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


@pytest.mark.parametrize(
    ("version", "client_info"),
    [
        ("6.2.14", bulk("id=7 addr=127.0.0.1:40000 laddr=127.0.0.1:6379 fd=8 name= age=0\n")),
        # It does not know what it is asked.
        ("5.0.14", b"-ERR Unknown subcommand or wrong number of arguments for 'INFO'. Try ...\r\n"),
    ],
)
def test_one_that_is_too_old_is_refused_by_name(start_stack, version, client_info):
    with OldRedis(version, client_info) as redis:
        stack = start_stack(STORE="redis", redis=False, brokers=0, haproxy=False, api=False)
        broker = stack.add_broker(REDIS_URL=redis.url(), wait_ready=False)
        until("it has tried again and again", lambda: redis.connections >= 8)
        told = re.findall(r"warn redis down link=(\w+) why=(.*)", broker.log())
        why = f'"Redis {version} is too old: 7.0 is needed"'
        links = ("follow", "minigame_follow", "minigame_publish", "publish")
        assert sorted(told) == [(link, why) for link in links], "once, not at each attempt"
        assert broker.http("/readyz").status == 503
        assert broker.http("/healthz").status == 200
        ann = stack.connect(direct=broker)
        ann.send("login", token="ann")
        assert "try again" in ann.error()
        assert set(redis.commands) <= set(redis.answers), "it is asked for nothing else"
        broker.stop()


def as_valkey():
    """For Relay: what Valkey 8 says in the same place, whatever comes in one piece."""

    def change(data):
        found = re.search(
            rb"\$(\d+)\r\n(# Server\r\n.*?)redis_version:[\d.]+"
            rb"(?:\r\nserver_name:valkey\r\nvalkey_version:[\d.]+)?",
            data,
            re.DOTALL,
        )
        if not found:
            return data
        said = b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1"
        more = len(said) - (found.end() - found.end(2))
        head = b"$%d\r\n%s%s" % (int(found[1]) + more, found[2], said)
        return data[: found.start()] + head + data[found.end() :]

    return change


def test_valkey_is_as_good(start_stack):
    """It tells the version of the Redis that it can stand in for, beside its own."""
    stack = start_stack(STORE="redis", brokers=0, haproxy=False, api=False)
    relay = Relay(stack.redis.address, as_valkey)
    try:
        broker = stack.add_broker(REDIS_URL=relay.redis_url)
        ann = stack.connect("ann", direct=broker)
        assert ann.ask("message", message="hi")["message"] == "hi"
        told = r"redis up link=\w+ version=7\.2\.4 valkey_version=8\.1\.1$"
        assert len(re.findall(told, broker.log(), re.M)) == 4
        broker.stop()
    finally:
        relay.close()
