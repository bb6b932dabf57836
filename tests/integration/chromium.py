"""A browser that tests look through: headless Chromium, over its DevTools protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

LIMIT = 30.0
"""Seconds that anything may take."""


def found() -> str | None:
    """The program; ``None`` where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class PageHasGone(Exception):
    """The browser was on its way to another page when it was asked about this one."""


class Browser:
    """One page. A context manager.

    Args:
        folder: for its profile.
    """

    def __init__(self, folder: Path) -> None:
        program = found()
        assert program is not None
        self.problems: list[str] = []
        """Errors of the page and of its console."""
        self._log = folder / "chromium.log"
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program, "--headless=new", "--remote-debugging-port=0",
                    f"--user-data-dir={folder / 'profile'}",
                    "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
                    "--disable-background-networking", "--disable-breakpad", *as_root, "about:blank",
                ],
                stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._left = contextlib.ExitStack()
        self._left.callback(self._process.wait, LIMIT)
        # With all that it has started; its profile is thrown away.
        self._left.callback(os.killpg, self._process.pid, signal.SIGKILL)
        self._numbers = itertools.count(1)
        self._session = ""
        self._socket: ClientConnection

    def __enter__(self) -> Browser:
        with contextlib.ExitStack() as left:
            left.push(self._left)
            self._connect()
            left.pop_all()
        return self

    def _connect(self) -> None:
        deadline = time.monotonic() + LIMIT
        while (place := re.search(r"DevTools listening on (ws://\S+)", self._log.read_text())) is None:
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)
        wire = connect(place[1], max_size=None, open_timeout=LIMIT, ping_interval=None)
        self._socket = self._left.enter_context(wire)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol, and its result.

        Raises:
            PageHasGone: another page came before the answer.
        """
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(LIMIT))
            self._note(answer)
            if answer.get("id") == number:
                if answer.get("error", {}).get("message") == "Inspected target navigated or closed":
                    raise PageHasGone(method)
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str, seconds: float = LIMIT) -> None:
        """Wait until an expression on the page is true; while a page comes or goes it may have no value."""
        tried = f"(() => {{ try {{ return Boolean({script}); }} catch {{ return false; }} }})()"
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(PageHasGone):
                if self.run(tried):
                    return
            assert time.monotonic() < deadline, f"{script}\n{self.run('document.body.innerText')}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key of the keyboard."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        more = {"text": "\r"} if key == "Enter" else {}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], **more}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """From now on so large, and light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        is_dark = "matchMedia('(prefers-color-scheme: dark)').matches"
        # The page learns of it a moment later.
        self.until(f"innerWidth === {width} && {is_dark} === {str(dark).lower()}")

    def _note(self, answer: dict[str, Any]) -> None:
        told = answer.get("params", {})
        match answer.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning"):
                self.problems.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
