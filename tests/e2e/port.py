"""Ports for test runs side by side."""

import random
import socket


class Port:
    """A free port of 127.0.0.1, ours until it is released.

    Taken below the range from which the kernel picks ports for outgoing connections. Test runs
    side by side agree by an abstract socket of the same number, which goes away with the process.
    """

    def __init__(self):
        while True:
            self.number = random.randrange(10000, 32000)
            self._claim = socket.socket(socket.AF_UNIX)
            try:
                self._claim.bind(f"\0hlchat-test-port-{self.number}")
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", self.number))
                return
            except OSError:
                self._claim.close()

    def release(self):
        self._claim.close()
