"""/chat v1: who one is. docs/protocol.md, "login"."""

import json
import time

import pytest
from client import Closed

CONNECTED = {"info": "connected"}


class TestLogin:
    def test_the_token_is_the_nickname(self, stack):
        client = stack.connect()
        assert client.ask("login", token="Hero 1") == CONNECTED
        broadcast = client.ask("message", message="hi")
        assert broadcast["user_id"] == "dev-Hero 1"
        assert broadcast["nickname"] == "Hero 1"

    def test_the_answer_is_exactly_this(self, stack):
        client = stack.connect()
        client.send("login", token="exact")
        assert client.receive_text() == '{"info":"connected"}'

    def test_empty_username_and_password_count_as_absent(self, stack):
        answer = stack.connect().ask("login", token="t", username="", password="")
        assert answer == CONNECTED

    def test_the_token_wins_over_username_and_password(self, stack):
        client = stack.connect()
        assert client.ask("login", token="winner", username="u", password="p") == CONNECTED
        assert client.ask("message", message="hi")["nickname"] == "winner"

    def test_an_empty_token_counts_as_absent(self, stack):
        client = stack.connect()
        with_both = client.ask("login", token="", username="u", password="p")
        without = client.ask("login", username="u", password="p")
        assert with_both == without
        assert "error" in with_both

    def test_a_password_login_is_refused_in_dev(self, stack):
        client = stack.connect()
        client.send("login", username="u", password="p")
        assert "token" in client.error()  # says what to use instead

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"token": ""},
            {"token": "", "username": "", "password": ""},
        ],
    )
    def test_a_login_without_credentials_is_an_error(self, stack, fields):
        client = stack.connect()
        client.send("login", **fields)
        assert "token" in client.error()

    @pytest.mark.parametrize("fields", [{"username": "u"}, {"username": "u", "password": ""}])
    def test_a_username_without_a_password_is_an_error(self, stack, fields):
        client = stack.connect()
        client.send("login", **fields)
        assert "password" in client.error()

    def test_a_password_without_a_username_is_an_error(self, stack):
        client = stack.connect()
        client.send("login", password="p")
        assert "username" in client.error()

    @pytest.mark.parametrize("value", [5, 1.5, True, [], ["a"], {}, {"a": "b"}])
    @pytest.mark.parametrize("field", ["token", "username", "password"])
    def test_a_wrong_type_names_the_field(self, stack, field, value):
        others = {"username": "u", "password": "p"} if field != "token" else {}
        client = stack.connect()
        client.send("login", **{**others, field: value})
        assert field in client.error()

    @pytest.mark.parametrize("token", ["x", "x" * 64, "😀" * 16, 'a"b\\c/d', "žluťoučký kůň"])
    def test_token_lengths_that_fit(self, stack, token):
        client = stack.connect(token)
        assert client.ask("message", message="hi")["nickname"] == token

    @pytest.mark.parametrize("token", ["x" * 65, "😀" * 17, "x" * 8192])
    def test_a_nickname_is_at_most_64_bytes(self, stack, token):
        client = stack.connect()
        client.send("login", token=token)
        assert "64" in client.error()

    def test_a_token_is_at_most_8192_bytes(self, stack):
        client = stack.connect()
        client.send("login", token="x" * 8193)
        error = client.error()
        assert "token" in error
        assert "8192" in error

    def test_a_token_with_nul_is_an_error(self, stack):
        client = stack.connect()
        client.send("login", token="a\0b")
        assert "token" in client.error()

    def test_a_failed_login_leaves_the_connection_open(self, stack):
        client = stack.connect()
        client.send("login", token="x" * 65)
        client.error()
        client.login("second try")

    def test_the_same_user_may_log_in_again(self, stack):
        client = stack.connect("twice")
        assert client.ask("login", token="twice") == CONNECTED
        assert client.ask("message", message="once")["message"] == "once"
        assert client.barrier() == []

    @pytest.mark.parametrize(
        "fields", [{"token": "somebody else"}, {"token": "x" * 65}, {"token": 5}, {}]
    )
    def test_another_login_is_an_error_and_changes_nothing(self, stack, fields):
        client = stack.connect("first")
        client.send("login", **fields)
        client.error()
        assert client.ask("message", message="hi")["user_id"] == "dev-first"

    def test_one_user_may_have_several_connections(self, stack):
        one, two = stack.connect("several"), stack.connect("several")
        one.send("message", message="to both")
        assert one.receive() == two.receive()

    def test_a_login_is_not_undone_by_another_connection(self, stack):
        one, two = stack.connect("stays"), stack.connect("stays")
        two.close()
        assert one.ask("message", message="still here")["message"] == "still here"


class TestBeforeLogin:
    def test_no_broadcast_reaches_a_client_that_is_not_logged_in(self, stack):
        stranger, alice = stack.connect(), stack.connect("alice")
        alice.ask("message", message="members only")
        assert stranger.barrier() == []

    def test_no_broadcast_reaches_a_client_whose_login_failed(self, stack):
        stranger, alice = stack.connect(), stack.connect("alice")
        stranger.send("login", token="x" * 65)
        stranger.error()
        alice.ask("message", message="members only")
        assert stranger.barrier() == []

    def test_a_message_is_refused(self, stack):
        stranger, alice = stack.connect(), stack.connect("alice")
        stranger.send("message", message="let me in")
        assert "log" in stranger.error()
        assert alice.barrier() == []

    def test_history_is_refused(self, stack):
        stranger = stack.connect()
        stranger.send("history")
        assert "log" in stranger.error()

    def test_login_and_message_may_come_without_waiting(self, stack):
        client = stack.connect()
        client.send("login", token="hasty")
        client.send("message", message="hi")
        assert client.receive() == CONNECTED
        assert client.receive()["user_id"] == "dev-hasty"

    def test_broadcasts_begin_with_the_login(self, stack):
        late, alice = stack.connect(), stack.connect("alice")
        alice.ask("message", message="before")
        late.login("late")
        alice.ask("message", message="after")
        assert [frame["message"] for frame in late.barrier()] == ["after"]


class TestLoginAttempts:
    SETTINGS = {"LOGIN_ATTEMPTS": 3}

    def fail(self, client):
        client.send("login", token="x" * 65)
        client.error()

    def test_closed_4501_when_the_attempts_are_used_up(self, stack):
        client = stack.connect()
        self.fail(client)
        self.fail(client)
        client.send("login", token="x" * 65)
        assert client.close_code() == 4501

    def test_the_last_attempt_still_works(self, stack):
        client = stack.connect()
        self.fail(client)
        self.fail(client)
        client.login("third time lucky")
        assert client.history() is not None

    def test_other_errors_are_no_attempts(self, stack):
        client = stack.connect()
        for _ in range(5):
            client.send("message", message="not yet")
            client.error()
        client.login("patient")

    def test_attempts_are_counted_per_connection(self, stack):
        one, two = stack.connect(), stack.connect()
        self.fail(one)
        self.fail(one)
        self.fail(two)
        one.login("one")
        two.login("two")

    def test_the_default_is_five(self, start_stack):
        client = start_stack(api=False).connect()
        for _ in range(4):
            self.fail(client)
        client.send("login", token="x" * 65)
        assert client.close_code() == 4501


class TestLoginTimeout:
    SETTINGS = {"LOGIN_TIMEOUT_S": 3, "LOGIN_ATTEMPTS": 100, "RATE_MESSAGES": 0}

    def test_closed_4003_without_a_login(self, stack):
        start = time.monotonic()
        assert stack.connect().close_code() == 4003
        assert 2.9 < time.monotonic() - start < 15

    def test_other_requests_are_no_attempts(self, stack):
        client = stack.connect()
        start = time.monotonic()
        with pytest.raises(Closed) as closed:  # noqa: PT012 - whichever call sees it
            while time.monotonic() - start < 15:
                client.send("history")
                client.error()
                time.sleep(0.2)
        assert closed.value.code == 4003

    def test_a_failed_attempt_restarts_it(self, stack):
        client, start = stack.connect(), time.monotonic()
        while time.monotonic() - start < 4:
            time.sleep(0.75)
            client.send("login", token="x" * 65)
            client.error()
        assert client.close_code() == 4003

    def test_never_fires_after_the_login(self, stack):
        member, stranger = stack.connect("member"), stack.connect()
        assert stranger.close_code() == 4003  # which came after the member
        assert member.history() == []


class TestHandshake:
    """Ways in which existing game clients open /chat, through HAProxy."""

    @pytest.mark.parametrize("path", ["/chat", "/chat/", "/chat?a=b", "/chat/?a=b&c", "/chat?"])
    def test_paths(self, stack, path):
        client = stack.connect("somebody", path=path)
        assert client.ask("message", message=path)["message"] == path

    @pytest.mark.parametrize("direct", [False, True], ids=["haproxy", "broker"])
    @pytest.mark.parametrize(
        "names",
        [
            "chat",
            "soap, wamp",
            "xmpp,chat.v9.json",
            "binary",
            "  a  ,b",
            "a" * 62,
            "!#$%&'+-.^_`|~7",
        ],
    )
    def test_the_first_subprotocol_is_selected(self, stack, direct, names):
        client = stack.connect("somebody", raw=True, direct=direct, subprotocol=names)
        assert client.subprotocol == names.split(",")[0].strip()
        assert client.ask("message", message="hi")["message"] == "hi"

    @pytest.mark.parametrize("direct", [False, True], ids=["haproxy", "broker"])
    def test_subprotocols_in_several_lines(self, stack, direct):
        lines = {"Sec-WebSocket-Protocol": "one, two", "sec-websocket-protocol": "three"}
        client = stack.connect("somebody", raw=True, direct=direct, headers=lines)
        assert client.subprotocol == "one"

    @pytest.mark.parametrize("direct", [False, True], ids=["haproxy", "broker"])
    @pytest.mark.parametrize("headers", [{}, {"Sec-WebSocket-Protocol": ""}], ids=["none", "empty"])
    def test_no_subprotocol(self, stack, direct, headers):
        for _ in range(2):  # the one before has no part in it
            client = stack.connect("somebody", raw=True, direct=direct, headers=headers)
            assert client.subprotocol is None
            stack.connect(raw=True, direct=direct, subprotocol="other")

    @pytest.mark.parametrize("names", ["a b", ",", ', "a"', "a/b", "a" * 63, "caf\u00e9"])
    def test_what_is_no_name_of_a_subprotocol(self, stack, names):
        client = stack.connect("somebody", raw=True, subprotocol=names)
        assert client.subprotocol is None
        client = stack.connect(raw=True, direct=True, subprotocol=names, upgrade=False)
        assert client.status == 400
        assert "Sec-WebSocket-Protocol" in json.loads(client.body)["error"]

    def test_more_subprotocols_than_the_broker_has_room_for(self, stack):
        names = ", ".join(["name"] * 21)  # 124 bytes
        assert stack.connect(raw=True, direct=True, subprotocol=names).subprotocol == "name"
        client = stack.connect(raw=True, direct=True, subprotocol=names + ", b", upgrade=False)
        assert client.status == 400
        names = ", ".join(["name"] * 1000)
        assert stack.connect("somebody", raw=True, subprotocol=names).subprotocol == "name"

    @pytest.mark.parametrize("direct", [False, True], ids=["haproxy", "broker"])
    @pytest.mark.parametrize("host", [None, ""], ids=["none", "empty"])
    def test_a_host_is_wanted(self, stack, direct, host):
        client = stack.connect(raw=True, direct=direct, headers={"Host": host}, upgrade=False)
        assert client.status == 400
        assert "Host" in json.loads(client.body)["error"]

    def test_the_broker_wants_a_key(self, stack):
        headers = {"Sec-WebSocket-Key": None}
        client = stack.connect(raw=True, direct=True, headers=headers, upgrade=False)
        assert client.status == 400
        assert "Sec-WebSocket-Key" in json.loads(client.body)["error"]

    @pytest.mark.parametrize("origin", [None, "null", "https://example.org", "file://"])
    def test_any_origin_or_none(self, stack, origin):
        stack.connect("somebody", raw=True, headers={"Origin": origin})

    def test_compression_may_be_offered(self, stack):
        client = stack.connect("somebody", compression="deflate")
        assert client.ask("message", message="hi" * 500)["message"] == "hi" * 500

    @pytest.mark.parametrize("path", ["/", "/other", "/chat2", "/minigam"])
    def test_the_broker_upgrades_no_other_path(self, stack, path):
        client = stack.connect(raw=True, direct=True, path=path, upgrade=False)
        assert client.status == 404
        assert list(json.loads(client.body)) == ["error"]

    def test_header_names_in_any_case(self, stack):
        headers = {"Upgrade": None, "Connection": None, "UPGRADE": "WebSocket"}
        stack.connect(
            "somebody", raw=True, headers={**headers, "connection": "keep-alive, UPGRADE"}
        )
