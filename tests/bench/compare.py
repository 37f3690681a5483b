"""Measures the chat against the limit of the machine and against what one would take instead.

    make bench                    all of it, in docs/benchmarks
    make bench BENCH_SECONDS=5    each run measures 5 s instead of 2
    make bench BENCH=quick        once each, small and short, to see that it works; in
                                  build/bench/report

All servers run all the time; runs take turns, every other round in the opposite order, so that a
slow moment of the machine hits everybody.
Figures are medians of the rounds with the least and the most, a ratio is the median of each round's
ratio. What runs once says so.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

import report as paper
from goals import MISSED, Goal, goal, ratio, spread, verdict
from servers import (
    BUILD,
    PLACE,
    REPO,
    Absent,
    answering_haproxy,
    centrifuge,
    channels,
    chatload,
    commands,
    end_chatloads,
    faults,
    hlchat,
    more_options,
    nchan,
    report_of,
    sendloop,
    settle,
    start_all,
    start_chatload,
    uwebsockets,
    wrk,
)

OURS, PROXIED, CLUSTER = "hlchat", "hlchat, HAProxy", "2 hlchat, Redis, HAProxy"
EACH, BATCH = "send() each", "send() batched"
NCHAN, UWS, CHANNELS, CENTRIFUGE = "nchan", "uWebSockets", "Channels + Redis", "Centrifuge"

STEADY = {"rate": 10}
CLOSED = {"publishers": 32, "window": 64}
# Channels needs 15 s and more for the 64 messages that are on the way at a time.
LATE = {"warm_up": 0, "drain": 150}


class Bench:
    def __init__(self, seconds, rounds, quick):
        self.seconds, self.rounds, self.quick = seconds, rounds, quick
        self.how = "One round" if rounds == 1 else f"Medians of {rounds} interleaved rounds"
        self.most = 750 if quick else 15000  # clients
        self.few = self.most // 15
        self.goals = []
        self.runs = {}  # {case: {server: [report of each round]}}
        self.tables = []  # (title, note, header, rows)
        self.found = []  # what was wrong in a run
        self.is_whole = True  # no part of it failed

    def say(self, text):
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def run(self, server, **options):
        return self.checked(
            server, options, chatload(server, **{"seconds": self.seconds, **options})
        )

    def checked(self, server, options, result):
        if wrong := faults(result):
            how = " ".join(f"{key}={value}" for key, value in options.items())
            self.found.append(f"{server.name}, {how}: {wrong}; {result['first_error']}".strip("; "))
        return result

    def take_turns(self, runs):
        """{name: function} or {name: (server, options)}, round after round; {name: [results]}.

        One that fails is not in the results; the others go on.
        """
        results = {name: [] for name in runs}
        for number in range(self.rounds):
            for name in list(results)[:: -1 if number % 2 else 1]:
                what = runs[name]
                try:
                    result = what() if callable(what) else self.run(what[0], **what[1])
                except RuntimeError as why:
                    self.found.append(f"{name}: {why}")
                    del results[name]
                else:
                    results[name].append(result)
        return results

    def goal(self, what, values, **bound):
        self.goals.append(goal(what, values, **bound))

    # deliveries for a second of the server's CPU time ---------------------------------------------

    def fanout(self, servers):
        for clients in (self.few, 5 * self.few):
            for name, load in (("10 msg/s", STEADY), ("closed loop", CLOSED)):
                case = f"{clients} clients, {name}"
                self.say(case)
                runs = {
                    name: (server, {"clients": clients, **load}) for name, server in servers.items()
                }
                if CHANNELS in servers and load is CLOSED and clients == self.few:
                    runs[CHANNELS] = servers[CHANNELS], {"clients": clients, **load, **LATE}
                else:
                    runs.pop(CHANNELS, None)
                self.runs[case] = self.take_turns(runs)
        self.fanout_goals()

    def fanout_goals(self):
        for other, load, least in (
            (EACH, "10 msg/s", 0.90),
            (BATCH, "closed loop", 0.90),
            (UWS, "10 msg/s", 1.05),
            (UWS, "closed loop", 6),
            (NCHAN, "10 msg/s", 1.3),
            (NCHAN, "closed loop", 20),
            (CHANNELS, "closed loop", 1000),
        ):
            for case, runs in self.runs.items():
                if not case.endswith(load) or (other == CHANNELS and other not in runs):
                    continue
                ratios = ratio(runs[OURS], runs[other], per_cpu_s) if other in runs else []
                form = "{:.2f}" if least < 100 else "{:.0f}"
                self.goal(f"{OURS} / {other}, {case}", ratios, at_least=least, form=form)

    def window(self, servers):
        """The window decides who looks good in the closed loop: uWebSockets sends in one go what
        its turn brought, up to 32 messages."""
        self.say("closed loop, by messages on the way")
        here = [name for name in (OURS, BATCH, UWS, NCHAN, CENTRIFUGE) if name in servers]
        windows = (8, 32, 64)
        runs = self.take_turns(
            {
                f"{name}, {window} on the way": (
                    servers[name],
                    {"clients": self.few, **CLOSED, "window": window},
                )
                for window in windows
                for name in here
            }
        )
        cells = {what: paper.deliveries(results) for what, results in runs.items()}
        rows = [
            [name, *(cells.get(f"{name}, {n} on the way", "") for n in windows)] for name in here
        ]
        title = f"{self.few} clients, closed loop, by messages on the way"
        note = f"Deliveries per second of server CPU. {self.how} (least – most)."
        self.tables.append((title, note, ["server", *windows], rows))

    # one figure each ------------------------------------------------------------------------------

    def long_run(self, ours, limit):
        """The limit before ours and after it: what else the machine does changes in minutes."""
        options = {"clients": 5 * self.few, "rate": 100, "seconds": 2 if self.quick else 60}
        what = f"{options['clients']} clients, 100 msg/s for {options['seconds']} s"
        self.say(what)
        before, mine, after = (self.run(server, **options) for server in (limit, ours, limit))
        allowed = [max(100, 1.3 * run["latency_ms"]["p99"]) for run in (before, after)]
        p99 = mine["latency_ms"]["p99"]
        self.goals.append(
            Goal(
                what,
                "0 lost, p99 <= 100 ms or 1.3 x that of send() batched "
                "(before: {:.0f} ms, after: {:.0f} ms)".format(*allowed),
                f"{mine['lost']} lost, p99 {p99:.0f} ms (one run)",
                MISSED if faults(mine) else verdict([p99 / ms for ms in allowed], at_most=1),
            )
        )
        names = f"{limit.name}, before", ours.name, f"{limit.name}, after"
        rows = [
            [name, *figures(run)] for name, run in zip(names, (before, mine, after), strict=True)
        ]
        self.tables.append((what, "One run each, in this order.", ["server", *FIGURES], rows))

    def connections(self):
        counts = [n * self.most // 15000 for n in (100, 1000, 5000, 10000, 15000)]
        broker = "ws-broker-1"
        self.say(f"connecting {counts[0]} to {counts[-1]} clients, then idle")
        memory = []
        for _ in range(self.rounds):
            with hlchat(OURS) as fresh:  # what was freed once would be taken again
                run = self.run(fresh, clients=counts[3], seconds=0)
                memory.append(run["client_rss_kib"][broker])
        self.goal("memory of an idle client", memory, at_most=2.5, form="{:.2f} KiB")
        with hlchat(OURS) as server:
            runs = self.take_turns(
                {n: (server, {"clients": n, "seconds": 0, "at_once": 256}) for n in counts}
            )
            idle_s = 3 if self.quick else 50
            idle = self.run(server, clients=counts[-1], seconds=0, idle=idle_s)
        cost = {n: [run["login_cpu_us"][broker] for run in runs[n]] for n in counts}
        dearest = max(counts, key=lambda n: median(cost[n]))
        what = f"connect + login, {counts[0]} to {counts[-1]} clients, the dearest ({dearest})"
        self.goal(what, cost[dearest], at_most=45, form="{:.1f} us of broker CPU")
        what = f"idle broker with {counts[-1]} clients, a ping every 25 s"
        share = [idle["idle_cores"][broker] * 100]
        self.goal(what, share, at_most=1, form="{:.2f} % of a core")
        rows = [
            [
                n,
                f"{median(run['connect_s'] for run in runs[n]):.2f}",
                f"{median(run['login_ms']['p99'] for run in runs[n]):.0f}",
                f"{median(cost[n]):.1f}",
            ]
            for n in counts
        ]
        header = ["clients", "all in after, s", "login p99 ms", "broker CPU us each"]
        note = f"As fast as it goes, 256 under way at a time. {self.how}."
        self.tables.append(("Connecting and logging in to one broker", note, header, rows))

    def stalled(self, server):
        """The same readers, alone and beside more, a tenth of all, that read nothing.

        Large messages and a longer warm-up: the sockets of those are full when it is measured.
        """
        readers, more = self.few, self.few // 9
        self.say(f"{readers} clients and {more} that do not read")
        load = {"rate": 100, "size": 2000, "warm_up": 3}
        runs = self.take_turns(
            {
                "alone": (server, {"clients": readers, **load}),
                "beside": (server, {"clients": readers + more, "stalled": more, **load}),
            }
        )
        what = f"{more} stalled beside {readers} readers, 100 msg/s of 2 KB, with / without: "
        cost = ratio(runs["alone"], runs["beside"], per_cpu_s)
        self.goal(what + "CPU per delivery", cost, at_most=1.05)
        delay = ratio(runs["beside"], runs["alone"], lambda run: run["latency_ms"]["p50"])
        self.goal(what + "median latency", delay, at_most=1.05)

    def publish(self):
        self.say("the publish path")
        command = [BUILD / "bench" / "bench_publish"]

        def cost():
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return float(re.search(r"80 bytes of text +([0-9.]+)", out)[1])

        what = "publish path of one broker, from the text to the log"
        costs = self.take_turns({what: cost})[what]
        self.goal(what, costs, at_most=8, form="{:.2f} us a message")

    def flush(self):
        """With all clients this machine is full, and then a server writes more at a time anyway. So
        also with a fifth of them; and with all, but everything twenty times as slow."""
        self.say("FLUSH_INTERVAL_MS behind HAProxy")
        few = self.few
        with contextlib.ExitStack() as stack:
            servers = {
                interval: stack.enter_context(
                    hlchat(f"{OURS}, {interval} ms", haproxy=True, FLUSH_INTERVAL_MS=interval)
                )
                for interval in (0, 10, 200)
            }

            def turns(interval, **load):
                runs = self.take_turns({n: (servers[n], load) for n in (0, interval)})
                return runs[0], runs[interval]

            what = "broker + HAProxy, FLUSH_INTERVAL_MS={} / 0, {} clients: "
            for interval, clients, rate in ((10, few, 500), (10, few // 5, 500), (200, few, 25)):
                at_once, slower = turns(interval, clients=clients, rate=rate)
                name = what.format(interval, clients) + f"CPU per delivery at {rate} msg/s"
                self.goal(name, ratio(at_once, slower, per_cpu_s), at_most=0.35)
            at_once, slower = turns(10, clients=few, rate=10)
        pairs = zip(slower, at_once, strict=True)
        more = [a["latency_ms"]["p50"] - b["latency_ms"]["p50"] for a, b in pairs]
        name = what.format(10, few) + "median latency added at 10 msg/s"
        self.goal(name, more, at_most=1, form="{:.1f} ms")

    def redis(self, memory):
        self.say("two brokers on Redis and the log in memory")
        with hlchat(f"2 {OURS}, Redis", brokers=2, STORE="redis") as pair:
            options = {"clients": self.few, "rate": 100}
            runs = self.take_turns({"redis": (pair, options), "memory": (memory, options)})
        what = f"2 brokers + Redis / log in memory, {self.few} clients, 100 msg/s: "
        last = ratio(runs["redis"], runs["memory"], lambda run: run["fanout_ms"]["p99"])
        self.goal(what + "publish to last delivery, p99", last, at_most=2)

    def growing(self):
        """What another broker costs Redis, and what it takes off the others."""
        self.say("one, two and four brokers on one Redis")
        loads = {
            "steady": {"clients": self.few, "rate": 100},
            "closed": {"clients": 40, **CLOSED},
        }
        with contextlib.ExitStack() as stack:
            clusters = {
                n: stack.enter_context(hlchat(f"{n} {OURS}, Redis", brokers=n, STORE="redis"))
                for n in (1, 2, 4)
            }
            runs = {
                name: self.take_turns({n: (server, load) for n, server in clusters.items()})
                for name, load in loads.items()
            }

        def cost(results, count, of_redis):
            """CPU time of Redis, or of one broker, for each message in microseconds."""
            return median(
                sum(s for name, s in run["cpu_s"].items() if (name == "redis") is of_redis)
                / (1 if of_redis else count)
                / run["sent"]
                * 1e6
                for run in results
            )

        rows = [
            [
                count,
                f"{cost(steady, count, True):.0f}",
                f"{cost(steady, count, False):.0f}",
                f"{median(run['fanout_ms']['p99'] for run in steady):.1f}",
                f"{median(run['sent'] / run['seconds'] for run in closed):,.0f}",
                f"{cost(closed, count, True):.0f}",
            ]
            for count, steady, closed in (
                (count, runs["steady"][count], runs["closed"][count]) for count in clusters
            )
        ]
        header = [
            "brokers",
            "Redis, us a message",
            "each broker, us a message",
            "last delivery p99 ms",
            "messages/s, closed loop",
            "Redis, us a message then",
        ]
        note = (
            f"CPU time with {self.few} clients and 100 msg/s; and with 40 clients, 32 of which "
            "send as fast as it goes. All share this machine's cores with the load generator. "
            f"{self.how}."
        )
        self.tables.append(("Growing: brokers on one Redis", note, header, rows))

    # the HTTP API ---------------------------------------------------------------------------------

    def fastcgi(self):
        self.say("/api/version")
        seconds = max(1, round(self.seconds))
        with hlchat(PROXIED, haproxy=True) as ours:
            answer = ours.stack.http("GET", "/api/version").text()
            with answering_haproxy(answer) as limit:
                if limit.http("GET", "/api/version").text() != answer:
                    raise RuntimeError("HAProxy's own answer is another one")
                fronts = {
                    "api-fcgi behind HAProxy": ours.stack.haproxy.address(),
                    "HAProxy itself (the limit)": limit.haproxy.address(),
                }
                runs = self.take_turns(
                    {n: partial(wrk, to, "/api/version", seconds) for n, to in fronts.items()}
                )
        rows = [
            [
                name,
                spread([requests for requests, _ in results], "{:,.0f}"),
                spread([p99 for _, p99 in results], "{:.1f}"),
            ]
            for name, results in runs.items()
        ]
        note = f"`wrk`, 32 connections that are kept open, closed loop. {self.how} (least – most)."
        header = ["who answers", "requests/s", "p99 ms"]
        self.tables.append(("GET /api/version", note, header, rows))

    # large and rough ------------------------------------------------------------------------------

    def heavy(self):
        self.say("the heavy cases")
        rows = []

        def row(name, run, remark=""):
            rows.append([name, *figures(run), remark])

        few, half, most = self.few, self.most * 2 // 3, self.most
        proxied = min(half, 9900)  # two descriptors each, of 20,000
        with hlchat(OURS) as ours, hlchat(PROXIED, haproxy=True) as behind:
            for name, server, options in (
                (f"{half} clients, 10 msg/s", ours, {"clients": half, "rate": 10}),
                (f"{most} clients, 5 msg/s", ours, {"clients": most, "rate": 5}),
                (f"{proxied} behind one HAProxy, 5 msg/s", behind, {"clients": proxied, "rate": 5}),
                (f"{few} clients, 10 msg/s", ours, {"clients": few, "rate": 10}),
            ):
                run = self.run(server, **options)
                rss = run["client_rss_kib"].get("haproxy")
                row(name, run, f"{rss:.1f} KiB of HAProxy for each" if rss else "")
            # The storm is another chatload: it comes, and goes, while the first one measures.
            options = {"clients": few, "rate": 10, "seconds": max(8, self.seconds)}
            settle()
            listeners = start_chatload(ours, **options)
            listeners.stderr.readline()  # they are logged in
            end = time.monotonic() + options["seconds"]
            time.sleep(1)
            crowd = half // 2
            come = {"clients": crowd, "at_once": crowd, "seconds": 0, "idle": 1}
            storm = self.checked(ours, come, report_of(start_chatload(ours, **come)))
            if time.monotonic() > end:
                self.found.append(f"{ours.name}: the storm outlasted its measuring")
            row(
                f"the same while {crowd} more connect at once",
                self.checked(ours, options, report_of(listeners)),
                f"these are logged in after {storm['connect_s']:.2f} s",
            )
            stalled = few // 9
            # Large messages: soon more than the ring holds has passed them by.
            options = {"clients": few + stalled, "stalled": stalled, "size": 2000, **CLOSED}
            run = self.run(ours, **options)
            given_up = ours.stack.broker.metrics()["hlchat_slow_clients_total"]
            row(
                f"{few} clients and {stalled} that do not read, closed loop, 2 KB messages",
                run,
                f"{run['sent'] / run['seconds']:.0f} messages/s, {given_up:.0f} of those given up",
            )
        note = "One run each, of one broker, or of one and HAProxy."
        self.tables.append(("Large and rough", note, ["case", *FIGURES, ""], rows))


def per_cpu_s(run):
    return run["deliveries_per_cpu_s"]


GENERATOR = "chatload: cores / late p99 ms"
FIGURES = ("lost", "p50 ms", "p99 ms", "max ms", "last delivery p99 ms", "cores", GENERATOR)


def figures(run):
    return [
        run["lost"],
        *(f"{run['latency_ms'][key]:.0f}" for key in ("p50", "p99", "max")),
        f"{run['fanout_ms']['p99']:.0f}",
        f"{sum(run['cpu_s'].values()) / run['seconds']:.2f}",
        paper.generator([run]),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2, help="that each run measures")
    parser.add_argument("--quick", action="store_true", help="once each, small and short")
    parser.add_argument("--only", default="", help="part of a name: fanout, heavy, ...")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds = min(arguments.seconds, 0.5)
    bench = Bench(arguments.seconds, 1 if arguments.quick else 3, arguments.quick)
    machine = paper.Machine()
    if machine.is_busy():
        bench.say(f"load average {machine.load[0]:.1f}: measure when this machine is calm")
    command = "make bench"
    if arguments.quick:
        command += " BENCH=quick"
    elif arguments.seconds != 2:
        command += f" BENCH_SECONDS={arguments.seconds:g}"
    with contextlib.ExitStack() as stack:
        bench.say("starting the servers")
        servers, absent = start_all(
            stack,
            **{
                OURS: (hlchat, OURS),
                PROXIED: (partial(hlchat, haproxy=True), PROXIED),
                CLUSTER: (partial(hlchat, haproxy=True, brokers=2, STORE="redis"), CLUSTER),
                EACH: (sendloop, EACH, "each"),
                BATCH: (sendloop, BATCH, "batch"),
                UWS: (uwebsockets, UWS),
                NCHAN: (nchan, NCHAN),
                CENTRIFUGE: (centrifuge, CENTRIFUGE),
                CHANNELS: (channels, CHANNELS),
            },
        )
        for name, why in absent.items():
            bench.say(f"absent: {name}: {why}")
        parts = {
            "fanout": lambda: bench.fanout(servers),
            "window": lambda: bench.window(servers),
            "long": lambda: bench.long_run(servers[OURS], servers[BATCH]),
            "connections": bench.connections,
            "stalled": lambda: bench.stalled(servers[OURS]),
            "publish": bench.publish,
            "flush": bench.flush,
            "redis": lambda: bench.redis(servers[OURS]),
            "growing": bench.growing,
            "fastcgi": bench.fastcgi,
            "heavy": bench.heavy,
        }
        for name, part in parts.items():
            if arguments.only in name:
                try:
                    part()
                except Absent as why:
                    bench.say(f"{name}: {why}")
                    bench.found.append(f"{name} was not measured: {why}")
                except Exception as why:  # the other parts go on
                    end_chatloads()
                    bench.is_whole = False
                    bench.found.append(f"{name} failed: {type(why).__name__}: {why}")
                    bench.say(bench.found[-1])
    place = PLACE / "report" if arguments.quick or arguments.only else REPO / "docs" / "benchmarks"
    paper.write(place, bench, machine, absent, command, commands, more_options)
    bench.say(f"wrote {Path(place).relative_to(REPO)}")
    print(paper.goals_text(bench.goals))
    if bench.quick:
        bench.say("that was small and short: it says nothing about the goals")
    for wrong in bench.found:
        bench.say(f"wrong: {wrong}")
    return 1 if not bench.is_whole or any(OURS in wrong for wrong in bench.found) else 0


if __name__ == "__main__":
    sys.exit(main())
