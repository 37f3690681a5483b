"""docs/ansible.md says what the roles' argument specs say, and these what the defaults are."""

from machines import WORK, run
from stack import REPO


def test_variables():
    table = run(WORK / "venv/bin/python", REPO / "tests/ansible/variables.py")
    assert table in (REPO / "docs/ansible.md").read_text()
