"""tests/conftest.py: what holds for all that tests start."""

import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
CHILD = """
import subprocess, sys
sys.path[:0] = sys.argv[1:]
import conftest
print(subprocess.check_output(["grep", "^SigIgn:", "/proc/self/status"], text=True))
"""


def test_a_child_ignores_no_signal_that_the_tests_were_started_to_ignore():
    """As a background job ignores SIGINT, and what nohup starts ignores SIGHUP."""
    names = ["HUP", "INT", "QUIT", "TERM"]
    ignoring = ["sh", "-c", f'trap "" {" ".join(names)}; exec "$@"', "sh"]
    told = subprocess.check_output(
        [*ignoring, sys.executable, "-c", CHILD, TESTS, TESTS / "e2e"], text=True
    )
    ignored = int(told.split()[1], 16)
    assert [n for n in names if ignored >> (signal.Signals[f"SIG{n}"] - 1) & 1] == []
