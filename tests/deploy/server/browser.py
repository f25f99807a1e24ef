"""Chromium without a window, driven over its pipe in the DevTools protocol."""

import json
import os
import shutil
import subprocess
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE = 20.0
"""Seconds until something must have happened on a page."""


def chromium() -> str | None:
    """Where Chromium or Chrome is installed; None where it is not."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page of a browser of its own.

    Args:
        profile: an empty folder.

    Attributes:
        complaints: what the page wrote to the console, and requests to other places than the page's own.
    """

    def __init__(self, profile: Path):
        path = chromium()
        assert path is not None
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        self._buffer = b""
        self._numbers = count(1)
        self._home = ""
        self.complaints: list[str] = []

        # the protocol's descriptors are 3 and 4
        words = [path, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        words += [f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)

        pages = self._ask("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, address: str) -> None:
        """Go to an address."""
        self._home = "/".join(address.split("/")[:3])
        self.call("Page.navigate", url=address)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol on the page."""
        return self._ask(method, session=self._session, **arguments)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_until(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"))
            time.sleep(0.02)

    def _ask(self, method: str, *, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")

        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._listen(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _listen(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told))
            case "Log.entryAdded" if told["entry"]["level"] in ("warning", "error"):
                self.complaints.append(json.dumps(told))
            case "Network.requestWillBeSent":
                address = told["request"]["url"]
                if not address.startswith((self._home, "data:", "blob:")):
                    self.complaints.append(f"a request to {address}")
