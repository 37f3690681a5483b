"""ansible/inventories/single without the group redis: somebody else's, by TLS."""

import shutil

import pytest
from certificate import make_certificate
from playbook import Chat, Site
from stack import until

pytestmark = pytest.mark.timeout(1800)
PASSWORD = "elsewhere-Secret-4715"
REDIS = f"""
port 0
bind 0.0.0.0
tls-port 6390
tls-cert-file /root/redis.pem
tls-key-file /root/redis.key
tls-ca-cert-file /root/redis.pem
tls-auth-clients no
user default off
user chat on >{PASSWORD} ~* +@all
dir /tmp
"""


@pytest.fixture(scope="module")
def site(machines):
    machines.start("chat", "elsewhere")
    folder = machines.folder
    make_certificate(folder / "redis.pem", folder / "redis.key", name="redis.example")
    other = machines["elsewhere"]
    for name in ("redis.pem", "redis.key"):
        shutil.copy(folder / name, other.root / "root")
    (other.root / "root/redis.conf").write_text(REDIS)
    other.run("apt-get -q -y install redis-server; redis-server /root/redis.conf --daemonize yes")
    until("it listens", lambda: "6390" in other.run("ss -ltn"), 30)
    machines["chat"].run(f"echo {other.address} redis.example >>/etc/hosts")
    site = Site(
        machines, "single",
        hlchat_settings={"CHAT_ENV": "dev", "IDENTITY": "dev"},
        probe_token="probe-Secret-4714",
        broker_redis_url=f"rediss://chat:{PASSWORD}@redis.example:6390",
        broker_redis_ca=str(folder / "redis.pem"),
    )  # fmt: skip
    site.secrets.append(PASSWORD)
    # As docs/ansible.md says: without its own.
    hosts = site.inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("redis:\n  hosts:\n    chat:\n", ""))
    return site


@pytest.fixture
def chat(machines):
    host = machines["chat"].address
    with Chat((host, 80), [(host, 9001), (host, 9002)]) as running:
        yield running


def test_install(machines, site, chat):
    site.succeeds()
    assert site.succeeds().changed == 0
    assert site.succeeds("--check", "--diff").changed == 0
    anna, bob = (chat.connect("somebody", direct=broker) for broker in chat.brokers)
    anna.send("message", message="hello")
    assert bob.receive()["message"] == "hello"
    assert machines["chat"].ssh("test -e /usr/bin/redis-server").returncode != 0


def test_who_has_another_certificate_is_not_trusted(machines, site, chat):
    other = make_certificate(machines.folder / "other.pem", machines.folder / "other.key")
    played = site.fails(broker_redis_ca=str(other))
    assert "Wait until it is ready, broker 1" in played.output
    site.succeeds()
    anna = chat.connect("anna")
    assert [entry["message"] for entry in anna.history(limit=1)] == ["hello"]


def test_no_secret_was_shown(machines, site):
    for shown in (*site.outputs, machines["chat"].run("journalctl --no-pager")):
        assert [secret for secret in site.secrets if secret in shown] == []
    assert site.shown == set()
