"""ansible/inventories/cluster: ten machines, one of them going down now and then."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from playbook import PASSWORDS, Chat, Site
from resp import Connection
from stack import REPO, until

pytestmark = pytest.mark.timeout(2400)
VERSION = (REPO / "VERSION").read_text().strip()
NAMES = ["haproxy1", "haproxy2", "api1", "api2", "broker1", "broker2", "broker3"]
NAMES += ["redis1", "redis2", "redis3"]
BROKERS = NAMES[4:7]


@pytest.fixture(scope="module")
def site(machines):
    machines.start(*NAMES)
    return Site(
        machines, "cluster",
        hlchat_settings={"CHAT_ENV": "dev", "IDENTITY": "dev", "HISTORY_LIMIT": 1000},
        probe_token="probe-Secret-4714",
        haproxy_virtual_address=f"{machines.network}.200/24",
        haproxy_virtual_interface="host0",
    )  # fmt: skip


@pytest.fixture
def chat(machines, site):
    """By the virtual address."""
    brokers = [(machines[name].address, 9001) for name in BROKERS]
    with Chat((f"{machines.network}.200", 80), brokers) as running:
        yield running


@pytest.fixture
def chat_without_the_first(machines, site):
    brokers = [(machines[name].address, 9001) for name in BROKERS[1:]]
    with Chat((f"{machines.network}.200", 80), brokers) as running:
        yield running


def master(machines):
    ask = "redis-cli -h {} -p 26379 SENTINEL get-master-addr-by-name chat | head -n 1"
    addresses = {machines[name].run(ask.format(machines[name].address)) for name in NAMES[7:]}
    return addresses.pop() if len(addresses) == 1 else None


def pids(machines, names, unit):
    return [(name, machines[name].run(f"systemctl show -P MainPID {unit}")) for name in names]


def version_of(broker):
    return broker.run("dpkg-query -W -f '${Version}' hlchat-ws-broker | cut -d- -f1")


def versions(machines):
    return [version_of(machines[name]) for name in BROKERS]


def talk(people):
    """Each says a word that all hear."""
    for number, speaker in enumerate(people):
        speaker.send("message", message=f"hello {number}")
        for person in people:
            assert person.receive()["message"] == f"hello {number}"


def test_check_mode_on_new_hosts(site):
    assert site.succeeds("--check").changed > 0


def test_install(machines, site, chat):
    site.succeeds()
    assert chat.version() == f"v{VERSION}"
    people = [chat.connect(f"at {broker.name}", direct=broker) for broker in chat.brokers]
    people.append(chat.connect("anywhere"))
    talk(people)
    assert master(machines) == machines["redis1"].address


def test_a_second_run_changes_nothing(site):
    assert site.succeeds().changed == 0


def test_one_broker_first(machines, site):
    site.succeeds("--limit", "broker2", hlchat_version=f"{VERSION}+next")
    assert versions(machines) == [VERSION, f"{VERSION}+next", VERSION]


def test_upgrade_while_people_talk(machines, site, chat, under_load):
    under_load(chat, lambda: site.succeeds(hlchat_version=f"{VERSION}+next"), per_second=0.15)
    assert chat.version() == f"v{VERSION}+next"


def test_a_version_that_cannot_start_stops_at_the_first_broker(
    machines, site, chat_without_the_first, under_load
):
    others = pids(machines, BROKERS[1:], "ws-broker@1")
    broken = f"{VERSION}+next.broken"
    under_load(chat_without_the_first, lambda: site.fails(hlchat_version=broken), per_second=0.15)
    assert pids(machines, BROKERS[1:], "ws-broker@1") == others
    assert versions(machines) == [broken, f"{VERSION}+next", f"{VERSION}+next"]


def test_downgrade_and_redis_settings_while_people_talk(
    machines, site, chat_without_the_first, chat, under_load
):
    """Redis' too, so that each is restarted, and none while it is the master."""

    def redis():
        connection = Connection((until("the Sentinels agree", lambda: master(machines)), 6379))
        connection.call("AUTH", PASSWORDS["admin"])
        return connection

    redis_pids = pids(machines, NAMES[7:], "redis-server")
    under_load(
        chat_without_the_first,
        lambda: site.succeeds(redis_maxmemory="200mb"),
        per_second=0.15,
        store=redis,
    )
    assert chat.version() == f"v{VERSION}"
    assert not set(pids(machines, NAMES[7:], "redis-server")) & set(redis_pids)
    assert site.succeeds(redis_maxmemory="200mb").changed == 0


def test_a_host_that_is_down(machines, site, chat):
    """Before a play: nothing is begun. In the middle of it: what comes after is not touched."""
    to = {"hlchat_version": f"{VERSION}+next", "redis_maxmemory": "200mb"}
    broker1, broker2, broker3 = (machines[name] for name in BROKERS)
    was = pids(machines, BROKERS, "ws-broker@1")
    broker2.unplug()
    try:
        played = site.fails(**to)
        assert "fatal: [broker2]: UNREACHABLE!" in played.output
        assert played.changed == 0
    finally:
        broker2.plug()
    until("broker2 is back", broker2.answers, 30)
    assert pids(machines, BROKERS, "ws-broker@1") == was

    with ThreadPoolExecutor() as pool:
        playing = pool.submit(site.fails, **to)
        try:
            until("broker1 gets it", lambda: version_of(broker1) == to["hlchat_version"], 300)
            broker2.unplug()
            played = playing.result()
            talk([chat.connect("at 1", chat.brokers[0]), chat.connect("at 3", chat.brokers[2])])
            assert chat.version() == f"v{VERSION}+next"
        finally:
            broker2.plug()
    assert "fatal: [broker2]: UNREACHABLE!" in played.output
    until("broker2 is back", broker2.answers, 30)
    assert pids(machines, BROKERS[1:], "ws-broker@1") == was[1:]
    assert versions(machines) == [f"{VERSION}+next", VERSION, VERSION]
    site.succeeds(**to)
    assert versions(machines) == [f"{VERSION}+next"] * 3


def test_the_virtual_address_moves(machines, site, chat):
    """Away from an HAProxy that is gone, and not back before the other one is."""
    address = f"{machines.network}.200/"

    def holders():
        return [name for name in NAMES[:2] if address in machines[name].run("ip addr")]

    def answers():
        try:
            return chat.version()
        except OSError:
            return None

    def waits(name):
        said = machines[name].run("journalctl -u keepalived | grep -o 'Entering .* STATE'")
        return said.endswith("BACKUP STATE")

    def moves(stops, takes):
        machines[stops].run("systemctl stop haproxy")
        until(f"{takes} has it", lambda: holders() == [takes], 30)
        assert until("and answers", answers, 10) == f"v{VERSION}+next"
        machines[stops].run("systemctl start haproxy")
        until(f"{stops} could have it", lambda: waits(stops), 30)
        assert holders() == [takes]

    first, second = NAMES[:2] if holders() == NAMES[:1] else reversed(NAMES[:2])
    moves(first, second)
    moves(second, first)
