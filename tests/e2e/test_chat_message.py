"""/chat v1: what one says and what all get. docs/protocol.md, "message"."""

import json
import re
import time

import pytest

MAX = 2048


@pytest.fixture
def alice(stack):
    return stack.connect("alice")


class TestBroadcast:
    SETTINGS = {"RATE_MESSAGES": 0}

    def test_everybody_who_is_logged_in_gets_it_the_sender_too(self, stack, alice):
        others = [stack.connect(f"other {i}") for i in range(3)]
        alice.send("message", message="hello")
        frames = [client.receive_text() for client in (alice, *others)]
        assert len(set(frames)) == 1
        assert json.loads(frames[0])["message"] == "hello"

    def test_the_exact_bytes_with_a_channel(self, alice):
        alice.send("message", message='a/b "c" \\ <&>', channel="x/y")
        text = alice.receive_text()
        timestamp = json.loads(text)["timestamp"]
        assert text == (
            f'{{"user_id":"dev-alice","timestamp":{timestamp},"message":"a/b \\"c\\" \\\\ <&>",'
            '"channel":"x/y","nickname":"alice"}'
        )

    def test_the_exact_bytes_without_a_channel(self, alice):
        alice.send("message", message="hi")
        assert re.fullmatch(
            r'\{"user_id":"dev-alice","timestamp":\d+,"message":"hi","nickname":"alice"\}',
            alice.receive_text(),
        )

    def test_the_timestamp_is_now_in_unix_seconds(self, alice):
        before = int(time.time())
        timestamp = alice.ask("message", message="hi")["timestamp"]
        assert type(timestamp) is int
        assert before <= timestamp <= time.time()

    def test_who_and_when_cannot_be_forged(self, stack, alice):
        bob = stack.connect("bob")
        forged = {"user_id": "dev-bob", "timestamp": 1, "nickname": "bob"}
        sent = alice.ask("message", message="I am bob", **forged)
        assert sent["user_id"] == "dev-alice"
        assert sent["nickname"] == "alice"
        assert sent["timestamp"] > 1
        assert bob.receive() == sent

    def test_unknown_keys_are_ignored(self, alice):
        sent = alice.ask("message", message="hi", extra=[{"deep": None}], id=1, type="message")
        assert list(sent) == ["user_id", "timestamp", "message", "nickname"]

    def test_a_client_that_left_is_missed_by_nobody(self, stack, alice):
        gone = [stack.connect(f"gone {i}") for i in range(5)]
        stack.connect("stays")
        for client in gone[::2]:
            client.close()
        assert alice.ask("message", message="anybody?")["message"] == "anybody?"
        assert gone[1].receive()["message"] == "anybody?"

    def test_each_connection_gets_each_message_once(self, stack, alice):
        bob = stack.connect("bob")
        sent = [str(i) for i in range(200)]
        for text in sent:
            alice.send("message", message=text)
        for client in (alice, bob):
            assert [client.receive()["message"] for _ in sent] == sent
            assert client.barrier() == []


class TestText:
    SETTINGS = {"RATE_MESSAGES": 0}

    @pytest.mark.parametrize(
        "text",
        [
            "x",
            "x" * (MAX - 1),
            "x" * MAX,
            "é" * (MAX // 2),
            "😀" * (MAX // 4),
            " ",
            "\n\t\r\b\f",
            "\x01" * MAX,
            '"' * MAX,
            "\\" * MAX,
            "\x7f",
            "</script>",
            "Žluťoučký kůň",
            "日本語 مرحبا \u202eשלום",
            "👩‍👩‍👧‍👦 e\u0301 \ufeff \ufffd \uffff",
            "\u2028\u2029",
            "\U0010ffff",
            "%s%n%x",
            "null",
        ],
        ids=lambda text: f"{ascii(text[:4])}x{len(text)}",
    )
    @pytest.mark.parametrize("escaped", [False, True], ids=["utf8", "escaped"])
    def test_arrives_as_it_was_sent(self, stack, alice, text, escaped):
        bob = stack.connect("bob")
        frame = json.dumps({"action": "message", "message": text}, ensure_ascii=escaped)
        assert alice.ask_text(frame)["message"] == text
        assert bob.receive()["message"] == text

    def test_the_longest_text_with_every_character_escaped(self, alice):
        for code, text in (("0041", "A" * MAX), ("001f", "\x1f" * MAX)):
            frame = '{"action":"message","message":"' + f"\\u{code}" * MAX + '"}'
            assert alice.ask_text(frame)["message"] == text

    @pytest.mark.parametrize(
        "text",
        ["", "x" * (MAX + 1), "é" * (MAX // 2) + "x", "😀" * (MAX // 4 + 1), "x" * (3 * MAX)],
        ids=lambda text: f"{ascii(text[:1])}x{len(text)}",
    )
    def test_the_wrong_length_names_field_and_range(self, alice, text):
        alice.send("message", message=text)
        error = alice.error()
        assert "message" in error
        assert str(MAX) in error
        assert alice.barrier() == []

    @pytest.mark.parametrize("value", [None, 5, 1.5, True, False, [], ["x"], {}, {"a": 1}])
    def test_a_wrong_type_names_the_field(self, alice, value):
        alice.send("message", message=value)
        assert "message" in alice.error()
        assert alice.barrier() == []

    def test_a_missing_text_names_the_field(self, alice):
        alice.send("message")
        assert "message" in alice.error()

    @pytest.mark.parametrize("text", ["\0", "a\0", "\0b", "a\0b"])
    def test_u0000_is_refused(self, alice, text):
        alice.send("message", message=text)
        assert "message" in alice.error()
        assert alice.barrier() == []

    def test_a_zero_byte_in_the_frame_is_refused(self, alice):
        alice.refused('{"action":"message","message":"a\0b"}')
        assert alice.barrier() == []

    @pytest.mark.parametrize("escape", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "\\ud83dx"])
    def test_half_a_surrogate_pair_never_leaves_as_it_is(self, alice, escape):
        answer = alice.ask_text('{"action":"message","message":"<' + escape + '>"}')
        if "error" not in answer:  # or it is replaced, as UTF-8 has no form for it
            assert re.fullmatch("<\ufffd{1,2}x?>", answer["message"])

    def test_the_limit_is_a_setting(self, start_stack):
        stack = start_stack(MESSAGE_MAX_BYTES=10, api=False)
        client = stack.connect("short")
        assert client.ask("message", message="x" * 10)["message"] == "x" * 10
        client.send("message", message="x" * 11)
        assert "10" in client.error()


class TestChannel:
    SETTINGS = {"RATE_MESSAGES": 0}

    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            ('"General"', "General"),
            ('"x"', "x"),
            ('" "', " "),
            (f'"{"x" * 64}"', "x" * 64),
            (f'"{"😀" * 16}"', "😀" * 16),
            ('"\\u0047"', "G"),
            ('"10"', "10"),
            ("10", "10"),
            ("10.0", "10"),
            ("0", "0"),
            ("-5", "-5"),
            ("2147483648", "2147483648"),
            ("9007199254740993", "9007199254740993"),
            ("9223372036854775807", "9223372036854775807"),
        ],
    )
    def test_a_text_or_an_integer_is_sent_as_a_text(self, alice, given, sent):
        frame = alice.ask_text('{"action":"message","message":"hi","channel":' + given + "}")
        assert frame["channel"] == sent
        assert list(frame) == ["user_id", "timestamp", "message", "channel", "nickname"]

    @pytest.mark.parametrize("given", ["null", '""'])
    def test_null_and_empty_count_as_absent(self, alice, given):
        frame = alice.ask_text('{"action":"message","message":"hi","channel":' + given + "}")
        assert list(frame) == ["user_id", "timestamp", "message", "nickname"]

    @pytest.mark.parametrize(
        "given",
        [
            f'"{"x" * 65}"',
            f'"{"😀" * 17}"',
            '"a\\u0000b"',
            '"\\u0000"',
            "true",
            "false",
            "[]",
            '["General"]',
            "{}",
            "1.5",
            "1e300",
            "-0.5",
        ],
    )
    def test_anything_else_is_refused_and_named(self, alice, given):
        error = alice.refused('{"action":"message","message":"hi","channel":' + given + "}")
        assert "channel" in error
        assert "64" in error
        assert alice.barrier() == []


class TestRate:
    SETTINGS = {"RATE_MESSAGES": 1, "RATE_BURST": 3}

    def burst(self, client, count):
        """Sends so fast that the answers tell the burst; (texts that came back, errors)."""
        for i in range(count):
            client.send("message", message=str(i))
        frames = [client.receive() for _ in range(count)]
        return (
            [frame["message"] for frame in frames if "message" in frame],
            [frame["error"] for frame in frames if "error" in frame],
        )

    def test_what_is_over_the_burst_is_refused_with_the_wait(self, stack):
        began = time.monotonic()
        passed, refused = self.burst(stack.connect("hasty"), 10)
        assert passed[:3] == ["0", "1", "2"]
        assert len(passed) <= 3 + time.monotonic() - began
        assert all(re.search(r"\d", error) for error in refused)

    def test_nobody_gets_what_was_refused(self, stack):
        hasty, other = stack.connect("noisy"), stack.connect("listener")
        passed, _ = self.burst(hasty, 10)
        assert [frame["message"] for frame in other.barrier()] == passed

    def test_others_are_not_concerned(self, stack):
        self.burst(stack.connect("greedy"), 10)
        passed, refused = self.burst(stack.connect("modest"), 3)
        assert (len(passed), refused) == (3, [])

    def test_the_wait_is_as_long_as_it_says(self, stack):
        client = stack.connect("waiting")
        _, refused = self.burst(client, 6)
        wait = float(re.search(r"\d+(\.\d+)?", refused[-1]).group())
        assert 0 < wait <= 2
        time.sleep(wait)
        assert "message" in client.ask("message", message="now")

    def test_one_user_has_one_rate_on_all_connections(self, stack):
        began = time.monotonic()
        one, two = stack.connect("both"), stack.connect("both")
        first, _ = self.burst(one, 10)
        two.barrier()
        second, _ = self.burst(two, 4)
        assert len(first + second) <= 3 + time.monotonic() - began

    def test_a_new_connection_gets_no_new_burst(self, stack):
        began = time.monotonic()
        one = stack.connect("again")
        first, _ = self.burst(one, 10)
        one.close()
        two = stack.connect("again")
        second, _ = self.burst(two, 4)
        assert len(first + second) <= 3 + time.monotonic() - began

    def test_refused_requests_use_nothing_up(self, stack):
        client = stack.connect("clumsy")
        for _ in range(6):
            client.send("message", message="")
            assert "message" in client.error()
        passed, _ = self.burst(client, 3)
        assert len(passed) == 3

    def test_the_default_is_a_burst_of_twenty(self, start_stack):
        stack, began = start_stack(api=False), time.monotonic()
        passed, _ = self.burst(stack.connect("default"), 60)
        assert passed[:20] == [str(i) for i in range(20)]
        assert len(passed) <= 20 + 5 * (time.monotonic() - began)

    def test_zero_is_no_limit(self, start_stack):
        stack = start_stack(api=False, RATE_MESSAGES=0, RATE_BURST=1)
        passed, refused = self.burst(stack.connect("free"), 500)
        assert (len(passed), refused) == (500, [])
