"""haproxy/deploy-certificate.sh: a renewed certificate goes live, and nobody notices."""

import os
import re
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from certificate import make_certificate, serial_of
from http2 import Http2, Http2Client
from stack import REPO, Stack, open_socket
from test_tls import shake_hands

SCRIPT = REPO / "haproxy" / "deploy-certificate.sh"


class Site:
    """A folder with HAProxy's certificate, and one with what an ACME client has got."""

    def __init__(self, folder):
        self.file = folder / "certs" / "chat.example.pem"
        self.chain, self.key = folder / "live" / "fullchain.pem", folder / "live" / "privkey.pem"
        for file in (self.file, self.chain):
            file.parent.mkdir()
        make_certificate(self.file, self.file)

    def renewed(self, **options):
        """A new certificate; its serial number."""
        return serial_of(make_certificate(self.chain, self.key, **options))

    def deploy(self, stack, *arguments, **environment):
        settings = {"TLS_CERT": self.file, "RUN_DIR": stack.folder, **environment}
        environment = {"PATH": os.environ["PATH"], **{k: str(v) for k, v in settings.items()}}
        return subprocess.run(
            [SCRIPT, *arguments],
            env=environment, check=False, capture_output=True, text=True, timeout=30,
        )  # fmt: skip

    def refused(self, stack, *arguments, **environment):
        """The one line it says."""
        result = self.deploy(stack, *arguments, **environment)
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("deploy-certificate: ")
        return result.stderr


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def serving(stack):
    """The serial number that a new connection sees."""
    with shake_hands(stack) as sock:
        return serial_of(sock.getpeercert(True))


def admin(stack, command):
    with open_socket(str(stack.folder / "admin.sock")) as sock:
        sock.sendall(f"{command}\n".encode())
        return sock.makefile().read()


def test_open_connections_stay_and_new_ones_see_it(start_stack, site):
    stack = start_stack(TLS_CERT=site.file, reload=True)

    def processes():
        pid = re.search(r"^Pid: \d+$", admin(stack, "show info"), re.MULTILINE)[0]
        return stack.haproxy.pid, stack.haproxy.workers(), pid

    before = processes()
    old = serving(stack)
    assert old == serial_of(site.file)
    http2 = Http2(stack.haproxy)
    clients = [stack.connect("one"), Http2Client(http2).login("two")]
    for _ in range(2):  # renewals
        new = site.renewed()
        result = site.deploy(stack, site.chain, site.key)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"{site.file} is in use: notAfter=" in result.stdout
        assert serving(stack) == new == serial_of(site.file)
        clients.append(stack.connect("more"))
        for client in clients:
            client.send("message", message="still here")
            for other in clients:
                assert other.receive()["message"] == "still here"
        assert http2.request("GET", "/api")[0] == 200
    assert processes() == before

    # Its mode is what it was, nothing else is left, and the next start reads it.
    assert site.file.stat().st_mode & 0o777 == 0o600
    assert list(site.file.parent.iterdir()) == [site.file]
    stack.haproxy.reload()
    assert serving(stack) == new


def test_nobody_is_refused_meanwhile(start_stack, site):
    stack = start_stack(TLS_CERT=site.file)
    done, seen = threading.Event(), set()

    def connect():
        while not done.is_set():
            seen.add(serving(stack))

    expected = {serial_of(site.file)}
    with ThreadPoolExecutor() as pool:
        connecting = pool.submit(connect)
        try:
            for _ in range(5):
                expected.add(site.renewed())
                assert site.deploy(stack, site.chain, site.key).returncode == 0
        finally:
            done.set()
        connecting.result()
    assert seen <= expected
    assert len(seen) > 1


def test_of_certbot_into_a_folder(start_stack, site):
    stack = start_stack(TLS_CERT=site.file.parent)
    lineage = site.chain.parent.rename(site.chain.parent.with_name("chat.example"))
    site.chain, site.key = lineage / "fullchain.pem", lineage / "privkey.pem"
    for folder in (site.file.parent, f"{site.file.parent}/"):
        new = site.renewed()
        result = site.deploy(stack, TLS_CERT=folder, RENEWED_LINEAGE=lineage)
        assert result.returncode == 0, result.stderr
        assert serving(stack) == new == serial_of(site.file)


def hook(number):
    """A script of docs/tls.md."""
    text = (REPO / "docs" / "tls.md").read_text()
    found = re.findall(r"^    #!/bin/sh\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
    return re.sub(r"^    ", "", found[number], flags=re.MULTILINE)


class TestHooks:
    """As they are documented, but for the paths."""

    @pytest.fixture
    def hosts(self, start_stack, tmp_path):
        """(site, stack) of two hosts."""
        made = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            site = Site(tmp_path / name)
            made.append((site, start_stack(TLS_CERT=site.file, api=False)))
        return made

    def run(self, number, site, stack, *, hosts=None, path=os.environ["PATH"]):
        text = hook(number)
        for old, new in (
            ("/usr/share/hlchat/haproxy/deploy-certificate.sh", SCRIPT),
            ("/etc/haproxy/hlchat.pem", site.file),
            ("/run/haproxy", stack.folder),
            *([("haproxy2", hosts)] if hosts else []),
        ):
            assert text.count(old) == 1
            text = text.replace(old, str(new))
        file = site.chain.with_name("hook")
        file.write_text(text)
        file.chmod(0o755)
        return subprocess.run(
            [file], env={"PATH": path, "RENEWED_LINEAGE": str(site.chain.parent)},
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def ssh(self, folder, hosts):
        """A PATH with an ssh that runs what it is told with the second host's paths."""
        (first, first_stack), (second, second_stack) = hosts
        file = folder / "bin" / "ssh"
        file.parent.mkdir()
        file.write_text(
            "#!/bin/sh\n"
            '[ "$#:$1:$2" = 4:-o:BatchMode=yes ] || exit 99\n'
            'if [ "$3" = away ]; then echo "ssh: no route to $3" >&2; exit 255; fi\n'
            f"""command=$(printf '%s' "$4" | sed 's|{first.file}|{second.file}|"""
            f"""; s|{first_stack.folder}|{second_stack.folder}|')\n"""
            'exec sh -c "$command"\n'
        )
        file.chmod(0o755)
        return f"{file.parent}:{os.environ['PATH']}"

    def test_of_one_host(self, hosts):
        site, stack = hosts[0]
        new = site.renewed()
        done = self.run(0, site, stack)
        assert (done.returncode, done.stderr) == (0, "")
        assert serving(stack) == new

    def test_of_several(self, hosts, tmp_path):
        site, stack = hosts[0]
        other, other_stack = hosts[1]
        path = self.ssh(tmp_path, hosts)
        new = site.renewed()
        done = self.run(1, site, stack, path=path)
        assert (done.returncode, done.stderr) == (0, "")
        assert serving(stack) == serving(other_stack) == serial_of(other.file) == new
        assert list(other.file.parent.iterdir()) == [other.file]

        # One that cannot be reached, and then our own: it is told, and the next one has its turn.
        new = site.renewed()
        done = self.run(1, site, stack, hosts="away haproxy2", path=path)
        assert done.returncode == 1
        assert "away: the certificate is not in use" in done.stderr
        assert serving(stack) == serving(other_stack) == new
        stack.haproxy.stop()
        new = site.renewed()
        done = self.run(1, site, stack, path=path)
        assert done.returncode == 1
        assert "no HAProxy answers" in done.stderr
        assert serving(other_stack) == new

        # What is no certificate changes nothing.
        site.chain.write_text("junk\n")
        done = self.run(1, site, stack, path=path)
        assert done.returncode == 1
        assert "haproxy2: the certificate is not in use" in done.stderr
        assert serving(other_stack) == serial_of(other.file) == new


def test_owner_and_mode_stay_and_a_link_too(start_stack, site):
    """For a HAProxy that never was root: the file is its group's to read."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "stored.pem"
        stored.write_bytes(site.file.read_bytes())
        site.file.unlink()
        site.file.symlink_to(stored)
        stored.chmod(0o640)
        if os.geteuid() == 0:
            Path(folder).chmod(0o755)
            os.chown(stored, 65531, 65532)
        before = stored.stat()
        stack = start_stack(TLS_CERT=site.file)
        new = site.renewed()
        result = site.deploy(stack, site.chain, site.key)
        assert (result.returncode, result.stderr) == (0, "")
        assert serving(stack) == new == serial_of(stored)
        assert site.file.readlink() == stored
        assert list(Path(folder).iterdir()) == [stored]
        after = stored.stat()
        assert [after.st_mode, after.st_uid, after.st_gid] == [
            before.st_mode, before.st_uid, before.st_gid,
        ]  # fmt: skip
        if os.geteuid() == 0:
            read = subprocess.run(
                ["cat", stored], user=65533, group=65532, extra_groups=[],
                check=True, capture_output=True, timeout=20,
            )  # fmt: skip
            assert read.stdout == stored.read_bytes()


class TestRefused:
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, tmp_path_factory):
        return Site(tmp_path_factory.mktemp("site"))

    @pytest.fixture(scope="class")
    @classmethod
    def stack(cls, site):
        with Stack(TLS_CERT=site.file) as running:
            yield running

    @pytest.fixture(autouse=True)
    def _nothing_changes(self, site, stack):
        before = site.file.read_bytes()
        site.renewed()
        yield
        assert site.file.read_bytes() == before
        assert serving(stack) == serial_of(site.file)
        assert list(site.file.parent.iterdir()) == [site.file]
        # And the next renewal is not in anybody's way.
        new = site.renewed()
        assert site.deploy(stack, site.chain, site.key).returncode == 0
        assert serving(stack) == new

    def test_the_key_of_another_one(self, stack, site, tmp_path):
        make_certificate(tmp_path / "other.pem", site.key)
        said = site.refused(stack, site.chain, site.key)
        assert f"{site.key} is not the key of {site.chain}; nothing is changed" in said

    def test_the_key_has_a_password(self, stack, site):
        site.renewed(password=b"secret")
        assert "needs a password" in site.refused(stack, site.chain, site.key)

    def test_expired(self, stack, site):
        site.renewed(days=-1)
        assert f"{site.chain} has expired" in site.refused(stack, site.chain, site.key)

    @pytest.mark.parametrize("which", ["chain", "key"])
    @pytest.mark.parametrize("text", [None, "", "hello\n", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
    def test_no_certificate_or_key(self, stack, site, which, text):
        file = getattr(site, which)
        file.unlink()
        if text is not None:
            file.write_text(text)
        assert f"{file}" in site.refused(stack, site.chain, site.key)

    def test_haproxy_says_no(self, stack, site):
        """More than its socket takes: only it can know."""
        site.renewed(length=40)
        assert "HAProxy refuses" in site.refused(stack, site.chain, site.key)

    @pytest.mark.parametrize("value", ["", "certs/site.pem", "/tmp/a b.pem", "/tmp/a;b", "/"])
    def test_no_target(self, stack, site, value):
        assert "TLS_CERT" in site.refused(stack, site.chain, site.key, TLS_CERT=value)

    def test_a_folder_says_not_which_file(self, stack, site):
        said = site.refused(stack, site.chain, site.key, TLS_CERT=site.file.parent)
        assert "must name the file" in said

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_usage(self, stack, site, count):
        assert "usage: " in site.refused(stack, *["x"] * count)


def test_stored_for_the_next_start(start_stack, site):
    stack = start_stack(TLS_CERT=site.file)
    # Not one that this HAProxy was started with.
    other = site.file.with_name("other.pem")
    new = site.renewed()
    said = site.refused(stack, site.chain, site.key, TLS_CERT=other)
    assert f"{other} is stored, but the HAProxy that runs does not have it" in said
    assert serial_of(other) == new
    # There is no HAProxy.
    stack.haproxy.stop()
    said = site.refused(stack, site.chain, site.key)
    assert f"{site.file} is stored, but no HAProxy answers" in said
    stack.haproxy.start()
    assert serving(stack) == new
