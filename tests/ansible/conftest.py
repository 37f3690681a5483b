"""What the Ansible tests share: the order of a file's tests is that of an operator's days."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / "chaos")]
pytest.register_assert_rewrite("playbook")
from checker import check  # noqa: E402
from crowd import Crowd  # noqa: E402
from machines import Machines  # noqa: E402
from trial import stored_in  # noqa: E402

# What ends this from outside shall not leave machines behind.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="module")
def machines():
    with Machines() as running:
        yield running


@pytest.fixture
def under_load():
    """under_load(chat, what): what() while people talk; nobody may miss a word.

    store: connects to the Redis that is the master at the end, where another one was at the begin:
    what that had not been told yet was stored again, and is marked so.
    """

    def while_they_talk(chat, what, *, per_second, store=None):
        options = {"clients": 30, "talkers": 4, "token_of": chat.token_of}
        with Crowd(chat, per_second=per_second, **options) as crowd:
            crowd.begin()
            crowd.talk(until_back=5)
            outcome = what()
            crowd.talk(until_back=5)
            run = crowd.finish()
            if store:
                with store() as redis:
                    run = replace(run, **stored_in(redis))
            said = {frame for session in run.sessions for frame in session.frames}
            print(f"{len(said)} frames, closes {dict(crowd.closes)}, errors {dict(crowd.errors)}")
            print(f"{crowd.stayed()} of {len(crowd.members)} clients were not moved")
            # (The playbook says a word too, and there were people before.)
            problems = [text for text in check(run) if not text.startswith("nobody sent ")]
            assert not problems, "\n".join(problems[:20])
            # A change of master may take longer than a message waits; its sender is told.
            assert all(store and "try again" in error for error in crowd.errors)
            # And some were moved; one master's last messages may be missing on the next.
            assert set(crowd.closes) - ({4004} if store else set()) == {1001}, crowd.closes
        return outcome

    return while_they_talk
