"""IDENTITY=jwt: access tokens of any OpenID provider. docs/identity.md."""

import json
import os
import re
import subprocess
import time

import pytest
from account_stub import AccountStub
from cryptography.hazmat.primitives import hmac
from jwt_tokens import ABSENT, HASHES, base64url, claims, join, json_bytes, signing_key
from stack import BUILD, REPO, Stack, until

CONNECTED = {"info": "connected"}
INVALID = "the access token is expired or invalid"
UNAVAILABLE = "the account service does not answer: try again"

# One connection may try all tokens, and all of them come from one address.
PATIENT = {"LOGIN_ATTEMPTS": 100, "LOGIN_FAILURES_PER_MINUTE": 0}


@pytest.fixture(scope="class")
def key_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="class")
def stack(request, key_folder):
    """A chat that trusts the keys "a" and "b", each in a PEM file."""
    files = [signing_key(name).write_public(key_folder / f"{name}.pem") for name in ("a", "b")]
    settings = {**PATIENT, "IDENTITY": "jwt", "JWT_PUBLIC_KEY_FILE": ",".join(files)}
    with Stack(**settings, **request.cls.SETTINGS) as running:
        yield running


def login(stack, token):
    """The answer to a login on a connection of its own."""
    client = stack.connect(direct=not stack.haproxy.running)
    return client.ask("login", token=token)


def identity(stack, token):
    """(user id, nickname) that a token gives."""
    shown = stack.connect(token).ask("message", message="who am I?")
    return shown["user_id"], shown["nickname"]


def now():
    return int(time.time())


def fit(length):
    """A valid token of exactly so many bytes."""

    def made(key):
        for header_fill in range(3):  # base64 has no 4n + 1
            for fill in range(length):
                header = {"alg": "RS256", "x": "h" * header_fill}
                payload = claims(filler="f" * fill)
                unsigned = join(header, payload, bytes(256))
                if len(unsigned) == length:
                    return key.token(payload, header=header)
                if len(unsigned) > length:
                    break
        raise AssertionError(f"no token of {length} bytes")

    return made


# Tokens that log in -------------------------------------------------------------------------------

# name: what makes the token, from the key "a". Called by the test, so that the times are right.
GOOD = {
    "plain": lambda a: a.token(claims()),
    "the second file's key": lambda a: signing_key("b").token(claims()),
    "aud is a list with ours": lambda a: a.token(claims(aud=["other", "heavenland-api"])),
    "exp is a fraction": lambda a: a.token(claims(exp=time.time() + 60.5)),
    "exp is far": lambda a: a.token(claims(exp=99999999999)),
    "expired within the leeway": lambda a: a.token(claims(exp=now() - 20)),
    "nbf has come": lambda a: a.token(claims(nbf=now() - 60)),
    "nbf within the leeway": lambda a: a.token(claims(nbf=now() + 20)),
    "no iat": lambda a: a.token(claims(iat=ABSENT)),
    "any iss, as none is set": lambda a: a.token(claims(iss="https://anybody.example")),
    "typ at+jwt": lambda a: a.token(claims(), typ="at+jwt"),
    "typ odd": lambda a: a.token(claims(), typ="something else"),
    "no typ": lambda a: a.token(claims(), header={"alg": "RS256"}),
    "a kid that no file has": lambda a: a.token(claims(), kid="whatever"),
    "unknown claims": lambda a: a.token(claims(realm_access={"roles": ["a", "b"]}, azp="game")),
    "8192 bytes": fit(8192),
}


# Tokens that do not -------------------------------------------------------------------------------


def parts_of(key):
    return key.token(claims()).split(".")


def header_text(text):
    """A rightly signed token with this header."""
    return lambda a: a.token(claims(), header=text)


def payload(text):
    """A rightly signed token with this payload."""
    return lambda a: a.token(text)


def claim(**changes):
    return lambda a: a.token(claims(**changes))


def claim_at(name, offset):
    """A time claim, so many seconds from now."""
    return lambda a: a.token(claims(**{name: now() + offset}))


def raw_claim(name, text):
    """A claim as JSON text that json.dumps would not write."""

    def made(a):
        rest = json.dumps({k: v for k, v in claims().items() if k != name})
        return a.token(f'{rest[:-1]}, "{name}": {text}}}')

    return made


def unsigned(alg, signature=b""):
    return lambda a: join({"alg": alg, "typ": "JWT"}, claims(), signature)


def signature_of_another(alg):
    """Says `alg`, carries a real RS256 signature."""
    return lambda a: a.token(claims(), header={"alg": alg, "typ": "JWT"})


def hmac_with(alg, secret):
    """The classic: HMAC with the public key as the secret."""

    def made(a):
        data = {"alg": alg, "typ": "JWT"}, claims()
        signed = ".".join(base64url(json_bytes(part)) for part in data).encode()
        code = hmac.HMAC(secret(a), HASHES[alg.replace("HS", "RS")]())
        code.update(signed)
        return f"{signed.decode()}.{base64url(code.finalize())}"

    return made


def signature(change):
    """A changed signature."""

    def made(a):
        header, body, mark = parts_of(a)
        return f"{header}.{body}.{change(mark)}"

    return made


def signature_bytes(change):
    def made(a):
        signed = f"{base64url(json_bytes({'alg': 'RS256'}))}.{base64url(json_bytes(claims()))}"
        return f"{signed}.{base64url(change(a.sign(signed.encode())))}"

    return made


def text(change):
    """A changed token."""
    return lambda a: change(a.token(claims()))


def standard_alphabet(a):
    """+ and / in place of - and _, in a signature that has some."""
    while True:
        header, body, mark = a.token(claims(jti=os.urandom(8).hex())).split(".")
        if {"-", "_"} & set(mark):
            return f"{header}.{body}.{mark.replace('-', '+').replace('_', '/')}"


def tail_bits(mark):
    """The same bytes, but the last character's unused bits are not zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return mark[:-1] + alphabet[alphabet.index(mark[-1]) | 1]


def padded_everywhere(a):
    return ".".join(part + "=" * (-len(part) % 4) for part in parts_of(a))


def with_key_inside(a):
    """Signed by a key that the token itself brings along."""
    thief = signing_key("thief")
    return thief.token(claims(), jwk=thief.jwk("mine"), kid="mine")


def swapped_payload(a):
    header, _, mark = parts_of(a)
    return f"{header}.{base64url(json_bytes(claims(sub='HL2')))}.{mark}"


NO_ALG = '{"typ":"JWT"}'
BAD = {
    # whose algorithm
    **{f"alg {alg!r}": unsigned(alg) for alg in ("none", "None", "NONE", "nOnE", "", " none")},
    "alg none with a signature": signature_of_another("none"),
    "alg none, two parts": text(lambda t: base64url(b'{"alg":"none"}') + "." + t.split(".")[1]),
    "no alg": header_text(NO_ALG),
    **{f"alg {alg}": header_text(f'{{"alg":{alg}}}') for alg in ("null", "256", '["RS256"]')},
    "alg in lower case": signature_of_another("rs256"),
    "alg RS256 with NUL": header_text('{"alg":"RS256\\u0000"}'),
    "HS256 with the PEM": hmac_with("HS256", lambda a: a.public_pem),
    "HS256 with the PEM, no newline": hmac_with("HS256", lambda a: a.public_pem.strip()),
    "HS256 with the DER": hmac_with("HS256", lambda a: a.public_der),
    "HS512 with the PEM": hmac_with("HS512", lambda a: a.public_pem),
    "HS256 with nothing": hmac_with("HS256", lambda a: b""),
    "RS384, rightly signed": lambda a: a.token(claims(), algorithm="RS384"),
    "RS512, rightly signed": lambda a: a.token(claims(), algorithm="RS512"),
    "PS256": signature_of_another("PS256"),
    "ES256": signature_of_another("ES256"),
    "RS256 over a SHA-384 signature": lambda a: a.token(
        claims(), algorithm="RS384", header={"alg": "RS256"}
    ),
    "alg twice, none last": header_text('{"alg":"RS256","alg":"none"}'),
    "alg twice, unsigned": lambda a: join('{"alg":"none","alg":"RS256"}', claims(), b"x" * 256),
    # whose signature
    "another key": lambda a: signing_key("thief").token(claims()),
    "a key inside the token": with_key_inside,
    "a key by jku": lambda a: signing_key("thief").token(claims(), jku="http://127.0.0.1:9/"),
    "another token's signature": swapped_payload,
    "signature empty": signature(lambda mark: ""),
    "signature short": signature_bytes(lambda mark: mark[:-1]),
    "signature long": signature_bytes(lambda mark: mark + b"\0"),
    "signature all zero": signature_bytes(lambda mark: bytes(len(mark))),
    "signature zero padded": signature_bytes(lambda mark: b"\0" + mark),
    "signature, one bit off": signature_bytes(lambda mark: bytes([mark[0] ^ 1]) + mark[1:]),
    # base64url
    "padding": padded_everywhere,
    "padding on the signature": signature(lambda mark: mark + "=" * (-len(mark) % 4)),
    "+ and /": standard_alphabet,
    "a letter that is none": signature(lambda mark: "!" + mark[1:]),
    "not ASCII": signature(lambda mark: "ž" + mark[1:]),
    "a blank inside": signature(lambda mark: mark[:9] + " " + mark[9:]),
    "unused bits set": signature(tail_bits),
    "one letter more": text(lambda t: t + "A"),
    "newline at the end": text(lambda t: t + "\n"),
    "blank at the end": text(lambda t: t + " "),
    "blank before": text(lambda t: " " + t),
    "Bearer before": text(lambda t: "Bearer " + t),
    "in quotes": text(lambda t: f'"{t}"'),
    # parts
    "dot at the end": text(lambda t: t + "."),
    "dot before": text(lambda t: "." + t),
    "two dots": text(lambda t: t.replace(".", "..", 1)),
    "four parts": text(lambda t: t + "." + t.split(".")[1]),
    "five parts": text(lambda t: t + ".AAAA.AAAA"),
    "two parts": text(lambda t: t.rpartition(".")[0]),
    "one part": text(lambda t: t.split(".")[0]),
    "only dots": lambda a: "..",
    "no header": text(lambda t: "." + t.partition(".")[2]),
    "no payload": lambda a: f"{parts_of(a)[0]}..{parts_of(a)[2]}",
    "not a token": lambda a: "Hero",
    "a token twice": text(lambda t: t + t),
    # header and payload
    "header is a list": header_text("[]"),
    "header is a string": header_text('"RS256"'),
    "header is no JSON": header_text("alg=RS256"),
    "header is not UTF-8": header_text(b'{"alg":"RS256","x":"\xff"}'),
    "header goes on": header_text('{"alg":"RS256"}{}'),
    "header is deep": header_text('{"alg":"RS256","x":' + "[" * 500 + "]" * 500 + "}"),
    "crit": lambda a: a.token(claims(), crit=["exp"], exp=1),
    "crit unknown": lambda a: a.token(claims(), crit=["b64"], b64=False),
    "crit empty": lambda a: a.token(claims(), crit=[]),
    "kid is a number": lambda a: a.token(claims(), kid=5),
    "kid is a list": lambda a: a.token(claims(), kid=["a"]),
    "kid of 4000 bytes": lambda a: a.token(claims(), kid="k" * 4000),
    "payload is no JSON": payload("sub=HL1"),
    "payload is a list": payload(b"[1]"),
    "payload is a string": payload('"HL1"'),
    "payload is null": payload("null"),
    "payload is not UTF-8": lambda a: a.token(json_bytes(claims(sub="HL?")).replace(b"?", b"\xff")),
    "payload is UTF-16": lambda a: a.token(json.dumps(claims()).encode("utf-16")),
    "payload goes on": lambda a: a.token(json_bytes(claims()) + b"{}"),
    "payload has a NUL after it": lambda a: a.token(json_bytes(claims()) + b"\0"),
    "payload is deep": payload('{"x":' + "[" * 1000 + "]" * 1000 + "}"),
    # times
    "no exp": claim(exp=ABSENT),
    "exp null": claim(exp=None),
    "exp a string": lambda a: a.token(claims(exp=str(now() + 3600))),
    "exp true": claim(exp=True),
    "exp a list": lambda a: a.token(claims(exp=[now() + 3600])),
    "exp zero": claim(exp=0),
    "exp negative": claim(exp=-1),
    "exp negative, huge": raw_claim("exp", "-1e300"),
    "exp huge": raw_claim("exp", "1e300"),
    "exp infinite": raw_claim("exp", "1e400"),
    "exp beyond 64 bits": raw_claim("exp", "18446744073709551617"),
    "exp NaN": raw_claim("exp", "NaN"),
    "expired beyond the leeway": claim_at("exp", -31),
    "expired long ago": claim(exp=1000000000),
    "expired, as a fraction": lambda a: a.token(claims(exp=time.time() - 31.5)),
    "nbf to come": claim_at("nbf", 60),
    "nbf a string": claim(nbf="1000000000"),
    "nbf null": claim(nbf=None),
    "nbf huge": raw_claim("nbf", "1e300"),
    # for whom
    "no aud": claim(aud=ABSENT),
    "aud of another": claim(aud="other-api"),
    "aud longer": claim(aud="heavenland-api-2"),
    "aud shorter": claim(aud="heavenland-ap"),
    "aud in other case": claim(aud="Heavenland-API"),
    "aud with NUL": claim(aud="heavenland-api\0"),
    "aud empty": claim(aud=""),
    "aud a number": claim(aud=5),
    "aud null": claim(aud=None),
    "aud an object": claim(aud={"heavenland-api": True}),
    "aud an empty list": claim(aud=[]),
    "aud a list without ours": claim(aud=["a", "b", 5, None]),
    "aud a list in a list": claim(aud=[["heavenland-api"]]),
    # who
    "no sub": claim(sub=ABSENT),
    "sub empty": claim(sub=""),
    "sub null": claim(sub=None),
    "sub a number": claim(sub=5),
    "sub a list": claim(sub=["HL1"]),
    "sub of 129 bytes": claim(sub="s" * 129),
    "sub of 129 bytes, not letters": claim(sub="s" + "ž" * 64),
    "sub with NUL": claim(sub="HL1\0"),
    "sub is NUL": claim(sub="\0"),
    "sub with control characters": claim(sub="a\r\nHost: b"),
}
assert len(BAD) >= 40


class TestTokens:
    SETTINGS = {}

    @pytest.mark.parametrize("name", GOOD)
    def test_a_valid_one_logs_in(self, stack, name):
        assert login(stack, GOOD[name](signing_key("a"))) == CONNECTED

    @pytest.mark.parametrize("name", BAD)
    def test_any_other_does_not(self, stack, name):
        client = stack.connect()
        assert client.ask("login", token=BAD[name](signing_key("a"))) == {"error": INVALID}
        # and it is not logged in by halves
        assert "error" in client.ask("message", message="let me in")

    def test_8193_bytes_are_too_many(self, stack):
        error = login(stack, fit(8193)(signing_key("a")))["error"]
        assert "token" in error
        assert "8192" in error

    @pytest.mark.parametrize("sub", ["x", "s" * 128, "ž" * 64, "auth0|5f7c", 'a"b\\c/d', "../x"])
    def test_the_user_id_is_the_sub(self, stack, sub):
        token = signing_key("a").token(claims(sub=sub, nickname="Hero"))
        assert identity(stack, token) == (sub, "Hero")

    @pytest.mark.parametrize("nickname", [ABSENT, None, "", 5, ["Hero"], "n" * 129, "a\0b"])
    def test_without_a_fit_nickname_the_user_id_stands_in(self, stack, nickname):
        token = signing_key("a").token(claims(sub="HL77", nickname=nickname))
        assert identity(stack, token) == ("HL77", "HL77")

    def test_a_failed_login_leaves_the_connection_open(self, stack):
        client = stack.connect()
        assert client.ask("login", token="Hero") == {"error": INVALID}
        client.login(signing_key("a").token(claims()))

    def test_a_password_is_no_way_in(self, stack):
        client = stack.connect()
        assert "token" in client.ask("login", username="hero", password="password")["error"]

    def test_another_users_token_on_a_logged_in_connection(self, stack):
        key = signing_key("a")
        client = stack.connect(key.token(claims(sub="HL1")))
        assert "error" in client.ask("login", token=key.token(claims(sub="HL2")))
        assert client.ask("message", message="hi")["user_id"] == "HL1"
        client.login(key.token(claims(sub="HL1", exp=now() + 60)))

    def test_an_invalid_token_on_a_logged_in_connection_changes_nothing(self, stack):
        key = signing_key("a")
        client = stack.connect(key.token(claims(sub="HL1")))
        assert client.ask("login", token=key.token(claims(exp=1))) == {"error": INVALID}
        assert client.ask("message", message="hi")["user_id"] == "HL1"


class TestOtherSettings:
    SETTINGS = {
        "JWT_ALGORITHM": "RS384",
        "JWT_ISSUER": "https://sso.example/realms/game",
        "JWT_AUDIENCE": "chat",
        "JWT_NICKNAME_CLAIM": "preferred_username",
    }

    def token(self, algorithm="RS384", **changes):
        given = {"iss": self.SETTINGS["JWT_ISSUER"], "aud": "chat", **changes}
        return signing_key("a").token(claims(**given), algorithm=algorithm)

    def test_a_token_that_fits_them(self, stack):
        token = self.token(sub="u-1", preferred_username="anna", nickname="not this one")
        assert identity(stack, token) == ("u-1", "anna")

    @pytest.mark.parametrize(
        "changes",
        [
            {"iss": ABSENT},
            {"iss": None},
            {"iss": ""},
            {"iss": "https://sso.example/realms/other"},
            {"iss": "https://sso.example/realms/game/"},
            {"iss": "https://sso.example/realms/game\0"},
            {"iss": ["https://sso.example/realms/game"]},
            {"aud": "heavenland-api"},
            {"algorithm": "RS256"},
            {"algorithm": "RS512"},
        ],
        ids=str,
    )
    def test_one_that_does_not(self, stack, changes):
        assert login(stack, self.token(**changes)) == {"error": INVALID}


class TestTokenExpiry:
    SETTINGS = {"TOKEN_EXPIRY": "session"}

    def token(self, ends_in, sub="HL1"):
        return signing_key("a").token(claims(sub=sub, exp=now() + ends_in))

    def test_the_connection_is_closed_4002_unless_it_is_renewed(self, stack):
        began = time.monotonic()
        idle, renews, tries = (stack.connect(self.token(6)) for _ in range(3))
        stays = stack.connect(self.token(3600, sub="HL2"))
        renews.login(self.token(3600))
        # Neither of these renews.
        assert "error" in tries.ask("login", token=self.token(3600, sub="HL2"))
        assert "error" in tries.ask("login", token="Hero")
        assert idle.close_code() == 4002
        assert tries.close_code() == 4002
        assert 4 < time.monotonic() - began < 20
        assert renews.ask("message", message="renewed")["user_id"] == "HL1"
        assert [stays.receive()["message"], stays.ask("message", message="mine")["message"]] == [
            "renewed",
            "mine",
        ]

    def test_an_earlier_end_counts_too(self, stack):
        client = stack.connect(self.token(3600))
        client.login(self.token(4))
        assert client.close_code() == 4002


class TestTokenExpiryAtLogin:
    SETTINGS = {}

    def test_an_expired_token_ends_nothing(self, stack):
        token = signing_key("a").token(claims(exp=now() - 24))
        client = stack.connect(token)
        until("it is not good for a login any more", lambda: login(stack, token) != CONNECTED)
        assert client.ask("message", message="still here")["user_id"] == "HL1"


class TestKeyFiles:
    """What the broker says of its keys before it starts."""

    def refusal(self, key_folder, **settings):
        environment = {"PATH": os.environ["PATH"], "IDENTITY": "jwt", "LISTEN": "127.0.0.1:1"}
        done = subprocess.run(
            [str(BUILD / "ws-broker")],
            env={**environment, **settings},
            cwd=key_folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode != 0, done
        assert "Sanitizer" not in done.stderr
        return done.stderr

    def test_a_key_of_1024_bits(self, key_folder):
        path = signing_key("weak", 1024).write_public(key_folder / "weak.pem")
        said = self.refusal(key_folder, JWT_PUBLIC_KEY_FILE=path)
        assert "weak.pem" in said
        assert "2048" in said

    def test_one_weak_key_among_good_ones(self, key_folder):
        good = signing_key("a").write_public(key_folder / "a.pem")
        weak = signing_key("weak", 1024).write_public(key_folder / "weak.pem")
        assert "weak.pem" in self.refusal(key_folder, JWT_PUBLIC_KEY_FILE=f"{good},{weak}")

    def test_no_such_file(self, key_folder):
        said = self.refusal(key_folder, JWT_PUBLIC_KEY_FILE="missing.pem")
        assert "missing.pem" in said
        assert "No such file" in said

    @pytest.mark.parametrize("content", [b"", b"not a key\n", b"\0" * 5000])
    def test_no_key_in_the_file(self, key_folder, content):
        (key_folder / "odd.pem").write_bytes(content)
        assert "odd.pem" in self.refusal(key_folder, JWT_PUBLIC_KEY_FILE="odd.pem")

    def test_neither_a_file_nor_a_url(self, key_folder):
        said = self.refusal(key_folder)
        assert "JWT_PUBLIC_KEY_FILE" in said
        assert "JWKS_URL" in said

    @pytest.mark.parametrize("algorithm", ["none", "HS256", "rs256", "ES256"])
    def test_an_algorithm_that_is_none_of_ours(self, key_folder, algorithm):
        path = signing_key("a").write_public(key_folder / "a.pem")
        said = self.refusal(key_folder, JWT_PUBLIC_KEY_FILE=path, JWT_ALGORITHM=algorithm)
        assert "JWT_ALGORITHM" in said


# A key set by URL ---------------------------------------------------------------------------------


@pytest.fixture
def stub():
    with AccountStub() as running:
        yield running


@pytest.fixture
def start_with_key_set(start_stack, stub):
    return lambda **settings: start_stack(
        IDENTITY="jwt", JWKS_URL=stub.jwks_url, api=False, haproxy=False, **PATIENT, **settings
    )


class TestKeySet:
    def test_rotation(self, stub, start_with_key_set):
        stack = start_with_key_set()
        first = stub.token("HL1")
        until("the keys are there", lambda: login(stack, first) == CONNECTED)
        stub.rotate()
        second = stub.token("HL2")
        assert login(stack, second) == CONNECTED  # asked again for its kid
        assert login(stack, first) == CONNECTED  # still in the set
        assert stub.requests("jwks") == 2
        stub.rotate(keep=False)
        # Within the minute nobody asks again, so this key is not known and the others still are.
        assert login(stack, stub.token("HL3")) == {"error": INVALID}
        assert login(stack, second) == CONNECTED
        assert stub.requests("jwks") == 2

    def test_a_storm_of_unknown_kids_asks_once(self, stub, start_with_key_set):
        stack = start_with_key_set()
        good = stub.token("HL1")
        until("the keys are there", lambda: login(stack, good) == CONNECTED)
        thief = signing_key("thief")
        client = stack.connect(direct=True)
        for number in range(50):
            answer = client.ask("login", token=thief.token(claims(), kid=f"unknown {number}"))
            assert answer == {"error": INVALID}
        assert login(stack, good) == CONNECTED
        assert stub.requests("jwks") == 2  # at the start, and once for all of them

    def test_a_token_must_be_signed_by_the_key_that_it_names(self, stub, start_with_key_set):
        stack = start_with_key_set()
        old_kid = stub.kid
        until("the keys are there", lambda: login(stack, stub.token("HL1")) == CONNECTED)
        stub.rotate()
        assert login(stack, stub.token("HL1")) == CONNECTED
        assert login(stack, stub.key.token(claims(), kid=old_kid)) == {"error": INVALID}
        assert login(stack, stub.key.token(claims())) == CONNECTED  # names none: each is tried

    def test_a_set_of_one_key_needs_no_names(self, stub, start_with_key_set):
        stub.faults(jwks={"body": json.dumps({"keys": [stub.key.jwk(None)]})})
        stack = start_with_key_set()
        until("the keys are there", lambda: login(stack, stub.key.token(claims())) == CONNECTED)
        assert login(stack, stub.token("HL1")) == CONNECTED  # with the stub's kid
        assert login(stack, signing_key("thief").token(claims())) == {"error": INVALID}

    def test_pem_files_and_a_key_set_together(self, stub, start_with_key_set, key_folder):
        path = signing_key("a").write_public(key_folder / "a.pem")
        stack = start_with_key_set(JWT_PUBLIC_KEY_FILE=path)
        assert login(stack, signing_key("a").token(claims())) == CONNECTED
        until("the keys are there", lambda: login(stack, stub.token("HL1")) == CONNECTED)

    @pytest.mark.parametrize(
        "fault",
        [
            {"status": 404},
            {"body": "html"},
            {"body": "huge"},
            {"body": '{"keys":[]}'},
            {"body": '{"keys":[{"kty":"RSA"},null,5,{"kty":"oct","k":"AAAA","kid":"a"}]}'},
            {"end": "cut"},
        ],
        ids=str,
    )
    def test_without_any_key_nobody_can_tell(self, stub, start_with_key_set, fault):
        stub.faults(jwks=fault)
        stack = start_with_key_set()
        assert login(stack, stub.token("HL1")) == {"error": UNAVAILABLE}
        thief = signing_key("thief").token(claims(), kid="x")
        assert login(stack, thief) == {"error": UNAVAILABLE}

    def test_it_recovers_by_itself(self, stub, start_with_key_set):
        good, thief = stub.token("HL1"), signing_key("thief").token(claims(), kid="x")
        stub.kill()
        stack = start_with_key_set()
        assert login(stack, good) == {"error": UNAVAILABLE}
        stub.start()
        until("it has the keys", lambda: login(stack, good) == CONNECTED, interval=0.2)
        assert login(stack, thief) == {"error": INVALID}

    def test_keys_that_are_too_weak_or_not_for_signing_are_left_out(self, stub, start_with_key_set):
        weak, wrong_use = signing_key("weak", 1024), signing_key("b")
        key_set = {
            "keys": [
                weak.jwk("weak"),
                wrong_use.jwk("enc", use="enc"),
                stub.key.jwk("good", x5c=["AAAA"], alg=None),
                {"kty": "EC", "crv": "P-256", "kid": "ec", "x": "AA", "y": "AA"},
            ]
        }
        stub.faults(jwks={"body": json.dumps(key_set)})
        stack = start_with_key_set()
        good = stub.key.token(claims(), kid="good")
        until("the keys are there", lambda: login(stack, good) == CONNECTED)
        assert login(stack, weak.token(claims(), kid="weak")) == {"error": INVALID}
        assert login(stack, wrong_use.token(claims(), kid="enc")) == {"error": INVALID}

    def test_the_example_of_the_documentation(self, stub, start_stack):
        """docs/identity.md: its env file, with tokens as Keycloak makes them."""
        page = (REPO / "docs" / "identity.md").read_text()
        example = re.search(r"^```\n(IDENTITY=jwt\n.*?)^```", page, re.MULTILINE | re.DOTALL)
        settings = dict(line.split("=", 1) for line in example[1].splitlines())
        stack = start_stack(api=False, haproxy=False, **{**settings, "JWKS_URL": stub.jwks_url})
        token = stub.token(
            "0f3c8a52-3c0e-4a53-9d5e-6f0a8c2f7b11",
            iss="https://sso.example.org/realms/game",
            aud=["chat", "account"],
            azp="game-client",
            typ="Bearer",
            scope="openid profile",
            realm_access={"roles": ["offline_access", "default-roles-game"]},
            preferred_username="anna",
        )
        until("the keys are there", lambda: login(stack, token) == CONNECTED)
        client = stack.connect(token, direct=True)
        assert client.ask("message", message="hi")["nickname"] == "anna"
