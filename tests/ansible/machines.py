"""Machines to manage: each boots Debian by systemd-nspawn, in a network of their own, with sshd.

    with Machines() as machines:
        machines.start("broker1", "broker2")
        machines["broker1"].address                      # from the test, and from each other
        machines["broker1"].run("systemctl", "is-active", "ssh")

They share one root, read-only below an overlay each, of this machine's release or DEBIAN's. They
reach nobody but each other and the test: apt finds its packages in /srv/packages, which is filled
beforehand.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from stack import REPO, until

WORK = REPO / "build" / "ansible"
DEBS = WORK / "debs"
BOOT_S = 60
HERE = re.search(r'VERSION_ID="(\d+)', Path("/etc/os-release").read_text())[1]
RELEASE = os.environ.get("DEBIAN") or HERE
ROOT = REPO / "build" / "root" / f"{RELEASE}-machine"
IN_ROOT = ["systemd", "systemd-sysv", "dbus", "openssh-server", "iproute2", "python3-apt"]
PACKAGES = ["haproxy", "redis-server", "redis-sentinel", "keepalived"]  # and what hlchat needs


def run(*command, must=True, timeout=60, **options):
    """Its output; a failure is an AssertionError that shows it."""
    done = subprocess.run(
        command, check=False, timeout=timeout, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip
    assert done.returncode == 0 or not must, f"{[*map(str, command)]}: {done.stdout[-2000:]}"
    return done.stdout


def make_root():
    run(REPO / "shared/scripts/debian-root.sh", RELEASE, ROOT, *IN_ROOT, timeout=600)
    debs = [deb for deb in sorted(DEBS.glob("*.deb")) if "+" not in deb.name]
    depends = [run("dpkg-deb", "--field", deb, "Depends") for deb in debs]
    filled_with = "\n".join([*PACKAGES, *depends])
    mark = ROOT / "srv/packages/made-for"
    if mark.exists() and mark.read_text() == filled_with:
        return
    (ROOT / "srv/packages").mkdir(exist_ok=True)
    wanted = " ".join([*PACKAGES, *(f"/mnt/{deb.name}" for deb in debs)])
    run(
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe",
        f"--directory={ROOT}", f"--bind-ro={DEBS}:/mnt", "sh", "-c",
        "apt-get -q update && apt-get -q -y -o Dir::Cache::archives=/srv/packages --download-only"
        f" --no-install-recommends install {wanted}",
        timeout=600,
    )  # fmt: skip
    index = run("dpkg-scanpackages", "--multiversion", ".", "/dev/null", cwd=ROOT / "srv/packages")
    lines = [line for line in index.splitlines() if not line.startswith("dpkg-scanpackages:")]
    (ROOT / "srv/packages/Packages").write_text("\n".join(lines) + "\n")
    mark.write_text(filled_with)


class Machine:
    def __init__(self, machines, name, address):
        self.machines, self.name, self.address = machines, name, address
        self.folder = machines.folder / name
        self.root = self.folder / "root"
        self.namespace = f"{machines.id}-{name}"
        self.link = f"{machines.id}{address.rpartition('.')[2]}"
        self._process = None

    def boot(self):
        root = self.root
        for part in ("root", "upper", "work"):
            (self.folder / part).mkdir(parents=True)
        layers = f"lowerdir={ROOT},upperdir={self.folder}/upper,workdir={self.folder}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, root)
        (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(f"{self.machines.key}.pub", root / "root/.ssh/authorized_keys")
        (root / "etc/hostname").write_text(self.name + "\n")
        for folder in ("etc/apt/sources.list.d", "var/lib/apt/lists"):
            shutil.rmtree(root / folder, ignore_errors=True)
        (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/packages ./\n")
        space = self.namespace
        run("ip", "netns", "add", space)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "host0", "netns", space)
        run("ip", "link", "set", self.link, "master", self.machines.id, "up")
        run("ip", "-n", space, "addr", "add", f"{self.address}/24", "dev", "host0")
        run("ip", "-n", space, "link", "set", "host0", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        with (self.folder / "log").open("w") as log:
            # Ends with the test, however that ends.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--boot"]
                + ["--register=no", "--keep-unit", f"--machine={self.name}", f"--directory={root}"]
                + [f"--network-namespace-path=/run/netns/{self.namespace}"]
                + ["--capability=CAP_NET_ADMIN,CAP_NET_RAW"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ssh(self, *command, timeout=60):
        """The finished process."""
        return subprocess.run(
            ["ssh", *self.machines.ssh_options, f"root@{self.address}", *command],
            check=False, timeout=timeout, text=True, capture_output=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *command):
        done = self.ssh(*command)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def answers(self):
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        return self.ssh("true").returncode == 0

    def unplug(self):
        """From the network, until plug()."""
        run("ip", "link", "set", self.link, "down")

    def plug(self):
        run("ip", "link", "set", self.link, "up")

    def stop(self):
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        run("umount", "-l", self.root, must=False)
        # The namespace may live on for a while, for connections that nobody has closed.
        run("ip", "link", "del", self.link, must=False)
        run("ip", "netns", "del", self.namespace, must=False)


class Machines(dict):
    def __enter__(self):
        assert os.geteuid() == 0, "machines can only be made by root"
        make_root()
        # Not in /tmp, which may be no place for an overlay.
        self.folder = Path(tempfile.mkdtemp(prefix="machines.", dir=WORK))
        self.id = f"hl{os.getpid()}"  # a link's name has 15 characters at most
        self.key = self.folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        self.ssh_options = ["-i", str(self.key), "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=2"]
        self.ssh_options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        run("ip", "link", "add", self.id, "type", "bridge")
        self.network = self._free_network()
        run("ip", "addr", "add", f"{self.network}.1/24", "dev", self.id)
        run("ip", "link", "set", self.id, "up")
        return self

    @staticmethod
    def _free_network():
        taken = run("ip", "route", "show", "table", "all")
        start = os.getpid() % 250
        return next(
            network
            for network in (f"10.213.{(start + i) % 250}" for i in range(250))
            if network + "." not in taken
        )

    def start(self, *names):
        for name in names:
            self[name] = Machine(self, name, f"{self.network}.{11 + len(self)}")
            self[name].boot()
        for name in names:
            until(f"{name} answers", self[name].answers, BOOT_S, interval=0.2)
            self[name].run("apt-get -q update")

    def __exit__(self, *_):
        for machine in self.values():
            machine.stop()
        run("ip", "link", "del", self.id, must=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(f"/tmp/{self.id}", ignore_errors=True)
