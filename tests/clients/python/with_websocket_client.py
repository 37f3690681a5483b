"""websocket-client's WebSocketApp."""

import sys
import threading

from line import commands, say, say_close
from websocket import ABNF, WebSocketApp


def send_fragments(sock, texts):
    for number, text in enumerate(texts):
        opcode = ABNF.OPCODE_CONT if number else ABNF.OPCODE_TEXT
        sock.send_frame(ABNF(number == len(texts) - 1, 0, 0, 0, opcode, 1, text))


def obey(app):
    for command, texts in commands():
        if command == "send":
            app.send(texts[0].decode())
        elif command == "fragments":
            send_fragments(app.sock, texts)
        elif command == "ping":
            app.sock.ping()
        elif command == "close":
            app.close()


def main(url, *offered):
    app = WebSocketApp(
        url,
        subprotocols=offered or None,
        on_message=lambda app, text: say("text", text),
        on_pong=lambda app, payload: say("pong"),
        on_close=lambda app, code, reason: say_close(code, reason),
        on_error=lambda app, error: say("error", error),
    )

    def on_open(app):
        say("open", app.sock.getsubprotocol() or "-")
        threading.Thread(target=obey, args=[app], daemon=True).start()

    app.on_open = on_open
    app.run_forever()


main(*sys.argv[1:])
