"""ansible/site.yml, run against machines; and the chat that comes of it, as tests want a stack.

site = Site(machines, "single", probe_token="...", hlchat_settings={...})
played = site.play(hlchat_version="1.2.0")       # extra variables; `arguments` for the command
played.changed, played.failed, played.output

The inventory is a copy, as an operator makes one: vault.yml is the example, filled in
and encrypted.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from client import Client
from machines import WORK, run
from stack import REPO, http_request, open_socket

PLAY_S = 900
PLAYS = WORK / "plays"  # what they said, to read after a failure
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
    def __init__(self, machines, inventory, *, probe_token, broker_secrets=None, **variables):
        self.machines = machines
        self.secrets = [*PASSWORDS.values(), *(broker_secrets or {}).values()]
        self.secrets.append(probe_token.rpartition(".")[2])  # a JWT's signature
        self.outputs, self.shown = [], set()  # shown: command lines with secrets
        self.variables = {"ansible_user": "root", "hlchat_debs": str(WORK / "debs"), **variables}
        self.inventory = machines.folder / inventory
        shutil.copytree(REPO / "ansible/inventories" / inventory, self.inventory)
        self._vault_password = machines.folder / "vault-password"
        self._vault_password.touch(mode=0o600)
        self._vault_password.write_text("Vault-Secret-4713\n")
        self._probe_token = probe_token
        self._fill_vault(
            {
                **PASSWORDS,
                "token": "\"{{ lookup('ansible.builtin.env', 'PROBE_TOKEN') }}\"",
                "broker_secrets": json.dumps(broker_secrets or {}),
            }
        )
        # On top of it.
        self._hosts = machines.folder / "hosts.yml"
        hosts = {
            name: {"ansible_host": machine.address, "hlchat_address": machine.address}
            for name, machine in machines.items()
        }
        self._hosts.write_text(json.dumps({"all": {"hosts": hosts}}))

    def _fill_vault(self, values):
        folder = self.inventory / "group_vars/all"
        text = (folder / "vault.yml.example").read_text()
        for name, value in values.items():
            text, found = re.subn(rf"^( *{name}:).*", rf"\1 {value}", text, flags=re.MULTILINE)
            assert found == 1, name
        vault = folder / "vault.yml"
        vault.touch(mode=0o600)
        vault.write_text(text)
        run(
            *(WORK / "venv/bin/ansible-vault", "encrypt", vault),
            *("--vault-password-file", self._vault_password),
        )
        assert vault.read_text().startswith("$ANSIBLE_VAULT;")

    def play(self, *arguments, **variables):
        extra = self.machines.folder / "variables.json"
        extra.write_text(json.dumps({**self.variables, **variables}))
        with tempfile.TemporaryFile("w+", dir=self.machines.folder) as output:
            playing = subprocess.Popen(
                [WORK / "venv/bin/ansible-playbook", "-i", self.inventory, "-i", self._hosts]
                + ["--vault-password-file", self._vault_password, "-e", f"@{extra}", "site.yml"]
                + [*arguments],
                cwd=REPO / "ansible",
                env={
                    "PATH": f"{WORK}/venv/bin:{os.environ['PATH']}",
                    "HOME": str(self.machines.folder),
                    "LC_ALL": "C.UTF-8",
                    "PROBE_TOKEN": self._probe_token,
                    "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=30s "
                    "-o ServerAliveInterval=5 " + " ".join(self.machines.ssh_options),
                    # A socket's path has to be short.
                    "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/{self.machines.id}",
                },
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                self._wait(playing)
            finally:
                playing.kill()
                playing.wait()
            output.seek(0)
            self.outputs.append(output.read())
        PLAYS.mkdir(exist_ok=True)
        log = PLAYS / f"{self.inventory.name}-{len(self.outputs):02}.log"
        log.write_text(self.outputs[-1])
        return Played(playing.returncode, self.outputs[-1])

    def _wait(self, playing):
        """Meanwhile looks at the arguments of all that runs, here and on the machines."""
        deadline = time.monotonic() + PLAY_S
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return playing.wait(0.2)
            for arguments in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    text = arguments.read_text(errors="replace")
                    if any(secret in text for secret in self.secrets):
                        self.shown.add(text)
        raise AssertionError(f"the play takes longer than {PLAY_S} s")

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
