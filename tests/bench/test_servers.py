"""The servers of the comparison start, and chatload measures them. The peers are left out, as they
come from package registries."""

from contextlib import ExitStack
from functools import partial

from compare import BATCH, CLUSTER, EACH, OURS, PROXIED, Bench, per_cpu_s
from servers import hlchat, sendloop, start_all


def test_ours_and_the_limit():
    wanted = {
        OURS: (hlchat, OURS),
        PROXIED: (partial(hlchat, haproxy=True), PROXIED),
        CLUSTER: (partial(hlchat, haproxy=True, brokers=2, STORE="redis"), CLUSTER),
        EACH: (sendloop, EACH, "each"),
        BATCH: (sendloop, BATCH, "batch"),
    }
    bench = Bench(0.2, 1, True)
    load = {"clients": 20, "rate": 50, "warm_up": 0.1}
    with ExitStack() as stack:
        here, absent = start_all(stack, **wanted)
        results = bench.take_turns({name: (server, load) for name, server in here.items()})
    assert absent == {}
    assert bench.found == []
    assert list(results) == list(wanted)
    for reports in results.values():
        assert [report["deliveries"] for report in reports] == [10 * 20]
        assert per_cpu_s(reports[0]) > 0
