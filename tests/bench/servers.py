"""The servers that `make bench` compares, and the programs that measure them.

Ours are those of the end-to-end tests (e2e/stack.py). The peers get what they need from package
registries into build/bench; one that cannot be had, or does not start, is Absent with a reason.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from port import Port
from stack import BUILD, REPO, Stack, open_socket, until

PEERS = Path(__file__).parent / "peers"
PLACE = REPO / "build" / "bench"
NGINX = PLACE / "nginx"
FRAME_BYTES = 180  # of the text that each client receives

# What our broker makes of a message. The others hand on what they get, so they are sent this.
ENVELOPE = '{"user_id":"dev-user-0","timestamp":1666259380,"message":"%m","nickname":"user-0"}'
TEXT_BYTES = FRAME_BYTES - len(ENVELOPE.replace("%m", ""))


class Absent(Exception):
    """Why a peer is not there."""


@dataclass
class Server:
    name: str
    addresses: list[str]
    pids: dict[str, int]  # whose CPU time counts
    options: dict = field(default_factory=dict)  # of chatload

    def cpu_ticks(self):
        """0 when it is dead: chatload tells that."""
        ticks = 0
        for pid in self.pids.values():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text()
                ticks += sum(int(n) for n in stat.rpartition(") ")[2].split()[11:13])
        return ticks


up = []  # all servers that run now


def cpu_s_used():
    """Of this program, of all that it has run and of the servers that run now."""
    times = os.times()
    ticks = sum(server.cpu_ticks() for server in up)
    return sum(times[:4]) + ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(server):
    up.append(server)
    try:
        yield server
    finally:
        up.remove(server)


def settle():
    """Waits until no server has anything to do: the clients of the last run are gone."""
    deadline = time.monotonic() + 5
    before = [-1] * len(up)
    while (now := [server.cpu_ticks() for server in up]) != before:
        if time.monotonic() > deadline:
            busy = [s.name for s, a, b in zip(up, before, now, strict=True) if a != b]
            print(f"bench: still busy after 5 s: {', '.join(busy)}", file=sys.stderr, flush=True)
            return
        before = now
        time.sleep(0.1)


started = []  # chatloads
# What chatload was called with, for the report; the keys of a dict are a set that keeps order.
commands = {}
more_options = {}  # {server's name: options} that all of its runs have


def start_chatload(server, **options):
    """Options as in chatload's --help, with _ for -."""
    where, what, peer = [], [], []
    for address in server.addresses:
        where += ["--connect", address]
    for name, pid in server.pids.items():
        where += ["--pid", f"{name}={pid}"]
    for name, value in server.options.items():
        peer += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    for name, value in {"size": TEXT_BYTES, "warm_up": 0.5, **options}.items():
        what += [f"--{name.replace('_', '-')}", str(value)]
    commands[f"chatload --connect ADDRESS --pid NAME=PID {shlex.join(what)}"] = True
    if peer:
        more_options[server.name] = shlex.join(peer)
    command = [str(BUILD / "bench" / "chatload"), *where, *peer, *what]
    started.append(
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )
    return started[-1]


def end_chatloads():
    """What a part that failed has left behind."""
    for running in started:
        running.kill()
        running.wait()
    started.clear()


def report_of(running):
    out, error = running.communicate(timeout=300)
    if running.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(running.args)}: {error}")
    return json.loads(out)


def chatload(server, **options):
    settle()
    return report_of(start_chatload(server, **options))


def faults(report):
    """What was wrong with a run, in words; empty for a good one."""
    kinds = ("failed", "lost", "duplicates", "reordered", "altered", "undelivered", "errors")
    found = [f"{report[kind]} {kind}" for kind in kinds if report[kind]]
    return ", ".join(found + [f"{n} closed {code}" for code, n in report["closed"].items()])


# ours -------------------------------------------------------------------------------------------


def text(address):
    return "{}:{}".format(*address) if isinstance(address, tuple) else f"unix:{address}"


@contextlib.contextmanager
def hlchat(name, *, haproxy=False, brokers=1, **settings):
    """HAProxy reaches the brokers by unix sockets, as with `make run`."""
    settings = {"RATE_MESSAGES": 0, **settings}
    with Stack(api=haproxy, haproxy=haproxy, brokers=brokers, unix=haproxy, **settings) as stack:
        programs = stack.brokers + [stack.haproxy] * haproxy + [stack.redis] * bool(stack.redis)
        addresses = [stack.haproxy] if haproxy else stack.brokers
        server = Server(
            name, [text(p.address()) for p in addresses], {p.name: p.pid for p in programs}
        )
        server.stack = stack
        with serving(server):
            yield server


# the others -------------------------------------------------------------------------------------


@contextlib.contextmanager
def program(name, command, log, port, helpers=(), pid_of=lambda process: process.pid, **options):
    """One that listens on `port` once it is ready."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, command)], stdout=out, stderr=out
        )
    try:

        def listens():
            if process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise Absent(f"it does not start: {lines[-1] if lines else 'no reason given'}")
            try:
                open_socket(("127.0.0.1", port.number)).close()
            except OSError:
                return False
            return True

        until(f"{name} listens", listens, 30)
        pids = {name: pid_of(process), **{helper.name: helper.pid for helper in helpers}}
        plain = {"login": "", "message": ENVELOPE}
        with serving(
            Server(name, [f"127.0.0.1:{port.number}"], pids, {**plain, **options})
        ) as server:
            yield server
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


@contextlib.contextmanager
def on_a_port():
    port = Port()
    try:
        yield port
    finally:
        port.release()


@contextlib.contextmanager
def sendloop(name, how):
    with on_a_port() as port:
        command = [BUILD / "bench" / "sendloop", f"127.0.0.1:{port.number}", how]
        with program(name, command, PLACE / f"sendloop-{how}.log", port) as server:
            yield server


def quietly(command, **options):
    """Runs an installing command; its last words are the reason why the peer is absent."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **options,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(str(error)) from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Absent(f"{command[0]}: {lines[-1] if lines else 'failed'}")


@contextlib.contextmanager
def nchan(name):
    """Debian's packages, unpacked: installed they would start a service on port 80."""
    nginx = NGINX / "usr" / "sbin" / "nginx"
    if not nginx.exists():
        shutil.rmtree(NGINX, ignore_errors=True)
        NGINX.mkdir(parents=True)
        quietly(["apt-get", "download", "-q", "nginx", "libnginx-mod-nchan"], cwd=NGINX)
        for package in NGINX.glob("*.deb"):
            quietly(["dpkg-deb", "-x", package, NGINX])
    run = NGINX / "run"
    run.mkdir(exist_ok=True)
    with on_a_port() as port:
        config = (PEERS / "nchan.conf").read_text()
        for word, value in {"PREFIX": NGINX, "RUN": run, "PORT": port.number}.items():
            config = config.replace(f"@{word}@", str(value))
        (run / "nginx.conf").write_text(config)

        def worker(process):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            return int(until("nginx has a worker", lambda: children.read_text().split())[0])

        command = [nginx, "-e", run / "nginx.log", "-c", run / "nginx.conf"]
        with program(name, command, run / "out.log", port, pid_of=worker) as server:
            yield server


def python_of_peers():
    venv = PLACE / "venv"
    wanted = PEERS / "requirements.txt"
    stamp = venv / "stamp"
    if not stamp.exists() or stamp.stat().st_mtime < wanted.stat().st_mtime:
        shutil.rmtree(venv, ignore_errors=True)
        quietly([sys.executable, "-m", "venv", venv])
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        quietly([*pip, "--require-virtualenv", "-r", wanted])
        stamp.touch()
    return venv / "bin" / "python"


@contextlib.contextmanager
def uwebsockets(name):
    python = python_of_peers()
    with on_a_port() as port:
        command = [python, PEERS / "uws_chat.py", port.number]
        with program(name, command, PLACE / "uws.log", port) as server:
            yield server


@contextlib.contextmanager
def centrifuge(name):
    binary = PLACE / "centrifuge"
    if not shutil.which("go"):
        raise Absent("it is built with Go, and there is none")
    build = ["go", "build", "-buildvcs=false", "-o", binary, "."]
    quietly(build, cwd=PEERS / "centrifuge")
    options = {
        "login": '{"id":1,"connect":{}}',
        "login_reply": '"connect":',
        "message": f'{{"id":2,"publish":{{"channel":"chat","data":{ENVELOPE}}}}}',
        "lines": True,
    }
    with on_a_port() as port:
        log = PLACE / "centrifuge.log"
        with program(name, [binary, port.number], log, port, **options) as server:
            yield server


@contextlib.contextmanager
def channels(name):
    python = python_of_peers()
    stack = Stack(api=False, haproxy=False, brokers=0, STORE="redis")
    with stack, on_a_port() as port:
        command = [python, PEERS / "channels_chat.py", port.number, stack.redis.address()[1]]
        log = PLACE / "channels.log"
        with program(name, command, log, port, helpers=[stack.redis], at_once=8) as server:
            yield server


def start_all(stack, **servers):
    """Enters those that can be; {name: Server} and {name: why it is absent}."""
    here, absent = {}, {}
    for name, (start, *arguments) in servers.items():
        try:
            here[name] = stack.enter_context(start(*arguments))
        except (Absent, AssertionError) as why:
            absent[name] = str(why).splitlines()[0]
    return here, absent


# HTTP -------------------------------------------------------------------------------------------


def wrk(address, path, seconds, connections=32):
    """Requests a second and the 99th percentile in ms of a closed loop."""
    script = PLACE / "wrk.lua"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        "done = function(summary, latency)\n"
        "  local bad = summary.errors.status + summary.errors.connect + summary.errors.read +"
        " summary.errors.timeout\n"
        "  io.write(string.format('RESULT %f %f %d\\n',"
        " summary.requests / summary.duration * 1e6, latency:percentile(99) / 1000, bad))\n"
        "end\n"
    )
    program = shutil.which("wrk")
    if not program:
        raise Absent("wrk is not installed: shared/scripts/deps.sh bench")
    url = "http://{}:{}{}".format(*address, path)
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests, p99, bad = out.rpartition("RESULT ")[2].split()
    if int(bad):
        raise RuntimeError(f"{url}: {bad} requests failed")
    return float(requests), float(p99)


def answering_haproxy(answer):
    """A stack whose HAProxy gives the api's answer itself: the limit of any backend."""
    stack = Stack()
    config = (REPO / "haproxy" / "haproxy.cfg").read_text()
    rule = f"    http-request return status 200 content-type application/json string '{answer}'\n"
    config = config.replace("backend api from base\n", "backend api from base\n" + rule)
    file = stack.folder / "haproxy.cfg"
    file.write_text(config)
    stack.haproxy.command = lambda: [stack.haproxy.program(), "-db", "-f", str(file)]
    return stack
