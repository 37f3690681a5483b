"""What every chaos test does before and after its fault."""

import json
import os
import re
import time
from dataclasses import replace

from checker import check
from crowd import Crowd
from stack import until

KEY = "chat:{main}"
# Beside other tests, as one of the end-to-end tests, nothing is as fast as it should be.
SHARED = "PYTEST_XDIST_WORKER" in os.environ
GOAL_S = 15.0 if SHARED else 3.0  # to recover, counted from when a writable master answers
AGAIN_S = 10  # an entry younger than this is stored again by its broker, and a bit older ones too
COUNTED_S = 15.5  # after a broker has read the log again: what is lost is counted by then
ANSWER_S = 10.0 if SHARED else 2.0  # a broker that needs longer for a health check hangs


class Trial:
    """One run: start(), the fault, end()."""

    def __init__(self, start_stack, properties):
        self._start_stack = start_stack
        self._properties = properties  # of the test, for the table at the end
        self.crowd = None

    def start(self, *, clients=100, talkers=20, per_second=1.0, detours=None, **stack):
        """A chat with so many clients and a while of load."""
        settings = {"STORE": "redis", "RATE_MESSAGES": 0, "brokers": 3}
        settings |= {"HISTORY_LIMIT": 1000, "HISTORY_MAX_BYTES": 1 << 20}
        self.stack = self._start_stack(**{**settings, "api": False, **stack})
        self.store = self.stack.redis  # the one that is left at the end
        self.relays = [broker.relay for broker in self.stack.brokers]
        crowd = Crowd(
            self.stack,
            clients=clients,
            talkers=talkers,
            per_second=per_second,
            detours=detours(self.stack) if detours else (),
        )
        self.crowd = crowd.__enter__()
        self.crowd.begin()
        self.crowd.talk(until_back=40)
        self.first_epoch = self.epoch()
        return self.stack, self.crowd

    def close(self):
        if self.crowd:
            self.crowd.__exit__()
            self.crowd = None

    def metrics(self, name):
        """Of each broker, the sum over all labels."""
        return [
            int(sum(v for sample, v in b.metrics().items() if sample.partition("{")[0] == name))
            for b in self.stack.brokers
        ]

    def metric(self, name):
        return sum(self.metrics(name))

    def epoch(self):
        return self.store.call("GET", f"{KEY}:epoch")

    def finish(self):
        """The record of it all, for the checker."""
        run = self.crowd.finish()
        lost = max(self.metrics("hlchat_log_lost_entries_total"))
        return replace(run, lost=lost, **stored_in(self.store))

    def end(self, recovery_s, *, stayed="all", errors=(), lost=0, log_lost=False):
        """Goes on a while, then everything must be right.

        stayed: how many kept their connection; None: any number. errors: words, of which each error
        that anybody got must have one. lost: how many entries a broker may say are lost. log_lost:
        the log did lose entries, None: perhaps; those older than AGAIN_S may be lost for good.
        """
        if log_lost:
            lost += self.crowd.sent_before(time.monotonic() - AGAIN_S)
            until("all have read it again", lambda: self.first_epoch not in self._epochs())
            counted = time.monotonic() + (COUNTED_S if lost else 0)
            while time.monotonic() < counted:
                self.crowd.talk(until_back=10)
        self.crowd.talk(until_back=40)
        run = self.finish()
        told = {
            "recovery_s": round(recovery_s, 2),
            "clients": len(self.crowd.members),
            "stayed": self.crowd.stayed(),
            "messages": len(run.stored),
            "errors": sum(self.crowd.errors.values()),
            "lost": run.lost,
            "moved": len(run.moved),
            "repeats": self.metric("hlchat_log_repeats_total"),
            "health_s": round(self.crowd.slowest_health, 2),
        }
        self._properties.append(("chaos", told))
        print(told, dict(self.crowd.errors), dict(self.crowd.closes))
        problems = check(run)
        assert not problems, "\n".join(problems[:20])
        assert stayed is None or told["stayed"] == (told["clients"] if stayed == "all" else stayed)
        strange = [e for e in self.crowd.errors if not any(word in e for word in errors)]
        assert strange == []
        assert run.lost <= lost
        # Its name changes when the log has lost something, and only then.
        assert log_lost in (None, self.epoch() != self.first_epoch)
        assert set(self._epochs()) == {self.epoch()}
        assert self.crowd.slowest_health < ANSWER_S
        assert recovery_s < GOAL_S
        return run

    def _epochs(self):
        """What each broker knows."""
        names = (re.findall("chatlog epoch name=(.*)", b.log()) for b in self.stack.brokers)
        return [known[-1] for known in names]


def entries_of(redis):
    """The stream: the fields of each entry."""
    entries = redis.call("XRANGE", KEY, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]


def stored_in(redis):
    """The stream, as the checker wants it."""
    stored, seen, moved = [], set(), set()
    for entry in entries_of(redis):
        if entry["k"] in seen:
            continue
        seen.add(entry["k"])
        message = json.loads(entry["m"])
        stored.append(message)
        if "o" in entry:
            moved.add(message["message"])
    return {"stored": stored, "moved": frozenset(moved)}
