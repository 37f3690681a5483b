"""What compose.yaml and the Dockerfiles repeat of other files. (make test-images runs them.)"""

import re
import subprocess

import pytest
from stack import BUILD, REPO

# What the images set.
OWN = {"LISTEN", "OPS_LISTEN", "FCGI_LISTEN"}


def settings(program):
    """Their names, by --help."""
    text = subprocess.check_output([BUILD / program, "--help"], text=True).partition("General\n")[2]
    names = re.findall(r"^  (?:--)?(\w[\w-]+)(?:\[_FILE\])? \S", text, re.MULTILINE)
    return {name.upper().replace("-", "_") for name in names}


def passed_on(service):
    """The names in its part of compose.yaml."""
    text = (REPO / "compose.yaml").read_text()
    part = re.search(rf"^  {service}:\n(.+?)^(?:  )?\w", text, re.MULTILINE | re.DOTALL).group(1)
    return set(re.findall(r"\b[A-Z][A-Z_]+\b", part.partition("environment:")[2]))


@pytest.mark.parametrize(("service", "program"), [("ws-broker",) * 2, ("api-fcgi",) * 2])
def test_every_setting_reaches_its_program(service, program):
    assert len(settings(program)) > 4
    assert settings(program) - passed_on(service) - OWN == set()


@pytest.mark.parametrize("file", ["Dockerfile.api", "Dockerfile.ws", "haproxy/Dockerfile"])
def test_the_version_of_an_image(file):
    version = (REPO / "VERSION").read_text().strip()
    assert f"\nARG VERSION={version}\n" in (REPO / file).read_text()
