"""haproxy/redis.cfg: one address that leads to the master, whichever Redis that is."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from certificate import make_certificate
from resp import Connection, RedisError
from stack import REPO, Program, Redis, Stack, until

# A failover takes about 5 s, and when the Sentinels' first election fails, 12 more.
FAILOVER_S = 40
pytestmark = pytest.mark.timeout(180)

CONFIG = REPO / "haproxy" / "redis.cfg"
DOC = (REPO / "docs" / "redis.md").read_text()

# With what HAProxy's own syntax knows as special.
PASSWORD = "pa%[env(HOME)],$ss"
CHECK_PASSWORD = "ch%eck)"
SENTINEL_PASSWORD = "se%[nt],inel"


# The file itself ----------------------------------------------------------------------------------

REQUIRED = {
    "REDIS_1": "127.0.0.1:6379",
    "REDIS_2": "[::1]:6379",
    **{f"SENTINEL_{i}": f"127.0.0.1:{26378 + i}" for i in range(1, 4)},
}
OPTIONAL = [
    "REDIS_3", "SENTINEL_NAME", "REDIS_BIND", "REDIS_USER", "REDIS_PASSWORD", "SENTINEL_PASSWORD",
    "TLS_CA",
]  # fmt: skip


def haproxy_program():
    program = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert program, "haproxy is not installed: run make deps"
    return program


def check(**environment):
    """What HAProxy says of the file; warnings are errors."""
    return subprocess.run(
        [haproxy_program(), "-dW", "-c", "-f", CONFIG],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )


class TestFile:
    @pytest.mark.parametrize(
        "optional",
        [
            {},
            dict.fromkeys(OPTIONAL, ""),
            {
                "REDIS_3": "localhost:6379",
                "SENTINEL_NAME": "chat",
                "REDIS_BIND": "unix@/tmp/redis.sock",
                "REDIS_USER": "haproxy",
                "REDIS_PASSWORD": PASSWORD,
                "SENTINEL_PASSWORD": SENTINEL_PASSWORD,
            },
        ],
        ids=["what is required", "empty is not set", "all"],
    )
    def test_valid(self, optional):
        result = check(**REQUIRED, **optional)
        assert result.returncode == 0, result.stderr

    def test_tls(self, tmp_path):
        ca = make_certificate(tmp_path / "ca.pem", tmp_path / "key.pem")
        result = check(**REQUIRED, TLS_CA=str(ca))
        assert result.returncode == 0, result.stderr

    @pytest.mark.parametrize("name", REQUIRED)
    @pytest.mark.parametrize("how", ["unset", "empty"])
    def test_what_is_missing_is_named(self, name, how):
        environment = dict(REQUIRED)
        if how == "unset":
            del environment[name]
        else:
            environment[name] = ""
        result = check(**environment)
        assert result.returncode == 1
        alerts = [line for line in result.stderr.splitlines() if "is not set" in line]
        assert len(alerts) == 1, result.stderr
        assert f"'{name} is not set" in alerts[0]


# What runs ----------------------------------------------------------------------------------------


class Node(Redis):
    """One that the others reach by TLS, if its stack says so; the test itself never does."""

    @property
    def port_names(self):
        return ("port", "tls") if self.stack.tls else ("port",)

    def reached_at(self):
        return ("127.0.0.1", self.ports["tls" if self.stack.tls else "port"].number)

    def tls_config(self):
        return {"tls-port": self.reached_at()[1], **self.stack.tls} if self.stack.tls else {}

    def command(self):
        self.config.update(self.tls_config())
        return super().command()


class Sentinel(Node):
    def command(self):
        program = super().command()[0]  # its file is not for a Sentinel
        file = self.stack.folder / self.name / "sentinel.conf"
        if not file.exists():  # a Sentinel writes into it what it learns
            documented = re.findall(r"^    (sentinel .*\n)", DOC, re.MULTILINE)
            assert len(documented) == 3
            master = "{} {}".format(*self.stack.nodes[0].reached_at())
            config = {**self.config, **self.tls_config()}
            if self.password:
                config["sentinel sentinel-pass"] = self.password
            file.write_text(
                f"port {self.address()[1]}\n"
                "bind 127.0.0.1\n"
                f"dir {file.parent}\n"
                f"{''.join(documented).replace('10.0.0.1 6379', master)}"
                "sentinel auth-user chat sentinel\n"
                f"sentinel auth-pass chat {PASSWORD}\n"
                + "".join(f"{name} {value}\n" for name, value in config.items())
            )
        return [program, str(file), "--sentinel"]

    def environment(self):
        return {"LD_PRELOAD": self.stack.preload} if self.stack.preload else {}

    def is_ready(self):
        return self.call("PING") == "PONG"

    def knows_all(self):
        """Without the others' consent and a replica there is no failover."""
        words = self.call("SENTINEL", "MASTER", "chat")
        facts = dict(zip(words[::2], words[1::2], strict=True))
        return facts["num-other-sentinels"] == "2" and facts["num-slaves"] == "1"


SLOW_DISK = """
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int fd) { usleep(250000); return (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { usleep(250000); return (int)syscall(SYS_fdatasync, fd); }
"""


class HAProxyOfRedis(Program):
    port_names = ("bind",)
    nodes = None  # in another order than the stack's, where the master is the first one

    def address(self):
        return ("127.0.0.1", self.ports["bind"].number)

    def command(self):
        return [haproxy_program(), "-db", "-f", str(CONFIG)]

    def environment(self):
        def named(kind, programs):
            addresses = ("{}:{}".format(*program.reached_at()) for program in programs)
            return {f"{kind}_{i}": address for i, address in enumerate(addresses, 1)}

        return {
            **named("REDIS", self.nodes or self.stack.nodes),
            **named("SENTINEL", self.stack.sentinels),
            "SENTINEL_NAME": "chat",
            "REDIS_BIND": "{}:{}".format(*self.address()),
            "REDIS_USER": "haproxy",
            "REDIS_PASSWORD": CHECK_PASSWORD,
            **(
                {"SENTINEL_PASSWORD": self.stack.sentinel_password}
                if self.stack.sentinel_password
                else {}
            ),
            "TLS_CA": self.stack.tls.get("tls-ca-cert-file", ""),
        }

    def is_ready(self):
        return True


class Front:
    """A master, a replica, three Sentinels and HAProxy; a context manager.

    locked: the Sentinels have a password, and all speak TLS. preload: a library for the Sentinels
    to load first.
    """

    def __init__(self, locked=False, preload=None):
        self.preload = preload
        self.folder = Path(tempfile.mkdtemp(prefix="hlchat-test-"))
        self.tls = self._certificate() if locked else {}
        self.sentinel_password = SENTINEL_PASSWORD if locked else None
        rights = re.search(r"`user haproxy (.*?)`", DOC)[1]
        config = {
            "requirepass": PASSWORD,
            "masterauth": PASSWORD,
            "user haproxy": rights.replace("SECRET", CHECK_PASSWORD),
            "user sentinel": f"on >{PASSWORD} allchannels +@all",
        }
        self.nodes = [Node(self, name, config) for name in ("redis-a", "redis-b")]
        lock = {"requirepass": SENTINEL_PASSWORD} if locked else {}
        self.sentinels = [Sentinel(self, f"sentinel-{i}", lock) for i in range(1, 4)]
        self.haproxy = HAProxyOfRedis(self, "haproxy")
        self.programs = [*self.nodes, *self.sentinels, self.haproxy]

    def _certificate(self):
        """One for all, which is its own CA; as lines of redis.conf."""
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
            + ["-subj", "/CN=chat", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        return {
            "tls-cert-file": certificate,
            "tls-key-file": key,
            "tls-ca-cert-file": certificate,
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }

    def __enter__(self):
        Stack.live.append(self)
        for program in self.programs:
            program._pick_ports()
        try:
            master, replica = self.nodes
            master.start()
            replica.config["replicaof"] = "{} {}".format(*master.reached_at())
            replica.start()
            until("it replicates", lambda: "state=online" in master.call("INFO", "replication"), 30)
            for sentinel in self.sentinels:
                sentinel.start()
            for sentinel in self.sentinels:
                until("the Sentinels know all", sentinel.knows_all, 30)
            self.haproxy.start()
        except BaseException as error:
            error.add_note("\n".join(f"--- {name}\n{text}" for name, text in self.logs()))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        Stack.live.remove(self)
        for program in reversed(self.programs):
            if program.running:
                program.kill()
            for port in program.ports.values():
                port.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    logs = Stack.logs  # conftest.py shows them with a failure

    def close_clients(self):
        """Those of a test end by themselves."""

    def url(self):
        return "redis://:{}@{}:{}".format(quote(PASSWORD, safe=""), *self.haproxy.address())

    def open(self):
        """A connection through HAProxy; OSError when there is no master."""
        connection = Connection(self.haproxy.address(), timeout=2)
        try:
            connection.call("AUTH", PASSWORD)
        except BaseException:
            connection.__exit__()
            raise
        return connection

    def reached(self):
        """Which Redis a new connection leads to; None: to none."""
        try:
            with self.open() as connection:
                port = int(connection.call("CONFIG", "GET", "port")[1])
        except OSError:
            return None
        return next(node for node in self.nodes if node.address()[1] == port)

    def leads_to(self, redis):
        """A connection that is refused once may be due to a busy machine; a wrong one never is."""
        return until("some Redis is reached", self.reached) is redis

    def can_write(self):
        try:
            with self.open() as connection:
                return connection.call("SET", "written", "1") == "OK"
        except (OSError, RedisError):
            return False


def role(redis):
    # On becoming a replica it closes connections.
    return until("it tells its role", lambda: suppressed(lambda: redis.call("ROLE")))[0]


@pytest.fixture
def front(request):
    with Front(**getattr(request, "param", {})) as running:
        yield running


def hosts_doc(title):
    """The commands of one chapter of docs/hosts.md."""
    text = (REPO / "docs" / "hosts.md").read_text()
    chapter = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^ {4,}(.*)$", chapter, re.MULTILINE)


def test_a_backup_is_restored(front, tmp_path):
    """As docs/hosts.md says; the Sentinels and the replica then have what the master has."""
    master, replica = front.nodes
    root, bin_ = tmp_path / "root", tmp_path / "bin"
    for folder in (root / "etc/redis", root / "var/lib", bin_):
        folder.mkdir(parents=True)
    (root / "var/lib/redis").symlink_to(front.folder / master.name)
    (bin_ / "redis-cli").write_text(f'#!/bin/sh\nexec {Redis.cli} -p {master.address()[1]} "$@"\n')
    (bin_ / "redis-cli").chmod(0o755)

    def play(lines):
        script = "\n".join(lines)
        script = script.replace("-C /", f"-C {root}").replace("rm -rf /", f"rm -rf {root}/")
        assert " /" not in script.replace(f" {root}", "")  # nothing of this machine's
        done = subprocess.run(
            ["bash", "-euc", script], cwd=tmp_path, check=False, capture_output=True, text=True,
            timeout=60, env={"PATH": f"{bin_}:{os.environ['PATH']}", "REDISCLI_AUTH": PASSWORD},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    master.call("SET", "said", "before")
    play(hosts_doc("Backup"))
    master.call("SET", "said", "after")
    until("the replica has it", lambda: replica.call("GET", "said") == "after")

    for sentinel in front.sentinels:
        sentinel.stop()
    stop, *files, start = hosts_doc("Restore")
    assert (stop, start) == ("systemctl stop redis-server", "systemctl start redis-server")
    master.stop()
    play(files)
    master.start()
    until("the replica follows", lambda: "state=online" in master.call("INFO", "replication"), 30)
    until("it has what the master has", lambda: replica.call("GET", "said") == "before", 30)
    for sentinel in front.sentinels:
        sentinel.start()
    until("writing works", front.can_write)
    assert front.leads_to(master)
    assert master.call("GET", "said") == "before"
    assert role(replica) == "slave"


def test_no_other_than_the_master_from_the_first_moment(front):
    master, replica = front.nodes
    replica.pause()  # so that it takes a while until HAProxy knows better
    for nodes in ([master, replica], [replica, master]):
        front.haproxy.kill()
        front.haproxy.nodes = nodes
        earlier = len(front.haproxy.log())
        front.haproxy.start()
        until("the master is found", lambda: front.reached() is master, interval=0.005)
        wrong = f"server=redis_{1 + nodes.index(replica)} "
        assert wrong not in front.haproxy.log()[earlier:]
    assert PASSWORD not in front.haproxy.log()
    assert CHECK_PASSWORD not in front.haproxy.log()


class TestMasterDies:
    def test_writing_goes_on_and_the_old_master_gets_nothing(self, front):
        old, new = front.nodes
        until("writing works", front.can_write)
        old.kill()
        began = time.monotonic()
        until("writing works again", front.can_write, FAILOVER_S)
        gap = time.monotonic() - began
        print(f"kill -9 of the master: writing worked again after {gap:.1f} s")
        assert front.leads_to(new)
        # It takes itself for the master until a Sentinel tells it better.
        old.start()
        assert role(old) == "master"
        deadline = time.monotonic() + 60
        while role(old) == "master":
            assert time.monotonic() < deadline
            assert front.leads_to(new)
            until("writing works", front.can_write)
            stats = until("statistics", lambda: suppressed(lambda: old.call("INFO", "all")))
            assert "cmdstat_set" not in stats or "role:master" not in stats
        assert front.leads_to(new)
        until("it has what was written meanwhile", lambda: old.call("GET", "written") == "1")

    def test_also_when_the_sentinels_have_slow_disks(self, tmp_path):
        """They stand still while they write down what is new: nobody is dead for that."""
        library = tmp_path / "slow.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library],
            input=SLOW_DISK, check=True, text=True,
        )  # fmt: skip
        with Front(preload=library) as front:
            self.test_writing_goes_on_and_the_old_master_gets_nothing(front)


class TestMasterOutvoted:
    def test_who_is_connected_comes_to_the_new_master(self, front):
        """The Sentinels cannot reach the master, while HAProxy and the brokers can."""
        old, new = front.nodes
        connection = until("there is a master", lambda: suppressed(front.open))
        with connection:
            assert connection.call("SET", "before", "1") == "OK"
            old.call("ACL", "SETUSER", "sentinel", "off")
            old.call("CLIENT", "KILL", "USER", "sentinel")
            until("the connection is cut", lambda: not alive(connection), FAILOVER_S)
        until("writing works again", front.can_write, FAILOVER_S)
        assert role(old) == "master"
        assert front.leads_to(new)


class TestSentinels:
    def test_late_ones_keep_nobody_out(self, front):
        master, _ = front.nodes
        until("there is a master", lambda: front.reached() is master)
        front.sentinels[0].pause()
        front.sentinels[1].pause()
        began = time.monotonic()
        while True:
            reached = front.reached()
            if time.monotonic() - began > 3:
                break
            assert reached is master
        until("two are lost", lambda: front.reached() is None)
        front.sentinels[0].resume()
        until("one is back", lambda: front.reached() is master)

    def test_lost_ones_cut_nobody_off_and_let_nobody_in(self, front):
        master, _ = front.nodes
        with until("there is a master", lambda: suppressed(front.open)) as connection:
            front.sentinels[0].kill()
            front.sentinels[1].kill()
            until("one is no majority", lambda: front.reached() is None)
            assert connection.call("SET", "still", "here") == "OK"
            front.sentinels[0].start()
            until("two are", lambda: front.reached() is master)
            assert connection.call("GET", "still") == "here"


@pytest.mark.parametrize("front", [{"locked": True}], indirect=True, ids=["locked"])
class TestChat:
    def test_it_goes_on_by_itself(self, front, start_stack):
        stack = start_stack(
            STORE="redis", REDIS_URL=front.url(), redis=False, brokers=2, RATE_MESSAGES=0
        )
        clients = [stack.connect("ann"), stack.connect("bob")]
        ann = clients[0]
        ann.send("message", message="before")
        for client in clients:
            assert client.receive()["message"] == "before"
        front.nodes[0].kill()
        began = time.monotonic()
        number = 0
        while True:  # one at a time, until one gets through
            number += 1
            ann.send("message", message=str(number))
            answer = ann.receive(20)
            if "error" not in answer:
                break
            assert time.monotonic() - began < FAILOVER_S, answer
        gap = time.monotonic() - began
        print(f"kill -9 of the master: chatting worked again after {gap:.1f} s")
        assert answer["message"] == str(number)
        assert clients[1].receive(20) == answer
        newest = [json.dumps(client.history(limit=2)) for client in clients]
        assert newest[0] == newest[1]
        until("both are ready", lambda: all(broker.is_ready() for broker in stack.brokers))


def suppressed(call):
    with suppress(OSError):
        return call()
    return None


def alive(connection):
    try:
        return connection.call("PING") == "PONG"
    except OSError:
        return False
