"""The images and compose.yaml, with the engine that engine.sh has found or started.

Everything is asked as an operator would: docker, compose, and HAProxy's published port.
"""

import http.client
import json
import os
import re
import ssl
import subprocess
import textwrap
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from checker import check
from client import Client
from crowd import Crowd
from port import Port
from stack import REPO, http_request, open_socket, until
from trial import stored_in

# Of all that is built and removed, on a busy machine; what is judged has deadlines of its own.
pytestmark = pytest.mark.timeout(1800)

COMPOSE = os.environ["COMPOSE"].split()
VERSION = (REPO / "VERSION").read_text().strip()
IMAGES = {name: f"hlchat-{name}" for name in ("ws", "api", "haproxy")}
# What a container of ours can do without.
BARE = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


def run(*command, env=None, timeout=1500, **options):
    """A command's output; what it says of a failure is the test's."""
    result = subprocess.run(
        command,
        cwd=REPO,
        env=env,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )
    output = "\n".join((result.stdout + result.stderr).splitlines()[-40:])
    assert result.returncode == 0, f"{' '.join(command)}: {result.returncode}\n{output}"
    return result.stdout


def docker(*arguments):
    return run("docker", *arguments)


def inspect(thing, kind="container"):
    return json.loads(docker(kind, "inspect", thing))[0]


def is_healthy(container):
    return inspect(container)["State"]["Health"]["Status"] == "healthy"


def ask_inside(container, port, path):
    """The answer to a GET from inside the container; empty when nobody is there."""
    request = f"GET {path} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n"
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port} && printf '{request}' >&3 && cat <&3 || true"
    return docker("exec", container, "bash", "-c", script)


class Chat:
    """The project of compose.yaml, under a name of its own and on a port of its own."""

    def __init__(self):
        self.port = Port()
        name = f"hlchat-test-{uuid.uuid4().hex[:8]}"
        self.tags = [name]
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in ("PORT", "HTTP_BIND")},
            "COMPOSE_PROJECT_NAME": name,
            "HLCHAT_TAG": name,
            "HTTP_PORT": str(self.port.number),
        }
        # As Crowd and the checker want a stack: one door, and nobody sees what is behind.
        self.haproxy = self
        self.brokers = [self]
        self.name = "the chat"
        self.running, self.paused, self.resumed_at = True, False, 0.0

    def set(self, **settings):
        self.environment |= {name: str(value) for name, value in settings.items()}

    def compose(self, *arguments):
        return run(*COMPOSE, *arguments, env=self.environment)

    def shell(self, script):
        """Commands of the documentation."""
        script = script.replace("docker compose", " ".join(COMPOSE))
        return run("bash", "-euc", script, env=self.environment)

    def up(self, *arguments):
        self.compose("up", "-d", *arguments)
        until("the chat answers", self.answers, 60, interval=0.2)

    def answers(self):
        try:
            return (
                http_request(self.address(), "GET", "/api").status == 200
                and http_request(self.address(), "GET", "/").status == 200
                and self.servers("brokers_ready") == len(self.containers("ws-broker"))
            )
        except OSError:
            return False

    def containers(self, service):
        """Those that run."""
        name = self.environment["COMPOSE_PROJECT_NAME"]
        labels = (f"project={name}", f"service={service}")
        filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
        return docker("ps", "--quiet", "--no-trunc", *filters).split()

    def servers(self, backend):
        """How many HAProxy sees up."""
        text = ask_inside(self.containers("haproxy")[0], 8404, "/metrics")
        return int(re.search(rf'_active_servers{{proxy="{backend}"}} (\d+)', text).group(1))

    def address(self):
        return ("127.0.0.1", self.port.number)

    def connect(self, token, **_):
        return Client(open_socket(self.address())).login(token)

    def call(self, *words):
        """Redis."""
        (redis,) = self.containers("redis")
        return json.loads(docker("exec", redis, "redis-cli", "--json", *words))

    def lost(self):
        """What the brokers of the moment say is lost."""
        metric = r"^hlchat_log_lost_entries_total (\d+)$"
        ask = ("curl", "-sS", "http://127.0.0.1:9101/metrics")
        texts = [docker("exec", broker, *ask) for broker in self.containers("ws-broker")]
        return sum(int(re.search(metric, text, re.MULTILINE).group(1)) for text in texts)

    def remove(self):
        self.compose("down", "--volumes", "--timeout", "5", "--remove-orphans")
        names = [f"{image}:{tag}" for image in IMAGES.values() for tag in self.tags]
        docker("image", "rm", "--force", *names)
        self.port.release()


@pytest.fixture(scope="module")
def chat():
    chat = Chat()
    try:
        began = time.monotonic()
        chat.compose("build")
        print(f"\nbuilt in {time.monotonic() - began:.0f} s")
        yield chat
    except BaseException:
        print(chat.compose("logs", "--tail", "30"))
        raise
    finally:
        chat.remove()


# Each image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_what_an_image_says_of_itself(chat, name):
    image = inspect(f"{IMAGES[name]}:{chat.tags[0]}", "image")
    config = image["Config"]
    base = inspect(os.environ["BASE"], "image")
    print(
        f"{IMAGES[name]}: {(image['Size'] - base['Size']) / 1e6:.1f} MB on {base['Size'] / 1e6:.1f}"
    )
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]
    # Nothing of what it was built with.
    docker(
        "run", "--rm", "--network", "none", "--entrypoint", "sh", image["Id"], "-c", "! which gcc"
    )


@pytest.mark.parametrize("name", IMAGES)
def test_each_runs_alone(chat, name):
    options = ["--network", "none", "--health-interval", "1s", *BARE]
    statuses = (0,)
    if name == "haproxy":
        options += ["--tmpfs", "/run/hlchat:uid=10001"]
        options += ["--env", "API_1=127.0.0.1:9000", "--env", "BROKER_1=127.0.0.1:9001"]
        statuses = (0, 128 + 15)  # 2.6 tells of the signal
    container = docker("run", "-d", *options, f"{IMAGES[name]}:{chat.tags[0]}").strip()
    try:
        until("it is healthy", lambda: is_healthy(container), 30, interval=0.2)
        docker("stop", container)
        assert inspect(container)["State"]["ExitCode"] in statuses, docker("logs", container)
    finally:
        docker("rm", "--force", container)


def test_side_by_side(chat):
    """As sidecars of an ingress container, which share its addresses."""
    containers = []

    def start(name, network, **environment):
        settings = [f"--env={key}={value}" for key, value in environment.items()]
        options = ["--network", network, *BARE, *settings]
        if name == "haproxy":
            options += ["--tmpfs", "/run/hlchat:uid=10001"]
        image = f"{IMAGES[name]}:{chat.tags[0]}"
        containers.append(docker("run", "-d", *options, image).strip())
        return containers[-1]

    servers = {"API_1": "127.0.0.1:9000", "BROKER_1": "127.0.0.1:9001"}
    try:
        ingress = start("haproxy", "none", PORT=9876, **servers)
        start("api", f"container:{ingress}", FCGI_LISTEN="127.0.0.1:9000")
        listen = {"LISTEN": "127.0.0.1:9001", "OPS_LISTEN": "127.0.0.1:9101"}
        start("ws", f"container:{ingress}", **listen)
        for path in ("/", "/api", "/api/gaming/events"):
            until(
                f"{path} answers",
                lambda path=path: re.match(r"HTTP/\S+ (?!503)", ask_inside(ingress, 9876, path)),
                20,
                interval=0.2,
            )
    finally:
        docker("rm", "--force", *containers)


# All of them --------------------------------------------------------------------------------------


def test_compose_up_is_a_chat(chat):
    chat.set(HISTORY_LIMIT=5, RATE_MESSAGES=0)
    chat.up()
    url = "http://{}:{}".format(*chat.address())
    smoke = run("tests/smoke/smoke.sh", url, timeout=60)
    print(smoke)
    assert "not ok" not in smoke
    for service, count in {"haproxy": 1, "api-fcgi": 2, "ws-broker": 2, "redis": 1}.items():
        containers = chat.containers(service)
        assert len(containers) == count
        for container in containers:
            host = inspect(container)["HostConfig"]
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            assert host["SecurityOpt"] == ["no-new-privileges:true"]


def test_the_messages_are_in_a_volume(chat):
    with_messages = chat.connect("anna").history(limit=5)
    assert len(with_messages) == 5
    chat.compose("down")
    chat.set(HISTORY_LIMIT=1000)  # and a setting takes effect
    chat.up()
    history = chat.connect("anna").history(limit=1000)
    assert history[:5] == with_messages
    assert len(history) > 5


def test_a_restart_of_one_api_fails_no_request(chat):
    done = False
    statuses = Counter()
    slowest = 0.0

    def ask():
        nonlocal slowest
        while not done:
            began = time.monotonic()
            statuses[http_request(chat.address(), "GET", "/api/version").status] += 1
            slowest = max(slowest, time.monotonic() - began)

    until("both are found", lambda: chat.servers("api") == 2, 20)
    with ThreadPoolExecutor() as pool:
        load = [pool.submit(ask) for _ in range(4)]
        try:
            for container in chat.containers("api-fcgi"):
                before = statuses[200]
                docker("restart", container)
                until("it is found again", lambda: chat.servers("api") == 2, 20)
                until("requests go on", lambda before=before: statuses[200] > before + 100, 20)
        finally:
            done = True
        for thread in load:
            thread.result()
    print(f"{dict(statuses)}, slowest {slowest:.2f} s")
    assert set(statuses) == {200}


def test_https_as_documented(chat):
    text = (REPO / "docs" / "containers.md").read_text().partition("`compose.override.yaml`")[2]
    override = textwrap.dedent(re.search(r"(?:^    .*\n)+", text, re.MULTILINE).group())
    folder = REPO / "build" / "images"
    (folder / "certs").mkdir(parents=True, exist_ok=True)
    pem = folder / "certs" / "localhost.pem"
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
    run(*new, "-keyout", str(pem), "-out", str(pem))
    pem.chmod(0o644)
    port = Port()
    for ours, tests in (("./certs", str(pem.parent)), ("0.0.0.0:8443", f"{port.number}")):
        assert ours in override
        override = override.replace(ours, tests)
    (folder / "override.yaml").write_text(override)
    files = chat.environment["COMPOSE_FILE"]

    def answers():
        tls = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("localhost", port.number, timeout=5, context=tls)
        try:
            connection.request("GET", "/api")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    try:
        chat.set(COMPOSE_FILE=f"{files}:{folder / 'override.yaml'}")
        chat.compose("up", "-d")
        until("HTTPS answers", answers, 60, interval=0.2)
        assert http_request(chat.address(), "GET", "/").status == 308
        (haproxy,) = chat.containers("haproxy")
        until("it is healthy", lambda: is_healthy(haproxy), 30, interval=0.2)
    finally:
        chat.set(COMPOSE_FILE=files)
        port.release()
    chat.up()


def test_one_more_broker_is_found(chat):
    chat.up("--no-recreate", "--scale", "ws-broker=3")
    assert chat.servers("brokers_ready") == 3


@pytest.fixture
def crowd(chat):
    """Of a chat in which nothing was said yet."""
    chat.compose("down", "--volumes")
    chat.up()
    with Crowd(chat, clients=60, talkers=20, per_second=0.5) as crowd:
        crowd.begin()
        crowd.talk(until_back=40)
        yield crowd


def nothing_is_lost(chat, crowd):
    """Whoever was moved has been told to come back, and has every message, once, in order."""
    crowd.talk(until_back=40)
    run = replace(crowd.finish(), lost=chat.lost(), **stored_in(chat))
    told = (len(run.stored), crowd.stayed(), dict(crowd.closes), dict(crowd.errors))
    print("{} messages, {} clients stayed, closed: {}, errors: {}".format(*told))
    assert run.lost == 0
    assert check(run)[:20] == []
    assert set(crowd.closes) == {1012}


def test_a_broker_stops_under_load(chat, crowd):
    victim = chat.containers("ws-broker")[-1]
    docker("stop", victim)
    assert inspect(victim)["State"]["ExitCode"] == 0
    docker("rm", victim)
    since = time.monotonic()
    crowd.all_back(since)
    assert crowd.stayed() > len(crowd.members) / 4
    nothing_is_lost(chat, crowd)


def test_the_documented_upgrade(chat, crowd):
    text = (REPO / "docs" / "containers.md").read_text().partition("## Upgrading")[2]
    block = re.search(r"(?:^    .*\n)+", text, re.MULTILINE).group()
    before = [*chat.containers("ws-broker"), *chat.containers("api-fcgi")]
    chat.tags.append(chat.tags[0] + "-next")
    chat.set(HLCHAT_TAG=chat.tags[-1])
    chat.shell(textwrap.dedent(block))
    assert chat.answers()
    after = [*chat.containers("ws-broker"), *chat.containers("api-fcgi")]
    assert len(after) == 4
    assert not set(before) & set(after)
    assert {inspect(c)["Config"]["Image"].rpartition(":")[2] for c in after} == {chat.tags[-1]}
    nothing_is_lost(chat, crowd)
