#!/usr/bin/env python3
"""A stub of the Heavenland account API: for `make run IDENTITY=heavenland` and for tests.

It answers as the real service does, with real tokens (RS256) of a key that it makes itself:

    GET  /idm/accounts/{id}        Authorization: Bearer <access token>
                                   200 {"nickname":"Hero"}, 401, 403 (another's account), 404
    POST /idm/auth/login           {"username","password","type":"credentials","clientType":"game"}
                                   200 {"refreshToken":{"value":"..."}}, 400, 401
    POST /idm/auth/access-token    {"refreshToken":"..."}
                                   200 {"accessToken":{"value":"<token>"}}, 400, 401
    GET  /.well-known/jwks.json    its public keys
    errors                         {"statusCode":404,"statusDescription":"Not Found",
                                    "errorMessage":"Account not found"}

Accounts are those of ACCOUNTS below and HL<any number>: nickname "Player <number>", the id as
username, password "password".

It can also misbehave. These are for people and tests on the same machine only:

    PUT    /_stub/faults           {"accounts":{"delay_ms":200},"login":{"status":500}}
                                   replaces all faults; {} ends them; 400, and nothing changes, when
                                   a name or field is unknown. By endpoint: accounts, login,
                                   access-token, jwks or "*" (those that have none of their own):
                                     delay_ms   wait before anything else
                                     status     answer this error, with
                                     message    this errorMessage
                                     body       "html": a proxy's page instead of JSON (status
                                                502 unless given), "huge": JSON of 1 MiB, or any
                                                other text as it is (status 200 unless given)
                                     end        "cut": the connection ends in the middle of the
                                                answer; "hang": no answer ever comes
    PUT    /_stub/accounts/{id}    {"nickname":"Hero","username":"hero","password":"..."}: an
                                   account; nickname null: it has none; null instead of the object:
                                   there is no such account
    POST   /_stub/token            {"user":"HL1","nickname":"Hero","seconds":3600} -> {"token"}
                                   an access token; nickname and seconds may be left out
    POST   /_stub/keys             {"bits":2048,"keep":true} -> {"kid"}: signs with a new key from
                                   now on; keep false: the old ones leave the JWKS at once
    GET    /_stub/counts           {"endpoints":{"accounts":3},"users":{"HL1":3},
                                    "in_flight":0,"most_in_flight":{"all":2,"passwords":0}}
                                   users: account look-ups. DELETE begins again

State folder: private.pem, public.pem (kept for the next start, so that tokens stay good), and url
while it runs. Needs only Python and the openssl command.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

# id: (nickname, username, password). Nickname None: the account has none yet.
ACCOUNTS = {
    "HL1": ("Hero", "hero", "password"),
    "HL2": ("Great Heavenland Hero", "great-hero", "password"),
    "HL3": ("Žluťoučký kůň 🐴", "kun", "příliš žluťoučký"),
    "HL4": (None, "nameless", "password"),
}
ANY_ACCOUNT = re.compile(r"HL([0-9]{1,20})")
AUDIENCE = "heavenland-api"
TOKEN_SECONDS = 3600
HEAD_MAX, BODY_MAX = 64 << 10, 64 << 10
STATE = Path(__file__).resolve().parents[2] / "build" / "account-stub"

# What a fault may be for, and what it may hold.
FAULTY = {"accounts", "login", "access-token", "jwks", "*"}
FAULT_FIELDS = {"delay_ms", "status", "message", "body", "end"}

HTML_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\r\n"
HUGE_BODY = json.dumps({"nickname": "x" * (1 << 20)}).encode()

# The SHA-256 DigestInfo that RSASSA-PKCS1-v1_5 puts before the digest (RFC 8017, 9.2).
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


class Failure(Exception):
    """An answer that is not 200, as the service words it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status
        self.message = message


# Tokens -------------------------------------------------------------------------------------------


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Key:
    """An RSA key pair in two files; `kid` follows from the key. Only the newest one can sign: a
    fresh one takes over the files."""

    def __init__(self, folder, bits, fresh=False):
        self.private, self.public = folder / "private.pem", folder / "public.pem"
        if fresh or (self.private.exists() and self._modulus().bit_length() != bits):
            self.private.unlink()
        # Whole files or none; of two stubs that start at once, one makes the key for both.
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            if not self.private.exists():
                made = Path(beside) / "private.pem"
                bits_option = f"rsa_keygen_bits:{bits}"
                openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", bits_option, "-out", str(made))
                made.chmod(0o600)
                with contextlib.suppress(FileExistsError):
                    os.link(made, self.private)
            made = Path(beside) / "public.pem"
            openssl("pkey", "-in", str(self.private), "-pubout", "-out", str(made))
            os.replace(made, self.public)
        self.modulus = self._modulus()
        self.size = (self.modulus.bit_length() + 7) // 8
        self.kid = hashlib.sha256(self.modulus.to_bytes(self.size, "big")).hexdigest()[:16]

    def _modulus(self):
        line = openssl("rsa", "-in", str(self.private), "-noout", "-modulus").decode()
        return int(line.strip().partition("=")[2], 16)

    def jwk(self):
        n = base64url(self.modulus.to_bytes(self.size, "big"))
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": n, "e": "AQAB"}

    async def sign(self, data):
        process = await asyncio.create_subprocess_exec(
            *["openssl", "dgst", "-sha256", "-sign", str(self.private)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        signature, _ = await process.communicate(data)
        if process.returncode != 0:
            raise RuntimeError("openssl dgst -sign failed")
        return signature

    def verifies(self, data, signature):
        if len(signature) != self.size:
            return False
        padded = pow(int.from_bytes(signature, "big"), 65537, self.modulus)
        wanted = DIGEST_INFO + hashlib.sha256(data).digest()
        wanted = b"\0\1" + b"\xff" * (self.size - len(wanted) - 3) + b"\0" + wanted
        return padded.to_bytes(self.size, "big") == wanted


def openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"account-stub: openssl {arguments[0]} failed: {done.stderr.decode().strip()}")
    return done.stdout


# The service --------------------------------------------------------------------------------------


class Service:
    """Accounts, tokens and the four endpoints; knows nothing of connections."""

    def __init__(self, folder, bits):
        self.folder = folder
        self.keys = [Key(folder, bits)]  # the last one signs
        self.accounts = dict(ACCOUNTS)
        self.refresh_tokens = {}  # value: user id
        self._signing = asyncio.Semaphore(os.cpu_count() or 1)

    def account(self, user):
        if user in self.accounts:
            return self.accounts[user]
        number = ANY_ACCOUNT.fullmatch(user)
        return (f"Player {number[1]}", user, "password") if number else None

    def user_with(self, username, password):
        """The id of the account with these, or None."""
        known = {a[1]: user for user, a in self.accounts.items() if a}
        user = known.get(username, username)
        account = self.account(user)
        return user if account and account[1:] == (username, password) else None

    async def token(self, user, seconds=TOKEN_SECONDS):
        now = int(time.time())
        key = self.keys[-1]
        header = {"alg": "RS256", "typ": "JWT", "kid": key.kid}
        claims = {"sub": user, "aud": AUDIENCE, "iat": now, "exp": now + seconds}
        parts = [base64url(json.dumps(part).encode()) for part in (header, claims)]
        signed = ".".join(parts).encode()
        async with self._signing:
            return f"{signed.decode()}.{base64url(await key.sign(signed))}"

    def bearer(self, headers):
        """Whose access token this request carries."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        try:
            signed, _, signature = token.rpartition(".")
            signature, data = from_base64url(signature), signed.encode()
            claims = json.loads(from_base64url(signed.partition(".")[2]))
            good = any(key.verifies(data, signature) for key in self.keys)
            if scheme.lower() == "bearer" and good and claims["exp"] > time.time() - 30:
                return claims["sub"]
        except (ValueError, KeyError, TypeError):
            pass
        raise Failure(401, "Invalid access token")

    # the endpoints: what goes into a 200, or a Failure

    async def get_account(self, user, headers):
        if self.bearer(headers) != user:
            raise Failure(403, "Not your account")
        account = self.account(user)
        if not account:
            raise Failure(404, "Account not found")
        return {"nickname": account[0]} if account[0] is not None else {}

    async def post_login(self, body):
        for field in ("username", "password", "type", "clientType"):
            if not isinstance(body.get(field), str) or not body[field]:
                raise Failure(400, f"{field} must not be empty")
        if body["type"] != "credentials" or body["clientType"] != "game":
            raise Failure(400, "Unknown type or clientType")
        user = self.user_with(body["username"], body["password"])
        if not user:
            raise Failure(401, "Wrong username or password")
        value = secrets.token_urlsafe(32)
        self.refresh_tokens[value] = user
        return {"refreshToken": {"value": value}}

    async def post_access_token(self, body):
        user = self.refresh_tokens.get(str(body.get("refreshToken")))
        if not user:
            raise Failure(401, "Invalid refresh token")
        return {"accessToken": {"value": await self.token(user)}}

    async def get_jwks(self):
        return {"keys": [key.jwk() for key in self.keys]}


# HTTP ---------------------------------------------------------------------------------------------


def reason(status):
    return http.client.responses.get(status, "Unknown")


class Server:
    """HTTP/1.1 with kept connections, the faults, the counters, and the paths under /_stub."""

    def __init__(self, service):
        self.service = service
        self.faults = {}
        self.reset_counts()
        self.in_flight = 0
        self.passwords_in_flight = 0

    def reset_counts(self):
        self.endpoints = {}
        self.users = {}
        self.most_in_flight = {"all": 0, "passwords": 0}

    async def serve(self, reader, writer):
        broken = (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        # Cancelled: we are stopping. Python 3.11 would complain about that.
        with contextlib.suppress(*broken, asyncio.CancelledError):
            while await self._serve_one(reader, writer):
                pass
        writer.close()

    async def _serve_one(self, reader, writer):
        """One request and its answer; False: the connection ends here."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ", 2)
        fields = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        size = int(headers.get("content-length", 0))
        if size > BODY_MAX:
            return False
        body = await reader.readexactly(size)

        path = target.partition("?")[0]
        if path.startswith("/_stub/"):
            answer = await self._control(writer, method, path, body)
            return await self._send(writer, *answer)
        began = time.monotonic()
        endpoint, handler = self._route(method, path, headers, body)
        self._count(endpoint, path)
        fault = self.faults.get(endpoint, self.faults.get("*", {}))
        passwords = endpoint in ("login", "access-token")
        self.in_flight += 1
        self.passwords_in_flight += passwords
        most = self.most_in_flight
        most["all"] = max(most["all"], self.in_flight)
        most["passwords"] = max(most["passwords"], self.passwords_in_flight)
        status = 0
        try:
            await asyncio.sleep(fault.get("delay_ms", 0) / 1000)
            if fault.get("end") == "hang":
                await reader.read()  # until the other side gives up
                return False
            status, payload, kind = await self._answer(fault, handler)
            return await self._send(writer, status, payload, kind, cut=fault.get("end") == "cut")
        finally:
            self.in_flight -= 1
            self.passwords_in_flight -= passwords
            took_ms = (time.monotonic() - began) * 1000
            shown = "".join(c if "!" <= c <= "~" else "?" for c in path)[:100]
            print(f"{method} {shown} {status or 'no answer'} {took_ms:.0f} ms", file=sys.stderr)

    def _route(self, method, path, headers, body):
        """(name for faults and counters, coroutine function without arguments)"""

        def parsed():
            try:
                value = json.loads(body)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                raise Failure(400, "The body must be a JSON object")
            return value

        async def unknown():
            raise Failure(404, "No such endpoint")

        async def post(handler):
            return await handler(parsed())

        if method == "GET" and (found := re.fullmatch(r"/idm/accounts/([^/]+)", path)):
            user = urllib.parse.unquote(found[1], errors="replace")
            return "accounts", lambda: self.service.get_account(user, headers)
        if (method, path) == ("POST", "/idm/auth/login"):
            return "login", lambda: post(self.service.post_login)
        if (method, path) == ("POST", "/idm/auth/access-token"):
            return "access-token", lambda: post(self.service.post_access_token)
        if (method, path) == ("GET", "/.well-known/jwks.json"):
            return "jwks", self.service.get_jwks
        return "other", unknown

    def _count(self, endpoint, path):
        self.endpoints[endpoint] = self.endpoints.get(endpoint, 0) + 1
        if endpoint == "accounts":
            user = urllib.parse.unquote(path.rpartition("/")[2], errors="replace")
            self.users[user] = self.users.get(user, 0) + 1

    async def _answer(self, fault, handler):
        body = fault.get("body")
        if body == "html":
            return fault.get("status", 502), HTML_PAGE, "text/html"
        if body is not None:
            payload = HUGE_BODY if body == "huge" else body.encode()
            return fault.get("status", 200), payload, "application/json"
        try:
            if "status" in fault:
                raise Failure(fault["status"], fault.get("message", "Made by the stub"))
            return 200, json.dumps(await handler()).encode(), "application/json"
        except Failure as failure:
            error = {
                "statusCode": failure.status,
                "statusDescription": reason(failure.status),
                "errorMessage": failure.message,
            }
            return failure.status, json.dumps(error).encode(), "application/json"

    async def _send(self, writer, status, payload, kind="application/json", cut=False):
        # Whoever follows this is counted as "other".
        location = "Location: /elsewhere\r\n" if 300 <= status < 400 else ""
        head = (
            f"HTTP/1.1 {status} {reason(status)}\r\nContent-Type: {kind}\r\n{location}"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        if cut:
            writer.write(head.encode() + payload[: len(payload) // 2])
            await writer.drain()
            return False
        writer.write(head.encode() + payload)
        await writer.drain()
        return True

    # /_stub

    async def _control(self, writer, method, path, body):
        """(status, payload)"""
        peer = writer.get_extra_info("peername")[0]
        if not (peer.startswith("127.") or peer in ("::1", "::ffff:127.0.0.1")):
            return 403, b'{"error":"from this machine only"}'
        try:
            value = json.loads(body) if body else {}
            result = await self._control_action(method, path, value)
        except (ValueError, TypeError, AttributeError, KeyError) as problem:
            return 400, json.dumps({"error": f"{type(problem).__name__}: {problem}"}).encode()
        if result is None:
            return 404, b'{"error":"no such control: see --help"}'
        return 200, json.dumps(result).encode()

    async def _control_action(self, method, path, value):
        service = self.service
        if (method, path) == ("PUT", "/_stub/faults"):
            faults = {name: dict(fault) for name, fault in value.items()}
            unknown = (faults.keys() - FAULTY).union(
                *(f.keys() - FAULT_FIELDS for f in faults.values())
            )
            if unknown:  # a test that misspells one would test nothing
                raise ValueError(f"no such fault or field: {', '.join(sorted(unknown))}")
            self.faults = faults
            return self.faults
        if method == "PUT" and path.startswith("/_stub/accounts/"):
            user = urllib.parse.unquote(path.rpartition("/")[2])
            was = service.account(user) or (None, user, "password")
            names = ("nickname", "username", "password")
            now = value and tuple(value.get(n, old) for n, old in zip(names, was, strict=True))
            service.accounts[user] = now
            return {"id": user}
        if (method, path) == ("POST", "/_stub/token"):
            user = value["user"]
            if value.get("nickname"):
                was = service.account(user) or (None, user, "password")
                service.accounts[user] = (value["nickname"], *was[1:])
            return {"token": await service.token(user, int(value.get("seconds", TOKEN_SECONDS)))}
        if (method, path) == ("POST", "/_stub/keys"):
            key = Key(service.folder, int(value.get("bits", 2048)), fresh=True)
            service.keys = [*service.keys, key] if value.get("keep", True) else [key]
            return {"kid": key.kid}
        if (method, path) == ("GET", "/_stub/counts"):
            return {
                "endpoints": self.endpoints,
                "users": self.users,
                "in_flight": self.in_flight,
                "most_in_flight": self.most_in_flight,
            }
        if (method, path) == ("DELETE", "/_stub/counts"):
            self.reset_counts()
            return {}
        return None


# The command --------------------------------------------------------------------------------------


def print_token(folder, user, nickname):
    """What `make token` does: asks the running stub for one."""
    try:
        url = (folder / "url").read_text().strip()
        body = json.dumps({"user": user, "nickname": nickname}).encode()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{url}/_stub/token", body, timeout=10) as answer:
            print(json.load(answer)["token"])
    except (OSError, ValueError):
        sys.exit("token: no account stub is running here; start it: make run IDENTITY=heavenland")


async def run(folder, address, bits):
    host, _, port = address.rpartition(":")
    server = Server(Service(folder, bits))
    listening = await asyncio.start_server(
        server.serve, host.strip("[]"), int(port), limit=HEAD_MAX, backlog=1024
    )
    host, port = listening.sockets[0].getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    (folder / "url.new").write_text(url + "\n")
    os.replace(folder / "url.new", folder / "url")
    print(f"a stub of the account API, not the real one, at {url}", file=sys.stderr)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    with contextlib.suppress(FileNotFoundError):
        if (folder / "url").read_text().strip() == url:  # not another one's, started later
            (folder / "url").unlink()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=STATE, help="folder (build/account-stub)")
    parser.add_argument("--listen", default="127.0.0.1:0", help="address:port; port 0: any")
    parser.add_argument("--bits", type=int, default=2048, help="size of the key: 2048 or 4096")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--make-key", action="store_true", help="only make the key, then exit")
    what.add_argument(
        "--token",
        nargs=2,
        metavar=("USER", "NICKNAME"),
        help="print an access token of the stub that runs with this state, then exit",
    )
    options = parser.parse_args()
    if options.token:
        return print_token(options.state, *options.token)
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.make_key:
        Key(options.state, options.bits)
        return None
    try:
        return asyncio.run(run(options.state, options.listen, options.bits))
    except OSError as problem:
        sys.exit(f"account-stub: {options.listen}: {problem.strerror or problem}")


if __name__ == "__main__":
    main()
