"""The Debian packages on fresh machines, as docs/packages.md says: its commands are run here.

Needs root (it boots machines). The packages are those of the last commit, as `make deb` builds
them, and of the same under a lower version. The roots are made once, in build/root, and never
changed by a test.
"""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import time

import pytest
from client import Client, Closed
from fcgi import FcgiClient, request
from jwt_tokens import claims, signing_key
from machine import Machine
from stack import BUILD, REPO, http_request, open_socket, until

pytestmark = pytest.mark.timeout(900)

OLD = "0.9.0"
NEW = (REPO / "VERSION").read_text().strip()
ROOT_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "redis-server",
    "haproxy",
    "curl",
    "iproute2",
    "needrestart",
)
SERVICES = ("api-fcgi", "ws-broker@1", "ws-broker@2")
KEY = signing_key("deb")


def chapter(title, document="packages.md"):
    """The commands of one chapter of a document."""
    text = (REPO / "docs" / document).read_text()
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    lines = [line[4:] for line in found[1].splitlines() if line.startswith("    ")]
    assert lines, title
    return "\n".join(lines)


def quietly(*command, **env):
    done = subprocess.run(
        command,
        cwd=REPO,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


class Host:
    """A machine with packages to install in /shared/debs, and what the tests ask of it."""

    def __init__(self, machine):
        self.machine = machine
        self.run, self.fails = machine.run, machine.fails

    def bring(self, packages):
        """Puts the packages of one version where /shared/debs is."""
        debs = self.machine.shared / "debs"
        shutil.rmtree(debs, ignore_errors=True)
        shutil.copytree(packages, debs)

    def play(self, title):
        return self.run("cd /shared/debs\n" + chapter(title))

    def pid(self, service):
        return int(self.run(f"systemctl show --property MainPID --value {service}"))

    def active(self, service):
        return self.run(f"systemctl is-active {service} || true").strip()

    def http(self, port, path):
        with self.machine.network():
            return http_request(("127.0.0.1", port), "GET", path)

    def api_version(self):
        """By FastCGI, past HAProxy."""
        with self.machine.network():
            peer = FcgiClient(("127.0.0.1", 9000))
        with peer:
            peer.send(request("GET", "/api/version"))
            return re.search(r'"api":"v(.*?)"', peer.reply().decode())[1]

    def broker_version(self, number):
        metrics = self.http(9100 + number, "/metrics").text()
        return re.search(r'hlchat_build_info\{version="(.*?)"\}', metrics)[1]

    def versions(self):
        """Of what runs: api-fcgi, broker 1, broker 2."""
        return [self.api_version(), self.broker_version(1), self.broker_version(2)]

    def settings(self):
        return self.run("cd /etc/hlchat; tail -n +1 *")

    @contextlib.contextmanager
    def player(self, name, port=8080):
        with self.machine.network():
            sock = open_socket(("127.0.0.1", port))
            client = Client(sock)
        try:
            yield client.login(KEY.token(claims(sub=name)))
        finally:
            client.close()

    def history(self):
        with self.player("reader") as reader:
            return [entry["message"] for entry in reader.history(limit=100)]

    def becomes_ready(self):
        """HAProxy has seen the brokers ready; until then it may lead to none."""

        def is_ready():
            with contextlib.suppress(Closed, AssertionError, OSError), self.player("nobody"):
                return True

        until("players can come in", is_ready, 30)

    def configure(self):
        KEY.write_public(self.machine.shared / "jwt.pem")
        self.run("cp /shared/jwt.pem /etc/hlchat/jwt.pem; chmod 644 /etc/hlchat/jwt.pem")
        self.play("Configure")


@pytest.fixture(scope="module", params=["12", "13"], ids=["Debian12", "Debian13"])
def debian(request):
    return request.param


@pytest.fixture(scope="module")
def packages(debian):
    """Folders with the packages of OLD and of NEW."""
    folders = {}
    for version in (OLD, NEW):
        folders[version] = BUILD / "deb-test" / f"{debian}-{version}"
        shutil.rmtree(folders[version], ignore_errors=True)
        quietly("shared/scripts/deb.sh", debian, str(folders[version]), DEB_VERSION=version)
        assert len(list(folders[version].glob(f"*_{version}-1~deb{debian}_*.deb"))) == 3
    return folders


@pytest.fixture(scope="module")
def root(debian, packages):
    """A root without hlchat, and without its libraries, which only wait to be installed."""
    folder = BUILD / "root" / f"{debian}-test"
    quietly("shared/scripts/debian-root.sh", debian, str(folder), *ROOT_PACKAGES)
    (folder / "etc/apt/apt.conf.d/10yes").write_text('APT::Get::Assume-Yes "true";\n')
    download = (
        "apt-get update;"
        f" apt-get install --download-only /debs/*.deb curl {' '.join(ROOT_PACKAGES)}"
    )
    quietly(
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe"),
        *(f"--directory={folder}", f"--bind-ro={packages[NEW]}:/debs"),
        *("bash", "-euc", download),
    )
    return folder


@pytest.fixture
def start_host(root, tmp_path):
    with contextlib.ExitStack() as running:

        def start():
            shared = tmp_path / str(time.monotonic_ns())
            shared.mkdir()
            shared.chmod(0o755)
            return Host(running.enter_context(Machine(root, shared)))

        yield start


def test_installed_and_not_configured(start_host, packages):
    host = start_host()
    host.bring(packages[NEW])
    said = host.play("Install")
    assert said.count("not started") == 2

    modes = host.run("cd /etc/hlchat; stat --format '%a %U:%G %n' . *").splitlines()
    assert modes == [
        "755 root:root .",
        "644 root:root api-fcgi.env",
        "644 root:root common.env",
        "644 root:root ws-broker.env",
        "640 root:hlchat-broker ws-broker.secrets.env",
        "644 root:root ws-broker@1.env",
    ]
    assert host.run("dpkg --verify hlchat-common hlchat-ws-broker hlchat-api-fcgi") == ""
    for user in ("hlchat-api", "hlchat-broker"):
        name, _, uid, *_, shell = host.run(f"getent passwd {user}").strip().split(":")
        assert name == user
        assert 0 < int(uid) < 1000
        assert shell.endswith("/nologin")
    # Who is not a broker cannot read what is secret.
    secrets = "cat /etc/hlchat/ws-broker.secrets.env"
    assert "REDIS_URL" in host.run(
        f"setpriv --reuid hlchat-broker --regid hlchat-broker --clear-groups {secrets}"
    )
    for user in ("hlchat-api", "haproxy"):
        denied = host.fails(f"setpriv --reuid {user} --regid {user} --init-groups {secrets}")
        assert "Permission denied" in denied

    # Nothing runs, and the broker says why it will not.
    for service in SERVICES:
        assert host.active(service) == "inactive"
        assert host.run(f"systemctl is-enabled {service} || true").strip() == "disabled"
    host.fails("systemctl start ws-broker@1")
    host.run("systemctl stop ws-broker@1")
    assert "IDENTITY=dev lets anybody be anybody" in host.run("journalctl --unit ws-broker@1")
    host.fails("systemctl start ws-broker@2")
    host.run("systemctl stop ws-broker@2")
    assert "ws-broker@2.env" in host.run("journalctl --unit ws-broker@2")
    # api-fcgi has nothing to be told.
    host.run(
        "api-fcgi --env-file /etc/hlchat/common.env --env-file /etc/hlchat/api-fcgi.env --check"
    )

    for unit in ("api-fcgi.service", "ws-broker@1.service"):
        report = host.run(f"systemd-analyze security --no-pager {unit} || true")
        exposure = float(re.search(r"Overall exposure level.*: ([0-9.]+)", report)[1])
        assert exposure <= 2.5, report
    host.run("systemd-analyze verify --man=no api-fcgi.service ws-broker@1.service")

    # What nobody has touched goes without a trace, but for the users and dpkg's own records.
    host.run("apt purge 'hlchat-*'")
    left = host.run(
        "find / -xdev \\( -name '*hlchat*' -o -name 'ws-broker*' -o -name 'api-fcgi*' \\)"
        " -not -path '/proc/*' -not -path '/shared/*' -not -path '/var/cache/apt/*'"
    )
    assert left == ""


def serves_at_once(host):
    """As soon as systemctl has returned."""
    assert host.http(9001, "/healthz").status == 200
    assert host.http(9002, "/healthz").status == 200
    assert host.versions() == [OLD, OLD, OLD]


def is_confined(host):
    users = dict(zip(SERVICES, ("hlchat-api", "hlchat-broker", "hlchat-broker"), strict=True))
    for service, user in users.items():
        status = host.run(f"cat /proc/{host.pid(service)}/status")
        uid = host.run(f"id --user {user}").strip()
        assert re.search(rf"^Uid:\t{uid}\t{uid}\t", status, re.M)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M)
        assert re.search(r"^CapEff:\t0+$", status, re.M)
    limits = host.run(f"cat /proc/{host.pid('ws-broker@1')}/limits")
    # As the unit has it; but a machine gets no more than we have.
    files = min(1048576, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert re.search(rf"^Max open files +{files} +{files} ", limits, re.M), limits
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)
    password = host.run("sed -n 's/^requirepass //p' /etc/redis/hlchat.conf").strip()
    assert len(password) == 32
    assert password not in host.run(
        "journalctl --no-pager; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    )


def players_talk(host):
    host.becomes_ready()
    with (
        host.player("anna", 9001) as anna,
        host.player("bob", 9002) as bob,
        host.player("eve") as eve,
    ):
        anna.send("message", message="from broker 1")
        for player in (anna, bob, eve):
            assert player.receive()["message"] == "from broker 1"
    assert '"env":"PRODUCTION"' in host.http(8080, "/api/version").text()
    assert host.http(8080, "/").status == 200
    assert "info broker ready" in host.play("Logs")


def stops_in_its_own_time(host):
    """A drain takes 2 s at least, and asks for them when the unit has less."""
    folder = "/run/systemd/system/ws-broker@1.service.d"
    host.run(f"mkdir -p {folder}; printf '[Service]\\nTimeoutStopSec=1\\n' >{folder}/short.conf")
    host.run("systemctl daemon-reload; systemctl stop ws-broker@1")
    assert host.run("systemctl show --property Result --value ws-broker@1").strip() == "success"
    host.run(f"rm {folder}/short.conf; systemctl daemon-reload; systemctl start ws-broker@1")


def waits_for_an_address(host):
    """One that comes late, a floating one or a VPN's: systemd does not give up."""
    address = "10.77.0.1"
    starts = {"api-fcgi": f"FCGI_LISTEN={address}:9000", "ws-broker@1": f"LISTEN={address}:9001"}
    for service, setting in starts.items():
        host.run(f"cd /etc/hlchat; cp {service}.env /root; echo {setting} >>{service}.env")
    host.run("systemctl restart --no-block " + " ".join(starts))

    def restarts(service):
        return int(host.run(f"systemctl show --property NRestarts --value {service}"))

    for service in starts:
        until(f"{service} has tried more than once", lambda s=service: restarts(s) > 2, 60)
        limit = host.run(f"systemctl show --property StartLimitIntervalUSec --value {service}")
        assert limit.strip() == "0"
    host.run(f"ip address add {address}/32 dev lo")
    for service in starts:
        until(f"{service} runs", lambda s=service: host.active(s) == "active", 30, interval=0.2)
    for service in starts:
        host.run(f"cp /root/{service}.env /etc/hlchat")
    host.run("systemctl restart " + " ".join(starts))
    host.becomes_ready()


def reloads(host):
    """What is right changes, what is wrong is refused, and nobody is dropped."""
    pids = [host.pid(service) for service in SERVICES]
    host.run("cp /etc/hlchat/ws-broker.env /root")
    with host.player("anna", 9001) as anna:
        host.run("echo HISTORY_LIMIT=5000 >>/etc/hlchat/ws-broker.env")
        host.fails(chapter("Change settings"))
        assert "HISTORY_LIMIT is '5000'" in host.run("journalctl --unit ws-broker@1")
        host.run(
            "cp /root/ws-broker.env /etc/hlchat; echo RATE_BURST=1 >>/etc/hlchat/ws-broker.env"
        )
        host.run("cp /etc/hlchat/jwt.pem /root; echo junk >/etc/hlchat/jwt.pem")
        host.fails(chapter("Change settings"))
        assert "JWT_PUBLIC_KEY_FILE: /etc/hlchat/jwt.pem: " in host.run(
            "cp /root/jwt.pem /etc/hlchat; journalctl --unit ws-broker@1"
        )
        host.play("Change settings")
        for service in SERVICES[1:]:
            reloaded = (
                f"journalctl --unit {service} | grep 'settings reloaded .*RATE_BURST' || true"
            )
            until(f"{service} has reloaded", lambda log=reloaded: host.run(log), interval=0.2)
        assert [entry["message"] for entry in anna.history(limit=1)] == ["from broker 1"]
    host.run("cp /root/ws-broker.env /etc/hlchat")
    host.play("Change settings")
    assert [host.pid(service) for service in SERVICES] == pids


def is_upgraded(host, packages):
    """Nothing that runs is touched, nor what somebody has changed; then one after the other."""
    install, *restarts = chapter("Upgrade").splitlines()
    pids = [host.pid(service) for service in SERVICES]
    settings = host.settings()
    host.bring(packages[NEW])
    automatic = "export NEEDRESTART_MODE=a"  # it restarts whatever runs an old binary
    assert host.run(f"cd /shared/debs; {automatic}; {install}").count("not restarted") == 2
    assert [host.pid(service) for service in SERVICES] == pids
    assert host.settings() == settings
    assert host.versions() == [OLD, OLD, OLD]
    # One that does not start is the last one that is touched, also where a shell goes on.
    host.run("cd /etc/hlchat; cp ws-broker@1.env /root; echo RATE_BURST=0 >>ws-broker@1.env")
    host.fails("\n".join(["set +e", *restarts]))
    assert host.pid("ws-broker@2") == pids[2]
    host.run("cp /root/ws-broker@1.env /etc/hlchat; systemctl restart ws-broker@1")
    assert host.versions() == [NEW, NEW, OLD]
    host.run("\n".join(restarts))
    assert host.versions() == [NEW, NEW, NEW]
    host.becomes_ready()
    assert host.history() == ["from broker 1"]

    host.bring(packages[OLD])
    install = install.replace("install", "install --allow-downgrades")
    host.run("\n".join(["cd /shared/debs", install, *restarts]))
    assert host.versions() == [OLD, OLD, OLD]
    host.bring(packages[NEW])
    host.play("Upgrade")
    assert host.versions() == [NEW, NEW, NEW]


def keeps_what_was_changed(host):
    """Where the package changes it too, Enter does; what nobody has changed is the new one."""
    debs = host.machine.shared / "debs"
    for name in ("api-fcgi", "ws-broker"):
        (deb,) = debs.glob(f"hlchat-{name}_*.deb")
        tree = host.machine.shared / name
        quietly("dpkg-deb", "--raw-extract", str(deb), str(tree))
        with (tree / f"etc/hlchat/{name}.env").open("a") as file:
            file.write("# new\n")
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace("-1~deb", "-2~deb"))
        quietly("dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb))
    install = chapter("Upgrade").splitlines()[0]
    ours = host.run("cat /etc/hlchat/ws-broker.env")
    said = host.run(f"cd /shared/debs; echo | {install}")
    assert "Configuration file '/etc/hlchat/ws-broker.env'" in said
    assert host.run("cat /etc/hlchat/ws-broker.env") == ours
    assert host.run("tail -n 1 /etc/hlchat/api-fcgi.env") == "# new\n"


def follows_the_master(host):
    """The unit of docs/redis.md, with one Sentinel in the place of three."""
    lines = chapter("Failover", "redis.md").splitlines()
    unit = lines[lines.index("[Unit]") : lines.index("WantedBy=multi-user.target") + 1]
    values = dict(x.split("=", 1) for x in lines if re.match(r"(REDIS|SENTINEL)_", x))
    password = host.run("sed -n 's/^requirepass //p' /etc/redis/hlchat.conf").strip()
    values |= {name: "127.0.0.1:26379" for name in values if re.match(r"SENTINEL_\d", name)}
    values |= {"REDIS_1": "127.0.0.1:6379", "REDIS_2": "127.0.0.1:6999"}
    values |= {"REDIS_USER": "default", "REDIS_PASSWORD": password}
    sentinel = [
        *("port 26379", "bind 127.0.0.1", "dir /tmp"),
        *("sentinel monitor chat 127.0.0.1 6379 2", f"sentinel auth-pass chat {password}"),
    ]
    for name, text in (
        ("redis.env", [f"{name}={value}" for name, value in values.items()]),
        ("hlchat-redis.service", unit),
        ("sentinel.conf", sentinel),
    ):
        (host.machine.shared / name).write_text("\n".join(text) + "\n")
    host.run(
        "cd /shared; install -m 600 redis.env /etc/hlchat; redis-server ./sentinel.conf --sentinel"
        " --daemonize yes; install -m 644 hlchat-redis.service /etc/systemd/system"
    )
    host.run("systemctl daemon-reload; systemctl enable --now hlchat-redis")
    ping = f"REDISCLI_AUTH={password} redis-cli -p 6380 PING 2>&1 || true"
    until("it leads to Redis", lambda: "PONG" in host.run(ping), 30, interval=0.5)
    assert password not in host.run("journalctl --unit hlchat-redis; systemctl show hlchat-redis")
    assert host.run(f"stat --format %U /proc/{host.pid('hlchat-redis')}") == "haproxy\n"
    host.run(
        "systemctl disable --now hlchat-redis; redis-cli -p 26379 SHUTDOWN; "
        "rm /etc/hlchat/redis.env"
    )
    assert host.run("systemctl show --property Result --value hlchat-redis") == "success\n"


def is_backed_up(host):
    host.becomes_ready()
    with host.player("anna") as anna:
        anna.send("message", message="in the backup")
        assert anna.receive()["message"] == "in the backup"
    host.play("Backup")
    archive = host.machine.shared / "debs/hlchat-backup.tar.gz"
    assert archive.stat().st_mode & 0o777 == 0o600
    return archive


def is_removed_and_purged(host):
    settings = host.settings()
    host.run("systemctl stop haproxy; apt remove 'hlchat-*'")
    assert [host.active(service) for service in SERVICES] == ["inactive"] * 3
    host.fails("test -e /usr/sbin/ws-broker -o -e /usr/sbin/api-fcgi")
    assert host.settings() == settings
    host.play("Uninstall")
    assert host.run("ls /etc/hlchat").split() == ["jwt.pem"]
    wanted = host.run("ls /etc/systemd/system/multi-user.target.wants")
    assert "ws-broker" not in wanted
    assert "api-fcgi" not in wanted


def is_restored(host, archive):
    shutil.copy(archive, host.machine.shared / "debs")
    host.play("Restore")
    host.play("Start")
    host.becomes_ready()
    assert host.history() == ["in the backup", "from broker 1"]
    mode = host.run("stat --format '%a %U:%G' /etc/hlchat/ws-broker.secrets.env").strip()
    assert mode == "640 root:hlchat-broker"


def test_one_host(start_host, packages):
    host = start_host()
    host.bring(packages[OLD])
    host.play("Install")
    host.configure()
    host.play("Start")
    serves_at_once(host)
    is_confined(host)
    players_talk(host)
    stops_in_its_own_time(host)
    waits_for_an_address(host)
    reloads(host)
    is_upgraded(host, packages)
    keeps_what_was_changed(host)
    follows_the_master(host)
    archive = is_backed_up(host)
    is_removed_and_purged(host)

    other = start_host()
    other.bring(packages[NEW])
    other.play("Install")
    is_restored(other, archive)
