"""The settings of docs/hosts.md, taken from its own text, are accepted by the programs."""

import re
import subprocess

import pytest
from certificate import make_certificate
from stack import BUILD, REPO
from test_haproxy import CONFIG, PAGE, HAProxy

SETTINGS = (REPO / "docs" / "hosts.md").read_text().split("\n## Settings\n")[1].split("\n## ")[0]
BLOCKS = [
    re.sub(r"^    ", "", b, flags=re.M) for b in re.findall(r"(?:^    .*\n)+", SETTINGS, re.M)
]


def checked(command):
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, env={})
    assert done.returncode == 0, done.stderr


def test_there_are_all():
    assert len(BLOCKS) == 5


def test_api(tmp_path):
    (tmp_path / "api.env").write_text(BLOCKS[0])
    checked([BUILD / "api-fcgi", "--env-file", tmp_path / "api.env", "--check"])


def test_broker(tmp_path):
    (tmp_path / "broker.env").write_text("CHAT_ENV=prod\n" + "".join(BLOCKS[1:4]))
    checked([BUILD / "ws-broker", "--env-file", tmp_path / "broker.env", "--check"])


@pytest.mark.parametrize("tls", [True, False])
def test_haproxy(tmp_path, tls):
    certificate = make_certificate(tmp_path / "c.pem", tmp_path / "c.pem")
    here = {
        "/usr/share/hlchat/haproxy/page": str(PAGE),
        "/run/haproxy": str(tmp_path),
        "/etc/haproxy/hlchat.pem": str(certificate),
        # As not every machine has such a user.
        "user haproxy": "",
        "group haproxy": "",
    }
    text = BLOCKS[4]
    for documented, path in here.items():
        assert text.count(documented) == 1
        text = text.replace(documented, path)
    if not tls:
        text = "\n".join(line for line in text.splitlines() if "TLS_CERT" not in line) + "\n"
    (tmp_path / "haproxy.cfg").write_text(text)
    checked([HAProxy.program(), "-dW", "-c", "-f", tmp_path / "haproxy.cfg", "-f", CONFIG])
