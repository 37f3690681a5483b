"""A report of chatload, for tests."""


def quantiles(ms):
    return dict.fromkeys(("p50", "p90", "p99", "p999", "max"), ms)


def report(per_cpu_s=100_000, *, p99=5, late=0.1, **changes):
    """That of a good run, with changes."""
    timed = {} if late is None else {"sent_late_ms": quantiles(late)}
    return {
        "seconds": 2,
        "deliveries_per_cpu_s": per_cpu_s,
        "cpu_s": {"broker": 1},
        "own_cpu_s": 0.5,
        "latency_ms": quantiles(p99),
        "fanout_ms": quantiles(p99 + 1),
        **dict.fromkeys(("failed", "errors", "lost", "duplicates"), 0),
        **dict.fromkeys(("reordered", "altered", "undelivered"), 0),
        "closed": {},
        "first_error": "",
        **timed,
        **changes,
    }
