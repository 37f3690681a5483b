"""HAProxy as each Debian release has it; tests/config/haproxy.sh has unpacked them."""

import os

import pytest
from stack import REPO


@pytest.fixture(params=[12, 13], ids="Debian {}".format)
def haproxy(request, monkeypatch):
    """The one that is found for the time of the test."""
    folder = REPO / "build" / "haproxy" / str(request.param)
    assert (folder / "haproxy").exists(), "run make test-config"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
