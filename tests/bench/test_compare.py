"""The order of runs, their loads and what follows from their reports; nothing is measured here."""

import compare
import pytest
from canned import report
from compare import BATCH, CENTRIFUGE, CHANNELS, EACH, NCHAN, OURS, UWS, Bench
from servers import Server, faults


@pytest.fixture
def chatload(monkeypatch):
    """Stands in for the real one: a list of (server's name, options); .answer makes reports."""

    class Calls(list):
        def answer(self, name, options):
            return report()

    calls = Calls()

    def run(server, **options):
        calls.append((server.name, options))
        return calls.answer(server.name, options)

    monkeypatch.setattr(compare, "chatload", run)
    return calls


def servers(*names):
    return {name: Server(name, [], {}) for name in names}


def verdicts(bench):
    return {goal.what: goal.verdict for goal in bench.goals}


def test_servers_take_turns(chatload):
    bench = Bench(2, 3, False)
    here = servers("a", "b")
    bench.take_turns({name: (server, {"clients": 5}) for name, server in here.items()})
    assert [name for name, _ in chatload] == ["a", "b", "b", "a", "a", "b"]
    assert all(options == {"seconds": 2, "clients": 5} for _, options in chatload)


def test_a_server_that_fails_does_not_end_the_others(chatload):
    def answer(name, options):
        if name == "a" and len(chatload) > 2:
            raise RuntimeError("no such process")
        return report()

    chatload.answer = answer
    bench = Bench(2, 3, False)
    here = servers("a", "b")
    results = bench.take_turns({name: (server, {}) for name, server in here.items()})
    assert {name: len(reports) for name, reports in results.items()} == {"b": 3}
    assert bench.found == ["a: no such process"]


def test_all_have_the_same_load(chatload):
    Bench(2, 3, False).fanout(servers(OURS, EACH, BATCH, UWS, NCHAN, CENTRIFUGE, CHANNELS))
    loads = {}
    for name, options in chatload:
        load = {key: options.get(key) for key in ("clients", "rate", "publishers", "window")}
        loads.setdefault(tuple(load.values()), []).append(name)
    assert set(loads) == {
        (clients, *how) for clients in (1000, 5000) for how in ((10, None, None), (None, 32, 64))
    }
    for load, names in loads.items():
        everybody = [OURS, EACH, BATCH, UWS, NCHAN, CENTRIFUGE]
        if load == (1000, None, 32, 64):
            everybody.append(CHANNELS)
        assert names == [*everybody, *reversed(everybody), *everybody]


def test_fanout_goals(chatload):
    speed = {OURS: 900, EACH: 1000, BATCH: 990, UWS: 150, NCHAN: 10, CHANNELS: 0.5}
    chatload.answer = lambda name, options: report(speed[name])
    bench = Bench(2, 3, False)
    bench.fanout(servers(*speed))
    assert verdicts(bench) == {
        "hlchat / send() each, 1000 clients, 10 msg/s": "met",
        "hlchat / send() each, 5000 clients, 10 msg/s": "met",
        "hlchat / send() batched, 1000 clients, closed loop": "met",
        "hlchat / send() batched, 5000 clients, closed loop": "met",
        "hlchat / uWebSockets, 1000 clients, 10 msg/s": "met",
        "hlchat / uWebSockets, 5000 clients, 10 msg/s": "met",
        "hlchat / uWebSockets, 1000 clients, closed loop": "met",
        "hlchat / uWebSockets, 5000 clients, closed loop": "met",
        "hlchat / nchan, 1000 clients, 10 msg/s": "met",
        "hlchat / nchan, 5000 clients, 10 msg/s": "met",
        "hlchat / nchan, 1000 clients, closed loop": "met",
        "hlchat / nchan, 5000 clients, closed loop": "met",
        "hlchat / Channels + Redis, 1000 clients, closed loop": "met",
    }


def test_goals_beside_a_peer_that_is_absent(chatload):
    bench = Bench(2, 3, False)
    bench.fanout(servers(OURS, EACH, BATCH))
    assert verdicts(bench)["hlchat / nchan, 1000 clients, 10 msg/s"] == "unknown"
    assert not any(CHANNELS in what for what in verdicts(bench))


def test_fewer_on_the_way(chatload):
    chatload.answer = lambda name, options: report(1000 * options["window"])
    bench = Bench(2, 3, False)
    bench.window(servers(OURS, BATCH, UWS))
    assert all(options["publishers"] == 32 for _, options in chatload)
    _, _, header, rows = bench.tables[0]
    assert header == ["server", 8, 32, 64]
    assert [row[0] for row in rows] == [OURS, BATCH, UWS]
    assert [cell.partition(" ")[0] for cell in rows[2][1:]] == ["**8k**", "**32k**", "**64k**"]


@pytest.mark.parametrize(
    ("before", "ours", "after", "verdict"),
    [
        (20, 90, 30, "met"),
        (20, 110, 30, "missed"),
        (100, 120, 110, "met"),
        (20, 110, 200, "met, within noise"),
        (20, 190, 200, "missed, within noise"),
    ],
)
def test_a_minute(chatload, before, ours, after, verdict):
    p99s = iter([before, ours, after])
    chatload.answer = lambda name, options: report(p99=next(p99s))
    bench = Bench(2, 3, False)
    here = servers(OURS, BATCH)
    bench.long_run(here[OURS], here[BATCH])
    assert [name for name, _ in chatload] == [BATCH, OURS, BATCH]
    assert all(options["seconds"] == 60 for _, options in chatload)
    assert verdicts(bench) == {"5000 clients, 100 msg/s for 60 s": verdict}


def test_a_minute_in_which_something_is_lost(chatload):
    chatload.answer = lambda name, options: report(lost=int(name == OURS))
    bench = Bench(2, 3, False)
    here = servers(OURS, BATCH)
    bench.long_run(here[OURS], here[BATCH])
    assert list(verdicts(bench).values()) == ["missed"]
    assert len(bench.found) == 1
    assert "1 lost" in bench.found[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"lost": 3, "errors": 1}, "3 lost, 1 errors"),
        ({"failed": 2}, "2 failed"),
        ({"closed": {"1006": 4}}, "4 closed 1006"),
    ],
)
def test_faults_of_a_run(changes, words):
    assert faults(report(**changes)) == words
