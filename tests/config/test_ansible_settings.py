"""The inventories' settings, as the roles would write them, are accepted by the programs."""

import json
import os
import re
import subprocess

import pytest
from certificate import make_certificate
from stack import BUILD, REPO, until
from test_haproxy import PAGE, HAProxy

PLAY_S = 300  # some seconds, on a machine with nothing else to do
pytestmark = pytest.mark.timeout(2 * PLAY_S)
BIN = REPO / "build" / "ansible" / "venv" / "bin"
REDIS_DOC = (REPO / "docs/redis.md").read_text()
COMMON = REPO / "debian" / "common.env"
VARIABLES = {
    "hlchat_version": (REPO / "VERSION").read_text().strip(),
    "redis_passwords": {name: f"{name}-4711" for name in ("hlchat", "haproxy", "peer", "admin")},
    "broker_secrets": {"MINIGAME_SECRET": "minigame-4711"},
    "broker_probe_login": {"token": "probe"},
}


def run(*command, **environment):
    done = subprocess.run(
        command, env=environment, check=False, timeout=PLAY_S, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module", params=["single", "cluster"])
def written(request, tmp_path_factory):
    """The folder of what tests/config/settings.yml has written for an inventory."""
    folder = tmp_path_factory.mktemp("written")
    variables = {**VARIABLES, "folder": str(folder)}
    if request.param == "single":
        variables["broker_redis_url"] = "rediss://chat:redis-4711@127.0.0.1:6390"
        variables["haproxy_certificate"] = "hlchat.pem"
        make_certificate(folder / "hlchat.pem", folder / "hlchat.pem")
    (folder / "variables.json").write_text(json.dumps(variables))
    run(
        BIN / "ansible-playbook", "-i", REPO / "ansible/inventories" / request.param,
        "-e", f"@{folder}/variables.json", REPO / "tests/config/settings.yml",
        HOME=str(folder), PATH=f"{BIN}:{os.environ['PATH']}", LC_ALL="C.UTF-8",
        ANSIBLE_ROLES_PATH=str(REPO / "ansible/roles"),
        ANSIBLE_PYTHON_INTERPRETER=str(BIN / "python"), ANSIBLE_REMOTE_TMP=str(folder / "tmp"),
        ANSIBLE_DISPLAY_OK_HOSTS="false", ANSIBLE_DISPLAY_SKIPPED_HOSTS="false",
    )  # fmt: skip
    # Where they are on this machine, not all of which have such a user.
    here = {
        "/usr/share/hlchat/haproxy/page": str(PAGE),
        "/run/haproxy": str(folder),
        "/etc/haproxy/hlchat.pem": str(folder / "hlchat.pem"),
        "    user haproxy\n": "",
        "    group haproxy\n": "",
    }
    for file in folder.glob("*.haproxy.cfg"):
        text = file.read_text()
        for there, path in here.items():
            text = text.replace(there, path)
        file.write_text(text)
    return folder


def files(written, name):
    found = sorted(written.glob(f"*.{name}"))
    assert found
    return found


def check(program, *env_files):
    arguments = [word for file in (COMMON, *env_files) for word in ("--env-file", file)]
    run(BUILD / program, *arguments, "--check")


def test_api(written):
    for file in files(written, "api-fcgi.env"):
        check("api-fcgi", file)


def test_broker(written):
    for file in files(written, "ws-broker@*.env"):
        host = file.name.split(".")[0]
        common = [written / f"{host}.ws-broker.{kind}" for kind in ("env", "secrets.env")]
        check("ws-broker", *common, file)


@pytest.mark.usefixtures("haproxy")
def test_haproxy(written):
    for file in files(written, "haproxy.cfg"):
        run(HAProxy.program(), "-dW", "-c", "-f", file)


@pytest.mark.usefixtures("haproxy")
@pytest.mark.parametrize("written", ["cluster"], indirect=True)
def test_redis_front(written):
    for file in files(written, "redis.cfg"):
        run(HAProxy.program(), "-dW", "-c", "-f", file)


@pytest.mark.usefixtures("haproxy")
@pytest.mark.parametrize("written", ["single"], indirect=True)
def test_redis_by_tls(written):
    """(Without -dW: a nameserver that cannot be reached is a warning.)"""
    for file in files(written, "redis-tls.cfg"):
        run(HAProxy.program(), "-c", "-f", file)
    for file in files(written, "ws-broker.secrets.env"):
        assert "REDIS_URL=redis://chat:redis-4711@127.0.0.1:6380\n" in file.read_text()


def test_the_rights_of_brokers_are_the_documented_ones(written):
    def rights(text):
        (line,) = re.findall(r"^ *user hlchat on \S+ (.*)", text, re.MULTILINE)
        return set(line.split())

    for file in files(written, "users.acl"):
        assert rights(file.read_text()) == rights(REDIS_DOC)


@pytest.mark.parametrize("written", ["cluster"], indirect=True)
def test_sentinels_wait_as_documented(written):
    lines = re.findall(
        r"^    (sentinel (?:down-after|failover-timeout).*)", REDIS_DOC, re.MULTILINE
    )
    assert len(lines) == 2
    for file in files(written, "sentinel.conf"):
        assert set(lines) <= set(file.read_text().splitlines())


def test_redis(written, tmp_path):
    for file in files(written, "hlchat.conf"):
        acl = written / file.name.replace("hlchat.conf", "users.acl")
        text = file.read_text()
        assert text.count("/etc/redis/users.acl") == 1
        (tmp_path / "redis.conf").write_text(text.replace("/etc/redis/users.acl", str(acl)))
        try_redis(tmp_path)


def try_redis(folder):
    """It has no option to check a configuration, so it is started with it."""
    log = folder / "log"
    with log.open("w") as output:
        redis = subprocess.Popen(
            [REPO / "shared/scripts/redis-server.sh", "redis.conf", "--port", "0"]
            + ["--unixsocket", "socket", "--appendonly", "no", "--save", ""],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        until("it has decided", lambda: is_ready(log) or redis.poll() is not None)
        assert is_ready(log), log.read_text()
    finally:
        redis.terminate()
        redis.wait()


def is_ready(log):
    # Redis 7.2 and later begin the line with it.
    return "ready to accept connections" in log.read_text().lower()
