"""The checker is no decoration: spoil one message for one client, and the run fails."""

import contextlib

import pytest
from checker import check
from mangle import Mangler
from relay import Relay
from stack import until


@pytest.mark.parametrize(
    ("how", "words"), [("drop", "is missing"), ("double", "came 2 times"), ("swap", "came after")]
)
def test_it_is_seen(chaos, how, words):
    mangler = Mangler(how)
    with contextlib.ExitStack() as relays:

        def detours(stack):
            relay = Relay(stack.haproxy.address, mangler.changer)
            relays.callback(relay.close)
            return {7: relay.address}

        _, crowd = chaos.start(brokers=2, clients=20, talkers=5, per_second=4, detours=detours)
        mangler.armed = True
        until("it is done", lambda: mangler.done)
        crowd.talk(until_back=20)
        problems = check(chaos.finish())
        assert problems
        assert all(problem.startswith("guest-7: ") for problem in problems)
        assert any(words in problem for problem in problems)
        chaos.close()  # before the relay
