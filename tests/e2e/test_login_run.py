"""`make run IDENTITY=heavenland`: with a stub of the account service, and `make token`."""

import subprocess

import pytest
from client import Client
from stack import REPO, Port, http_request, open_socket
from test_run import Run


@pytest.fixture
def stub_port():
    port = Port()
    yield port.number
    port.release()


@pytest.fixture
def up(stub_port):
    running = Run(IDENTITY="heavenland", STUB_PORT=stub_port).wait_up()
    yield running
    running.close()


def connect(run):
    return Client(open_socket(("127.0.0.1", run.port)))


def test_logins_by_token_and_password(up, stub_port):
    said = up.output()
    assert f"http://127.0.0.1:{stub_port} is a stub" in said
    assert "make token USER=HL1 NICK=Hero" in said
    assert '{"action":"login","username":"hero","password":"password"}' in said
    assert connect(up).ask("login", username="hero", password="password") == {"info": "connected"}

    # Asked of this stub: `make token` asks the one that was started last in this folder.
    stub = ("127.0.0.1", stub_port)
    answer = http_request(stub, "POST", "/_stub/token", body='{"user":"HL5","nickname":"Five"}')
    client = connect(up)
    client.login(answer.text().split('"')[3])
    assert client.ask("message", message="hi")["nickname"] == "Five"

    up.process.terminate()
    assert up.wait() == 0
    up.assert_nothing_left()
    assert up.complaints() == []


def test_ones_own_service_is_used_instead(stub_port):
    running = Run(
        IDENTITY="heavenland",
        HEAVENLAND_API_URL="http://127.0.0.1:1",
        JWKS_URL="http://127.0.0.1:1/keys",
        STUB_PORT=stub_port,
    ).wait_up()
    try:
        assert "stub" not in running.output()
        answer = connect(running).ask("login", username="hero", password="password")
        assert answer == {"error": "the account service does not answer: try again"}
    finally:
        running.close()


def test_a_port_in_use_is_one_line(up, stub_port):
    second = Run(IDENTITY="heavenland", STUB_PORT=stub_port)
    try:
        assert second.wait() == 1
        assert second.complaints() == [
            f"run: port {stub_port} is in use; choose another one for the account stub: "
            "STUB_PORT=18081"
        ]
    finally:
        second.close()


def test_a_token_is_all_that_make_token_prints(tmp_path):
    stub = [str(REPO / "tests" / "stub" / "account_api.py"), "--state", str(tmp_path)]
    done = subprocess.run(
        [*stub, "--token", "HL1", "Hero"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.strip() == (
        "token: no account stub is running here; start it: make run IDENTITY=heavenland"
    )
