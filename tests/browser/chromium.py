"""
A headless Chromium, driven over its debugging pipe: no driver, no library.

Messages are JSON objects that end with a zero byte: ours go to its descriptor 3, its own come
from descriptor 4 (the protocol of Chromium's developer tools).
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

_LIMIT_S = 60.0
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def chromium():
    """Its program; the test is skipped, loudly, where it is not installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("CHROMIUM IS NOT INSTALLED (Debian: apt-get install chromium)")
    return found


class Browser:
    """One page; a context manager that ends the browser."""

    def __init__(self, width=1000, height=900):
        self._folder = tempfile.TemporaryDirectory(
            prefix="lh-chromium-", ignore_cleanup_errors=True
        )
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def pipes():
            os.dup2(theirs_in, 13)
            os.dup2(theirs_out, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self.process = subprocess.Popen(
            [chromium(), *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=pipes,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._ids = itertools.count(1)
        self._heard = b""
        self.told = []
        """Events: errors of scripts, refusals by the page's own policy, requests."""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.close(self._out)  # it ends with its pipe
            self.process.wait(_LIMIT_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self._in)
            self._folder.cleanup()

    def call(self, method, **parameters):
        """What the browser returns."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _LIMIT_S
        while True:
            heard = self._hear(deadline)
            if heard.get("id") == number:
                assert "error" not in heard, (method, heard["error"])
                return heard["result"]
            self.told.append(heard)

    def _hear(self, deadline):
        while b"\0" not in self._heard:
            left = deadline - time.monotonic()
            ready = select.select([self._in], [], [], max(0, left))[0]
            assert ready, f"the browser has not answered in {_LIMIT_S} s"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser has ended"
            self._heard += piece
        message, _, self._heard = self._heard.partition(b"\0")
        return json.loads(message)

    def open(self, url):
        """Go there."""
        self.told.clear()
        assert "errorText" not in self.call("Page.navigate", url=url)
        there = f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        self.eventually(there)

    def run(self, script):
        """The value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def eventually(self, script, limit_s=30.0):
        """Its first true value."""
        deadline = time.monotonic() + limit_s
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not in {limit_s} s: {script}"
            time.sleep(0.05)
        return value

    def text(self, selector):
        """What a person reads there."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def press(self, key, code=0, text=""):
        """Press a key, and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code},
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def type(self, text):
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width, height):
        """The size of the window's content."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def prefer(self, **features):
        """prefer(color_scheme="dark"): what a person has set."""
        given = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=given)

    def picture(self, path, whole=True):
        """A PNG of the page, all of it or what is in the window."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def complaints(self):
        """Errors of scripts and refusals by the page's policy, as the browser told them."""
        self.run("0")
        return [
            event["params"]
            for event in self.told
            if event.get("method") == "Runtime.exceptionThrown"
            or (
                event.get("method") == "Log.entryAdded"
                and event["params"]["entry"]["level"] == "error"
                and event["params"]["entry"]["source"] != "network"
            )
        ]
