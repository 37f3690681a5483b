"""`shared/scripts/deps.sh` installs all that our scripts and tests call.

Fresh roots (`make test-fresh`) show that for `make run` and `make test`. This looks at the other
targets too, and on a machine that has more: a program that a script names is, by dpkg, of a package
that deps.sh lists for that script's targets, of one that such a package depends on, or of one that
every Debian has.
"""

import ast
import functools
import os
import re
import subprocess
from pathlib import Path

import pytest
from stack import REPO

FIRST = ["git", "make", "gcc", "ca-certificates"]  # what README asks for
DEPS = REPO / "shared/scripts/deps.sh"
VENVS = ("build/venv", "build/ansible/venv")  # first in the PATH of tests
FOLDERS = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")

# What is called, and for which purposes deps.sh is called before: see the Makefile.
CALLERS = {
    "run stub tls": ["shared/scripts/run.sh", "shared/scripts/redis-server.sh"],
    "test": [
        *("tests/run.sh", "tests/smoke/smoke.sh", "tests/config/*", "tests/conftest.py"),
        "haproxy/*.sh",
        *("tests/e2e/*.py", "tests/chaos/*.py", "tests/stub/*.py", "tests/bench/test_*.py"),
    ],
    "test clients": ["tests/clients/*.py", "tests/clients/*.sh"],
    "bench": ["tests/bench/*.py"],
    "deb root": ["shared/scripts/deb.sh", "shared/scripts/debian-*.sh", "tests/fresh.sh"],
    "check deb root": ["tests/deb/*.py"],
    "check deb root ansible": ["tests/ansible/*.py", "tests/ansible/*.sh"],
    "check images": ["tests/images/*.py", "tests/images/*.sh"],
}
NOT_OURS = {"deps.sh", "compose-upgrade.sh"}  # what installs; what operators with Docker run
# Used only where they are; or started in a root or in a container.
OPTIONAL = {"sudo", "docker", "dockerd", "docker-compose", "valkey-server", "valkey-cli"}
OPTIONAL |= {"node", "npm", "go", "cargo", "java", "javac", "mvn", "c++"}  # from anywhere
ELSEWHERE = {"fresh.sh": {"curl"}, "test_images.py": {"curl", "kill", "ps"}}


def lines(*command, **environment):
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.stdout.split("\n")


@functools.cache
def packages(purposes):
    """The names of all that is there once deps.sh has done its work."""
    wanted = lines(DEPS, "--list", *purposes.split(), STORE="redis", STORE_PROGRAM="")
    every = lines("dpkg-query", "-W", "-f", "${Essential} ${Priority} ${Package}\n")
    here = {line.split()[-1] for line in every if line}  # apt may not know the others
    base = [line.split()[-1] for line in every if re.match("yes |.*required ", line)]
    depends = lines(
        *("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--installed"),
        *("--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"),
        *(here & {*FIRST, *wanted, *base}),
        LC_ALL="C",
    )
    return {line.split(":")[0] for line in depends if line and not line.startswith((" ", "<", "|"))}


@functools.cache
def owners():
    """{path: names of the packages that have it}."""
    found = {}
    for file in Path("/var/lib/dpkg/info").glob("*.list"):
        for path in file.read_text().split("\n"):
            found.setdefault(path, set()).add(file.name.split(":")[0].removesuffix(".list"))
    return found


@functools.cache
def packages_of(program):
    """Those that have it; none of a program that no package has installed, or that is not used."""
    tools = [REPO / venv / "bin" / Path(program).name for venv in VENVS]
    if any(tool.exists() and not tool.is_symlink() for tool in tools):  # (python3 is a link)
        return set()
    paths = {str(Path(folder, program)) for folder in FOLDERS if Path(folder, program).exists()}
    paths |= {os.path.realpath(path) for path in paths}
    return set().union(*(owners().get(path, set()) for path in paths))


BUILTINS = set(lines("bash", "-c", "compgen -bk"))
BEFORE = set(
    ("then", "do", "else", "elif", "if", "until", "while", "exec", "!", "env", "sudo", "time")
    + ("quietly", "in_root", "xargs", "setsid")
)  # another command follows
COMMAND = re.compile(r"(?:^|[|&;(`])\s*([a-z][a-z0-9._-]+|!)(?=\s|$|[;)])")

LOOKED_FOR = re.compile(
    r"\b(command -v|timeout \d+|xargs(?: -\w+(?: (['\"]).*?\2| \d+)?)*|exec) +([a-z][\w.-]+)"
)


def called_by_shell(text):
    text = re.sub(r"<<-?'?(\w+)'?\n.*?\n\s*\1\n", "\n", text, flags=re.DOTALL)  # here documents
    text = re.sub(r"(^|\s)#.*", "", text)
    text = re.sub(r"\\\n", " ", text)
    own = set(re.findall(r"^\s*([a-z_0-9]+)\(\)", text, re.MULTILINE))
    words = {words[-1] for words in LOOKED_FOR.findall(text)}
    for line in text.split("\n"):
        while found := COMMAND.search(line):
            words.add(found[1])
            # As the beginning of a line, where another command follows.
            line = ("" if found[1] in BEFORE else "- ") + line[found.end() :]
    return words - own - BUILTINS


PROGRAM = re.compile(r"/(usr/)?s?bin/[\w.-]+")


def called_by_python(text):
    """The first words of lists and tuples that look like a command; what is looked for; paths."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and PROGRAM.fullmatch(str(node.value)):
            yield node.value
        if isinstance(node, ast.Call) and re.search(r"\bwhich$", ast.unparse(node.func)):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))
        if isinstance(node, ast.List | ast.Tuple | ast.Call):
            words = node.args if isinstance(node, ast.Call) else node.elts
            if len(words) > 1 and isinstance(words[0], ast.Constant):
                word = words[0].value
                is_call = isinstance(node, ast.Call) and re.search(
                    "run|Popen|check|output|call|quietly|lines", ast.unparse(node.func)
                )
                option = isinstance(words[1], ast.Constant) and str(words[1].value).startswith("-")
                if isinstance(word, str) and word.islower() and (option or is_call):
                    yield word


def called_by(file):
    text = file.read_text()
    if file.suffix == ".py":
        return set(called_by_python(text))
    return called_by_shell(text) if re.match("#!.*sh\n", text) else set()


@pytest.mark.parametrize("purposes", CALLERS)
def test_what_is_called_is_installed(purposes):
    missing = {}
    for pattern in CALLERS[purposes]:
        for file in REPO.glob(pattern):
            if file.is_file():
                for word in called_by(file) - OPTIONAL - ELSEWHERE.get(file.name, set()):
                    have_it = packages_of(word)
                    if have_it and not have_it & packages(purposes):
                        missing[word] = f"{file.relative_to(REPO)}: {word} is of {have_it}"
    assert not missing, "\n".join(missing.values())


def test_every_script_is_looked_at():
    known = {file for patterns in CALLERS.values() for p in patterns for file in REPO.glob(p)}
    for folder in ("shared/scripts", "haproxy", "tests"):
        for file in (REPO / folder).rglob("*.sh"):
            assert file in known or file.name in NOT_OURS, file


def test_it_sees_what_is_called():
    assert {"setpriv", "curl", "mkfifo"} <= called_by(REPO / "shared/scripts/run.sh")
    assert "redis-cli" in called_by(REPO / "shared/scripts/run.sh")
    assert "setpriv" in called_by(REPO / "tests/deb/machine.py")
    assert "dnsmasq" in called_by(REPO / "tests/e2e/test_haproxy.py")
    assert "/usr/bin/chromedriver" in called_by(REPO / "tests/e2e/browser.py")
    assert packages_of("setpriv") == {"util-linux"}
