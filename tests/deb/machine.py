"""A Debian machine with its own systemd, booted from a root by systemd-nspawn.

    with Machine(root, shared) as machine:
        machine.run("apt-get install ./some.deb")     # bash -eu, in the folder `shared`
        with machine.network():                       # sockets opened here are the machine's
            http_request(("127.0.0.1", 9001), "GET", "/healthz")

The root stays as it is: what the machine writes is in memory, and gone with it. It has a loopback
interface and no other. `shared` is a folder of ours that the machine can write to, as /shared.
"""

import contextlib
import ctypes
import os
import subprocess
import uuid
from pathlib import Path

from stack import program_name, until

BOOT_S = 60
COMMAND_S = 120
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def enter_network(path):
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


class Machine:
    def __init__(self, root, shared):
        self.root = root
        self.shared = shared

    def __enter__(self):
        self.console = open(self.shared / "console.log", "wb")  # noqa: SIM115
        self.nspawn = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM"),  # no machine outlives the tests
                *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"),
                *("--volatile=overlay", "--private-network", f"--directory={self.root}"),
                *(f"--machine=hlchat-{uuid.uuid4().hex[:8]}", f"--bind={self.shared}:/shared"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self.console,
            stderr=self.console,
            start_new_session=True,
        )
        try:
            self.init = until("the machine boots", self._find_init, BOOT_S)
            until("the machine is up", self._is_up, BOOT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.nspawn.terminate()  # an orderly shutdown
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
        self.console.close()

    def _find_init(self):
        assert self.nspawn.poll() is None, Path(self.console.name).read_text(errors="replace")
        pid = self.nspawn.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        # Before its exec of systemd it is not in the namespaces yet.
        return next((child for child in children if program_name(child) == "systemd"), None)

    def _is_up(self):
        # "degraded" (some unit of Debian's failed) is up too; what matters the tests ask for.
        state = self.run("systemctl is-system-running || true").strip()
        return state in ("running", "degraded")

    def attempt(self, script):
        """Runs a script by `bash -eu` and returns how it went, output and errors as one text."""
        return subprocess.run(
            ["nsenter", "--all", f"--target={self.init}", "--", "bash", "-euc", script],
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                "LC_ALL": "C.UTF-8",
                "DEBIAN_FRONTEND": "noninteractive",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def run(self, script):
        """The same; it must succeed. Returns what it printed."""
        done = self.attempt(script)
        if done.returncode != 0:
            journal = self.attempt("journalctl --no-pager --lines 40").stdout
            raise AssertionError(
                f"{script}\nexit status {done.returncode}\n{done.stdout}\n{journal}"
            )
        return done.stdout

    def fails(self, script):
        """The same; it must not succeed. Returns what it printed."""
        done = self.attempt(script)
        assert done.returncode != 0, f"{script}\nsucceeded\n{done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def network(self):
        ours = f"/proc/{os.getpid()}/task/{os.getpid()}/ns/net"
        with open(ours) as before:
            enter_network(f"/proc/{self.init}/ns/net")
            try:
                yield
            finally:
                if libc.setns(before.fileno(), CLONE_NEWNET) != 0:
                    os._exit(1)  # whatever ran next would be in the wrong network
