"""HAProxy as the Debian releases have it; tests/config/haproxy.sh has unpacked them."""

import os

import pytest
from stack import REPO


@pytest.fixture(params=["2.6", "3.0", "3.2", "3.4"], ids="HAProxy {}".format)
def haproxy(request, monkeypatch):
    """The one that is found for the time of the test."""
    folder = REPO / "build" / "haproxy" / request.param
    if (folder / "missing").exists():
        pytest.skip((folder / "missing").read_text())
    assert (folder / "haproxy").exists(), "run make test-config"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
