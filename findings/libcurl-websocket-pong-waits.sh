#!/usr/bin/env bash
# libcurl's WebSocket API answers a ping only when the client itself sends something.
#
# Seen with libcurl 8.23.0, as curl_cffi 0.17.0 (PyPI) brings it (a build of its own: the first line of the output): the
# client calls curl_ws_recv() for two seconds, which takes the server's ping and says CURLE_AGAIN; the server has no pong.
# It comes with the next frame that the client sends. A server that closes who answers no pings closes a client that only
# listens. What helps: send a ping of one's own now and then.
#
# Needs python3 with venv.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check curl_cffi==0.17.0 websockets==17.4
"$dir/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
import threading
import time

import curl_cffi
from curl_cffi import Curl, CurlECode, CurlError, CurlOpt
from curl_cffi.const import CurlWsFlag
from websockets.asyncio.server import serve

seen = {}
listening = threading.Event()
over = threading.Event()


async def pings(connection):
    began = time.monotonic()
    pong = await connection.ping()
    reader = asyncio.create_task(connection.recv())
    await pong
    seen["pong_s"] = time.monotonic() - began
    await reader


async def server():
    async with serve(pings, "127.0.0.1", 0, ping_interval=None) as running:
        seen["port"] = running.sockets[0].getsockname()[1]
        listening.set()
        await asyncio.to_thread(over.wait)


thread = threading.Thread(target=asyncio.run, args=(server(),), daemon=True)
thread.start()
listening.wait(10)

curl = Curl()
curl.setopt(CurlOpt.URL, f"ws://127.0.0.1:{seen['port']}/".encode())
curl.setopt(CurlOpt.CONNECT_ONLY, 2)
curl.perform()
again = 0
until = time.monotonic() + 2
while time.monotonic() < until:
    try:
        curl.ws_recv()
    except CurlError as error:
        assert error.code == CurlECode.AGAIN, error
        again += 1
        time.sleep(0.05)
before = seen.get("pong_s")
curl.ws_send(b"hello", CurlWsFlag.TEXT)
until = time.monotonic() + 5
while "pong_s" not in seen and time.monotonic() < until:
    time.sleep(0.05)
over.set()
print(f"libcurl {curl_cffi.__curl_version__}")
print(f"pong while it listened: {before}; receive said 'again' {again} times")
print(f"pong after it sent a message: {seen.get('pong_s')}")
if before is not None or "pong_s" not in seen:
    sys.exit("this has changed")
PYTHON
