"""A headless browser for tests: Chromium through its debugging pipe, with nothing but the standard library."""

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
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0  # seconds
MOVED = """
import fcntl, os, sys
a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(a, 3)
os.dup2(b, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found() -> str | None:
    """The program: that of FASTRECON_BROWSER, or one on the path."""
    return os.environ.get("FASTRECON_BROWSER") or next((p for n in NAMES if (p := shutil.which(n))), None)


class Browser:
    """One page of a browser."""

    def __init__(self, width: int = 1100, height: int = 1000):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        down, up = os.pipe(), os.pipe()  # commands, answers; the browser has them as 3 and 4
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", f"--user-data-dir={self.folder.name}",
            f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        command = [sys.executable, "-c", MOVED, str(down[0]), str(up[1]), str(found()), *flags]
        self.process = subprocess.Popen(
            command, pass_fds=(down[0], up[1]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(down[0])
        os.close(up[1])
        self.down, self.up, self.rest, self.count = down[1], up[0], b"", 0
        self.errors: list[str] = []  # that scripts of the page did not catch, or that its policy forbade
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.tell(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.down)
        os.close(self.up)
        self.folder.cleanup()

    def call(self, method: str, session: str | None = None, **arguments: Any) -> Any:
        """The answer to a command of the debugging protocol."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": arguments}
        os.write(self.down, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            heard = self._next(end)
            if heard.get("id") == self.count:
                assert "error" not in heard, heard["error"]
                return heard["result"]
            self._noted(heard)

    def tell(self, method: str, **arguments: Any) -> Any:
        """The same to the page."""
        return self.call(method, self.session, **arguments)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready = select.select([self.up], [], [], max(0, end - time.monotonic()))[0]
            assert ready, "the browser does not answer"
            data = os.read(self.up, 2**20)
            assert data, "the browser has gone"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def _noted(self, heard: dict[str, Any]) -> None:
        told = heard.get("params", {})
        if heard.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:500])
        entry = told.get("entry", {})
        if heard.get("method") == "Log.entryAdded" and entry["level"] == "error" and entry["source"] != "network":
            self.errors.append(entry["text"])

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Its value once that is true."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, (script, self.run("document.body.innerText"))
            time.sleep(0.05)
        return value

    def open(self, address: str) -> None:
        """Goes to a page, and waits for it."""
        self.tell("Page.navigate", url=address)
        self.until(f"location.href.startsWith({address!r}) && document.readyState === 'complete'")

    def drop(self, selector: str, file: Path) -> None:
        """Drags a file of the disk over an element and lets it fall."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.tell("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def picture(self, file: Path) -> None:
        """Writes what is to be seen, the whole page, as PNG."""
        found = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))
