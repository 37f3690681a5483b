"""/chat v1: requests that make no sense, and how many of them one may send."""

import json
import time

import pytest
from client import Closed


class TestRequests:
    SETTINGS = {"RATE_MESSAGES": 0}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "hello",
            "{",
            "}",
            '{"action":',
            '{"action":"history"',
            '{"action":"history"]',
            "nul",
            '{"action" "history"}',
            "\x00",
        ],
    )
    @pytest.mark.parametrize("token", [None, "alice"])
    def test_not_json(self, stack, text, token):
        assert "JSON" in stack.connect(token).refused(text)

    @pytest.mark.parametrize(
        "text",
        [
            '{"action":"history"}x',
            '{"action":"history"} x',
            '{"action":"history"}}',
            '{"action":"history"}{"action":"history"}',
            '{"action":"history"}\x00',
        ],
    )
    def test_trailing_garbage(self, stack, text):
        client = stack.connect("alice")
        client.refused(text)
        assert client.barrier() == []

    @pytest.mark.parametrize("text", ["[]", '["action"]', '"action"', "5", "-1.5", "null", "true"])
    def test_not_an_object(self, stack, text):
        assert "object" in stack.connect("alice").refused(text)

    @pytest.mark.parametrize("text", ["{}", '{"message":"hi"}', '{"Action":"history"}'])
    def test_no_action(self, stack, text):
        assert "action" in stack.connect("alice").refused(text)

    @pytest.mark.parametrize("value", ["null", "5", "true", "[]", "{}", '["history"]'])
    def test_an_action_of_the_wrong_type(self, stack, value):
        assert "action" in stack.connect("alice").refused(f'{{"action":{value}}}')

    @pytest.mark.parametrize(
        "name", ["ping", "", "History", "history ", "hist\0ory", "history\0", "x" * 5000]
    )
    @pytest.mark.parametrize("token", [None, "alice"])
    def test_an_unknown_action(self, stack, name, token):
        assert "action" in stack.connect(token).refused(json.dumps({"action": name}))

    @pytest.mark.parametrize(
        "text", [' {"action":"history"}', '{"action":"history"}\n', '{"action":"history"}\r\n \t']
    )
    def test_white_space_around_is_json(self, stack, text):
        assert "history" in stack.connect("alice").ask_text(text)

    @pytest.mark.parametrize("deep", ["[" * 500 + "]" * 500, "[" * 5000, '{"x":' * 2000])
    def test_nesting_too_deep_is_an_error(self, stack, deep):
        error = stack.connect("alice").refused(f'{{"action":"history","x":{deep}}}')
        assert "32 at most" in error

    def test_nesting_that_nobody_asked_for_is_ignored(self, stack):
        deep = "[" * 31 + "1" + "]" * 31
        answer = stack.connect("alice").ask_text(f'{{"action":"history","x":{deep}}}')
        assert list(answer) == ["history"]

    def test_escapes_in_keys_and_actions(self, stack):
        assert "history" in stack.connect("alice").ask_text(
            '{"\\u0061ction":"\\u0068istory"}',
        )

    def test_an_error_repeats_nothing_of_what_was_sent(self, stack):
        client = stack.connect("alice")
        for text in (
            "sesame",
            '{"action":"sesame"}',
            '{"action":"message","message":{"sesame":"sesame"}}',
            '{"action":"login","token":["sesame"]}',
            '{"action":"message","message":"hi","channel":["sesame"]}',
        ):
            assert "sesame" not in client.refused(text)

    def test_the_connection_stays_open(self, stack):
        client = stack.connect("alice")
        for text in ("", "[]", "{}", '{"action":5}', '{"action":"message"}'):
            client.refused(text)
        assert client.ask("message", message="still here")["message"] == "still here"


class TestErrorLimit:
    """ERROR_LIMIT is 50, and one a second is forgotten."""

    SETTINGS = {"RATE_MESSAGES": 0, "LOGIN_ATTEMPTS": 1000}

    def errors_until_closed(self, client, text, most=60):
        """(how many errors were answered, the close code)."""
        for answered in range(most):
            try:
                client.refused(text)
            except Closed as closed:
                return answered, closed.code
        return most, None

    @pytest.mark.parametrize(
        "text", ["no JSON", "[]", "{}", '{"action":"message","message":""}', '{"action":5}']
    )
    def test_fifty_in_a_row_close_1008(self, stack, text):
        answered, code = self.errors_until_closed(stack.connect("alice"), text)
        assert code == 1008
        assert 49 <= answered <= 52  # the last one may be told by the close alone

    def test_also_before_the_login(self, stack):
        answered, code = self.errors_until_closed(stack.connect(), '{"action":"history"}')
        assert (49 <= answered <= 52, code) == (True, 1008)

    def test_a_success_starts_the_count_again(self, stack):
        client = stack.connect("alice")
        for _ in range(3):
            for _ in range(49):
                client.refused("no JSON")
            client.history()

    def test_a_message_is_a_success(self, stack):
        client = stack.connect("alice")
        for _ in range(2):
            for _ in range(49):
                client.refused("no JSON")
            client.ask("message", message="hi")

    @pytest.mark.parametrize(
        "text", ["ping", "", "{}", '{"type":"ping"}', '{"action":"keep-alive"}']
    )
    def test_keep_alives_of_one_s_own_making(self, stack, text):
        """All alike: many in a row are forgiven, when they are not faster than one a second."""
        client = stack.connect("alice")
        for _ in range(45):
            client.refused(text)
        time.sleep(3.1)
        for _ in range(6):  # 3 were forgotten
            client.refused(text)
        assert client.history(limit=0) == []
        answered, code = self.errors_until_closed(client, text)
        assert (49 <= answered <= 52, code) == (True, 1008)

    def test_an_unknown_action_of_a_stranger_counts(self, stack):
        _, code = self.errors_until_closed(stack.connect(), '{"action":"keep-alive"}')
        assert code == 1008

    def test_an_unknown_action_does_not_start_the_count_again(self, stack):
        client = stack.connect("alice")
        for _ in range(22):
            client.refused("no JSON")
            client.refused('{"action":"keep-alive"}')
        assert self.errors_until_closed(client, "no JSON", most=9)[1] == 1008

    def test_the_others_stay(self, stack):
        bob = stack.connect("bob")
        self.errors_until_closed(stack.connect("alice"), "no JSON")
        assert bob.history(limit=0) == []
