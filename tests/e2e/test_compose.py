"""What compose.yaml and the Dockerfiles repeat of other files. (make test-images runs them.)"""

import re
import subprocess

import pytest
from stack import BUILD, REPO

# What the images set.
OWN = {"LISTEN", "OPS_LISTEN", "FCGI_LISTEN"}
# And of HAProxy: its own too, what says it another way, and what wants a file.
HAPROXY_OWN = {"PAGE_DIR", "RUN_DIR", "HTTP_BIND", "HTTP_PORT", "PORT", "HAPROXY_OPS_BIND"}
HAPROXY_OTHER = {"API_1", "API_4", "BROKER_1", "BROKER_8", "DNS_SERVER", "TLS_CERT"}


def settings(program):
    """Their names, by --help."""
    text = subprocess.check_output([BUILD / program, "--help"], text=True).partition("General\n")[2]
    names = re.findall(r"^  (?:--)?(\w[\w-]+)(\[_FILE\])? \S", text, re.MULTILINE)
    files = {name + "_FILE" for name, has_file in names if has_file}
    return files | {name.upper().replace("-", "_") for name, _ in names}


def haproxy_settings():
    """By its configuration's own list."""
    text = (REPO / "haproxy" / "haproxy.cfg").read_text().partition("\nglobal\n")[0]
    lines = re.findall(
        r"^#   ([A-Z][A-Z0-9_]+)(?:(?:, else| \.\.) ([A-Z0-9_]+))? ", text, re.MULTILINE
    )
    return {name for line in lines for name in line if name}


def passed_on(service):
    """The names in its part of compose.yaml."""
    text = (REPO / "compose.yaml").read_text()
    part = re.search(rf"^  {service}:\n(.+?)^(?:  )?\w", text, re.MULTILINE | re.DOTALL).group(1)
    return set(re.findall(r"\b[A-Z][A-Z_]+\b", part.partition("environment:")[2]))


@pytest.mark.parametrize(("service", "program"), [("ws-broker",) * 2, ("api-fcgi",) * 2])
def test_every_setting_reaches_its_program(service, program):
    assert len(settings(program)) > 4
    assert settings(program) - passed_on(service) - OWN == set()


def test_every_setting_reaches_haproxy():
    wanted = haproxy_settings() - HAPROXY_OWN - HAPROXY_OTHER
    assert len(wanted) > 6
    assert wanted - passed_on("haproxy") == set()


@pytest.mark.parametrize("file", ["Dockerfile.api", "Dockerfile.ws", "haproxy/Dockerfile"])
def test_the_version_of_an_image(file):
    version = (REPO / "VERSION").read_text().strip()
    assert f"\nARG VERSION={version}\n" in (REPO / file).read_text()
