"""The images and compose.yaml, with the engine that engine.sh has found or started.

Everything is asked as an operator would: docker, compose, and HAProxy's published port.
"""

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
from certificate import make_certificate, serial_of
from checker import check
from client import Client
from crowd import Crowd
from jwt_tokens import claims, signing_key
from port import Port
from stack import REPO, http_request, open_socket, until
from trial import stored_in

# Of all that is built and removed, on a busy machine; what is judged has deadlines of its own.
pytestmark = pytest.mark.timeout(1800)

COMPOSE = os.environ["COMPOSE"].split()
VERSION = (REPO / "VERSION").read_text().strip()
IMAGES = {name: f"hlchat-{name}" for name in ("ws", "api", "haproxy")}
SUDO = [] if os.geteuid() == 0 else ["sudo"]
# What a container of ours can do without.
BARE = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


def documented(headline):
    """The indented blocks below it in docs/containers.md."""
    text = (REPO / "docs" / "containers.md").read_text().partition(f"\n## {headline}\n")[2]
    text = text.partition("\n## ")[0]
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)]


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


def ask_inside(container, port, path, host="127.0.0.1"):
    """The answer to a GET from inside the container; empty when nobody is there."""
    request = f"GET {path} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n"
    script = f"exec 3<>/dev/tcp/{host}/{port} && printf '{request}' >&3 && cat <&3 || true"
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


def test_side_by_side_as_on_cloud_run(chat, tmp_path):
    """docs/cloud-run.md: sidecars of an ingress container, which share its addresses."""
    port, network, containers = Port(), f"{chat.tags[0]}-cloud-run", []
    key = signing_key("cloud-run")
    (tmp_path / "redis").write_text("redis://127.0.0.1\n")
    key.write_public(tmp_path / "key.pem")
    mounts = [f"--volume={tmp_path / name}:/secrets/{name}:ro" for name in ("redis", "key.pem")]

    def start(image, *options, command=(), **settings):
        settings = [f"--env={name}={value}" for name, value in settings.items()]
        containers.append(docker("run", "-d", *BARE, *options, *settings, image, *command).strip())
        return containers[-1]

    def ours(name, *options, **settings):
        return start(f"{IMAGES[name]}:{chat.tags[0]}", *options, CHAT_ENV="cloud_run", **settings)

    def answers():
        try:
            return all(
                http_request(address, "GET", path).status == 200
                for path in ("/", "/api", "/api/gaming/events")
            )
        except OSError:
            return False

    docker("network", "create", network)
    try:
        ingress = ours(
            "haproxy",
            *(f"--network={network}", f"--publish=127.0.0.1:{port.number}:9876"),
            "--tmpfs=/run/hlchat:uid=10001",
            **{"API_1": "127.0.0.1:9000", "BROKER_1": "127.0.0.1:9001", "PORT": 9876},
            HAPROXY_TRUSTED_PROXIES="169.254.0.0/16",
        )
        beside = f"--network=container:{ingress}"
        redis = ("redis-server", "--save", "")
        start(os.environ["REDIS_IMAGE"], beside, "--user=redis", command=redis)
        ours("api", beside, FCGI_LISTEN="127.0.0.1:9000")
        ours(
            "ws",
            *(beside, *mounts),
            **{"LISTEN": "127.0.0.1:9001", "OPS_LISTEN": "127.0.0.1:9101", "STORE": "redis"},
            **{"REDIS_URL_FILE": "/secrets/redis", "DRAIN_DEADLINE_S": 8, "IDENTITY": "jwt"},
            JWT_PUBLIC_KEY_FILE="/secrets/key.pem",
            MINIGAME_ALLOW_FROM="10.0.0.0/8",  # for /api/gaming/events
        )
        address = ("127.0.0.1", port.number)
        until("all of it answers", answers, 60, interval=0.2)
        version = json.loads(http_request(address, "GET", "/api/version").body)
        assert version["env"] == "DEVELOPMENT"
        client = Client(open_socket(address)).login(key.token(claims(sub="anna")))
        assert client.ask("message", message="hi")["message"] == "hi"
        ingress, _, *servers = containers
        began = time.monotonic()
        docker("kill", "--signal=TERM", ingress, *servers)
        codes = [int(code) for code in docker("wait", ingress, *servers).split()]
        assert time.monotonic() - began < 10
        assert codes[0] in (0, 128 + 15)
        assert codes[1:] == [0, 0]
        assert client.close_code() == 1006
    except BaseException:
        for container in containers:
            print(docker("logs", "--tail", "10", container))
        raise
    finally:
        docker("rm", "--force", *reversed(containers))
        docker("network", "rm", network)
        port.release()


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
    broker = chat.containers("ws-broker")[0]
    assert inspect(broker)["Config"]["StopTimeout"] == 40
    # Who is in the network has the metrics.
    for host, port in (("ws-broker", 9101), ("haproxy", 8404)):
        neighbour = chat.containers("api-fcgi")[0]
        assert ask_inside(neighbour, port, "/metrics", host).startswith("HTTP/1.1 200")


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


class Site:
    """What docs/containers.md has below /srv/hlchat, in a folder of the test's."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.key = signing_key("players")
        self.file = folder / "certs" / "chat.example.pem"
        for name in ("certs", "keys", "run"):
            (folder / name).mkdir()
        self.serial = serial_of(make_certificate(self.file, self.file))
        self.key.write_public(folder / "keys" / "id.pem")
        (folder / "redis.url").write_text("redis://redis\n")
        run(*SUDO, "chown", "-R", "10001", str(folder / "certs"), str(folder / "run"))

    def here(self, text):
        assert "/srv/hlchat" in text
        return text.replace("/srv/hlchat", str(self.folder))

    def settings(self, text):
        """Those of .env that are not of another machine."""
        settings = dict(line.split("=", 1) for line in text.splitlines())
        return {k: v for k, v in settings.items() if k in ("CHAT_ENV", "IDENTITY")}

    def override(self, text):
        assert '"443:443"' in text
        text = self.here(text).replace('"443:443"', f'"127.0.0.1:{self.port.number}:443"')
        path = self.folder / "override.yaml"
        path.write_text(text)
        return path

    def open(self):
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        return open_socket(("127.0.0.1", self.port.number), tls=tls)

    def serving(self):
        """The serial number of the certificate that a new connection sees."""
        try:
            with self.open() as sock:
                return serial_of(sock.getpeercert(True))
        except OSError:
            return None


def test_for_players_as_documented(chat, tmp_path):
    port = Port()
    site = Site(tmp_path, port)
    env, override, renewal = documented("For players")
    env = site.settings(env)
    files = chat.environment["COMPOSE_FILE"]
    try:
        chat.set(**env, COMPOSE_FILE=f"{files}:{site.override(override)}")
        chat.compose("up", "-d")
        until("HTTPS is there", lambda: site.serving() == site.serial, 60, interval=0.2)
        until("brokers are found", lambda: chat.servers("brokers_ready") == 2, 60, interval=0.2)
        (haproxy,) = chat.containers("haproxy")
        until("it is healthy", lambda: is_healthy(haproxy), 30, interval=0.2)
        redirect = http_request(chat.address(), "GET", "/", headers={"Host": "a.example:80"})
        assert redirect.status == 308
        assert redirect.headers["Location"] == "https://a.example/"
        assert "identity_dev" not in chat.compose("logs", "ws-broker")
        anna = Client(site.open()).login(site.key.token(claims(sub="anna")))

        made = [tmp_path / "fullchain.pem", tmp_path / "privkey.pem"]
        make_certificate(*made)
        for file in made:
            renewal = renewal.replace(file.name, str(file))
        chat.shell(" ".join([*SUDO, "env", site.here(renewal)]))
        assert site.serving() == serial_of(made[0])
        assert chat.containers("haproxy") == [haproxy]
        assert anna.ask("message", message="still here")["message"] == "still here"

        chat.compose("kill", "-s", "HUP", "ws-broker")
        until(
            "both have read their keys again",
            lambda: chat.compose("logs", "ws-broker").count("settings reloaded") == 2,
            interval=0.2,
        )
        assert anna.ask("history", limit=1)["history"][0]["message"] == "still here"
        docker("restart", haproxy)
        renewed = serial_of(made[0])
        until("it is what is stored", lambda: site.serving() == renewed, 30, interval=0.2)
    finally:
        chat.set(COMPOSE_FILE=files)
        for name in env:
            del chat.environment[name]
        port.release()
    chat.up()
    assert "identity_dev" in chat.compose("logs", "ws-broker")


def test_backup_and_restore_as_documented(chat, tmp_path):
    archive = "hlchat-backup.tar.gz"
    backup, restore = (
        script.replace(archive, str(tmp_path / archive))
        for script in documented("Backup and restore")
    )
    chat.connect("anna").ask("message", message="in the backup")
    chat.shell(backup)
    assert (tmp_path / archive).stat().st_mode & 0o777 == 0o600
    chat.compose("down", "--volumes")
    chat.up()
    chat.connect("anna").ask("message", message="of another chat")
    chat.shell(restore)
    until("the chat answers", chat.answers, 60, interval=0.2)
    history = chat.connect("anna").history(limit=1000)
    assert history[0]["message"] == "in the backup"
    assert "of another chat" not in [entry["message"] for entry in history]


def test_one_more_broker_is_found(chat):
    chat.up("--no-recreate", "--scale", "ws-broker=3")
    assert chat.servers("brokers_ready") == 3


@pytest.fixture
def crowd(chat):
    """Of a chat in which nothing was said yet."""
    chat.compose("down", "--volumes")
    chat.up()
    with Crowd(chat, clients=60, talkers=20, per_second=0.2) as crowd:
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
    assert set(crowd.closes) == {1001}


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
    (script,) = documented("Upgrading")
    build, replace_all = script.splitlines()
    first = chat.tags[0]
    chat.compose("up", "-d", "--no-recreate", "--scale", "ws-broker=3")
    until("three are found", lambda: chat.servers("brokers_ready") == 3, 60, interval=0.2)

    # A broker that does not start: nobody is moved.
    brokers = chat.containers("ws-broker")
    chat.tags.append(f"{first}-broken")
    docker("tag", f"hlchat-api:{first}", f"hlchat-api:{first}-broken")
    broken = docker("create", "--entrypoint", "false", f"hlchat-ws:{first}").strip()
    docker("commit", broken, f"hlchat-ws:{first}-broken")
    docker("rm", broken)
    chat.set(HLCHAT_TAG=f"{first}-broken")
    with pytest.raises(AssertionError, match="does not come to lead to the new ws-broker"):
        chat.shell(replace_all)
    assert sorted(chat.containers("ws-broker")) == sorted(brokers)
    until("the fourth is forgotten", lambda: chat.servers("brokers_ready") == 3, 20, interval=0.2)
    assert crowd.stayed() == len(crowd.members)

    chat.tags.append(f"{first}-next")
    chat.set(HLCHAT_TAG=f"{first}-next")
    before = [*brokers, *chat.containers("api-fcgi")]
    chat.shell(f"{build}\n{replace_all}")
    until("three are found", lambda: chat.servers("brokers_ready") == 3, 20, interval=0.2)
    after = [*chat.containers("ws-broker"), *chat.containers("api-fcgi")]
    assert len(after) == 5
    assert not set(before) & set(after)
    assert {inspect(c)["Config"]["Image"].rpartition(":")[2] for c in after} == {f"{first}-next"}
    nothing_is_lost(chat, crowd)
