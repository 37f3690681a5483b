"""Debian's Chromium, headless, looking at the page at /.

    with Browser() as browser:                     # Browser(width=390, height=780, phone=True)
        page = browser.open(stack)                 # or through the `browse` fixture of test_page.py
        page.join("alice")
        page.say("hi")
        assert page.texts() == ["hi"]

Every wait polls with a deadline. At its end a browser must have an empty console: a violation of
the page's content security policy, an error in its script and a file not found all stand there.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from stack import BUILD, until

CHROMIUM = "/usr/bin/chromium"
DRIVER = "/usr/bin/chromedriver"
SWITCHES = [
    "--headless=new",
    "--no-sandbox",  # tests also run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have a small one
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A browser that had to fetch while several others start on a busy machine.
LOAD_S = 30

# Runs before the page's own script: the sockets it opens, so that a test can misuse the real one.
SPY = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...args) { super(...args); sockets.push(this); }
};
"""


class Browser:
    """One browser with a profile of its own, and the one page it shows; a context manager."""

    def __init__(self, width=1180, height=800, *, phone=False, dark=False):
        self.expected_console = ()  # parts of messages that belong to the test
        self._ending = ExitStack()
        with ExitStack() as starting:
            # Chromium may still write for a moment after the driver has ended.
            profile = starting.enter_context(
                tempfile.TemporaryDirectory(prefix="hlchat-browser-", ignore_cleanup_errors=True)
            )
            options = webdriver.ChromeOptions()
            options.binary_location = CHROMIUM
            for switch in [*SWITCHES, f"--user-data-dir={profile}"]:
                options.add_argument(switch)
            options.accept_insecure_certs = True
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            for program in [CHROMIUM, DRIVER]:
                assert Path(program).exists(), f"{program} is not there: run make deps"
            self.driver = webdriver.Chrome(options, Service(executable_path=DRIVER))
            starting.callback(self.driver.quit)
            self.driver.set_page_load_timeout(LOAD_S)
            self.driver.set_script_timeout(LOAD_S)
            self._emulate(width, height, phone, dark)
            self.before_page(SPY)
            self._ending = starting.pop_all()

    def _emulate(self, width, height, phone, dark):
        screen = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setDeviceMetricsOverride", **screen, mobile=phone)
        self._devtools("Emulation.setTouchEmulationEnabled", enabled=phone)
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])

    def _devtools(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def before_page(self, script):
        """A script to run before those of every page that is opened from now on."""
        self._devtools("Page.addScriptToEvaluateOnNewDocument", source=script)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            console = self.console() if kind is None else []
        finally:
            self._ending.close()
        assert console == [], "\n".join(["the browser's console says:", *console])

    def console(self):
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [m for m in messages if not any(part in m for part in self.expected_console)]

    def open(self, stack):
        self.driver.get(f"{stack.haproxy.url()}/")
        return self

    def reload(self):
        self.driver.refresh()

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def screenshot(self, name):
        """Kept for people to look at, below the build."""
        folder = BUILD / "test-artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(folder / f"{name}.png"))

    # what a person sees

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def sees(self, selector):
        return self.find(selector).is_displayed()

    def text(self, selector):
        """What is to be read there; "" when it is hidden."""
        return self.find(selector).text

    def texts(self, selector="#messages .text"):
        """Of all of these, in order, letter by letter."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return self.js(script, selector)

    def until_texts(self, *texts):
        until(f"the messages {texts}", lambda: self.texts() == list(texts))

    def until_text(self, selector, part, timeout=LOAD_S):
        until(f"{part!r} in {selector}", lambda: part in self.text(selector), timeout)

    def until_online(self):
        """Also after a lost connection, which the page tries again after up to 30 s."""
        self.until_text("#state", "Connected", 40.0)

    # what a person does

    def type(self, selector, *keys):
        self.find(selector).send_keys(*keys)

    def fill(self, selector, text):
        """As by pasting: at once, and beyond the characters that a driver can type."""
        script = """const [input, text] = arguments;
            input.value = text;
            input.dispatchEvent(new Event('input', { bubbles: true }));"""
        self.js(script, self.find(selector), text)

    def click(self, selector):
        self.find(selector).click()

    def enter(self, token):
        """Fills the login form, and sends it."""
        self.fill("#token", token)
        self.type("#token", Keys.ENTER)

    def join(self, token):
        self.enter(token)
        self.until_online()
        return self

    def say(self, text):
        """Sends a message and waits until the page shows it as sent."""
        before = len(self.texts("#messages .own"))
        self.fill("#box", text)
        until("the page can send", lambda: self.find("#send").is_enabled())
        self.type("#box", Keys.ENTER)
        until("the message is sent", lambda: len(self.texts("#messages .own")) > before)
