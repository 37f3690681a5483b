"""Prints the table of variables in docs/ansible.md from the roles' argument specs, by Ansible's
Python. Fails where a role's defaults are not what its specs say."""

import re
import sys
from pathlib import Path

import yaml

ROLES = Path(__file__).parents[2] / "ansible" / "roles"
GIVEN = "Given by the other roles."


def load(path):
    return yaml.safe_load(path.read_text())


def rows(role):
    defaults = load(ROLES / role / "defaults/main.yml")
    for spec in load(ROLES / role / "meta/argument_specs.yml")["argument_specs"].values():
        for name, option in spec["options"].items():
            if option["description"] == GIVEN:
                continue
            default = "required" if option.get("required") else option["default"]
            actual = defaults.pop(name, "required")
            if actual != default and "{{" not in str(actual):
                sys.exit(f"{role}: {name} is {actual!r}, but its spec says {default!r}")
            text = option["description"]
            for key, sub in option.get("options", {}).items():
                text += f" `{key}`: {sub['description'][0].lower()}{sub['description'][1:]}"
            text = re.sub(r"C\((.*?)\)", r"`\1`", text)
            yield f"| `{name}` | {default or '-'} | {text.strip().removesuffix('.')} |"
    if defaults:
        sys.exit(f"{role}: no argument spec for {[*defaults]}")


print("| name | default | |\n| --- | --- | --- |")
for each in ("hlchat", "haproxy", "broker", "redis"):
    print("\n".join(rows(each)))
