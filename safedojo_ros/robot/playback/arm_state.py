"""The arm's states: DISARMED → ARMED → RUNNING ⇄ HOLD, and FAULT, which never clears itself."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.gate.freshness import FUTURE_TOLERANCE


class ArmMode(StrEnum):
    """What the arm is allowed to do."""

    DISARMED = "DISARMED"
    """Nothing is sent. The state after start, after `disarm` and after `recover`."""
    ARMED = "ARMED"
    """Ready; the first action starts it."""
    RUNNING = "RUNNING"
    """Actions are executed."""
    HOLD = "HOLD"
    """Stands still and goes on by itself once the cause is gone."""
    FAULT = "FAULT"
    """Stands still until `recover`, then has to be armed again."""


MAY_MOVE = (ArmMode.ARMED, ArmMode.RUNNING, ArmMode.HOLD)
"""The modes that a person has brought about by arming."""

ARM_AGAIN = "call franka/arm to go on"
RECOVER = "call franka/recover, then franka/arm"


class Reply(NamedTuple):
    """Answer to a request: accepted or not, and a sentence."""

    accepted: bool
    reason: str


class ArmState:
    """Keeps the mode and the sentence that explains it. Every call takes the time in ns.

    What ends motion, and who lets it go on:

    - HOLD, goes on by itself, since every guard is there and speaks: the gate says HOLD; the chunk
      ran out; one chunk was rejected (malformed, stale, beyond a limit, not covered by the gate).
    - DISARMED, a person calls `franka/arm`, since a guard was lost or what it knew is void: the
      enable switch was released or its heartbeat lapsed; the gate's state, the measured state or
      the watchdog was silent; one of their publishers, or that of the chunks, went away or was
      replaced; the stream of chunks restarted; the clock went back; the control loop stalled; the
      arm left its workspace; the watchdog found a fault; `franka/stop`.
    - FAULT, a person calls `franka/recover` and then `franka/arm`, since something contradicts
      itself: the gate says STOP; two publishers on one of the topics that the arm obeys; the
      measured pose jumped; whatever the robot itself reports.

    Motion needs an `enable` heartbeat that says "pressed" and was sent no longer than
    `enable_deadline` ago. `rest` is called at once whenever RUNNING ends, whatever has ended it.
    """

    def __init__(
        self, enable_deadline: float = 0.3, rest: Callable[[], object] = lambda: None
    ) -> None:
        self.enable_deadline, self._rest = enable_deadline, rest
        check_ranges(self, enable_deadline="(0, inf)")
        self.mode = ArmMode.DISARMED
        self.reason = "not armed yet"
        self.since = 0
        self._enabled_at: int | None = None
        self._pressed = False

    def arm(self, now_ns: int) -> Reply:
        """DISARMED → ARMED; refused in FAULT and without an enable heartbeat."""
        if self.mode == ArmMode.FAULT:
            return Reply(False, f"in FAULT ({self.reason})")
        if self.mode != ArmMode.DISARMED:
            return Reply(True, f"already {self.mode.value}")
        missing = self.enable_fault(now_ns)
        if missing:
            return Reply(False, f"{missing}; hold the enable switch and arm again")
        self._go(ArmMode.ARMED, "armed; waiting for the first action", now_ns)
        return Reply(True, self.reason)

    def disarm(self, now_ns: int, reason: str = "stopped by request") -> Reply:
        """Any state but FAULT → DISARMED. The reason of the first disarming is kept."""
        if self.mode == ArmMode.FAULT:
            return Reply(True, f"in FAULT already ({self.reason})")
        if self.mode != ArmMode.DISARMED:
            self._go(ArmMode.DISARMED, f"{reason}; {ARM_AGAIN}", now_ns)
        return Reply(True, reason)

    def recover(self, now_ns: int) -> Reply:
        """FAULT → DISARMED, once a person has looked; arming stays a second, explicit step."""
        if self.mode != ArmMode.FAULT:
            return Reply(False, f"nothing to recover from, the arm is {self.mode.value}")
        cause = self.reason.removesuffix(f"; {RECOVER}")
        self._go(ArmMode.DISARMED, f"recovered from: {cause}; {ARM_AGAIN}", now_ns)
        return Reply(True, self.reason)

    def fault(self, now_ns: int, reason: str) -> None:
        """Any state → FAULT. The first fault's reason is kept."""
        if self.mode != ArmMode.FAULT:
            self._go(ArmMode.FAULT, f"{reason}; {RECOVER}", now_ns)

    def hold(self, now_ns: int, reason: str) -> None:
        """RUNNING or HOLD → HOLD with this reason; other states stay as they are."""
        if self.mode == ArmMode.RUNNING:
            self._go(ArmMode.HOLD, reason, now_ns)
        elif self.mode == ArmMode.HOLD:
            self.reason = reason

    def enable(self, now_ns: int, pressed: bool, sent_at_ns: int | None = None) -> None:
        """One heartbeat of the enable switch, sent at `sent_at_ns` (now); released disarms at once.

        A beat counts from when it was sent: one that waited in a queue is as old as it is.
        """
        self._enabled_at = now_ns if sent_at_ns is None else sent_at_ns
        self._pressed = bool(pressed)
        self.check(now_ns)

    def enable_fault(self, now_ns: int) -> str:
        """Why the enable heartbeat does not allow motion, or ""."""
        if self._enabled_at is None:
            return "no enable heartbeat has been heard"
        if not self._pressed:
            return "the enable switch is released"
        silence = (now_ns - self._enabled_at) / SECOND
        if silence < -FUTURE_TOLERANCE:
            return (
                f"the enable heartbeat was sent {-silence:.2f} s in the future; "
                "synchronise the clocks"
            )
        if silence > self.enable_deadline:
            return (
                f"the enable heartbeat is {silence:.2f} s old, "
                f"the deadline is {self.enable_deadline:g} s"
            )
        return ""

    def check(self, now_ns: int) -> None:
        """Apply the enable deadline."""
        missing = self.enable_fault(now_ns)
        if missing:
            self.disarm(now_ns, missing)

    def may_move(self, now_ns: int) -> bool:
        """Whether an action may be sent now."""
        self.check(now_ns)
        return self.mode in MAY_MOVE

    def moving(self, now_ns: int) -> bool:
        """An action is about to be sent: → RUNNING. False (and no change) if it may not be."""
        if not self.may_move(now_ns):
            return False
        if self.mode != ArmMode.RUNNING:
            self._go(ArmMode.RUNNING, "", now_ns)
        return True

    def _go(self, mode: ArmMode, reason: str, now_ns: int) -> None:
        before, self.mode, self.reason, self.since = self.mode, mode, reason, now_ns
        if before == ArmMode.RUNNING:
            self._rest()
