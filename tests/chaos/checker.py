"""What must hold for everybody, whatever broke meanwhile; pure, over the records of one run.

`check(run)` returns what was wrong, one sentence each; an empty list is a good run. A message is
known by its text, so every text of a run is sent once only.

- All that a connection received is one run of one common log: nothing missing in the middle,
  nothing twice, nothing in another order, each message the same bytes for everybody. So what one
  has seen was seen by every client that stayed. A history reply takes its place among the
  broadcasts: it ends with what was broadcast before it. A client that comes back begins with one.
- The final history of each broker is the end of that log, and so is the stream in the store.
- Who was there at the begin has the begin, who is there at the end has the end.
- A message has one outcome. Errors carry no request id, so they are counted: with `refused` plain
  errors and `unsure` ones ("not confirmed"), of n messages sent at most n - refused may have
  appeared, and on a connection that stayed, at least n - refused - unsure.

What a fault really destroys is told by the brokers' metrics (`lost`): only so many messages may
lack an outcome or be missing in a history. Never in the middle of a connection that stayed.
Entries appended again after a failover (`moved`, marked so in the stream) have no place in the
order; all else holds for them.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

UNSURE = "not confirmed"


@dataclass
class Session:
    """One connection of one client, from its login on."""

    who: str
    frames: list[str] = field(default_factory=list)  # all that came, in order
    sent: list[str] = field(default_factory=list)  # texts
    closed: int | None = None  # the close code; None: it was open at the end
    first: bool = True  # it was there before the begin

    @property
    def stayed(self):
        return self.first and self.closed is None


@dataclass
class Run:
    sessions: list[Session]
    histories: dict[str, list[dict]]  # of each broker, at the end; newest first, as replied
    begin: str  # the text of the message before which all were there
    end: str  # and of the one after which nothing was sent
    stored: list[dict] | None = None  # the stream, oldest first, repeats dropped
    moved: frozenset[str] = frozenset()
    lost: int = 0


class _View:
    """The log as one connection saw it."""

    def __init__(self, name):
        self.name = name
        self.messages = []
        self.refused = self.unsure = 0
        self.problems = []

    @property
    def texts(self):
        return [message["message"] for message in self.messages]


def _view_of(session, moved):
    view = _View(session.who)
    live = []  # broadcasts
    for number, frame in enumerate(map(json.loads, session.frames)):
        if "message" in frame:
            live.append(frame)
            view.messages.append(frame)
        elif "history" in frame:
            past = frame["history"][::-1]
            here = [m for m in past if m["message"] not in moved]
            before = [m for m in live if m["message"] not in moved]
            common = min(len(here), len(before))
            if here[len(here) - common :] != before[len(before) - common :]:
                view.problems.append("a history is not what was broadcast before it")
            if len(past) > len(live) and len(view.messages) == len(live):
                view.messages = past
        elif "error" in frame:
            if UNSURE in frame["error"]:
                view.unsure += 1
            else:
                view.refused += 1
        else:
            view.problems.append(f"frame {number} is nothing known: {list(frame)}")
    return view


def _log_of(views, moved):
    """{text: the text after it}, as most have seen it."""
    votes = defaultdict(Counter)
    for view in views:
        order = [text for text in view.texts if text not in moved]
        for text, after in zip(order, order[1:], strict=False):
            votes[text][after] += 1
    return {text: after.most_common(1)[0][0] for text, after in votes.items()}


def _between(follows, first, last):
    """The messages between two in the log, or None when the second does not come later."""
    passed = []
    seen = set()
    while first in follows and first not in seen:
        seen.add(first)
        first = follows[first]
        if first == last:
            return passed
        passed.append(first)
    return None


def _order_problems(view, follows, moved):
    """(what was wrong, how many messages were missing)"""
    problems, holes = [], 0
    for text, times in Counter(view.texts).items():
        if times > 1:
            problems.append(f"{text!r} came {times} times")
    order = list(dict.fromkeys(text for text in view.texts if text not in moved))
    for text, after in zip(order, order[1:], strict=False):
        if follows[text] == after:
            continue
        missing = _between(follows, text, after)
        if missing is None:
            problems.append(f"after {text!r} came {after!r}, not {follows[text]!r}")
        elif set(missing) - set(order):
            holes += len(set(missing) - set(order))
            problems.append(f"{missing[0]!r} is missing before {after!r} ({len(missing)} in all)")
        else:
            problems.append(f"{missing[0]!r} came after {after!r}")
    return problems, holes


def check(run):
    problems = []
    views = [_view_of(session, run.moved) for session in run.sessions]
    kept = []
    for name, history in run.histories.items():
        view = _View(f"the history of {name}")
        view.messages = history[::-1]
        kept.append(view)
    if run.stored is not None:
        view = _View("the store")
        view.messages = run.stored
        kept.append(view)

    # one log
    follows = _log_of([*views, *kept], run.moved)
    for session, view in [*zip(run.sessions, views, strict=True), *((None, v) for v in kept)]:
        found, holes = _order_problems(view, follows, run.moved)
        stayed = session is not None and session.stayed
        if not found or stayed or holes == 0 or holes > run.lost:
            view.problems += found
    _check_same(views, kept, problems)

    # its ends
    for session, view in zip(run.sessions, views, strict=True):
        texts = set(view.texts)
        if session.first and run.begin not in texts:
            view.problems.append("was there and has not the begin")
        if session.closed is None and run.end not in texts:
            view.problems.append("is there and has not the end")
    for view in kept:
        last = [text for text in view.texts if text not in run.moved][-1:]
        if last != [run.end]:
            view.problems.append(f"ends with {last}")

    # one outcome each
    known = {text for view in [*views, *kept] for text in view.texts}
    for session, view in zip(run.sessions, views, strict=True):
        sent = len(session.sent)
        appeared = sum(text in known for text in session.sent)
        if appeared > sent - view.refused:
            view.problems.append(
                f"of {sent} messages {view.refused} were refused, yet {appeared} appeared"
            )
        outcomes = appeared + view.refused + view.unsure
        if session.closed is None and sent - outcomes > run.lost:
            view.problems.append(
                f"of {sent} messages {appeared} appeared, {view.refused} were refused, "
                f"{view.unsure} unsure: {sent - outcomes} vanished"
            )
    sent = {text for session in run.sessions for text in session.sent}
    problems += [f"nobody sent {text!r}" for text in sorted(known - sent)]

    return [f"{view.name}: {p}" for view in [*views, *kept] for p in view.problems] + problems


def _check_same(views, kept, problems):
    """The same bytes for everybody: one text, one message."""
    bodies = {}
    for view in [*views, *kept]:
        for message in view.messages:
            known = bodies.setdefault(message["message"], message)
            if known is not message and list(known.items()) != list(message.items()):
                problems.append(f"{view.name}: {message['message']!r} differs from others' copies")
