"""docs/support.md says what the tests run, and what this machine has."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from stack import REPO
from test_haproxy import HAProxy

DOC = (REPO / "docs/support.md").read_text()
RELEASE = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
LIBRARIES = {
    "libwebsockets": "libwebsockets-dev",
    "libuv": "libuv1-dev",
    "json-c": "libjson-c-dev",
    "libcurl": "libcurl4-openssl-dev",
    "OpenSSL": "libssl-dev",
    "libfcgi": "libfcgi-dev",
    "hiredis": "libhiredis-dev",
    "cmocka (tests)": "libcmocka-dev",
}


def rows():
    """[(part, versions, command)]; a row without a part goes on with that of the one before."""
    part, found = None, []
    for line in re.findall(r"^\|(.*\|.*\|.*)\|$", DOC.partition("The libraries")[0], re.MULTILINE):
        cells = [cell.strip() for cell in line.split("|")]
        part = cells[0] or part
        found.append((part, cells[1], cells[2]))
    return found[2:]


def versions(part, command):
    (found,) = [v for p, v, c in rows() if p == part and re.search(rf"`make {command}\b", c)]
    return found.split(", ")


def test_the_gate_makes_these_roots():
    gate = re.search(r"for debian in (.*); do", (REPO / ".ci/run").read_text())[1]
    assert versions("Debian", "test-fresh") == gate.split()


@pytest.mark.parametrize("part", ["packages, systemd units", "playbook"])
def test_machines_are_booted_of(part):
    suite = (REPO / "tests/deb/test_deb.py").read_text()
    booted = re.search(r'params=\[("12", "13")\]', suite)[1].replace('"', "").split(", ")
    (said,) = [v for p, v, _ in rows() if p == part]
    assert said == f"Debian {', '.join(booted)}"


def test_every_haproxy_is_asked():
    makefile = (REPO / "Makefile").read_text()
    asked = re.search(r"^HAPROXYS := .*haproxy,(.*)\)$", makefile, re.MULTILINE)[1]
    assert versions("HAProxy", "test-config") == asked.split()


def test_commands_exist():
    targets = re.findall(r"^([a-z0-9-]+):.*## ", (REPO / "Makefile").read_text(), re.MULTILINE)
    commands = re.findall(r"`make ([a-z0-9-]+)", DOC)
    assert commands
    assert set(commands) <= set(targets)


def version_of(*command):
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.search(r"\d+\.\d+", said)[0]


def test_this_machine_is_in_it():
    command = "test-fresh" if RELEASE.get("VERSION_ID") else "test-tomorrow"
    assert version_of(HAProxy.program(), "-v") in versions("HAProxy", command)
    store = version_of(REPO / "shared/scripts/redis-server.sh", "--version")
    supported = {v for p, said, _ in rows() if p in ("Redis", "Valkey") for v in said.split(", ")}
    assert store in supported
    browser = shutil.which("chromium")
    (said,) = versions("browser", "e2e")
    assert browser
    assert said.startswith("Chromium ")


def test_libraries_of_this_machine():
    header = re.search(r"^\| library \|(.*)\|$", DOC, re.MULTILINE)[1].split("|")
    names = [name.strip() for name in header]
    release = RELEASE.get("VERSION_ID")
    if f"Debian {release}" not in names:
        pytest.skip("what sid has changes from day to day")
    column = names.index(f"Debian {release}")
    for library, package in LIBRARIES.items():
        row = re.search(rf"^\| {re.escape(library)} \|(.*)\|$", DOC, re.MULTILINE)[1].split("|")
        installed = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert re.match(rf"(\d+:)?{re.escape(row[column].strip())}\b", installed), library
