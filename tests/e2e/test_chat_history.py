"""/chat v1: what was said before. docs/protocol.md, "history"."""

import pytest


def say(client, texts):
    """Sends them and returns the broadcasts, as texts."""
    for text in texts:
        client.send("message", message=text)
    return [client.receive_text() for _ in texts]


def texts(messages):
    return [message["message"] for message in messages]


def newest_first(first, last):
    return [str(i) for i in range(last, first - 1, -1)]


class TestHistory:
    """150 messages were sent: "0" to "149"."""

    SETTINGS = {"RATE_MESSAGES": 0}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def said(cls, stack):
        client = stack.connect("chronicler")
        return say(client, [str(i) for i in range(150)])

    @pytest.fixture
    def reader(self, stack):
        return stack.connect("reader")

    def test_exactly_the_newest_hundred(self, reader):
        assert texts(reader.history(limit=100)) == newest_first(50, 149)

    def test_each_is_byte_for_byte_what_was_broadcast(self, reader, said):
        reader.send("history", limit=100)
        assert reader.receive_text() == '{"history":[' + ",".join(said[:49:-1]) + "]}"

    def test_ten_by_default(self, reader):
        assert texts(reader.history()) == newest_first(140, 149)

    @pytest.mark.parametrize("limit", [101, 1000, 2**31, 2**32, 2**63 - 1, 2**63, 10**30])
    def test_a_huge_limit_is_clamped(self, reader, limit):
        assert texts(reader.history(limit=limit)) == newest_first(50, 149)

    @pytest.mark.parametrize("limit", [1, 7])
    def test_a_limit(self, reader, limit):
        assert texts(reader.history(limit=limit)) == newest_first(150 - limit, 149)

    @pytest.mark.parametrize("offset", [0, 5])
    def test_limit_zero_is_none(self, reader, offset):
        reader.send("history", limit=0, offset=offset)
        assert reader.receive_text() == '{"history":[]}'

    def test_the_offset_skips_the_newest(self, reader):
        assert texts(reader.history(limit=3, offset=5)) == newest_first(142, 144)

    def test_offset_with_the_default_limit(self, reader):
        assert texts(reader.history(offset=20)) == newest_first(120, 129)

    def test_only_the_newest_hundred_can_be_asked_for(self, reader):
        assert texts(reader.history(limit=10, offset=95)) == newest_first(50, 54)
        assert texts(reader.history(limit=100, offset=99)) == ["50"]

    @pytest.mark.parametrize("offset", [100, 149, 151, 2**31, 2**32, 2**63 - 1, 2**63, 10**30])
    def test_an_offset_past_the_end_is_no_error(self, reader, offset):
        assert reader.history(limit=10, offset=offset) == []

    @pytest.mark.parametrize("value", ['"10"', "true", "[]", "{}", "1.5", "-1", "-9e18"])
    @pytest.mark.parametrize("field", ["limit", "offset"])
    def test_a_wrong_type_or_range_names_the_field(self, reader, field, value):
        assert field in reader.refused(f'{{"action":"history","{field}":{value}}}')

    def test_unknown_keys_are_ignored(self, reader):
        assert texts(reader.history(limit=1, channel="General", user_id=5)) == ["149"]

    def test_only_the_asker_gets_it(self, stack, reader):
        other = stack.connect("other")
        reader.history()
        assert other.barrier() == []


class TestEmptyHistory:
    SETTINGS = {"RATE_MESSAGES": 0, "api": False}

    def test_nothing_was_said(self, stack):
        assert stack.connect("early").history() == []

    def test_refused_messages_are_not_in_it(self, start_stack):
        client = start_stack(api=False).connect("clumsy")
        client.send("message", message="x" * 5000)
        client.error()
        client.ask("message", message="good")
        assert texts(client.history()) == ["good"]


def loud(number):
    """The longest text there is: each byte is sent as six."""
    return f"{number:03}" + "\x01" * 2045


class TestLongHistory:
    """100 of the longest messages: more than a client's library may take in one frame."""

    SETTINGS = {"RATE_MESSAGES": 0, "api": False}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def said(cls, stack):
        client = stack.connect("loud")
        return say(client, [loud(i) for i in range(100)])

    @pytest.mark.parametrize("fields", [{}, {"limit": 100}, {"limit": 5}])
    def test_as_many_of_the_newest_as_fit(self, stack, said, fields):
        reader = stack.connect("reader")
        reader.send("history", **fields)
        frame = reader.receive_text()
        assert frame == '{"history":[' + ",".join(said[:95:-1]) + "]}"
        assert len(frame) <= 61440 < len(frame) + 1 + len(said[95])

    def test_offset_goes_on_from_what_came(self, stack):
        reader, whole = stack.connect("reader"), []
        while part := reader.history(limit=100, offset=len(whole)):
            whole += part
        assert texts(whole) == [loud(i) for i in reversed(range(100))]

    def test_limits_still_hold(self, stack):
        reader = stack.connect("reader")
        assert texts(reader.history(limit=3)) == [loud(i) for i in (99, 98, 97)]
        assert texts(reader.history(limit=3, offset=98)) == [loud(i) for i in (1, 0)]
        assert reader.history(limit=0) == []


@pytest.mark.parametrize("store", ["memory", "redis"])
class TestHistoryMaxBytes:
    def test_one_message_is_longer_than_that(self, start_stack, store):
        """A client that asks on by offset does not take that for the end."""
        settings = {"STORE": store, "HISTORY_MAX_BYTES": 4096, "RATE_MESSAGES": 0, "api": False}
        client = start_stack(**settings).connect("loud")
        say(client, ["first", loud(1), "last", "very last"])
        assert texts(client.history()) == ["very last", "last"]
        assert texts(client.history(offset=2)) == [loud(1)]
        assert texts(client.history(offset=3)) == ["first"]
        assert client.history(offset=4) == []


class TestHistoryLimitFive:
    SETTINGS = {"RATE_MESSAGES": 0, "HISTORY_LIMIT": 5, "api": False}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _said(cls, stack):
        say(stack.connect("chronicler"), [str(i) for i in range(150)])

    @pytest.mark.parametrize("fields", [{}, {"limit": 5}, {"limit": 6}, {"limit": 100}])
    def test_five_are_kept(self, stack, fields):
        assert texts(stack.connect("reader").history(**fields)) == newest_first(145, 149)

    def test_with_an_offset(self, stack):
        reader = stack.connect("reader")
        assert texts(reader.history(limit=100, offset=3)) == ["146", "145"]
        assert reader.history(limit=100, offset=5) == []


class TestHistoryLimitZero:
    SETTINGS = {"HISTORY_LIMIT": 0, "api": False}

    def test_nothing_is_kept_and_the_chat_works(self, stack):
        client = stack.connect("forgetful")
        assert client.ask("message", message="hi")["message"] == "hi"
        assert client.history() == []
        assert client.history(limit=100) == []
