"""The stub of the account API (tests/stub/account_api.py) as a test drives it.

with AccountStub() as stub:
    stub.faults(accounts={"delay_ms": 200})     # see account_api.py --help
    stub.token("HL7")                           # signed here: fast enough for thousands
    stub.users()["HL7"]                         # look-ups so far
"""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

from jwt_tokens import claims, load_key
from stack import REPO, Port, freeze, http_request, until


class AccountStub:
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="hlchat-stub-"))
        self.port = Port()
        self.address = ("127.0.0.1", self.port.number)
        self.url = f"http://127.0.0.1:{self.port.number}"
        self.jwks_url = f"{self.url}/.well-known/jwks.json"
        self.log_path = self.folder / "stub.log"
        self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self._process:
            self.kill()
        self.port.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        """Starts it, or starts it again: same address, same key, no faults."""
        program = REPO / "tests" / "stub" / "account_api.py"
        listen = f"127.0.0.1:{self.port.number}"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, str(program)]
                + ["--state", str(self.folder), "--listen", listen],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until("the account stub is ready", self._answers)
        self._load_key()
        self.public_pem = str(self.folder / "public.pem")

    def _load_key(self):
        self.key = load_key(self.folder / "private.pem")
        modulus = self.key.private.public_key().public_numbers().n
        self.kid = hashlib.sha256(modulus.to_bytes(modulus.bit_length() // 8, "big")).hexdigest()[
            :16
        ]

    def _answers(self):
        assert self._process.poll() is None, self.log_path.read_text()
        try:
            return self._control("GET", "/_stub/counts")
        except OSError:
            return False

    def kill(self):
        """As when its machine goes away; stopped (SIGSTOP) or not."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self):
        """It accepts connections (the kernel does) and never answers."""
        freeze(self._process.pid)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def _control(self, method, path, value=None):
        body = None if method == "GET" else json.dumps(value)
        answer = http_request(self.address, method, path, body=body)
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def faults(self, everywhere=None, **by_endpoint):
        """Replaces all faults; faults(): none. access_token stands for access-token."""
        faults = {name.replace("_", "-"): fault for name, fault in by_endpoint.items()}
        if everywhere is not None:
            faults["*"] = everywhere
        self._control("PUT", "/_stub/faults", faults)

    def account(self, user, **fields):
        """Changes an account: nickname, username, password."""
        self._control("PUT", f"/_stub/accounts/{urllib.parse.quote(user, safe='')}", fields)

    def remove_account(self, user):
        self._control("PUT", f"/_stub/accounts/{urllib.parse.quote(user, safe='')}", None)

    def rotate(self, keep=True):
        """Signs with a new key from now on; keep False: the old ones leave the key set at once."""
        self._control("POST", "/_stub/keys", {"keep": keep})
        self._load_key()

    def counts(self):
        return self._control("GET", "/_stub/counts")

    def requests(self, endpoint):
        return self.counts()["endpoints"].get(endpoint, 0)

    def users(self):
        return self.counts()["users"]

    def reset_counts(self):
        self._control("DELETE", "/_stub/counts", {})

    def token(self, user, **changes):
        return self.key.token(claims(sub=user, **changes), kid=self.kid)
