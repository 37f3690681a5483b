"""websockets, its threads."""

import sys
import threading

from line import commands, say, say_close
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def obey(connection):
    for command, texts in commands():
        if command == "send":
            connection.send(texts[0].decode())
        elif command == "fragments":
            connection.send(text.decode() for text in texts)
        elif command == "ping":
            connection.ping().wait()
            say("pong")
        elif command == "close":
            connection.close()


def main(url, *offered):
    try:
        connection = connect(url, subprotocols=offered or None)
    except Exception as error:
        say("error", error)
        return
    say("open", connection.subprotocol or "-")
    threading.Thread(target=obey, args=[connection], daemon=True).start()
    try:
        for text in connection:
            say("text", text)
    except ConnectionClosed as closed:
        say_close(closed.rcvd and closed.rcvd.code, closed.rcvd and closed.rcvd.reason)
    else:
        say_close(connection.close_code, connection.close_reason)


main(*sys.argv[1:])
