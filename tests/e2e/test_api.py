"""/api and /api/version through HAProxy. docs/protocol.md, "HTTP"; api-fcgi's life under load."""

import http.client
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack import REPO, SANITIZED, http_request, open_socket, until

VERSION = (REPO / "VERSION").read_text().strip()


def version_body(env):
    return f'{{"api":"v{VERSION}","env":"{env}","desc":"Websocket Server C"}}'


class TestTable:
    @pytest.mark.parametrize("path", ["/api", "/api/", "/api?", "/api?x=1", "/api/?x=/api/version"])
    def test_the_service_is_up(self, stack, path):
        answer = stack.http("GET", path)
        assert answer.status == 200
        assert answer.body == b""
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Type"] is None
        assert answer.headers["Content-Length"] == "0"

    @pytest.mark.parametrize("path", ["/api/version", "/api/version?x=1", "/api/versio%6e"])
    def test_version(self, stack, path):
        answer = stack.http("GET", path)
        assert answer.status == 200
        assert answer.text() == version_body("LOCAL DEV")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize("path", ["/api", "/api/", "/api/version", "/api/nothing"])
    def test_head_is_get_without_a_body(self, stack, path):
        get, head = stack.http("GET", path), stack.http("HEAD", path)
        assert head.status == get.status
        assert head.body == b""
        for answer in (get, head):
            assert answer.headers["Date"]  # may be another second
            del answer.headers["Date"]
        assert sorted(head.headers.items()) == sorted(get.headers.items())

    @pytest.mark.parametrize("path", ["/api", "/api/", "/api/version"])
    @pytest.mark.parametrize(
        "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"]
    )
    def test_other_methods(self, stack, method, path):
        answer = stack.http(method, path)
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.text() == '{"error":"method not allowed"}'

    @pytest.mark.parametrize(
        "path",
        [
            "/api/nothing",
            "/api/version/",
            "/api/versions",
            "/api/Version",
            "/api//version",
            "/api/../api",
            "/api/%2e%2e/api",
            "/api/a%2fb",
            "/api/" + "x" * 1500,
        ],
    )
    def test_other_paths(self, stack, path):
        answer = stack.http("GET", path)
        assert answer.status == 404
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.text() == '{"error":"not found"}'

    def test_a_wrong_path_is_wrong_for_each_method(self, stack):
        assert stack.http("POST", "/api/nothing").status == 404

    def test_bodies_are_not_looked_at(self, stack):
        for body in (b"x", b"x" * 8000):
            assert stack.http("POST", "/api/version", body=body).status == 405
            assert stack.http("GET", "/api/version", body=body).status == 200

    def test_absolute_form(self, stack):
        answer = stack.http("GET", "http://chat.example.com/api/version")
        assert (answer.status, answer.text()) == (200, version_body("LOCAL DEV"))

    def test_many_requests_on_one_connection(self, stack):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = open_socket(stack.haproxy.address())
        for method, path, status in [
            ("GET", "/api", 200),
            ("HEAD", "/api/version", 200),
            ("POST", "/api", 405),
            ("HEAD", "/api/nothing", 404),
            ("GET", "/api/version", 200),
        ]:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == status
        assert body.decode() == version_body("LOCAL DEV")
        connection.close()


class TestUnixSocket:
    SETTINGS = {"unix": True}

    def test_it_is_served_the_same(self, stack):
        assert stack.http("GET", "/api").status == 200
        assert stack.http("GET", "/api/version").text() == version_body("LOCAL DEV")

    def test_200_at_once(self, stack):
        assert ask_at_once(stack, 200) == {200: 200}


def test_the_environment_is_named(start_stack):
    stack = start_stack()
    for env, label in [("cloud_run", "DEVELOPMENT"), ("prod", "PRODUCTION"), ("dev", "LOCAL DEV")]:
        stack.api.stop()
        stack.settings["CHAT_ENV"] = env
        stack.api.start()
        until("up again", lambda: stack.http("GET", "/api").status == 200)
        assert stack.http("GET", "/api/version").text() == version_body(label)


# Load ---------------------------------------------------------------------------------------------


def ask_at_once(stack, count):
    """{status: how many} of `count` requests that are sent together."""
    together = threading.Barrier(count)

    def ask(_):
        together.wait(30)
        return stack.http("GET", "/api/version").status

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(ask, range(count)))


class Load:
    """Asks for /api/version, again and again from some threads, and checks each answer."""

    def __init__(self, stack, threads=6):
        self.statuses = Counter()
        self._stack = stack
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._results = [self._pool.submit(self._run) for _ in range(threads)]

    def __enter__(self):
        until("the load runs", lambda: self.statuses[200] > 20)
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._pool.shutdown()
        if kind is None:
            for result in self._results:
                result.result()

    def _run(self):
        while not self._stop.is_set():
            # Longer than any timeout of HAProxy: a request that hangs is a failure here.
            answer = http_request(self._stack.haproxy.address(), "GET", "/api/version", timeout=9)
            if answer.status == 200:
                assert answer.text() == version_body("LOCAL DEV")
            else:
                assert answer.status in (502, 503), answer
                assert "error" in json.loads(answer.body)
                time.sleep(0.01)  # not to be a storm of refusals
            with self._lock:
                self.statuses[answer.status] += 1


class TestLoad:
    def test_200_at_once(self, stack):
        assert ask_at_once(stack, 200) == {200: 200}

    def test_sigterm_answers_what_was_asked(self, stack):
        with Load(stack) as load:
            stack.api.stop()  # exit status 0
            until("refusals", lambda: load.statuses[503] > 0)
            stack.api.start()
            answered = load.statuses[200]
            until("served again", lambda: load.statuses[200] > answered + 20)
        assert "threads_left_behind" not in stack.api.log()

    # HAProxy 2.6.12 dies, with all its WebSockets, of a reply that ends within its headers.
    @pytest.mark.timeout(120)
    def test_haproxy_outlives_any_death_of_the_api(self, stack):
        haproxy_pid = stack.haproxy.pid
        with Load(stack) as load:
            for _ in range(5 if SANITIZED else 20):
                stack.api.kill()
                stack.api.start()
                answered = load.statuses[200]
                until("served again", lambda seen=answered: load.statuses[200] > seen + 20)
        assert stack.haproxy.running
        assert stack.haproxy.pid == haproxy_pid


def test_a_dead_api_is_a_json_error_and_chat_goes_on(start_stack):
    stack = start_stack()
    client = stack.connect("alice")
    stack.api.kill()
    for _ in range(3):
        answer = stack.http("GET", "/api/version")
        assert answer.status in (502, 503)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "error" in json.loads(answer.body)
    assert client.ask("message", message="still here")["message"] == "still here"
    stack.api.start()
    until("up again", lambda: stack.http("GET", "/api").status == 200)
