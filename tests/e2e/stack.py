"""The whole chat, as users run it, in a temporary folder on free ports.

    class TestSomething:
        SETTINGS = {"HISTORY_LIMIT": 5, "RATE_MESSAGES": 0}     # optional; see Stack

        def test_one_behaviour(self, stack):                    # fixtures: conftest.py
            alice = stack.connect("alice")                      # logged in, through HAProxy
            bob = stack.connect("bob", direct=True)             # straight to the broker
            raw = stack.connect(raw=True, path="/chat?x=1")     # frames by hand, not logged in
            alice.send("message", message="hi")
            assert bob.receive()["message"] == "hi"

        def test_with_its_own(self, start_stack):               # a stack for this test alone
            stack = start_stack(LOGIN_TIMEOUT_S=1, api=False)

The `stack` fixture is one per class and started once, so tests of a class share the log (the
history) and should use names of their own. Clients are closed after each test.

- `stack.http("GET", "/api")` asks HAProxy; `stack.broker.http("/readyz")` the broker's LISTEN,
  `stack.broker.ops("/metrics")` its OPS_LISTEN; all answer a `Response`.
- `stack.api`, `stack.broker` (= `stack.brokers[0]`), `stack.haproxy` are `Program`s: `stop()`
  (SIGTERM, and our programs must exit with 0), `kill()`, `start()` again on the same ports, `pid`,
  `log()`, `rss()`.
- `until(what, probe)` polls with a deadline: never sleep for luck.
- With STORE="redis" a Redis of the stack's own runs too: `stack.redis.call("XLEN", key)`. It is a
  `Program` as well, so it can be killed and started again (with its append-only file); any program
  can be paused (SIGSTOP) and resumed. See Stack for replicas, and for relays in front of it.
- At the end every program is stopped like that; one that died by itself, or a sanitizer's report
  in any log, fails the test. Logs are shown with a failure.

Client helpers are in client.py.
"""

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from client import TIMEOUT_S, Client, RawClient
from port import Port
from relay import Relay
from resp import Connection, RedisError

REPO = Path(__file__).resolve().parents[2]
BUILD = REPO / os.environ.get("HLCHAT_BUILD", "build")
SANITIZED = BUILD.name == "sanitize"

START_S = 40  # a sanitized program on a busy machine
STOP_S = 40

# As tests/run.sh sets them, for pytest run by hand: freed memory is kept for a while, but not so
# much of it that a test of memory bounds sees it.
os.environ.setdefault("ASAN_OPTIONS", "detect_stack_use_after_return=1:quarantine_size_mb=16")
os.environ.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")

SANITIZER_REPORT = re.compile(
    r"(ERROR|WARNING): \w+Sanitizer|runtime error:|HEAP CORRUPTION|double free"
)


def until(what, probe, timeout=TIMEOUT_S, interval=0.02):
    """Polls until `probe()` is true and returns that; the deadline is an AssertionError."""
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(interval)


# Addresses ----------------------------------------------------------------------------------------


@dataclass
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def text(self):
        return self.body.decode()


def open_socket(address, timeout=TIMEOUT_S, tls=None):
    """A connected socket to ("127.0.0.1", port) or to a unix socket's path; tls: an SSLContext."""
    if isinstance(address, tuple):
        sock = socket.create_connection(address, timeout)
        # Small writes one after the other would wait for each other's acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(sock, server_hostname="localhost") if tls else sock
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def unverified_tls():
    """For servers whose certificate has signed itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def http_request(address, method, path, headers=None, body=None, timeout=TIMEOUT_S, tls=None):
    """One HTTP/1.1 request on a connection of its own."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    connection.sock = open_socket(address, timeout, tls)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


# Programs -----------------------------------------------------------------------------------------


def freeze(pid):
    """SIGSTOP to a child, and waits for it: until then some of its threads may go on."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def program_name(pid):
    """What a process was started as, without its folder; "" when it is gone.

    (Its `comm` is the name of the file: redis-check-rdb, where only Debian's redis-tools is there.)
    """
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
    # Redis writes more into its first argument, behind a space.
    return Path(arguments.split("\0")[0].split(" ")[0]).name


class Program:
    """One process of the stack; it can be started, stopped and started again."""

    def __init__(self, stack, name):
        self.stack = stack
        self.name = name
        self.log_path = stack.folder / f"{name}.log"
        self.ports = {}
        self.relay = None  # on its way to Redis
        self.tls = None  # an SSLContext, for who connects to it
        self.problems = []  # found while it ran, reported by Stack.close
        self.paused, self.resumed_at = False, 0.0
        self._process = None
        self._ever_ready = False

    # what a kind of program defines
    port_names = ()
    exit_statuses = (0,)  # after SIGTERM

    def command(self):
        raise NotImplementedError

    def environment(self):
        raise NotImplementedError

    def is_ready(self):
        raise NotImplementedError

    def start(self):
        """Starts it and waits until it serves."""
        assert not self.running, f"{self.name} is running already"
        for attempt in range(5):
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._spawn()
            try:
                until(f"{self.name} ready", lambda: self._exited() or self._probe(), START_S)
            except AssertionError:
                self.kill()
                raise AssertionError(f"{self.name} is not ready:\n{self.log()}") from None
            if self.running:
                self._ever_ready = True
                return self
            status, self._process = self._process.returncode, None
            taken = re.search(r"(?i)in use", self.log()[log_start:])
            if not taken or self._ever_ready or attempt == 4:
                raise AssertionError(f"{self.name} exited with {status}:\n{self.log()}")
            self._pick_ports()
        return self

    def _pick_ports(self):
        for port in self.ports.values():
            port.release()
        self.ports = {name: Port() for name in self.port_names}

    def _spawn(self, **more):
        command = self.command()
        assert Path(command[0]).exists(), f"{command[0]} is not there: run make"
        environment = {
            "PATH": os.environ["PATH"],
            "TZ": "America/St_Johns",  # timestamps must be UTC whatever the zone
            **{k: v for k, v in os.environ.items() if k == "STORE_PROGRAM"},
            **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")},
            **self.environment(),
            **more,
        }
        with self.log_path.open("ab") as log:
            # setpriv: nothing outlives a test run that was killed
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={name: str(value) for name, value in environment.items()},
                cwd=self.stack.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _exited(self):
        return self._process.poll() is not None

    def _probe(self):
        try:
            return self._has_its_ports() and self.is_ready()
        except (OSError, http.client.HTTPException):
            return False

    def _has_its_ports(self):
        """Whether it is this process that listens there, and not one that had the port before."""
        return self._listens_on(self.pid) == list(self.ports)

    def _listens_on(self, pid):
        """Those of its ports that a process listens on."""
        listening = {}
        with open("/proc/net/tcp") as table:
            next(table)
            for line in table:
                _, local, _, state, *_, inode = line.split()[:10]
                if state != "0A":
                    break  # Those that listen come first; the others are thousands, and slow.
                listening[int(local.partition(":")[2], 16)] = f"socket:[{inode}]"
        fds = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        return [name for name, port in self.ports.items() if listening.get(port.number) in fds]

    @property
    def running(self):
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self):
        return self._process.pid

    def signal(self, number=signal.SIGTERM):
        self._process.send_signal(number)

    def wait(self, timeout=STOP_S):
        """Waits for the end and returns the exit status (a signal: negative)."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop in {timeout} s") from None
        self._process = None
        return status

    def stop(self, timeout=STOP_S):
        """SIGTERM; the exit status must be the right one."""
        self.signal()
        status = self.wait(timeout)
        assert status in self.exit_statuses, f"{self.name}: exit status {status}\n{self.log()}"

    def pause(self):
        """SIGSTOP: it is there and does nothing; on return, none of its threads does."""
        self.paused = True
        freeze(self.pid)

    def resume(self):
        self.signal(signal.SIGCONT)
        self.paused, self.resumed_at = False, time.monotonic()

    def kill(self):
        """SIGKILL, as by the kernel."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def rss(self):
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+) kB", status).group(1)) * 1024

    def _begin_end(self):
        if self._process is None:
            return
        if self._exited():
            self.problems.append(f"{self.name} died by itself, exit status {self.wait()}")
        else:
            self.resume()
            self.signal()

    def _finish_end(self):
        if self._process is not None:
            try:
                status = self.wait()
                if status not in self.exit_statuses:
                    self.problems.append(f"{self.name}: exit status {status} after SIGTERM")
            except AssertionError as problem:
                self.problems.append(str(problem))
        report = SANITIZER_REPORT.search(self.log())
        if report:
            self.problems.append(f"{self.name}: {report.group(0)} in its log")
        for port in self.ports.values():
            port.release()


class Server(Program):
    """What listens at LISTEN or FCGI_LISTEN: a port, or a unix socket if the stack says so."""

    _notify = None

    def _spawn(self):
        # What it tells systemd. Nobody but root can look into a broker for its sockets.
        path = self.stack.folder / f"{self.name}.notify.sock"
        path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(path))
        self._notify.setblocking(False)
        super()._spawn(NOTIFY_SOCKET=path)

    def _has_its_ports(self):
        if self._notify:
            self._notify.recv(100)  # READY=1; an OSError before that
            self._notify.close()
            self._notify = None
        return True

    def address(self, name="listen"):
        if name in self.ports:
            return ("127.0.0.1", self.ports[name].number)
        return str(self.stack.folder / f"{self.name}.{name}.sock")

    def setting(self, name="listen"):
        """The address as our settings write it."""
        address = self.address(name)
        return f"127.0.0.1:{address[1]}" if isinstance(address, tuple) else f"unix:{address}"

    def haproxy_name(self):
        """The address as HAProxy writes it."""
        return self.setting().replace("unix:", "unix@")


class Api(Server):
    @property
    def port_names(self):
        return () if self.stack.unix else ("listen",)

    def command(self):
        return [str(BUILD / "api-fcgi"), *self.stack.flags]

    def environment(self):
        return {**self.stack.settings, "FCGI_LISTEN": self.setting()}

    def is_ready(self):
        open_socket(self.address()).close()
        return True


class Redis(Program):
    """A private Redis, or a Valkey by STORE_PROGRAM. `config`: lines of redis.conf,
    {"maxmemory": "1mb"}, beside ours."""

    port_names = ("port",)
    cli = shutil.which("redis-cli") or shutil.which("valkey-cli")

    def __init__(self, stack, name, config=()):
        super().__init__(stack, name)
        self.config = dict(config)
        self.password = self.config.get("requirepass")  # what call() authenticates with
        self.unix = str(stack.folder / f"{name}.sock")

    def address(self):
        return ("127.0.0.1", self.ports["port"].number)

    def url(self):
        return f"redis://127.0.0.1:{self.address()[1]}"

    def command(self):
        program = REPO / "shared" / "scripts" / "redis-server.sh"
        folder = self.stack.folder / self.name
        folder.mkdir(exist_ok=True)
        config = {
            "port": self.address()[1],
            "bind": "127.0.0.1",
            "unixsocket": self.unix,
            "dir": folder,
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "repl-diskless-sync-delay": 0,
            **self.config,
        }
        # Not arguments: passwords would be there for all to see.
        file = folder / "redis.conf"
        file.write_text("".join(f"{name} {value}\n" for name, value in config.items()))
        return [str(program), str(file)]

    def environment(self):
        return {}

    def is_ready(self):
        try:
            role = self.call("ROLE")
        except RedisError:  # LOADING
            return False
        return role[0] == "master" or role[3] == "connected"

    def open(self, timeout=TIMEOUT_S):
        """A connection with all rights."""
        connection = Connection(self.address(), timeout)
        if self.password is not None:
            connection.call("AUTH", self.password)
        return connection

    def call(self, *words):
        """One command on a connection of its own."""
        with self.open() as connection:
            return connection.call(*words)

    def transaction(self, *commands):
        """MULTI, the commands, EXEC: their replies."""
        with self.open() as connection:
            connection.call("MULTI")
            for words in commands:
                connection.call(*words)
            return connection.call("EXEC")


class Broker(Server):
    def __init__(self, stack, name, settings=()):
        super().__init__(stack, name)
        self.settings = dict(settings)  # its own, above those of the stack
        self.wait_ready = True  # False: start() waits until it lives only

    @property
    def port_names(self):
        return ("ops",) if self.stack.unix else ("listen", "ops")

    def command(self):
        return [str(BUILD / "ws-broker"), *self.stack.flags]

    def environment(self):
        redis = self.relay.redis_url if self.relay else self.stack.redis and self.stack.redis.url()
        return {
            **({"REDIS_URL": redis} if redis else {}),
            **self.stack.settings,
            **self.settings,
            "LISTEN": self.setting("listen"),
            "OPS_LISTEN": self.setting("ops"),
        }

    def is_ready(self):
        return self.http("/readyz" if self.wait_ready else "/healthz").status == 200

    def http(self, path, method="GET", headers=None):
        return http_request(self.address(), method, path, headers)

    def ops(self, path, method="GET"):
        return http_request(self.address("ops"), method, path)

    def metrics(self):
        """{'name{label="value"}': number} of /metrics."""
        lines = self.ops("/metrics").text().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}


class HAProxy(Program):
    """With a TLS_CERT players come by HTTPS, and the port "http" leads them there."""

    def __init__(self, stack, name):
        super().__init__(stack, name)
        if "TLS_CERT" in stack.settings:
            self.tls = unverified_tls()
            # The websockets library reads and writes in two threads. Python's sockets do not stand
            # that while they take in what TLS 1.3 sends after the handshake: one request in a
            # hundred got stuck. RawClient and the HTTP/2 client do without threads.
            self.tls.maximum_version = ssl.TLSVersion.TLSv1_2

    @property
    def port_names(self):
        return ("http", "https", "ops") if self.tls else ("http", "ops")

    def address(self, name=None):
        """Where players come to; or that of a port."""
        return ("127.0.0.1", self.ports[name or ("https" if self.tls else "http")].number)

    def url(self):
        return "http{}://{}:{}".format("s" if self.tls else "", *self.address())

    @staticmethod
    def program():
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        program = shutil.which("haproxy", path=path)
        assert program, "haproxy is not installed: run make deps"
        return program

    @classmethod
    def version(cls):
        said = subprocess.check_output([cls.program(), "-v"], text=True)
        return tuple(map(int, re.search(r"version (\d+)\.(\d+)", said).groups()))

    def command(self):
        master = ["-W", "-S", self._master] if self.stack.reload else []
        return [self.program(), *master, "-db", "-f", str(REPO / "haproxy" / "haproxy.cfg")]

    @property
    def exit_statuses(self):
        # Without its master process it leaves by the signal; the master says how its last worker
        # left, or the one before a reload.
        return (128 + signal.SIGTERM, 0) if self.stack.reload else (-signal.SIGTERM,)

    @property
    def _master(self):
        return str(self.stack.folder / "master.sock")

    def workers(self):
        """The pids that the master tells of; none before it is past its own start."""
        try:
            with open_socket(self._master) as sock:
                sock.sendall(b"show proc\n")
                sock.shutdown(socket.SHUT_WR)
                return re.findall(r"^(\d+) +worker ", sock.makefile().read(), re.MULTILINE)
        except OSError:
            return []

    def reload(self):
        """As `systemctl reload`; returns when a new worker serves beside the old ones."""
        before = set(self.workers())
        self.signal(signal.SIGUSR2)
        until("HAProxy has a new worker", lambda: set(self.workers()) - before)
        until("it serves", self._probe)

    def _has_its_ports(self):
        if not self.stack.reload:
            return super()._has_its_ports()
        # (From HAProxy 3.1 on the master tells of a worker that has not read its configuration yet,
        # and the old one goes on listening until then.)
        listening = [names for pid in self.workers() if (names := self._listens_on(pid))]
        return listening == [list(self.ports)]

    def environment(self):
        ports = {name: port.number for name, port in self.ports.items()}
        servers = {f"BROKER_{i}": b.haproxy_name() for i, b in enumerate(self.stack.brokers, 1)}
        return {
            "HTTP_BIND": "127.0.0.1",
            "HTTP_PORT": ports["http"],
            "HTTPS_PORT": ports.get("https", ""),
            "HAPROXY_OPS_BIND": f"127.0.0.1:{ports['ops']}",
            "PAGE_DIR": REPO / "haproxy" / "page",
            "RUN_DIR": self.stack.folder,
            **{f"API_{i}": a.haproxy_name() for i, a in enumerate(self.stack.apis, 1)},
            **servers,
            **self.stack.settings,
        }

    def is_ready(self):
        status = http_request(self.address(), "GET", "/api", tls=self.tls).status
        return status == 200 or not self.stack.api.running


# The stack ----------------------------------------------------------------------------------------


class Stack:
    """Starts api-fcgi, the brokers and HAProxy; a context manager.

    Keyword arguments in upper case are settings (the names of --help) for all programs.
    api, haproxy: False leaves that one out (its address stays, `stack.api.start()` starts it).
    apis: how many (`stack.apis`).
    brokers: how many; none and `stack.add_broker(...)` for some with settings of their own.
    unix: api-fcgi and the brokers listen on unix sockets instead of ports.
    env_file: a dict of settings that api-fcgi and the brokers get by `--env-file` rather than in
    their environment, so that `stack.write_env_file(...)` and SIGHUP can change them.
    reload: HAProxy has a master process, so that `stack.haproxy.reload()` works.

    With STORE="redis": `redis` is its configuration as a dict, or False to leave it out (its
    address stays). replicas: how many follow it, each through a relay (`stack.replicas[0].relay`).
    relays: each broker reaches Redis through a relay of its own, `broker.relay` (relay.py).
    """

    live = []  # for conftest.py: whose logs to show, whose clients to close

    def __init__(
        self,
        *,
        api=True,
        apis=1,
        haproxy=True,
        brokers=1,
        unix=False,
        env_file=None,
        reload=False,
        redis=(),
        replicas=0,
        relays=False,
        **settings,
    ):
        unknown = [name for name in settings if not name.isupper()]
        assert not unknown, f"not a setting: {unknown}"
        # Not pytest's tmp_path: that one can be too long for a unix socket.
        self.folder = Path(tempfile.mkdtemp(prefix="hlchat-test-"))
        self.settings = settings
        self.flags = []
        if env_file is not None:
            self.env_file = self.folder / "chat.env"
            self.flags = ["--env-file", str(self.env_file)]
            self.write_env_file(env_file)
        self.unix = unix
        self.reload = reload
        self.clients = []
        self.apis = [Api(self, f"api-fcgi-{i}") for i in range(1, apis + 1)]
        self.brokers = [Broker(self, f"ws-broker-{i}") for i in range(1, brokers + 1)]
        self.haproxy = HAProxy(self, "haproxy")
        self.redis, self.replicas = None, []
        if settings.get("STORE") == "redis":
            self.redis = Redis(self, "redis", redis or ())
            self.replicas = [Redis(self, f"replica-{i}") for i in range(1, replicas + 1)]
        self._wanted = {
            **dict.fromkeys(self.apis, api),
            self.haproxy: haproxy,
            self.redis: redis is not False,
        }
        for program in self.programs:
            program._pick_ports()
        for broker in self.brokers if relays else []:
            broker.relay = Relay(self.redis.address)
        for replica in self.replicas:
            replica.relay = Relay(self.redis.address)
            replica.config["replicaof"] = "{} {}".format(*replica.relay.address)

    @property
    def api(self):
        return self.apis[0]

    @property
    def broker(self):
        return self.brokers[0]

    @property
    def programs(self):
        stores = [self.redis, *self.replicas] if self.redis else []
        return [*stores, *self.apis, *self.brokers, self.haproxy]

    def write_env_file(self, settings):
        """In place of the one before."""
        lines = (f"{name}={value}\n" for name, value in settings.items())
        self.env_file.write_text("".join(lines))

    def add_broker(self, *, wait_ready=True, **settings):
        """Starts one more, which HAProxy does not know; see Broker."""
        broker = Broker(self, f"ws-broker-{len(self.brokers) + 1}", settings)
        broker.wait_ready = wait_ready
        broker._pick_ports()
        self.brokers.append(broker)
        return broker.start()

    def __enter__(self):
        Stack.live.append(self)
        try:
            for program in self.programs:
                if self._wanted.get(program, True):
                    program.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind, value, trace):
        problems = self._end()
        if problems and kind is None:
            raise AssertionError("\n".join(problems))

    def _end(self):
        self.close_clients()
        # The store last: a broker finishes what it has begun.
        stores = [self.redis, *self.replicas] if self.redis else []
        for group in ([p for p in self.programs if p not in stores], stores):
            for program in group:
                program._begin_end()
            for program in group:
                program._finish_end()
        for program in self.programs:
            if program.relay:
                program.relay.close()
        problems = [problem for program in self.programs for problem in program.problems]
        if problems:
            problems += [f"--- {name}\n{text}" for name, text in self.logs()]
        Stack.live.remove(self)
        shutil.rmtree(self.folder, ignore_errors=True)
        return problems

    def logs(self, lines=100):
        """(name, the last lines) of every log that is not empty."""
        for program in self.programs:
            text = program.log().splitlines()
            if text:
                yield program.name, "\n".join(text[-lines:])

    def http(self, method, path, headers=None, body=None):
        """One request to HAProxy."""
        address, tls = self.haproxy.address(), self.haproxy.tls
        return http_request(address, method, path, headers, body, tls=tls)

    def connect(self, token=None, *, direct=False, raw=False, rcvbuf=None, **options):
        """A client on /chat, logged in when a token is given; see client.py for `options`.

        direct: not through HAProxy; True is the first broker, else the broker to connect to.
        """
        server = self.broker if direct is True else direct or self.haproxy
        sock = self._socket(server, rcvbuf)
        client = (RawClient if raw else Client)(sock, **options)
        self.clients.append(client)
        if token is not None:
            client.login(token)
        return client

    def connect_each(self, *tokens):
        """A client on each broker, straight to it."""
        pairs = zip(tokens, self.brokers, strict=True)
        return [self.connect(token, direct=broker) for token, broker in pairs]

    def _socket(self, server, rcvbuf):
        if rcvbuf is None:
            return open_socket(server.address(), tls=server.tls)
        # Has to be set before connecting, or the window has been told to the server already.
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(10)
        sock.connect(server.address())
        return sock

    def close_clients(self):
        for client in self.clients:
            client.close()
        self.clients.clear()
