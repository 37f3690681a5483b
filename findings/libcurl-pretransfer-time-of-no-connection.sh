#!/usr/bin/env bash
# libcurl 8.21 and later give a pretransfer time and a starttransfer time for a connection that never was.
#
# Seen with libcurl 8.21.0 and 8.23.0, and not with 8.19.0, as pycurl 7.47.0, 7.49.0 and 7.46.0 (PyPI) bring them: a connect
# that runs into CURLOPT_TIMEOUT_MS has CURLINFO_PRETRANSFER_TIME and CURLINFO_STARTTRANSFER_TIME equal to the total time,
# while CURLINFO_CONNECT_TIME stays 0; up to 8.19.0 all of them are 0. So a pretransfer time no longer tells that a
# request could be sent. What does: CURLINFO_REQUEST_SIZE, which is 0 in all three.
#
# Needs Linux and python3 with venv.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/connect.py" <<'PYTHON'
import contextlib
import socket
import sys

import pycurl

# A listener that accepts nobody: once its queue is full, who connects gets no answer.
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0)
queue = [socket.socket() for _ in range(3)]
for one in queue:
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        one.connect(listener.getsockname())

curl = pycurl.Curl()
curl.setopt(curl.URL, "http://127.0.0.1:{1}/".format(*listener.getsockname()))
curl.setopt(curl.PROXY, "")
curl.setopt(curl.TIMEOUT_MS, 500)
try:
    curl.perform()
    sys.exit("it has connected")
except pycurl.error as error:
    assert error.args[0] == curl.E_OPERATION_TIMEDOUT, error
connect, pretransfer, starttransfer, sent = (
    curl.getinfo(info)
    for info in (curl.CONNECT_TIME, curl.PRETRANSFER_TIME, curl.STARTTRANSFER_TIME, curl.REQUEST_SIZE)
)
print(f"{pycurl.version.split()[1]}: connect {connect} s, pretransfer {pretransfer} s,", end=" ")
print(f"starttransfer {starttransfer} s, sent {sent} bytes")
gives_a_time = sys.argv[1] == "a-time"
if connect or sent or bool(pretransfer) != gives_a_time or bool(starttransfer) != gives_a_time:
    sys.exit("this has changed")
PYTHON

try_with() { # version-of-pycurl none|a-time
    python3 -m venv "$dir/$1"
    "$dir/$1/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "pycurl==$1"
    "$dir/$1/bin/python" "$dir/connect.py" "$2"
}

try_with 7.46.0 none
try_with 7.47.0 a-time
try_with 7.49.0 a-time
