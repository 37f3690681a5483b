"""Fixtures of the end-to-end and chaos tests; what a stack is and can do: e2e/stack.py."""

import resource
from contextlib import ExitStack

import pytest
from stack import Stack

# Some tests are a thousand clients; a user's shell has 1024 descriptors until one asks for more.
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
enough = 1 << 16 if most == resource.RLIM_INFINITY else min(most, 1 << 16)
resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


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
