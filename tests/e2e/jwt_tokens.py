"""Access tokens, good and bad, made by hand: a library would not make the bad ones.

key = signing_key("a")                       # one per name and test process
key.token(claims(sub="HL1"))                 # what an identity provider would send
key.token(claims(exp=ABSENT), kid="k1")      # without exp; a header field
join(header_bytes, payload_bytes, signature) # anything
"""

import base64
import functools
import json
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

AUDIENCE = "heavenland-api"
ABSENT = ...  # as a value: leave this one out

HASHES = {"RS256": hashes.SHA256, "RS384": hashes.SHA384, "RS512": hashes.SHA512}


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def json_bytes(value):
    """JSON of a value; bytes and str as they are."""
    if isinstance(value, dict):
        value = {name: member for name, member in value.items() if member is not ABSENT}
    if isinstance(value, str):
        value = value.encode()
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def claims(sub="HL1", **changes):
    """Valid for an hour; a change to ABSENT leaves the claim out."""
    now = int(time.time())
    return {"sub": sub, "aud": AUDIENCE, "iat": now, "exp": now + 3600, **changes}


def join(header, payload, signature):
    """The three parts as a token."""
    parts = (json_bytes(header), json_bytes(payload), signature)
    return ".".join(base64url(part) for part in parts)


class SigningKey:
    def __init__(self, private):
        self.private = private
        public = private.public_key()
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public_pem = public.public_bytes(serialization.Encoding.PEM, kind)
        self.public_der = public.public_bytes(serialization.Encoding.DER, kind)

    def write_public(self, path):
        path.write_bytes(self.public_pem)
        return str(path)

    def sign(self, data, algorithm="RS256"):
        return self.private.sign(data, padding.PKCS1v15(), HASHES[algorithm]())

    def token(self, payload, header=None, algorithm="RS256", **header_fields):
        """Signed by this key as `algorithm`, whatever the header says."""
        if header is None:
            header = {"alg": algorithm, "typ": "JWT", **header_fields}
        signed = f"{base64url(json_bytes(header))}.{base64url(json_bytes(payload))}"
        return f"{signed}.{base64url(self.sign(signed.encode(), algorithm))}"

    def jwk(self, kid, **fields):
        numbers = self.private.public_key().public_numbers()
        n, e = (
            base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
            for number in (numbers.n, numbers.e)
        )
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e, **fields}


@functools.cache
def signing_key(name, bits=2048):
    """The key of that name; another name is another key."""
    return SigningKey(rsa.generate_private_key(public_exponent=65537, key_size=bits))


def load_key(path):
    return SigningKey(serialization.load_pem_private_key(path.read_bytes(), password=None))
