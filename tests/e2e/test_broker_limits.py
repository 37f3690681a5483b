"""Who may connect, and who is still there."""

import json
import resource
import time

import pytest
from client import PING, PONG
from stack import open_socket, until


def refused(client, status):
    """The handshake was refused with this status and a JSON error; its text."""
    assert client.status == status, client.body
    assert client.headers["content-type"].startswith("application/json")
    answer = json.loads(client.body)
    assert list(answer) == ["error"]
    return answer["error"]


def ask_in(stack, *, address=None, direct=True):
    headers = {"X-Forwarded-For": address} if address else {}
    return stack.connect(raw=True, direct=direct, headers=headers, upgrade=False)


class TestMaxClients:
    SETTINGS = {"MAX_CLIENTS": 3, "api": False}

    @pytest.fixture(autouse=True)
    def _empty(self, stack):
        until("nobody is left", lambda: stack.broker.metrics()["hlchat_connections"] == 0)

    @pytest.mark.parametrize("direct", [True, False], ids=["direct", "haproxy"])
    def test_one_too_many_gets_503(self, stack, direct):
        members = [stack.connect(f"user {i}", direct=direct) for i in range(3)]
        assert refused(ask_in(stack, direct=direct), 503)
        assert members[0].ask("message", message="all here")["message"] == "all here"

    def test_who_leaves_makes_room(self, stack):
        members = [stack.connect(f"user {i}") for i in range(3)]
        members[0].close()
        until("there is room", lambda: ask_in(stack).status == 101)

    def test_health_and_metrics_answer_when_full(self, stack):
        for i in range(3):
            stack.connect(f"user {i}")
        assert stack.broker.http("/healthz").status == 200
        assert stack.broker.http("/readyz").status == 200
        before = stack.broker.metrics()
        assert ask_in(stack).status == 503
        name = 'hlchat_connections_refused_total{reason="full"}'
        assert stack.broker.metrics()[name] == before.get(name, 0) + 1


class TestConnPerAddress:
    SETTINGS = {"CONN_PER_ADDRESS": 2, "api": False}

    def enter(self, stack, address, count=2):
        for _ in range(count):
            assert ask_in(stack, address=address).status == 101

    @pytest.fixture(autouse=True)
    def _empty(self, stack):
        until("nobody is left", lambda: stack.broker.metrics()["hlchat_connections"] == 0)

    def test_one_too_many_gets_503_through_haproxy(self, stack):
        for _ in range(2):
            stack.connect()
        assert refused(ask_in(stack, direct=False), 503)

    def test_each_address_has_its_own(self, stack):
        self.enter(stack, "203.0.113.1")
        assert refused(ask_in(stack, address="203.0.113.1"), 503)
        self.enter(stack, "203.0.113.2")

    def test_who_leaves_makes_room(self, stack):
        self.enter(stack, "203.0.113.1", 1)
        leaving = ask_in(stack, address="203.0.113.1")
        leaving.close()
        until("there is room", lambda: ask_in(stack, address="203.0.113.1").status == 101)

    def test_an_ipv6_household_is_one_address(self, stack):
        self.enter(stack, "2001:db8:0:1::1", 1)
        self.enter(stack, "2001:db8:0:1:ffff::2", 1)
        assert refused(ask_in(stack, address="2001:db8:0:1::3"), 503)
        self.enter(stack, "2001:db8:0:2::1")

    def test_what_a_client_puts_before_it_changes_nothing(self, stack):
        for fake in ("198.51.100.1", "198.51.100.2"):
            self.enter(stack, f"{fake}, 203.0.113.9", 1)
        assert refused(ask_in(stack, address="198.51.100.3, 203.0.113.9"), 503)

    def test_an_untrusted_peer_cannot_choose_its_address(self, start_stack):
        stack = start_stack(api=False, CONN_PER_ADDRESS=2, TRUSTED_PROXIES="10.0.0.0/8")
        self.enter(stack, "203.0.113.1", 1)
        self.enter(stack, "203.0.113.2", 1)
        assert refused(ask_in(stack, address="203.0.113.3"), 503)

    def test_off_by_default(self, start_stack):
        stack = start_stack(api=False)
        for i in range(100):
            stack.connect(f"café {i}")


class TestConnectRate:
    SETTINGS = {"CONNECT_RATE_PER_ADDRESS": 2, "api": False}

    def test_too_many_at_once_get_503_and_others_do_not(self, stack):
        began = time.monotonic()
        attempts = [ask_in(stack, address="203.0.113.1") for _ in range(30)]
        took = time.monotonic() - began
        refusals = [client for client in attempts if client.status != 101]
        assert attempts[0].status == 101
        assert len(attempts) - len(refusals) <= 4 + 2 * took  # the burst is for two seconds
        for client in refusals:
            refused(client, 503)
        assert ask_in(stack, address="203.0.113.2").status == 101
        until("it may come again", lambda: ask_in(stack, address="203.0.113.1").status == 101)


class TestRequestRate:
    SETTINGS = {"RATE_MESSAGES": 1, "RATE_BURST": 2, "api": False}

    def test_requests_that_are_no_messages_have_a_rate_too(self, stack):
        """Four times that of messages: 4 a second, and 8 at once; the login was one."""
        client = stack.connect("hasty")
        began = time.monotonic()
        for _ in range(40):
            client.send("history", limit=0)
        answers = [client.receive() for _ in range(40)]
        took = time.monotonic() - began
        done = sum("history" in answer for answer in answers)
        assert 7 <= done <= 8 + 4 * took
        errors = [answer["error"] for answer in answers if "error" in answer]
        assert all(error.startswith("too many requests: wait 0.") for error in errors)


class TestKeepAlive:
    SETTINGS = {"PING_INTERVAL_S": 1, "api": False}

    @pytest.mark.parametrize(
        ("token", "direct"), [(None, True), ("alice", False)], ids=["stranger", "member"]
    )
    def test_who_never_answers_is_closed_and_who_does_stays(self, stack, token, direct):
        start = time.monotonic()
        alive = stack.connect(token, direct=direct)  # the library answers in the background
        gone = stack.connect(token, raw=True, direct=direct, answer_pings=False)
        gone.close_code()
        assert gone.pings >= 2
        assert 1.5 < time.monotonic() - start < 15
        assert "action" in alive.refused('{"action":"still here?"}')

    def test_an_idle_client_that_answers_stays(self, stack):
        client = stack.connect("idle", raw=True)
        while client.pings < 5:
            ping = client.receive_frame()
            assert ping.opcode == PING, ping
            client.pings += 1
            client.send_frame(PONG, ping.payload)
        assert client.history() == []

    def test_the_default_sends_none_so_early(self, start_stack):
        client = start_stack(api=False).connect("quiet", raw=True)
        with pytest.raises(AssertionError, match="nothing came"):
            client.receive_text(2.0)
        assert client.pings == 0


def test_it_gets_over_a_lack_of_descriptors(start_stack):
    stack = start_stack(api=False)
    limits = resource.prlimit(stack.broker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stack.broker.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    began = time.monotonic()
    with open_socket(stack.broker.address()) as sock:
        until("it is told", lambda: "listener accept_failed" in stack.broker.log())
        time.sleep(0.5)  # some more tries
        resource.prlimit(stack.broker.pid, resource.RLIMIT_NOFILE, limits)
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
    # Not for each try: once in ten seconds.
    lines = stack.broker.log().count("accept_failed")
    assert lines <= 1 + (time.monotonic() - began) / 10
