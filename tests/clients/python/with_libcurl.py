"""libcurl's WebSockets, of the libcurl that curl_cffi brings along: Debian 12's has none yet."""

import select
import sys

from curl_cffi import Curl, CurlECode, CurlError, CurlInfo, CurlOpt
from curl_cffi.const import CurlWsFlag
from line import say, say_close

WEBSOCKET = 2  # for CONNECT_ONLY


def send(curl, payload, flags):
    while payload:
        payload = payload[curl.ws_send(payload, flags) :]


def obey(curl, command, *texts):
    if command == "send":
        send(curl, texts[0], CurlWsFlag.TEXT)
    elif command == "fragments":
        for text in texts[:-1]:
            send(curl, text, CurlWsFlag.TEXT | CurlWsFlag.CONT)
        send(curl, texts[-1], CurlWsFlag.TEXT)
    elif command == "ping":
        curl.ws_send(b"", CurlWsFlag.PING)
    elif command == "close":
        curl.ws_close(1000, b"")


def receive(curl, text):
    """All that has come; `text` is the message so far. Whether the connection is still open."""
    while True:
        try:
            part, frame = curl.ws_recv()
        except CurlError as error:
            if error.code == CurlECode.AGAIN:
                return True
            say("error", error)
            return False
        if frame.flags & CurlWsFlag.PONG:
            say("pong")
        elif frame.flags & CurlWsFlag.CLOSE:
            say_close(int.from_bytes(part[:2], "big") or None, part[2:].decode())
            return False
        elif frame.flags & CurlWsFlag.TEXT:
            text += part
            if frame.bytesleft == 0 and not frame.flags & CurlWsFlag.CONT:
                say("text", text.decode())
                text.clear()


def main(url, *offered):
    headers = []
    curl = Curl()
    curl.setopt(CurlOpt.URL, url.encode())
    curl.setopt(CurlOpt.CONNECT_ONLY, WEBSOCKET)
    curl.setopt(CurlOpt.HEADERFUNCTION, headers.append)
    if offered:
        curl.setopt(CurlOpt.HTTPHEADER, [f"Sec-WebSocket-Protocol: {offered[0]}".encode()])
    try:
        curl.perform()
    except CurlError as error:
        say("error", error)
        return
    fields = dict(header.decode().lower().strip().partition(": ")[::2] for header in headers)
    say("open", fields.get("sec-websocket-protocol", "-"))
    sock = curl.getinfo(CurlInfo.ACTIVESOCKET)
    stdin, text = sys.stdin.buffer.raw, bytearray()  # select() sees no line in a buffer
    while receive(curl, text):
        readable, _, _ = select.select([sock, stdin], [], [])
        if stdin in readable:
            line = stdin.readline().decode()
            if not line:
                return
            command, *words = line.split()
            obey(curl, command, *map(bytes.fromhex, words))


main(*sys.argv[1:])
