"""The one thread that speaks to the robot, so that nobody else ever waits for it.

The client library may wait a second for a robot that says nothing. What is wished waits here for
the thread, what was read lies here for everyone.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, NamedTuple

from safedojo_ros.robot.playback.target import Target

POLL = 0.01
"""Seconds between two readings."""

SILENCE = 0.2
"""Seconds without news after which the robot counts as silent."""

STALE_WISH = 0.1
"""Seconds for which a target may wait for the thread; an older one is not gone to."""

REST_PATIENCE = 1.0
"""Seconds that the arm may take to come to rest when the connection is let go."""

RECOVERY_PATIENCE = 2.0
"""Seconds that the arm's state may take to show a recovery."""


class Wish(NamedTuple):
    """What the arm is to do: go to `target`, or rest if there is none; `at` is monotonic, s."""

    target: Target | None
    at: float


class RobotThread:
    """`wish` and `newest` return at once; `fault` says what has stopped the arm.

    go: sends a motion to a target; stop: sends the one that comes to rest. Only the thread calls
    them, and only the thread touches `robot`.
    """

    def __init__(
        self, robot: Any, modes: Any, go: Callable[[Target], None], stop: Callable[[], None]
    ) -> None:
        self._robot, self._modes, self._go, self._stop = robot, modes, go, stop
        self.fault = ""
        self.lost = False
        self._wish = Wish(None, -1.0)
        self._served = -1.0
        self._moving = False
        self._heard = time.monotonic()
        self._newest: tuple[Any, float] = (robot.state, self._heard)
        self._jobs: list[tuple[Future[str], Callable[[], str]]] = []
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="franka-arm", daemon=True)
        self._thread.start()

    def wish(self, target: Target | None) -> None:
        """Go there, or rest; the newest wish replaces those of before."""
        self._wish = Wish(target, time.monotonic())
        self._wake.set()

    @property
    def newest(self) -> tuple[Any, float] | None:
        """The newest state and when it was asked for, s of `time.monotonic`; None while the robot's
        time has not advanced for `SILENCE`."""
        silent = time.monotonic() - self._heard > SILENCE
        return None if self.lost or silent else self._newest

    def recover(self) -> str:
        """Clear the robot's errors; returns "" or why it could not. May take two seconds."""
        if self.lost:
            return f"{self.fault}; start the node again"
        answer: Future[str] = Future()
        self._jobs.append((answer, self._recover))
        self._wake.set()
        try:
            return answer.result(2 * RECOVERY_PATIENCE)
        except FutureTimeout:
            return "the robot does not answer; look in Desk"

    def close(self) -> None:
        """Stop the arm and let the connection go."""
        self._closing.set()
        self._wake.set()
        self._thread.join(5.0)

    # ---------------------------------------------------------------- the thread

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(POLL)
            self._wake.clear()
            while self._jobs:
                answer, job = self._jobs.pop(0)
                answer.set_result(job())
            self._obey()
            self._look()
        try:
            self._stop()  # brakes within our limits; the robot's own end of a motion is abrupt
            if not self._robot.join_motion(REST_PATIENCE):
                self._robot.stop()
                self._robot.join_motion(REST_PATIENCE)
        except Exception as error:  # franky's exceptions have no common base
            self.fault = self.fault or str(error)
        del self._robot

    def _obey(self) -> None:
        wish = self._wish
        if self.fault or wish.at == self._served:
            return
        self._served = wish.at
        try:
            if wish.target is not None and time.monotonic() - wish.at < STALE_WISH:
                self._go(wish.target)
                self._moving = True
            elif self._moving:
                self._moving = False
                self._stop()
        except Exception as error:
            self.fault = str(error)

    def _look(self) -> None:
        if self.lost:
            return
        try:
            self._robot.poll_motion()
        except Exception as error:
            self.fault = self.fault or str(error)
        asked = time.monotonic()
        try:
            state = self._robot.state
        except Exception as error:  # after a second of silence; asking again would take another
            self.lost, self.fault = True, f"the connection to the robot is lost: {error}"
            return
        if state.time.to_msec() != self._newest[0].time.to_msec():
            self._heard = time.monotonic()
            self._newest = state, asked
        if state.robot_mode in (self._modes.Reflex, self._modes.UserStopped):
            self.fault = self.fault or f"the robot is in the mode {state.robot_mode.name}"

    def _recover(self) -> str:
        try:
            if self._robot.state.robot_mode == self._modes.UserStopped:
                return "the user stop is pressed; release it first"
            # whether it helped is not what this returns: it may look at a state of before
            self._robot.recover_from_errors()
            until = time.monotonic() + RECOVERY_PATIENCE
            while self._robot.state.robot_mode != self._modes.Idle:
                if time.monotonic() > until:
                    mode = self._robot.state.robot_mode.name
                    return f"the robot could not recover by itself, it is {mode}; look in Desk"
                time.sleep(POLL)
        except Exception as error:
            return str(error)
        self._moving, self._served, self.fault = False, self._wish.at, ""
        return ""
