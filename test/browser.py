"""A headless Chromium that a test looks through: one page, and pictures of it.

It is spoken to by Chrome's DevTools protocol through a pair of pipes, and ends when they do: also
when the test is killed.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

import cv2
import numpy as np

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",  # nothing but the page is asked for
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
    "--use-angle=swiftshader",  # there is no graphics card
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
)
PATIENCE = 120.0
"""Seconds that an answer may take: the first picture is drawn by a processor, maybe a busy one."""


def browser_program() -> str | None:
    """Chromium, under one of its names, where it is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """Shows the page at `address`, `size` (width, height) large; ends with the `with` block."""

    def __init__(self, address: str, size: tuple[int, int]) -> None:
        program = browser_program()
        assert program is not None
        self._folder = tempfile.TemporaryDirectory(prefix="browser_", ignore_cleanup_errors=True)
        theirs, self._questions = os.pipe()
        self._answers, also_theirs = os.pipe()
        words = [f"--window-size={size[0]},{size[1]}", f"--user-data-dir={self._folder.name}"]

        def before_exec() -> None:  # it reads from 3 and writes to 4
            above = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs, also_theirs)]
            for number, end in zip((3, 4), above, strict=True):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            [program, *FLAGS, *words, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            start_new_session=True,
            preexec_fn=before_exec,
        )
        os.close(theirs)
        os.close(also_theirs)
        self._number, self._heard, self._session = 0, b"", ""
        try:
            self._session = self.ask("Target.attachToTarget", targetId=self._page(), flatten=True)[
                "sessionId"
            ]
            self.ask(  # the window has a frame, which leaves the page less than its size
                "Emulation.setDeviceMetricsOverride",
                width=size[0],
                height=size[1],
                deviceScaleFactor=1,
                mobile=False,
            )
        except BaseException:
            self.close()
            raise

    def _page(self) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for target in self.ask("Target.getTargets").get("targetInfos", []):
                if target["type"] == "page":
                    return str(target["targetId"])
        raise AssertionError("the browser has no page")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One question of the DevTools protocol and its answer, {} where it has none yet."""
        self._number += 1
        question = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            question["sessionId"] = self._session
        os.write(self._questions, json.dumps(question).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                return dict(answer.get("result", {}))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._heard:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser has not answered within {PATIENCE:.0f} s"
            part = os.read(self._answers, 2**20)
            assert part, "the browser has ended"
            self._heard += part
        message, _, self._heard = self._heard.partition(b"\0")
        return dict(json.loads(message))

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB of what a person would see now."""
        end, taken = time.monotonic() + PATIENCE, dict[str, Any]()
        while "data" not in taken:  # a page that is just being opened has none
            assert time.monotonic() < end, f"no picture within {PATIENCE:.0f} s"
            taken = self.ask("Page.captureScreenshot", format="png")
        coded = base64.b64decode(taken["data"])
        image = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """End it and forget what it has kept."""
        os.close(self._questions)
        os.close(self._answers)
        try:
            self._process.wait(20.0)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its program may be a script around it
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
