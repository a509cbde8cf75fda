"""A headless browser, by its own debugging protocol: addresses to pictures and texts.

Given an address; waits until the page shows what is asked for, and gives a PNG or the text that a reader sees.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
"""None: this machine has no browser."""
HANGS_S = 300.0
IS_BUSY = "!!document.querySelector('[data-testid=stStatusWidget], [data-testid=stSkeleton]')"


class Browser:
    """`with Browser(1400, 900) as browser: browser.open(url, until="runs"); browser.picture(path)`."""

    def __init__(self, width: int, height: int) -> None:
        assert PROGRAM is not None, "look at PROGRAM first"
        self._folder = tempfile.TemporaryDirectory(prefix="raylign-browser-", ignore_cleanup_errors=True)
        words = [
            PROGRAM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
        ]
        words += [f"--window-size={width},{height}", f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._numbers = itertools.count(1)
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(self._address(), max_size=None, open_timeout=HANGS_S))
        (target,) = [each for each in self._ask("Target.getTargets")["targetInfos"] if each["type"] == "page"][:1]
        attached = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def resize(self, width: int, height: int) -> None:
        """What a reader's window is large."""
        self._page("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, url: str, until: str) -> None:
        """Until the page shows this text and has stopped computing."""
        self._page("Page.navigate", url=url)
        self.wait(until)

    def wait(self, until: str) -> None:
        """The same without going anywhere."""
        began = time.monotonic()
        while until not in self.text() or self.value(IS_BUSY):
            assert time.monotonic() - began < HANGS_S, f"the page never says {until!r}; it says: {self.text()[:2000]}"
            time.sleep(0.2)
        time.sleep(1.0)  # canvases are drawn after the text is there

    def text(self) -> str:
        """What a reader sees."""
        return str(self.value("document.body ? document.body.innerText : ''"))

    def value(self, expression: str) -> Any:
        """Of JavaScript on the page."""
        found = self._page("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Of what is on the screen."""
        path.write_bytes(base64.b64decode(self._page("Page.captureScreenshot", format="png")["data"]))

    def _address(self) -> str:
        path = Path(self._folder.name) / "DevToolsActivePort"
        began = time.monotonic()
        while not path.is_file() or len(lines := path.read_text().split("\n")) < 2:
            assert self._process.poll() is None and time.monotonic() - began < HANGS_S, "the browser does not start"
            time.sleep(0.1)
        return f"ws://127.0.0.1:{lines[0]}{lines[1]}"

    def _page(self, method: str, **values: Any) -> dict[str, Any]:
        return self._ask(method, self._session, **values)

    def _ask(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values} | ({"sessionId": session} if session else {})
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=HANGS_S))
            if answer.get("id") == number:
                assert "result" in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()
