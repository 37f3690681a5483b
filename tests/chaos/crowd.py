"""Clients by the hundred and a steady load, on a thread of its own, while the test breaks things.

    with Crowd(stack, clients=100, talkers=20) as crowd:
        crowd.begin()                    # all are there and have one message
        crowd.talk(until_back=50)        # a while of load
        since = break_something()        # in the test's thread
        seconds = crowd.recovered(since)
        run = crowd.finish()             # for the checker

Everybody comes through HAProxy and comes back when closed. One more client for each broker, its
resident, is connected to it directly and talks faster: by it a broker's recovery is timed and its
final history read.
"""

import asyncio
import contextlib
import itertools
import json
import random
import threading
import time
from collections import Counter
from functools import partial

from checker import Run, Session
from stack import until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

HISTORY = 1000
OUTCOME_S = 30  # for each message, its broadcast or an error: 5 s in the broker's queue and some
BACK_S = 40  # for all to be connected again
NUMBERS = itertools.count(1)  # so that no text is sent twice, not even by the next crowd


class Member:
    """One user: connects, logs in, records all that comes, and is back after a close."""

    def __init__(self, crowd, name, address, per_second=0.0, patient=True):
        self.crowd = crowd
        self.name = name
        self.address = address
        self.per_second = per_second
        self.sessions = []
        self.session = None  # the open one
        self.settled = 0  # of the open session: messages back, and errors
        self.back_since = 0.0  # when the newest of its messages that came back was sent
        self.back_at = 0.0
        self.login_errors = Counter()
        self._connection = None
        self._sent_at = {}
        self._mine = f'"nickname":"{name}"'

    async def live(self):
        while True:
            with contextlib.suppress(
                OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError
            ):
                await self._visit()
            await asyncio.sleep(random.uniform(0.02, 0.2))

    async def _visit(self):
        uri = "ws://{}:{}/chat".format(*self.address)
        options = {"compression": None, "ping_interval": None, "proxy": None}
        # max_queue None: frames wait here, so that no client is a slow one by the test's fault
        async with connect(
            uri, **options, max_queue=None, max_size=None, close_timeout=1, open_timeout=10
        ) as connection:
            await self._login(connection)
            session = Session(self.name, first=not self.crowd.begun)
            self._connection, self.settled = connection, 0
            if not session.first:
                # First of all, and before anything of its own.
                await self._send(connection, action="history", limit=HISTORY)
            self.session = session
            self.sessions.append(session)
            try:
                async for text in connection:
                    session.frames.append(text)
                    if text.startswith('{"error"') or self._mine in text:
                        self._settle(text)
            finally:
                session.closed = connection.close_code or 1006
                self.session = None
                self.crowd.closes[session.closed] += 1

    async def _send(self, connection, **fields):
        await connection.send(json.dumps(fields))

    async def _login(self, connection):
        while True:
            await self._send(connection, action="login", token=self.crowd.token_of(self.name))
            answer = json.loads(await asyncio.wait_for(connection.recv(), 10))
            if answer == {"info": "connected"}:
                return
            self.login_errors[answer["error"]] += 1
            await asyncio.sleep(0.1)

    def _settle(self, text):
        frame = json.loads(text)
        if "error" in frame:
            self.settled += 1
            self.crowd.errors[frame["error"]] += 1
        elif frame.get("nickname") == self.name:
            self.settled += 1
            self.crowd.back += 1
            self.back_since = self._sent_at.get(frame["message"], 0.0)
            self.back_at = time.monotonic()

    async def talk(self):
        await asyncio.sleep(random.random() / self.per_second)
        while True:
            await asyncio.sleep(1 / self.per_second)
            if self.crowd.talking:
                await self.say()

    async def say(self, text=None):
        """Sends a message; returns its text, or None when there is no connection."""
        session = self.session
        if session is None:
            return None
        text = text or f"{self.name} {self.crowd.number()}"
        session.sent.append(text)
        self._sent_at[text] = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            await self._send(self._connection, action="message", message=text)
        return text

    def is_settled(self):
        return self.session is not None and self.settled >= len(self.session.sent)


class Crowd:
    """detours: {number of a client: address} for those that do not go straight to HAProxy.

    token_of: a name's login token, where that is not the name.
    """

    def __init__(self, stack, *, clients=100, talkers=20, per_second=1.0, detours=(), token_of=str):
        detours, self.token_of = dict(detours), token_of
        self.begun = self.talking = False
        self.back = 0
        self.slowest_health = 0.0  # s, of any broker that was not paused
        self.errors, self.closes = Counter(), Counter()
        self._stack = stack
        front = stack.haproxy.address()
        self.residents = [
            Member(self, f"resident-{i}", broker.address(), 5 * per_second)
            for i, broker in enumerate(stack.brokers, 1)
        ]
        self.guests = [
            Member(self, f"guest-{i}", detours.get(i, front), per_second if i < talkers else 0)
            for i in range(clients)
        ]
        self.members = [*self.residents, *self.guests]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_):
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, coroutine, timeout=60):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    async def _start(self):
        self._tasks = [asyncio.create_task(member.live()) for member in self.members]
        talkers = [member for member in self.members if member.per_second]
        self._tasks += [asyncio.create_task(member.talk()) for member in talkers]
        self._tasks += [asyncio.create_task(self._watch(b)) for b in self._stack.brokers]

    async def _stop(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, broker):
        """Asks the broker for its health all the time; notes the slowest answer."""
        while True:
            await asyncio.sleep(0.1)
            began = time.monotonic()
            with contextlib.suppress(OSError):  # those that died are told of by the stack
                reader, writer = await asyncio.open_connection(*broker.address())
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await reader.readline()
                writer.close()
            if not broker.paused and began > broker.resumed_at:
                self.slowest_health = max(self.slowest_health, time.monotonic() - began)

    @staticmethod
    def number():
        return next(NUMBERS)

    def _all_there(self):
        return all(member.session for member in self.members)

    # the course of a run

    def begin(self):
        until("all are there", self._all_there, BACK_S)
        self._begin = self._mark("begin")
        self.begun = True
        return self

    def _mark(self, word):
        """Has a message said until it is there for everybody; its text."""
        while True:
            text = self._run(self.residents[0].say(f"{word} {self.number()}"))
            outcome = partial(self._outcome, self.residents[0], text)
            if until(f"{word!r} has its outcome", outcome, OUTCOME_S) == "there":
                break
        with contextlib.suppress(AssertionError):  # the checker tells who has not
            until(f"all have {word!r}", lambda: all(self.has(m, text) for m in self.members))
        return text

    def _outcome(self, member, text):
        if self.has(member, text):
            return "there"
        return "refused" if member.is_settled() else ""

    def has(self, member, text):
        session = member.session
        return session is not None and any(
            f'"message":"{text}"' in frame for frame in session.frames[-20:]
        )

    def talk(self, until_back):
        """Goes on until so many more messages have come back to their senders."""
        self.talking = True
        goal = self.back + until_back
        until(f"{until_back} messages are back", lambda: self.back >= goal)

    def hush(self):
        """Ends the load until `talking` is set again; every message is with everybody."""
        self.talking = False
        until("every message has its outcome", self._all_settled, OUTCOME_S)
        self._mark("quiet")

    def say(self, member, count):
        """Has one of them send so many, and waits until all have come back."""
        self.send(member, count)
        until("they are back", member.is_settled, OUTCOME_S)

    def send(self, member, count):
        for _ in range(count):
            self._run(member.say())

    def burst(self, each=1):
        """All who talk send at once, `each` times; does not wait for what comes of it."""

        async def all_at_once():
            for _ in range(each):
                for member in self.members:
                    if member.per_second:
                        await member.say()

        self._run(all_at_once())

    def sent_before(self, when):
        """How many messages."""
        return sum(at < when for member in self.members for at in member._sent_at.values())

    def recovered(self, since, brokers=None):
        """How long after `since` each broker's resident had a message back that was sent later."""
        residents = self.residents if brokers is None else [self.residents[i] for i in brokers]
        until(
            "each broker takes messages again",
            lambda: all(r.back_since > since for r in residents),
            BACK_S,
        )
        return max(r.back_at for r in residents) - since

    def finish(self):
        """Ends the load, waits for every outcome; the Run, as far as clients know it."""
        until("all are back", self._all_there, BACK_S)
        self.talking = False
        with contextlib.suppress(AssertionError):  # the checker tells who is missing one
            until("every message has its outcome", self._all_settled, OUTCOME_S)
        end = self._mark("end")
        histories = {
            broker.name: self._history(broker) for broker in self._stack.brokers if broker.running
        }
        sessions = self._run(self._sessions())
        return Run(sessions, histories, self._begin, end)

    def _all_settled(self):
        return all(member.is_settled() for member in self.members)

    def _history(self, broker):
        reader = self._stack.connect(f"reader of {broker.name}", direct=broker)
        return reader.history(limit=HISTORY)

    async def _sessions(self):
        """As they are now: the closes of the test's own end are no part of the run."""
        return [
            Session(s.who, list(s.frames), list(s.sent), s.closed, s.first)
            for member in self.members
            for s in member.sessions
        ]

    def all_back(self, since):
        """Waits for it; how long after `since` that was."""
        until("all are back", self._all_there, BACK_S, interval=0.005)
        return time.monotonic() - since

    def stayed(self):
        """How many have had one connection all the time."""
        return sum(
            len(m.sessions) == 1 and m.session is not None and m.sessions[0].first
            for m in self.members
        )
