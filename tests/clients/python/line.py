"""The line protocol of ../library.py, for all Python programs of this folder."""

import sys


def say(event, *words):
    """One event; text is written as the hexadecimal digits of its UTF-8."""
    words = (word.encode().hex() if event == "text" else str(word) for word in words)
    print(event, *words, flush=True)


def say_close(code, reason):
    say("close", "-" if code is None else code, (reason or "").encode().hex() or "-")


def commands():
    """(command, [bytes, ...]) until the driver ends."""
    for line in sys.stdin:
        command, *words = line.split()
        yield command, [bytes.fromhex(word) for word in words]
