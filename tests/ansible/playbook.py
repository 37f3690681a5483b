"""ansible/site.yml, run against machines; and the chat that comes of it, as tests want a stack.

site = Site(machines, "single", chat=["chat"], hlchat_settings={...})
played = site.play(hlchat_version="1.2.0")       # extra variables; `arguments` for the command
played.changed, played.failed, played.output
"""

import contextlib
import json
import os
import re
import subprocess
from dataclasses import dataclass

from client import Client
from machines import WORK
from stack import REPO, http_request, open_socket

PLAY_S = 900
PASSWORDS = {name: f"{name}-Secret-4711" for name in ("hlchat", "haproxy", "peer", "admin")}
RECAP = re.compile(
    r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE
)


@dataclass
class Played:
    status: int
    output: str

    def _sum(self, column):
        return sum(int(row[column]) for row in RECAP.findall(self.output))

    @property
    def changed(self):
        return self._sum(1)

    @property
    def failed(self):
        return self._sum(2) + self._sum(3)


class Site:
    def __init__(self, machines, inventory, **variables):
        self.machines, self.inventory = machines, inventory
        self.outputs = []
        self.variables = {
            "ansible_user": "root",
            "hlchat_debs": str(WORK / "debs"),
            "redis_passwords": PASSWORDS,
            **variables,
        }
        # On top of the inventory as it is in the repository.
        self._hosts = machines.folder / "hosts.yml"
        hosts = {
            name: {"ansible_host": machine.address, "hlchat_address": machine.address}
            for name, machine in machines.items()
        }
        self._hosts.write_text(json.dumps({"all": {"hosts": hosts}}))

    def play(self, *arguments, **variables):
        extra = self.machines.folder / "variables.json"
        extra.touch(mode=0o600)
        extra.write_text(json.dumps({**self.variables, **variables}))
        done = subprocess.run(
            [WORK / "venv/bin/ansible-playbook", "-i", f"inventories/{self.inventory}"]
            + ["-i", self._hosts, "-e", f"@{extra}", "site.yml", *arguments],
            cwd=REPO / "ansible",
            env={
                "PATH": f"{WORK}/venv/bin:{os.environ['PATH']}",
                "HOME": str(self.machines.folder),
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=30s "
                + " ".join(self.machines.ssh_options),
                # A socket's path has to be short.
                "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/{self.machines.id}",
            },
            check=False, timeout=PLAY_S, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.outputs.append(done.stdout)
        return Played(done.returncode, done.stdout)

    def succeeds(self, *arguments, **variables):
        played = self.play(*arguments, **variables)
        assert played.status == 0, played.output[-4000:]
        assert played.failed == 0
        return played

    def fails(self, *arguments, **variables):
        played = self.play(*arguments, **variables)
        assert played.status != 0, "it should have been stopped"
        return played


class Front:
    """A broker, or HAProxy, by its address."""

    running, paused, resumed_at, tls = True, False, 0.0, None

    def __init__(self, name, host, port):
        self.name, self._address = name, (host, port)

    def address(self):
        return self._address

    def http(self, path):
        return http_request(self._address, "GET", path)


class Chat:
    """What Crowd wants of a stack."""

    def __init__(self, haproxy, brokers, token_of=str):
        self.token_of = token_of
        self.haproxy = Front("haproxy", *haproxy)
        self.brokers = [Front(f"broker{i}", *address) for i, address in enumerate(brokers, 1)]
        self._open = contextlib.ExitStack()

    def connect(self, name, direct=None):
        client = Client(open_socket((direct or self.haproxy).address()))
        self._open.callback(client.close)
        return client.login(self.token_of(name))

    def version(self):
        return json.loads(self.haproxy.http("/api/version").body)["api"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()
