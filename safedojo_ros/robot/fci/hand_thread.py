"""The Franka Hand, opened and closed by threads of its own, since its calls block."""

import contextlib
import os
import threading
import time
from typing import Any

import numpy as np

from safedojo_ros.core.errors import ConfigError

PERIOD = 0.02
PATIENCE = 2.0
"""s between two looks; s without a state after which the fingers are unknown."""

BAND = 0.2
"""The gripper's command, in [-1 open, +1 close], has to leave ±this to change what is done."""

DWELL = 0.4
"""Seconds between two changes, so that a command that flickers does not open and close."""

NOT_HOMED = 0.01
"""Metres; a hand that reports less as its largest width does not know where its fingers are."""

EMPTY = 0.001
"""Metres between closed fingers below which there is nothing between them."""

SLIPPED = 0.003
"""Metres by which fingers that held an object have closed further once it is gone."""

TOLERANCE = 0.005
"""Metres by which an object may differ from the width that it is expected to have."""

LAST_ANSWER = 1.0
"""Seconds that a motion under way may take to end when the connection is let go."""

_UNANSWERED: list[Any] = []
"""Grippers that owe an answer: to destroy one waits for it a minute, and all of Python with it."""


class TwoValued:
    """Open or closed, from commands in [-1 open, +1 close] and the time (s) of each."""

    def __init__(self) -> None:
        self.closed: bool | None = None
        self._changed = -np.inf

    def update(self, command: float, now: float) -> bool | None:
        """What is to be done now; None before the first command that says it clearly."""
        if abs(command) > BAND and now - self._changed >= DWELL and self.closed != (command > 0):
            self.closed, self._changed = command > 0, now
        return self.closed


class HandThread:
    """Opens to `open_width`, or closes with `force`, as was wished last; keeps the newest width.

    grasp_width: m, of what is grasped; 0: whatever is there. Raises `ConfigError` if the hand does
    not answer or was not homed.
    """

    def __init__(
        self, franky: Any, address: str, force: float, speed: float, width: float, grasp: float
    ) -> None:
        self._gripper = connected(franky, address)
        self._force, self._speed, self._grasp = force, speed, grasp
        self._widest = float(self._gripper.state.max_width)
        self._open_width = min(width, self._widest)
        self.fault = self.notice = ""
        self._command, self._resting = TwoValued(), True
        self._wish: bool | None = None
        self._held: float | None = None
        self._width, self._seen_at = 0.0, -np.inf
        self._look()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=serve, name=f"franka-hand-{number}", daemon=True)
            for number, serve in enumerate((self._watch, self._serve))
        ]
        for thread in self._threads:
            thread.start()

    def fingers(self) -> np.ndarray | None:
        """(2,) m, of each finger from the middle; None if nothing was heard for long."""
        if time.monotonic() - self._seen_at > PATIENCE:
            return None
        return np.full(2, self._width / 2)

    def grip(self, command: float) -> None:
        """Close with force or open, as `command` in [-1 open, +1 close] says."""
        wish = self._command.update(command, time.monotonic())
        if wish != self._wish or self._resting:
            self._wish, self._resting = wish, False
            self._wake.set()

    def rest(self) -> None:
        """Stop fingers that move; those that hold something go on holding it."""
        if not self._resting:
            self._resting = True
            self._wake.set()

    def recover(self) -> None:
        """Forget the fault; what was wished before it is not done."""
        self._wish, self._resting, self.fault = None, True, ""

    def close(self) -> None:
        """Stop fingers that move, and end the threads; the gripper keeps what it holds."""
        self._closing.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(5.0)

    # ---------------------------------------------------------------- the threads

    def _watch(self) -> None:
        while not self._closing.wait(PERIOD):
            try:
                self._look()
            except Exception as error:  # franky's exceptions have no common base
                self.fault = self.fault or f"the gripper: {error}"

    def _look(self) -> None:
        state = self._gripper.state
        self._width, self._seen_at = float(state.width), time.monotonic()
        if not state.max_width > NOT_HOMED:
            self.fault = self.fault or f"the gripper: {not_homed(state.max_width)}"
        held = self._held
        if held is not None and self._width < held - SLIPPED:
            self._held = None
            self.notice = (
                f"the object was lost: the closed fingers went from {held * 1e3:.0f} "
                f"to {self._width * 1e3:.0f} mm"
            )

    def _serve(self) -> None:
        # libfranka's waiting thread takes its lock again before a thread on another core has it:
        # 12 of 20 stops came 0.2 to 1.3 s late. On one core they take turns; its threads inherit it
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        doing: bool | None = None
        running: Any = None
        while not self._closing.is_set():
            self._wake.wait(PERIOD)
            self._wake.clear()
            try:
                if running is not None and running.wait(0.0):
                    self._ended(doing, running.get())
                    running = None
                wish, resting = self._wish, self._resting
                if running is not None and (resting or wish != doing):
                    self._gripper.stop()
                    doing = running = None
                if not resting and wish is not None and wish != doing:
                    self._held, self.notice = None, ""
                    doing, running = wish, self._begin(wish)
            except Exception as error:
                self.fault = self.fault or f"the gripper: {error}"
                doing = running = None
                self._wish, self._resting = None, True
        if running is not None and not running.wait(0.0):
            with contextlib.suppress(Exception):
                self._gripper.stop()
            if not running.wait(LAST_ANSWER):
                _UNANSWERED.append(self._gripper)

    def _begin(self, closed: bool) -> Any:
        if not closed:
            return self._gripper.move_async(self._open_width, self._speed)
        # around anything, and around nothing, unless a width is expected
        inner = outer = TOLERANCE if self._grasp else self._widest
        return self._gripper.grasp_async(self._grasp, self._speed, self._force, inner, outer)

    def _ended(self, closed: bool | None, success: bool) -> None:
        if closed and self._width > EMPTY:
            self._held = self._width
        if closed and self._grasp and not success:
            self.notice = (
                f"the gripper closed to {self._width * 1e3:.0f} mm, "
                f"expected an object of {self._grasp * 1e3:.0f} mm"
            )


def connected(franky: Any, address: str) -> Any:
    """The gripper at `address`; raises `ConfigError` if it does not answer or was not homed."""
    try:
        gripper = franky.Gripper(address)
        widest = float(gripper.state.max_width)
    except Exception as error:
        raise ConfigError(
            f"the robot at {address} has no gripper that answers ({error}); "
            "choose the Franka Hand as end effector in Desk"
        ) from error
    if not widest > NOT_HOMED:
        raise ConfigError(f"the gripper at {address} {not_homed(widest)}")
    return gripper


def not_homed(widest: float) -> str:
    """What a hand that was not homed says, and what to do."""
    return f"is not homed (it reports a largest width of {widest:g} m); home it in Desk"
