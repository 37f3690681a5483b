"""The page at /, in real browsers. Issue: "A page"; docs/protocol.md, "Close codes"."""

import itertools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from account_stub import AccountStub
from browser import Browser
from selenium.webdriver.common.keys import Keys
from stack import Stack, until

# What Chromium itself says about a server that is away; no page can keep it from that.
UNREACHABLE = ("WebSocket connection to", "ERR_CONNECTION_REFUSED")


@pytest.fixture
def browse(stack):
    """Opens the page in a new browser that ends with the test: browse(width=390, phone=True)."""
    with ExitStack() as running:
        yield lambda **options: running.enter_context(Browser(**options)).open(stack)


def talk(stack, *said):
    """Other people say something: (who, what, channel)."""
    for who, what, *channel in said:
        fields = {"channel": channel[0]} if channel else {}
        client = stack.connect(who)
        assert client.ask("message", message=what, **fields)["message"] == what
        client.close()


class TestChat:
    def test_two_people_talk(self, stack, browse):
        ada, grace = browse(), browse()
        ada.join("Ada")
        grace.join("Grace")
        ada.say("Hello Grace")
        grace.until_texts("Hello Grace")
        grace.say("Hello Ada")
        ada.until_texts("Hello Grace", "Hello Ada")
        assert ada.texts("#messages .name") == ["Ada", "Grace"]
        assert ada.texts("#messages .own .text") == ["Hello Grace"]
        assert grace.texts("#messages .own .text") == ["Hello Ada"]

        # Local time for people, the exact one for machines.
        stamp = ada.find("#messages .own time").get_attribute("datetime")
        age = datetime.now(UTC) - datetime.fromisoformat(stamp)
        assert 0 <= age.total_seconds() < 60
        assert re.search(r"\d{1,2}:\d\d", ada.texts("#messages time")[0])

    def test_the_channel_goes_along(self, stack, browse):
        page = browse().join("Channel")
        page.type("#channel", "Lobby")
        page.say("in the lobby")
        page.fill("#channel", "")
        page.say("anywhere")
        said = stack.connect("Reader").history(limit=2)
        assert [message.get("channel") for message in said] == [None, "Lobby"]
        assert page.texts("#messages .own .room") == ["#Lobby"]

    def test_shift_and_enter_is_a_new_line(self, browse):
        page = browse().join("Lines")
        page.type("#box", "one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two", Keys.ENTER)
        until("it was sent", lambda: page.texts("#messages .own .text") == ["one\ntwo"])
        assert page.find("#box").get_property("value") == ""

    def test_keyboard_only(self, browse):
        """The box is ready for typing after the login; no mouse is needed."""
        page = browse()
        page.driver.switch_to.active_element.send_keys("Keys", Keys.ENTER)
        page.until_online()
        page.driver.switch_to.active_element.send_keys("typed", Keys.ENTER)
        until("it was sent", lambda: page.texts("#messages .own .text") == ["typed"])

    @pytest.mark.parametrize(
        "hostile",
        [
            "<script>window.harm = 1</script>",
            "<img src=x onerror='window.harm = 1'>",
            "</p></li></ol><svg onload=window.harm=1>",
            "javascript:window.harm=1 &lt;b&gt; &amp; ${harm} {{harm}}",
        ],
    )
    def test_hostile_text_is_only_text(self, stack, browse, hostile):
        name, room = hostile[:64], hostile[:64]
        talk(stack, (name, hostile, room))
        page = browse().join("Victim")  # from the history
        talk(stack, (name, hostile, room))  # and live
        until("both are there", lambda: page.texts()[-2:] == [hostile, hostile])
        assert page.texts("#messages .name")[-1] == name
        assert page.texts("#messages .room")[-1] == f"#{room}"
        assert page.js("return typeof harm") == "undefined"
        markup = "#messages :is(script, img, svg, b, a, [onerror], [onload])"
        assert page.texts(markup) == []


class TestHistory:
    def test_is_there_after_a_reload(self, stack, browse):
        talk(stack, ("Old", "first"), ("Old", "second"), ("Older", "third"))
        page = browse().join("Reader")
        page.until_texts("first", "second", "third")
        page.say("fourth")
        page.reload()
        page.until_online()  # by itself
        page.until_texts("first", "second", "third", "fourth")
        assert page.texts("#messages .own .text") == ["fourth"]

    def test_the_token_goes_with_the_tab(self, browse):
        page = browse().join("Secretive")
        kept = "return [sessionStorage.token, JSON.stringify(localStorage), document.cookie]"
        assert page.js(kept) == ["Secretive", "{}", ""]
        page.click("#logout")
        assert page.sees("#login")
        assert page.js(kept) == [None, "{}", ""]
        page.reload()
        assert page.sees("#login")


class TestPasswords:
    @pytest.fixture(scope="class")
    @classmethod
    def stack(cls):
        with AccountStub() as stub:
            settings = {"HEAVENLAND_API_URL": stub.url, "JWT_PUBLIC_KEY_FILE": stub.public_pem}
            with Stack(IDENTITY="heavenland", **settings) as running:
                running.stub = stub
                yield running

    def enter(self, page, username, password):
        page.fill("#username", username)
        page.fill("#password", password)
        page.type("#password", Keys.ENTER)

    def test_username_and_password(self, stack, browse):
        page = browse()
        self.enter(page, "hero", "wrong")
        page.until_text("#notice", "invalid credentials")
        self.enter(page, "hero", "password")
        page.until_online()
        page.say("by password")
        assert page.texts("#messages .name") == ["Hero"]
        # A lost connection needs nobody to type it again, but it is kept nowhere.
        page.js("sockets[0].close()")
        until("it comes back", lambda: page.js("return sockets.length") == 2)
        page.until_online()
        kept = "return JSON.stringify([sessionStorage, localStorage, document.cookie])"
        assert page.js(kept) == '[{},{},""]'
        page.click("#logout")
        assert page.find("#password").get_property("value") == ""
        page.enter(stack.stub.token("HL1"))
        page.until_online()

    def test_one_alone_is_not_sent(self, browse):
        page = browse()
        self.enter(page, "", "password")
        page.until_text("#notice", "a username and its password")
        assert page.js("return sockets.length") == 0


class TestErrors:
    def test_a_server_without_passwords_is_not_asked_again(self, browse):
        page = browse()
        page.fill("#username", "hero")
        page.fill("#password", "password")
        page.type("#password", Keys.ENTER)
        page.until_text("#notice", "takes no passwords")
        assert not page.sees("#account")
        page.join("Token")

    def test_a_refused_message_comes_back(self, stack, browse):
        page = browse().join("Wordy")
        page.fill("#channel", "é" * 64)  # 64 characters, 128 bytes
        page.type("#box", "do not lose me", Keys.ENTER)
        page.until_text("#notice", "Not sent: ")
        assert "channel" in page.text("#notice")
        assert page.find("#box").get_property("value") == "do not lose me"
        assert page.texts("#outbox li") == []
        page.fill("#channel", "")
        page.type("#box", Keys.ENTER)
        until("it was sent", lambda: page.texts("#messages .own .text") == ["do not lose me"])
        assert not page.sees("#notice")
        assert page.find("#box").get_property("value") == ""

    def test_the_size_counts_in_bytes(self, browse):
        page = browse().join("Counter")
        page.fill("#box", "é" * 100)
        assert page.text("#count") == ""
        page.fill("#box", "é" * 1025)
        assert page.text("#count") == "2 bytes too long"
        assert not page.find("#send").is_enabled()
        page.fill("#box", "é" * 1024)
        assert page.text("#count") == "2048 of 2048 bytes"
        page.say("é" * 1024)

    def test_a_refused_login_can_be_corrected(self, browse):
        page = browse()
        page.enter(" ")
        page.until_text("#notice", "enter a token")
        page.enter("x" * 65)
        page.until_text("#notice", "nickname")
        assert page.js("return sessionStorage.token") is None
        page.join("Corrected")
        assert not page.sees("#notice")
        assert page.js("return sockets.length") == 1


class TestReading:
    SETTINGS = {"RATE_MESSAGES": 0}

    def test_scrolling(self, stack, browse):
        """Who reads the end stays there, who reads above is not moved and is told."""
        at_end = """const s = document.querySelector('#scroller');
            return s.scrollHeight - s.scrollTop - s.clientHeight < 2"""
        talker = stack.connect("Talker")
        for i in range(60):
            talker.ask("message", message=f"line {i}")
        page = browse().join("Reader")
        until("all is there", lambda: len(page.texts()) == 60)
        assert page.js(at_end)
        talker.ask("message", message="followed")
        until("it is there", lambda: page.texts()[-1] == "followed")
        assert page.js(at_end)
        assert not page.sees("#newer")

        page.js("document.querySelector('#scroller').scrollTop = 300")
        # The page notices by an event, which comes with the next frame it draws.
        page.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        for text in ["unread 1", "unread 2"]:
            talker.ask("message", message=text)
        page.until_text("#newer", "2 new messages")
        assert page.js("return document.querySelector('#scroller').scrollTop") == 300
        page.click("#newer")
        assert page.js(at_end)
        assert not page.sees("#newer")

    def test_joining_while_others_talk(self, stack, browse):
        """What is said between the login and the history is in both: shown once, in order."""
        talker = stack.connect("Busy")
        enough = threading.Event()

        def keep_talking():
            for number in itertools.count():
                talker.ask("message", message=f"busy {number}")
                if enough.wait(0.002):  # some hundred messages a second
                    break
            return number

        with ThreadPoolExecutor() as pool:
            last = pool.submit(keep_talking)
            try:
                page = browse().join("Latecomer")
                for _ in range(3):
                    page.reload()
                    page.until_online()
                    until("some came live", lambda: len(page.texts()) > 120)
            finally:
                enough.set()
        end = last.result()
        until("the last is there", lambda: page.texts()[-1:] == [f"busy {end}"])
        busy = [text for text in page.texts() if text.startswith("busy ")]
        assert busy == [f"busy {i}" for i in range(end + 1 - len(busy), end + 1)]

    def test_five_hundred_messages_are_kept(self, stack, browse):
        page = browse().join("Hoarder")
        talker = stack.connect("Flood")
        for i in range(520):
            talker.ask("message", message=f"flood {i}")
        until("the last is there", lambda: page.texts()[-1:] == ["flood 519"])
        assert page.texts() == [f"flood {i}" for i in range(20, 520)]


class TestReconnect:
    # A short history begins in the middle of what the page has.
    SETTINGS = {"RATE_MESSAGES": 0, "HISTORY_LIMIT": 6}

    def test_after_a_restart_of_the_broker(self, stack, browse):
        page = browse().join("Patient")
        page.expected_console = UNREACHABLE
        page.say("before")
        stack.broker.stop()
        page.until_text("#state", "Reconnecting")
        page.fill("#box", "typed meanwhile")
        assert not page.find("#send").is_enabled()
        stack.broker.start()
        page.until_online()
        # The memory of this broker went with it, that of the page did not.
        page.until_texts("before")
        page.type("#box", Keys.ENTER)
        page.until_texts("before", "typed meanwhile")
        assert "missing" in page.texts("#messages .divider")[-1]

    def test_nothing_is_missed_or_doubled(self, stack, browse):
        """The way to the broker breaks; others go on talking, all with the same words."""
        other = stack.connect("Other", direct=True)

        def others_say(*said):
            for text in said:
                assert other.ask("message", message=text)["message"] == text

        start = len(other.history(limit=100))
        page = browse().join("Away")
        page.expected_console = UNREACHABLE
        others_say("gg", "gg", "seen", "gg", "gg")
        until("they are there", lambda: len(page.texts()) == start + 5)
        stack.haproxy.stop()
        page.until_text("#state", "Reconnecting")
        others_say("gg", "missed", "gg", "gg")
        stack.haproxy.start()
        page.until_online()
        others_say("live", "gg")
        expected = ["gg", "gg", "seen", "gg", "gg", "gg", "missed", "gg", "gg", "live", "gg"]
        until("all are there", lambda: page.texts()[start:] == expected)

    def test_what_was_in_the_air_comes_back(self, stack, browse):
        """The broker is stopped in the middle of a message: it is in the box again, or sent."""
        page = browse().join("Hasty")
        page.expected_console = UNREACHABLE
        stack.broker.pause()  # it takes the message and does not answer
        page.type("#box", "in the air", Keys.ENTER)
        assert page.texts("#outbox .text") == ["in the air"]
        page.type("#box", "and more")
        stack.broker.kill()
        stack.broker.start()
        page.until_online()
        until("it is back", lambda: page.find("#box").get_property("value"))
        page.until_text("#notice", "Not sent")
        assert page.find("#box").get_property("value") == "in the air\nand more"
        assert page.texts("#outbox .text") == []


class TestCloseCodes:
    SETTINGS = {"LOGIN_ATTEMPTS": 2}

    def test_too_many_errors_end_it(self, browse):
        page = browse().join("Fuzzer")
        page.fill("#box", "still here")
        page.js("for (let i = 0; i < 50; i++) sockets[0].send('not JSON')")
        page.until_text("#notice", "too many errors")
        assert page.text("#state") == "Disconnected"
        assert page.find("#box").get_property("value") == "still here"
        # The first wait would be a second at most.
        time.sleep(1.2)
        assert page.js("return sockets.length") == 1
        page.click("#again")
        page.until_online()
        assert not page.sees("#notice")

    def test_too_many_failed_logins_end_it(self, browse):
        page = browse()
        page.enter("x" * 65)
        page.until_text("#notice", "nickname")
        page.enter("x" * 66)
        page.until_text("#notice", "Too many failed logins")
        page.join("Reformed")

    def test_every_code(self, stack, browse):
        """What a server may close with, most of it by later parts of ours: as events."""
        page = browse().join("Codes")
        page.js("Math.random = () => 0")  # no wait

        def close(code, reason=""):
            page.js(
                "sockets.at(-1).dispatchEvent(new CloseEvent('close', "
                "{ code: arguments[0], reason: arguments[1] }))",
                code,
                reason,
            )

        def opened():
            return page.js("return sockets.length")

        for code in [
            1001,
            1002,
            1005,
            1006,
            1010,
            1011,
            1012,
            1015,
            3000,
            4000,
            4001,
            4003,
            4004,
            4005,
            4499,
        ]:
            before = opened()
            close(code)
            until(f"{code} reconnects", lambda before=before: opened() == before + 1)
            page.until_online()
            assert not page.sees("#notice")

        for code in [1000, 1003, 1007, 1008, 1009, 4500, 4501, 4504, 4999]:
            before = opened()
            close(code, "for a reason")
            page.until_text("#notice", "for a reason")
            assert len(page.text("#problem")) > len("for a reason") + 10
            assert page.text("#state") == "Disconnected"
            assert opened() == before
            page.click("#again")
            page.until_online()

        close(4002)
        page.until_text("#notice", "expired")
        assert page.sees("#login")
        assert page.js("return sessionStorage.token") is None
        page.join("Codes")


class TestLooks:
    """Screenshots for people; and what a program can see of it."""

    SETTINGS = {"RATE_MESSAGES": 0}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def said(cls, stack):
        talk(
            stack,
            ("Great Heavenland Hero", "Anyone up for a round of Boomer tonight?", "General"),
            ("Great Heavenland Hero", "I have the arena from nine."),
            ("Mira", "Count me in!"),
            ("Mira", "Is the new map live already? I saw a screenshot, it looked gorgeous."),
            ("Ada", "It went live this morning. See you there."),
            ("عمر", "مرحبا بالجميع، كيف الحال؟"),
        )

    def test_desktop_in_light(self, browse):
        page = browse()
        page.screenshot("page-desktop-light-login")
        page.join("Ada")
        page.say("Nice to see all of you.")
        page.screenshot("page-desktop-light")

    def test_phone_in_dark(self, stack, browse):
        page = browse(width=360, height=740, phone=True, dark=True)
        page.screenshot("page-phone-dark-login")
        self.assert_fits(page)
        page.join("Ada")
        page.say("Nice to see all of you.")
        page.screenshot("page-phone-dark")
        self.assert_fits(page)
        # At its fullest: long words everywhere, an error, the counter.
        talk(stack, ("W" * 64, "W" * 200, "w" * 64))
        until("it is there", lambda: page.texts()[-1] == "W" * 200)
        page.fill("#channel", "é" * 64)
        page.fill("#box", "W" * 2000)
        page.click("#send")
        page.until_text("#notice", "Not sent")
        page.screenshot("page-phone-dark-error")
        self.assert_fits(page)

    def assert_fits(self, page):
        """Nothing is wider than the screen, and fingers hit what is to be hit."""
        # The page does not scroll itself, so what is too wide would be cut off: ask the parts.
        wide = """return [...document.querySelectorAll('body, body *')].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.width > 0 && (box.left < 0 || box.right > innerWidth + 0.5);
        }).map((e) => e.outerHTML.slice(0, 80))"""
        assert page.js(wide) == []
        assert page.js("return document.documentElement.scrollWidth <= innerWidth")
        small = """return [...document.querySelectorAll('button, input, textarea')].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.width > 0 && (box.height < 44 || box.width < 44);
        }).map((e) => e.id)"""
        assert page.js(small) == []
