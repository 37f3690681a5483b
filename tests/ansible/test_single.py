"""ansible/inventories/single: one machine that has everything, through its life."""

import contextlib
import json

import pytest
from certificate import make_certificate
from client import Client
from jwt_tokens import claims, signing_key
from machines import DEBS
from playbook import PASSWORDS, Chat, Site
from stack import REPO, http_request, open_socket, until, unverified_tls

pytestmark = pytest.mark.timeout(1800)
VERSION = (REPO / "VERSION").read_text().strip()
MINIGAME_SECRET = "minigame-Secret-4712"
SETTINGS = {"CHAT_ENV": "prod", "IDENTITY": "jwt", "HISTORY_LIMIT": 1000}


def token_of(name):
    return signing_key("a").token(claims(sub=f"id-{name}", nickname=name))


@pytest.fixture(scope="module")
def host(machines):
    machines.start("chat")
    return machines["chat"]


@pytest.fixture(scope="module")
def site(machines, host):
    signing_key("a").write_public(machines.folder / "jwt.pem")
    return Site(
        machines, "single",
        hlchat_settings=SETTINGS,
        broker_jwt_public_keys=[str(machines.folder / "jwt.pem")],
        broker_secrets={"MINIGAME_SECRET": MINIGAME_SECRET},
        probe_token=token_of("probe"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def https(machines):
    """What is set besides, to begin with: load comes by HTTP."""
    return {
        "haproxy_settings": {"HTTP_BIND": "*", "HTTP_PORT": 80, "HTTPS_PORT": 443},
        "haproxy_certificate": str(
            make_certificate(machines.folder / "a.pem", machines.folder / "a.pem")
        ),
        "hlchat_settings": {**SETTINGS, "LOG_FORMAT": "json"},
    }


@pytest.fixture
def chat(host):
    brokers = [(host.address, 9001), (host.address, 9002)]
    with Chat((host.address, 80), brokers, token_of) as running:
        yield running


@pytest.fixture
def half_a_chat(host):
    """For who does not expect the first broker to be there."""
    with Chat((host.address, 80), [(host.address, 9002)], token_of) as running:
        yield running


def files(host):
    """When what a play writes was last changed."""
    where = "/etc /usr /var/cache/apt/archives"
    return host.run(f"find {where} -printf '%p %c\\n' 2>/dev/null | sort")


def test_check_mode_on_a_new_host(site, host):
    was = files(host)
    played = site.succeeds("--check", "--diff")
    assert played.changed > 0
    assert files(host) == was


def test_a_vault_that_is_not_filled_in(site):
    played = site.fails(redis_passwords={**PASSWORDS, "peer": None})
    assert (
        "argument 'peer' is of type <class 'NoneType'> found in 'redis_passwords'" in played.output
    )
    played = site.fails(redis_passwords={**PASSWORDS, "admin": "with a space"})
    assert "redis_passwords, admin: letters" in played.output
    assert "with a space" not in played.output


def test_install_with_https(site, host, https):
    site.succeeds(**https)
    answer = http_request((host.address, 443), "GET", "/api/version", tls=unverified_tls())
    assert json.loads(answer.body) == {
        "api": f"v{VERSION}",
        "env": "PRODUCTION",
        "desc": "Websocket Server C",
    }
    assert http_request((host.address, 80), "GET", "/").status == 308


def test_secrets_are_for_the_brokers_alone(site, host):
    files = host.run("stat -c '%n %a %U:%G' /etc/hlchat/*.secrets.env /etc/redis/users.acl")
    assert files.splitlines() == [
        "/etc/hlchat/ws-broker.secrets.env 640 root:hlchat-broker",
        "/etc/redis/users.acl 640 root:redis",
    ]
    for unit, may in (("ws-broker@1", True), ("api-fcgi", False)):
        user = host.run(f"systemctl show --value --property=User {unit}")
        reads = host.ssh(
            f"setpriv --reuid {user} --init-groups cat /etc/hlchat/ws-broker.secrets.env"
        )
        assert (reads.returncode == 0) == may, unit


def test_a_second_run_changes_nothing(site, https):
    assert site.succeeds(**https).changed == 0
    assert site.succeeds("--check", "--diff", "-vvv", **https).changed == 0


def test_settings_are_taken_one_broker_after_the_other(site, host, chat):
    site.succeeds()
    assert chat.version() == f"v{VERSION}"
    alice, bob = chat.connect("alice"), chat.connect("bob", direct=chat.brokers[1])
    alice.send("message", message="hello")
    until("bob hears alice", lambda: bob.receive().get("message") == "hello")


def test_game_servers_are_served(chat):
    secret = {"Authorization": f"Bearer {MINIGAME_SECRET}"}
    sock = open_socket(chat.haproxy.address())
    with contextlib.closing(Client(sock, "/minigame", additional_headers=secret)) as server:
        server.send("scheduler_start")
        assert server.receive() == {"info": "update"}
        assert server.receive() == {"info": "scheduler is running"}


def test_what_is_wrong_does_not_go_live(machines, site, host, chat):
    def in_force():
        units = "redis-server haproxy api-fcgi ws-broker@1 ws-broker@2"
        files = "/etc/redis/*.* /etc/haproxy/*.* /etc/hlchat/*"
        return host.run(f"systemctl show --property=MainPID {units}; md5sum {files}")

    junk = machines.folder / "junk" / "jwt.pem"  # by the name of the one that is there
    junk.parent.mkdir()
    junk.write_text("junk\n")
    was = in_force()
    for wrong in (
        {"hlchat_settings": {**SETTINGS, "CHAT_NAME": "two words"}},  # Redis' rights name it
        {"hlchat_settings": {**SETTINGS, "HISTORY_LIMIT": 5000}},
        {"haproxy_settings": {"HTTP_PORT": "nowhere"}},
        {"haproxy_certificate": str(junk)},
        {"broker_jwt_public_keys": [str(junk)]},
    ):
        played = site.fails(**wrong)
        assert "failed to validate" in played.output, wrong
        assert in_force() == was, wrong
    assert chat.version() == f"v{VERSION}"


def test_a_reload_that_haproxy_refuses_stops_the_play(site, chat):
    """A port that is taken: the file is a valid one all the same."""
    played = site.fails(haproxy_settings={"HTTP_BIND": "*", "HTTP_PORT": 9001})
    assert "HAProxy has refused to reload" in played.output
    assert chat.version() == f"v{VERSION}"
    assert site.succeeds().changed > 0
    assert chat.version() == f"v{VERSION}"


def test_check_mode_before_an_upgrade(site, host):
    was = files(host)
    assert site.succeeds("--check", "--diff", hlchat_version=f"{VERSION}+next").changed > 0
    assert files(host) == was


def test_a_version_that_is_not_there(site, chat):
    played = site.fails(hlchat_version="9.9.9")
    assert "no hlchat-common 9.9.9 for deb" in played.output
    assert chat.version() == f"v{VERSION}"


def test_upgrade_while_people_talk(site, host, chat, under_load):
    assert list(DEBS.glob(f"hlchat-ws-broker_{VERSION}+next-*"))
    under_load(chat, lambda: site.succeeds(hlchat_version=f"{VERSION}+next"), per_second=0.3)
    assert chat.version() == f"v{VERSION}+next"
    assert running_versions(host) == [f"{VERSION}+next"] * 2


def test_a_version_that_cannot_start_stops_at_the_first_broker(site, host, half_a_chat, under_load):
    second = host.run("systemctl show --value --property=MainPID ws-broker@2")
    broken = f"{VERSION}+next.broken"
    played = under_load(half_a_chat, lambda: site.fails(hlchat_version=broken), per_second=0.3)
    assert "ws-broker@1.service" in played.output
    assert host.run("systemctl show --value --property=MainPID ws-broker@2") == second


def test_downgrade_while_people_talk(site, host, half_a_chat, chat, under_load):
    """From where the play before this was stopped."""
    under_load(half_a_chat, site.succeeds, per_second=0.3)
    assert chat.version() == f"v{VERSION}"
    assert running_versions(host) == [VERSION] * 2
    assert site.succeeds().changed == 0


def test_no_secret_was_shown(site, host):
    """Not by Ansible, not in the machine's log, where modules are, and on no command line."""
    journal = host.run("journalctl --no-pager")
    assert "ansible" in journal
    for shown in (*site.outputs, journal):
        assert [secret for secret in site.secrets if secret in shown] == []
    assert site.shown == set()


def running_versions(host):
    texts = [host.run(f"python3 -c '{READ}' {9100 + n}") for n in (1, 2)]
    return [text.partition('hlchat_build_info{version="')[2].partition('"')[0] for text in texts]


READ = (
    "import sys, urllib.request as r; "
    'print(r.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode())'
)
