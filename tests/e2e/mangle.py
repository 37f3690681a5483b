"""Spoils one broadcast on its way to one client: drops it, doubles it, swaps it with the next, or
joins it with the next in one text, a line each.

For relay.py, `Relay(haproxy.address, mangler.changer)`. It shows that the checker would see it.
"""


class Mangler:
    def __init__(self, how):
        assert how in ("drop", "double", "swap", "join")
        self.how = how
        self.armed = self.done = False
        self._aside = b""  # the first of two that are swapped or joined

    def changer(self):
        """For one connection: what comes from the server in, what the client gets out."""
        waiting = b""
        upgraded = False

        def change(data):
            nonlocal waiting, upgraded
            waiting += data
            out = b""
            if not upgraded:
                head, end, rest = waiting.partition(b"\r\n\r\n")
                if not end:
                    return b""
                out, waiting, upgraded = head + end, rest, True
            while size := frame_size(waiting):
                out += self._frame(waiting[:size])
                waiting = waiting[size:]
            return out

        return change

    def _frame(self, frame):
        if self.done or not self.armed or b'{"user_id"' not in frame[:20]:
            return frame
        if self.how in ("swap", "join") and not self._aside:
            self._aside = frame
            return b""
        self.done = True
        if self.how == "join":
            text = payload(self._aside) + b"\n" + payload(frame)
            return b"\x81\x7e" + len(text).to_bytes(2, "big") + text
        return {"drop": b"", "double": frame + frame, "swap": frame + self._aside}[self.how]


def payload(frame):
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def frame_size(data):
    """Of the first WebSocket frame of a server in `data`; 0 when it is not all there."""
    if len(data) < 2:
        return 0
    size, head = data[1], 2
    if size >= 126:
        head = 4 if size == 126 else 10
        if len(data) < head:
            return 0
        size = int.from_bytes(data[2:head], "big")
    return head + size if len(data) >= head + size else 0
