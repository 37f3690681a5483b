"""Fixtures of the end-to-end and chaos tests; what a stack is and can do: e2e/stack.py."""

import resource
import signal
from contextlib import ExitStack

import pytest
from stack import Stack

# Some tests are a thousand clients; a user's shell has 1024 descriptors until one asks for more.
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
enough = 1 << 16 if most == resource.RLIM_INFINITY else min(most, 1 << 16)
resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


# A background job, nohup and some CI runners ignore signals, and so would all that tests start.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(number) == signal.SIG_IGN:
        # (Python's own for SIGINT: Ctrl-C ends the tests in order.)
        own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, own)


def pytest_collection_modifyitems(items):
    """The tests of a class that use its stack stay with one worker; any other is by itself.

    Those others come first: the longest are among them, and would be waited for at the end.
    """

    def shares(item):
        return item.cls is not None and "stack" in item.fixturenames

    for item in filter(shares, items):
        item.add_marker(pytest.mark.xdist_group(item.nodeid.rpartition("::")[0]))
    items.sort(key=shares)


@pytest.fixture(scope="class")
def stack(request):
    """The class's running chat, with the settings of its SETTINGS."""
    with Stack(**getattr(request.cls, "SETTINGS", {})) as running:
        yield running


@pytest.fixture
def start_stack():
    """Starts stacks that end with the test: start_stack(HISTORY_LIMIT=5)."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(Stack(**settings))


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    for running in Stack.live:
        running.close_clients()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    if report.failed:
        for running in Stack.live:
            report.sections += [(f"the end of {name}.log", text) for name, text in running.logs()]
    return report
