"""Our systemd units go on trying: what they need may come late."""

import re

import pytest
from stack import REPO

UNITS = [
    *(REPO / "debian").glob("*.service"),
    *(REPO / "ansible").rglob("*.service.j2"),
    *(REPO / "haproxy").rglob("*.service"),
]


def test_there_are_some():
    assert len(UNITS) >= 3


def test_the_drop_in_for_redis():
    """Debian's unit restarts always, and gives up after five times."""
    text = (REPO / "ansible/roles/redis/templates/override.conf.j2").read_text()
    assert "\nStartLimitIntervalSec=0\n" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_does_not_give_up(unit):
    text = unit.read_text()
    assert "\nStartLimitIntervalSec=0\n" in text
    assert "\nRestart=always\n" in text
    assert int(re.search(r"^RestartSec=(\d+)$", text, re.MULTILINE)[1]) <= 2
