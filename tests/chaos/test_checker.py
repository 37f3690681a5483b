"""The checker finds what it is there for; checker.py."""

import json
from dataclasses import replace

import pytest
from checker import Run, Session, check

LOG = ["begin", *"abcdefgh", "end"]
REFUSED = '{"error":"the chat is unavailable: the message was not sent, try again"}'
UNSURE = '{"error":"not confirmed: the message may still appear, once"}'


def message(text):
    return {"user_id": "dev-x", "timestamp": 1, "message": text, "nickname": "x"}


def frames(texts):
    return [json.dumps(message(text)) for text in texts]


def history(texts):
    return json.dumps({"history": [message(text) for text in reversed(texts)]})


def messages(texts):
    return [message(text) for text in texts]


@pytest.fixture
def run():
    """Five clients saw all; the first one said all."""
    return Run(
        sessions=[
            Session("talker", frames(LOG), list(LOG)),
            *(Session(f"listener {i}", frames(LOG)) for i in range(4)),
        ],
        histories={"one": messages(LOG[::-1]), "two": messages(LOG[::-1])},
        begin="begin",
        end="end",
        stored=messages(LOG),
    )


def problems_of(run, texts):
    run.sessions[1].frames = frames(texts)
    return check(run)


def test_a_good_run(run):
    assert check(run) == []


def test_one_missing(run):
    found = problems_of(run, [t for t in LOG if t != "c"])
    assert found == ["listener 0: 'c' is missing before 'd' (1 in all)"]


def test_one_twice(run):
    assert problems_of(run, [*LOG[:4], "c", *LOG[4:]]) == ["listener 0: 'c' came 2 times"]


def test_one_twice_later(run):
    assert problems_of(run, [*LOG[:6], "a", *LOG[6:]]) == ["listener 0: 'a' came 2 times"]


def test_two_swapped(run):
    texts = list(LOG)
    texts[3], texts[4] = texts[4], texts[3]
    found = problems_of(run, texts)
    assert found
    assert all(problem.startswith("listener 0: ") for problem in found)


@pytest.mark.parametrize(
    ("texts", "what"), [(LOG[1:], "has not the begin"), (LOG[:-1], "has not the end")]
)
def test_the_ends(run, texts, what):
    (problem,) = problems_of(run, texts)
    assert what in problem


def test_other_bytes(run):
    run.sessions[1].frames[3] = json.dumps({**message("c"), "timestamp": 2})
    assert check(run) == ["listener 0: 'c' differs from others' copies"]


def test_other_order_of_keys(run):
    run.sessions[1].frames[3] = json.dumps(dict(reversed(message("c").items())))
    assert check(run) == ["listener 0: 'c' differs from others' copies"]


def test_what_nobody_sent(run):
    texts = [*LOG[:3], "ghost", *LOG[3:]]
    for session in run.sessions:
        session.frames = frames(texts)
    run.histories = {"one": messages(texts[::-1])}
    run.stored = messages(texts)
    assert check(run) == ["nobody sent 'ghost'"]


def test_only_the_sender_saw_it_and_left(run):
    """The sender's broker died with a message that no other broker ever got."""
    run.sessions.append(Session("gone", frames([*LOG[:4], "x"]), ["x"], closed=1006))
    others = "talker and 7 others"  # the other clients, both histories and the store
    assert check(run) == [f"{others}: 'x' is missing before 'd' (1 in all)"]


class TestOutcomes:
    def test_refused_and_not_seen(self, run):
        run.sessions.append(Session("other", [*frames(LOG), REFUSED], ["x"]))
        assert check(run) == []

    def test_refused_and_seen(self, run):
        run.sessions[0].frames.insert(4, REFUSED)
        (problem,) = check(run)
        assert "of 10 messages 1 were refused, yet 10 appeared" in problem

    def test_unsure_and_seen(self, run):
        run.sessions[0].frames.insert(4, UNSURE)
        assert check(run) == []

    def test_unsure_and_not_seen(self, run):
        run.sessions.append(Session("other", [*frames(LOG), UNSURE], ["x"]))
        assert check(run) == []

    def test_no_outcome(self, run):
        run.sessions.append(Session("other", frames(LOG), ["x"]))
        (problem,) = check(run)
        assert "1 vanished" in problem
        assert check(replace(run, lost=100)) == [problem]

    def test_no_outcome_on_a_connection_that_ended(self, run):
        run.sessions.append(Session("other", frames(LOG[:5]), ["x"], closed=1006))
        assert check(run) == []


class TestHistory:
    def back(self, run, past, live):
        run.sessions.append(Session("back", [history(past), *frames(live)], first=False))
        return check(run)

    def test_a_client_that_came_back(self, run):
        assert self.back(run, LOG[:5], LOG[5:]) == []

    def test_with_broadcasts_before_the_reply(self, run):
        run.sessions.append(
            Session("back", [*frames("bc"), history(LOG[:4]), *frames(LOG[4:])], first=False)
        )
        assert check(run) == []

    def test_a_hole_between_reply_and_broadcasts(self, run):
        (problem,) = self.back(run, LOG[:5], LOG[6:])
        assert problem == "back: 'e' is missing before 'f' (1 in all)"

    def test_a_reply_that_holds_too_much(self, run):
        assert "back: 'e' came 2 times" in self.back(run, LOG[:6], LOG[5:])

    def test_a_reply_that_is_not_what_was_broadcast(self, run):
        run.sessions[1].frames.insert(5, history([*LOG[:4], "e"]))
        assert check(run) == ["listener 0: a history is not what was broadcast before it"]

    def test_twice_in_a_final_history(self, run):
        run.histories["one"] = messages(["end", "h", "h", *"gfedcba", "begin"])
        assert check(run) == ["the history of one: 'h' came 2 times"]

    def test_missing_in_a_final_history(self, run):
        run.histories["two"] = messages(["end", "h", *"fedcba", "begin"])
        (problem,) = check(run)
        assert problem == "the history of two: 'g' is missing before 'h' (1 in all)"
        assert check(replace(run, lost=1)) == []

    def test_a_final_history_that_ends_early(self, run):
        run.histories["two"] = messages(LOG[-2::-1])
        assert check(run) == ["the history of two: ends with ['h']"]

    def test_a_short_one_is_no_problem(self, run):
        run.histories["two"] = messages(LOG[:-4:-1])
        assert check(run) == []


class TestLost:
    def test_a_hole_in_a_connection_that_stayed_is_never_excused(self, run):
        run.lost = 100
        assert problems_of(run, [t for t in LOG if t != "c"])

    def test_but_in_one_that_was_closed_for_it(self, run):
        run.sessions.append(Session("gone", frames([*LOG[:3], *LOG[4:6]]), closed=4004))
        assert check(run) == ["gone: 'c' is missing before 'd' (1 in all)"]
        assert check(replace(run, lost=1)) == []
        for code in (1001, 1006):
            run.sessions[-1].closed = code
            assert check(replace(run, lost=1)) == ["gone: 'c' is missing before 'd' (1 in all)"]

    def test_nor_after_it_came_back(self, run):
        live = [t for t in LOG[5:] if t != "g"]
        run.sessions.append(Session("back", [history(LOG[:5]), *frames(live)], first=False))
        assert check(replace(run, lost=100)) == ["back: 'g' is missing before 'h' (1 in all)"]

    def test_all_were_closed_and_came_back_to_a_log_without_it(self, run):
        """As after a failover: what some saw is gone for all, and told."""
        before, after = [*LOG[:3], "x", "y"], LOG[:3] + LOG[5:]
        run.sessions = [Session(s.who, frames(before), s.sent, 4004) for s in run.sessions]
        run.sessions += [
            Session(s.who, [history(after[:seen]), *frames(after[seen:])], first=False)
            for seen, s in enumerate(run.sessions, 3)
        ]
        run.sessions[0].sent += ["x", "y"]
        run.histories = {"one": messages(after[::-1])}
        run.stored = messages(after)
        assert check(run)
        assert check(replace(run, lost=2)) == []

    def test_more_than_was_told(self, run):
        run.histories["two"] = messages([t for t in LOG[::-1] if t not in "cd"])
        assert check(replace(run, lost=1))
        assert check(replace(run, lost=2)) == []

    def test_others_elsewhere_are_more(self, run):
        run.histories["one"] = messages([t for t in LOG[::-1] if t != "c"])
        run.histories["two"] = messages([t for t in LOG[::-1] if t != "c"])
        assert check(replace(run, lost=1)) == []
        run.histories["two"] = messages([t for t in LOG[::-1] if t != "d"])
        (problem,) = check(replace(run, lost=1))
        assert problem == "the history of two: 'd' is missing before 'e' (1 in all)"
        assert check(replace(run, lost=2)) == []


class TestMoved:
    """Entries that the new master lacked and a broker appended again stand later in the store."""

    def test_has_no_place_but_all_else_holds(self, run):
        late = [*LOG[:3], *LOG[4:7], "c", *LOG[7:]]
        run.stored = messages(late)
        run.sessions.append(Session("back", [history(late[:8]), *frames(late[8:])], first=False))
        assert check(run)
        assert check(replace(run, moved=frozenset("c"))) == []

    def test_twice_is_twice(self, run):
        run.moved = frozenset("c")
        assert problems_of(run, [*LOG[:6], "c", *LOG[6:]]) == ["listener 0: 'c' came 2 times"]
