"""Real Chromium, driven over its own debugging protocol: what a user's browser makes of a page.

The protocol is JSON over a web socket, and aiohttp is installed wherever this project is: no
driver has to be fetched. Methods block; events are taken in while a command waits for its answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
START_S, ANSWER_S = 30.0, 30.0
KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    " ": ("Space", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
}
_SHIFT = 8


def executable() -> str | None:
    """The installed Chromium, if any."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, and loads that failed."""
        self.requested: list[str] = []
        """Everything that was asked of anybody, `data:` excepted."""
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, parameters, self._session)

    def on(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str([a.get("value") for a in parameters["args"]]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith("data:"):
                self.requested.append(url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 20.0) -> None:
        """Until a JavaScript expression holds."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"never held: {expression}; {self.complaints}"
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Go there, and wait until the page's script has drawn what it draws first."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && document.documentElement.dataset.ready")

    def open_still(self, url: str) -> None:
        """The same for a page without a script."""
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def key(self, key: str, shift: bool = False) -> None:
        """Press and release."""
        code, number, text = KEYS[key]
        common = {
            "key": key,
            "code": code,
            "windowsVirtualKeyCode": number,
            "modifiers": _SHIFT if shift else 0,
        }
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **typed, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def media(self, **features: str) -> None:
        """Emulate media features, such as `prefers_color_scheme="dark"`."""
        found = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=found)

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Of the whole page, or of what is seen of it."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def accessibility(self) -> list[dict[str, Any]]:
        """What a screen reader is given: nodes with `role`, `name` and further properties."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node.get("role", {}).get("value", ""),
                "name": node.get("name", {}).get("value", ""),
                **{p["name"]: p["value"].get("value") for p in node.get("properties", ())},
            }
            for node in nodes
            if not node["ignored"]
        ]

    def close(self) -> None:
        self.call("Page.close")


class Browser:
    """A running Chromium."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pages: dict[str, Page] = {}
        self._number = 0
        self._client, self._socket = self._loop.run_until_complete(self._connect(address))

    @staticmethod
    async def _connect(
        address: str,
    ) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
        client = aiohttp.ClientSession()
        return client, await client.ws_connect(address, max_msg_size=0)

    def page(self) -> Page:
        """A new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        session = attached["sessionId"]
        self._pages[session] = page = Page(self, session)
        return page

    def call(self, method: str, parameters: dict[str, Any], session: str = "") -> Any:
        answer = asyncio.wait_for(self._call(method, parameters, session), ANSWER_S)
        return self._loop.run_until_complete(answer)

    async def _call(self, method: str, parameters: dict[str, Any], session: str) -> Any:
        self._number += 1
        number = self._number
        sent = {"id": number, "method": method, "params": parameters}
        await self._socket.send_str(json.dumps({**sent, "sessionId": session} if session else sent))
        while True:
            message = json.loads(await self._socket.receive_str())
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            if (page := self._pages.get(message.get("sessionId", ""))) is not None:
                page.on(message["method"], message["params"])

    def close(self) -> None:
        self._loop.run_until_complete(self._socket.close())
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@contextmanager
def running(chromium: str) -> Iterator[Browser]:
    """Start it with a profile of its own; it ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            browser = Browser(_address(process, Path(profile) / "DevToolsActivePort"))
            try:
                yield browser
            finally:
                browser.close()
        finally:
            # The whole group: Debian's chromium is a script around the browser.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _address(process: subprocess.Popen[bytes], file: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if file.exists() and len(lines := file.read_text().split()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        assert process.poll() is None, f"chromium ended with {process.returncode}"
        time.sleep(0.05)
    raise AssertionError(f"chromium did not open its debugging port within {START_S} s")
