"""Chromium without a window, driven over the DevTools protocol through a pipe: what a user does, and what the browser says of it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

BINARY = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
SOON = 60.0
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
)  # fmt: skip
_START = """
import fcntl, os, sys
for number, given in ((3, sys.argv[1]), (4, sys.argv[2])):
    os.dup2(fcntl.fcntl(int(given), fcntl.F_DUPFD, 10 + number), number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts a program with the two ends of pipes where Chromium expects them."""
_KEYS = {"Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46}
_CONTROL = 2
_PLACE = """(selector, text) => {
  const found = [...document.querySelectorAll(selector)].find((one) => one.checkVisibility() && !one.disabled && one.textContent.includes(text));
  found?.scrollIntoView({ block: "center", behavior: "instant" });
  const place = found?.getBoundingClientRect();
  return place && [place.left, place.top, place.width, place.height];
}"""
_CHOOSE = """(select, value) => {
  if (![...select.options].some((one) => one.value === value)) return false;
  select.value = value;
  return select.dispatchEvent(new Event("change", { bubbles: true }));
}"""


class Chromium:
    """A browser with a profile of its own, gone with it."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        commands, self.input = os.pipe()
        self.output, answers = os.pipe()
        command = [sys.executable, "-c", _START, str(commands), str(answers), str(BINARY), *_FLAGS, f"--user-data-dir={self.profile}"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(commands, answers), stdout=quiet, stderr=quiet)
        os.close(commands)
        os.close(answers)
        self.number, self.rest, self.pages = 0, b"", {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(SOON)
        os.close(self.input)
        os.close(self.output)
        shutil.rmtree(self.profile, ignore_errors=True)

    def page(self) -> Page:
        """A page of someone who has never been here: nothing is shared with other pages."""
        context = self("Target.createBrowserContext")["browserContextId"]
        target = self("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        return Page(self, self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def __call__(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Sends a command; its answer. Events that come before it go to their pages."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.input, data) :]
        deadline = time.monotonic() + SOON
        while (answer := self._message(deadline)).get("id") != self.number:
            if answer.get("sessionId") in self.pages:
                self.pages[answer["sessionId"]].hear(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self.rest:
            if not select.select([self.output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self.output, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


class Page:
    """A page: scripts in it, keys and the mouse, and what went wrong."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session
        self.complaints: list[str] = []
        """What the console has as errors, with what no script caught."""
        self.requested: list[str] = []
        """Addresses of all that it asked for."""
        browser.pages[session] = self
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.do(f"{domain}.enable")
        self.do("Emulation.setFocusEmulationEnabled", enabled=True)
        self.do("Page.setInterceptFileChooserDialog", enabled=True)
        self.chooser = 0
        self.look(1280, 900, "light")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol."""
        return self.browser(method, self.session, **parameters)

    def hear(self, event: dict[str, Any]) -> None:
        """Takes an event of this page."""
        name, values = event["method"], event["params"]
        if name == "Runtime.exceptionThrown":
            self.complaints.append(values["exceptionDetails"].get("exception", {}).get("description") or values["exceptionDetails"]["text"])
        elif name == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.complaints.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
        elif name == "Network.requestWillBeSent":
            self.requested.append(values["request"]["url"])
        elif name == "Page.fileChooserOpened":
            self.chooser = values["backendNodeId"]

    def look(self, width: int, height: int, theme: str) -> None:
        """Sizes of the window in pixels, and what the system's theme is."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def open(self, address: str) -> None:
        """Goes to the page, and waits until it has everything."""
        self.do("Page.navigate", url=address)
        self.until("document.documentElement.dataset.ready === 'yes'")

    def script(self, code: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        answer = self.do("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", code))
        return answer["result"].get("value")

    def until(self, code: str, seconds: float = SOON) -> Any:
        """Waits for an expression to be true; its value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if value := self.script(f"Promise.resolve({code}).then((value) => (value instanceof Node ? true : value))"):
                    return value
            except RuntimeError:  # the page is being left
                pass
            time.sleep(0.03)
        raise TimeoutError(f"never true: {code}; on the page: {self.script('document.body.innerText')[:600]!r}; {self.complaints}")

    def click(self, selector: str, text: str = "") -> None:
        """Presses the mouse in the middle of the first visible element of that selector, and text, once there is one."""
        self.drag(selector, [(0.5, 0.5)], text)

    def drag(self, selector: str, places: list[tuple[float, float]], text: str = "") -> None:
        """Presses the mouse at the first place, moves to the others and lets go; places are shares of the element's width and height."""
        left, top, width, height = self.until(f"({_PLACE})({json.dumps(selector)}, {json.dumps(text)})")
        points = [(left + x * width, top + y * height) for x, y in places]
        for kind, (x, y) in [("mousePressed", points[0]), *(("mouseMoved", point) for point in points[1:]), ("mouseReleased", points[-1])]:
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Puts text into a field in place of what is there, as a paste does."""
        self.script(f"((one) => (one.focus(), one.select()))(document.querySelector({json.dumps(selector)}))")
        self.do("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Picks an option of a <select>."""
        self.until(f"({_CHOOSE})(document.querySelector({json.dumps(selector)}), {json.dumps(value)})")

    def key(self, name: str, *, control: bool = False) -> None:
        """Presses a key."""
        text = {"Enter": "\r", " ": " "}.get(name, "")
        shared = {"key": name, "windowsVirtualKeyCode": _KEYS[name], "modifiers": _CONTROL if control else 0}
        self.do("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.do("Input.dispatchKeyEvent", type="keyUp", **shared)

    def give_files(self, *files: Path) -> None:
        """Answers the file chooser that the page has opened."""
        deadline = time.monotonic() + SOON
        while not self.chooser:
            assert time.monotonic() < deadline, "no file chooser was opened"
            self.script("0")
        self.do("DOM.setFileInputFiles", files=[str(file) for file in files], backendNodeId=self.chooser)
        self.chooser = 0

    def screenshot(self, path: Path) -> None:
        """What one sees, as a PNG."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))
