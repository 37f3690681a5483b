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

What a fault really destroys is told by the brokers' metrics (`lost`): only so many messages, all
histories and connections together, may be missing anywhere. Among what was broadcast on one
connection they may only if that was then closed with 4004, which tells the client to load the
history again; or if it is the one of a client that came back to a log that had lost them for
everybody.
Entries appended again after a failover (`moved`, marked so in the stream) have no place in the
order; all else holds for them.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

UNSURE = "not confirmed"
LOST_CODE = 4004


@dataclass
class Session:
    """One connection of one client, from its login on."""

    who: str
    frames: list[str] = field(default_factory=list)  # all that came, in order
    sent: list[str] = field(default_factory=list)  # texts
    closed: int | None = None  # the close code; None: it was open at the end
    first: bool = True  # it was there before the begin


@dataclass
class Run:
    sessions: list[Session]
    histories: dict[str, list[dict]]  # of each broker, at the end; newest first, as replied
    begin: str  # the text of the message before which all were there
    end: str  # and of the one after which nothing was sent
    stored: list[dict] | None = None  # the stream, oldest first, repeats dropped
    moved: frozenset[str] = frozenset()
    lost: int = 0  # the most that a broker told of: each tells of the same ones


class _View:
    """The log as one connection saw it, or as a broker or the store kept it."""

    def __init__(self, name, messages=()):
        self.name = name
        self.messages = list(messages)
        self.past = len(self.messages)  # how many of them came as history
        self.told = False  # by its close that messages were lost
        self.back = False  # of a client that had been closed
        self.refused = self.unsure = 0
        self.problems = []

    @property
    def texts(self):
        return [message["message"] for message in self.messages]


def _view_of(session, moved):
    view = _View(session.who)
    view.told = session.closed == LOST_CODE
    view.back = not session.first
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
                view.past = len(past)
        elif "error" in frame:
            if UNSURE in frame["error"]:
                view.unsure += 1
            else:
                view.refused += 1
        else:
            view.problems.append(f"frame {number} is nothing known: {list(frame)}")
    return view


def _order(view, moved):
    """Its texts but for the moved ones, each once."""
    return list(dict.fromkeys(text for text in view.texts if text not in moved))


def _log_of(orders):
    """All messages in one order: that of the view most like the others, and where it lacks some,
    they stand as in the next one that has them."""
    votes = defaultdict(Counter)
    for order in orders:
        for text, after in pairwise(order):
            votes[text][after] += 1
    usual = {text: after.most_common(1)[0][0] for text, after in votes.items()}

    def likeness(order):
        return sum(usual[text] == after for text, after in pairwise(order))

    log, known = [], set()
    for order in sorted(orders, key=likeness, reverse=True):
        unknown, anchor = [], None
        for text in [*order, None]:
            if text is not None and text not in known:
                unknown.append(text)
                continue
            if anchor is not None:
                place = log.index(anchor) + 1
            else:
                place = len(log) if text is None else log.index(text)
            log[place:place] = unknown
            known.update(unknown)
            unknown, anchor = [], text
    return {text: place for place, text in enumerate(log)}


def _order_problems(view, place, moved, gone, lost, excused):
    """`excused`, of all views: the messages that may be missing, at most `lost`."""
    problems = [
        f"{text!r} came {times} times" for text, times in Counter(view.texts).items() if times > 1
    ]
    order = _order(view, moved)
    log = sorted(place, key=place.get)
    past = set(view.texts[: view.past])
    holes = []
    for text, after in pairwise(order):
        between = log[place[text] + 1 : place[after]]
        missing = [other for other in between if other not in set(order)]
        if place[after] < place[text]:
            problems.append(f"{after!r} came after {text!r}")
        elif (
            missing
            and len(excused.union(missing)) <= lost
            and (view.told or {text, after} <= past or (view.back and gone.issuperset(missing)))
        ):
            excused.update(missing)
        elif missing:
            holes.append(f"{missing[0]!r} is missing before {after!r} ({len(missing)} in all)")
    return problems + holes


def check(run):
    problems = []
    views = [_view_of(session, run.moved) for session in run.sessions]
    kept = [_View(f"the history of {name}", h[::-1]) for name, h in run.histories.items()]
    if run.stored is not None:
        kept.append(_View("the store", run.stored))

    # one log
    place = _log_of([_order(view, run.moved) for view in [*views, *kept]])
    gone = set(place).difference(*(view.texts for view in kept))
    excused = set()
    for view in [*views, *kept]:
        view.problems += _order_problems(view, place, run.moved, gone, run.lost, excused)
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
        if session.closed is None and sent > outcomes:
            view.problems.append(
                f"of {sent} messages {appeared} appeared, {view.refused} were refused, "
                f"{view.unsure} unsure: {sent - outcomes} vanished"
            )
    sent = {text for session in run.sessions for text in session.sent}
    problems += [f"nobody sent {text!r}" for text in sorted(known - sent)]

    return _told([*views, *kept]) + problems


def _told(views):
    """What several have in common in one sentence."""
    names = defaultdict(list)
    for view in views:
        for problem in view.problems:
            names[problem].append(view.name)
    return [
        f"{who[0]}{f' and {len(who) - 1} others' if len(who) > 1 else ''}: {problem}"
        for problem, who in names.items()
    ]


def _check_same(views, kept, problems):
    """The same bytes for everybody: one text, one message."""
    bodies = {}
    for view in [*views, *kept]:
        for message in view.messages:
            known = bodies.setdefault(message["message"], message)
            if known is not message and list(known.items()) != list(message.items()):
                problems.append(f"{view.name}: {message['message']!r} differs from others' copies")
