"""What every chaos test does before and after its fault."""

import json
import time
from dataclasses import replace

from checker import check
from crowd import Crowd

KEY = "chat:{main}"
GOAL_S = 3.0  # to recover, counted from when a writable master answers
AUDIT_S = 5.0  # by then a broker knows that entries are missing
ANSWER_S = 2.0  # a broker that needs longer for a health check hangs


class Trial:
    """One run: start(), the fault, end()."""

    def __init__(self, start_stack, properties):
        self._start_stack = start_stack
        self._properties = properties  # of the test, for the table at the end
        self.crowd = None

    def start(self, *, clients=100, talkers=20, per_second=1.0, detours=None, **stack):
        """A chat with so many clients and a while of load."""
        settings = {"STORE": "redis", "RATE_MESSAGES": 0, "HISTORY_LIMIT": 1000, "brokers": 3}
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
        return self.stack, self.crowd

    def close(self):
        if self.crowd:
            self.crowd.__exit__()
            self.crowd = None

    def metric(self, name):
        """The sum over all brokers and labels."""
        return sum(
            value
            for broker in self.stack.brokers
            for sample, value in broker.metrics().items()
            if sample.partition("{")[0] == name
        )

    def finish(self):
        """The record of it all, for the checker."""
        run = self.crowd.finish()
        lost = int(self.metric("hlchat_log_lost_entries_total"))
        return replace(run, lost=lost, **stored_in(self.store))

    def end(self, recovery_s, *, stayed="all", errors=(), lost=0):
        """Goes on a while, then everything must be right.

        stayed: how many kept their connection; None: any number. errors: words, of which each error
        that anybody got must have one. lost: how many entries the brokers may say are lost; None:
        any number.
        """
        began = time.monotonic()
        self.crowd.talk(until_back=40)
        while lost != 0 and time.monotonic() < began + AUDIT_S:
            self.crowd.talk(until_back=10)
        run = self.finish()
        told = {
            "recovery_s": round(recovery_s, 2),
            "clients": len(self.crowd.members),
            "stayed": self.crowd.stayed(),
            "messages": len(run.stored),
            "errors": sum(self.crowd.errors.values()),
            "lost": run.lost,
            "moved": len(run.moved),
            "repeats": int(self.metric("hlchat_log_repeats_total")),
            "health_s": round(self.crowd.slowest_health, 2),
        }
        self._properties.append(("chaos", told))
        print(told, dict(self.crowd.errors), dict(self.crowd.closes))
        problems = check(run)
        assert not problems, "\n".join(problems[:20])
        assert stayed is None or told["stayed"] == (told["clients"] if stayed == "all" else stayed)
        strange = [e for e in self.crowd.errors if not any(word in e for word in errors)]
        assert strange == []
        assert lost is None or run.lost <= lost
        assert self.crowd.slowest_health < ANSWER_S
        assert recovery_s < GOAL_S


def stored_in(redis):
    """The stream, as the checker wants it."""
    stored, seen, moved = [], set(), set()
    for _, fields in redis.call("XRANGE", KEY, "-", "+"):
        entry = dict(zip(fields[::2], fields[1::2], strict=True))
        if "m" not in entry or entry.get("k") in seen:
            continue
        seen.add(entry.get("k"))
        message = json.loads(entry["m"])
        stored.append(message)
        if "o" in entry:
            moved.add(message["message"])
    return {"stored": stored, "moved": frozenset(moved)}
