"""One control tick: from what was heard to the target that goes to the arm. No ROS in it."""

from collections.abc import Mapping

import numpy as np

from safedojo_ros.core.errors import ChunkRejected
from safedojo_ros.core.rotation import quaternion_of, turn_between
from safedojo_ros.core.types import STATE_SIZE, ActionChunk, Decision
from safedojo_ros.robot.playback.arm_state import ArmMode, ArmState, Reply
from safedojo_ros.robot.playback.playback import ChunkPlayback
from safedojo_ros.robot.playback.target import Target, TargetPose
from safedojo_ros.robot.watchdog import Watchdog

MEASUREMENT = "measured state"
SAFETY = "safety state"
DEADLINES: Mapping[str, float] = {MEASUREMENT: 0.2, SAFETY: 0.5}
"""Seconds that the measured pose and the gate's state may be silent before the arm holds."""

MOVED_POSITION = 0.01
MOVED_ROTATION = 0.1
"""Metres and radians off its target from which a held arm counts as moved by something else."""

OPEN_FINGER = 0.038
"""Metres of each finger (0.04 at most) beyond which the gripper counts as open."""


class ControlLoop:
    """What the Franka node does with its messages; the node only converts and publishes.

    Call `measured`, `safety`, `enable` and `chunk` as messages come, `tick` every control period.
    """

    def __init__(
        self,
        playback: ChunkPlayback,
        target: TargetPose,
        arm: ArmState,
        deadlines: Mapping[str, float] = DEADLINES,
    ) -> None:
        self.playback, self.target, self.arm = playback, target, arm
        self.watchdog = Watchdog(deadlines)
        self._state: np.ndarray | None = None
        self._decision = Decision.HOLD
        self._released = True

    def measured(self, state: np.ndarray, now_ns: int) -> str:
        """Take the arm's measured state (8,); returns "" or why it was ignored."""
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (STATE_SIZE,) or not np.all(np.isfinite(state)):
            return f"measured state is {state.tolist()}, expected {STATE_SIZE} finite numbers"
        self._state = state
        self.watchdog.feed(MEASUREMENT, now_ns)
        if self._released:
            if not self.arm.enable_fault(now_ns):
                self._released = False
                self._freeze(as_measured=True)
            elif self._moved_by_others():
                self._freeze(as_measured=True)
        return ""

    def safety(self, decision: Decision, reason: str, now_ns: int) -> None:
        """Take the gate's enforced decision: HOLD holds at once, STOP is a fault."""
        self._decision = decision
        self.watchdog.feed(SAFETY, now_ns)
        if decision == Decision.STOP:
            self.fault(now_ns, f"safety gate: STOP, {reason}")
        elif decision == Decision.HOLD:
            self._hold(now_ns, f"safety gate: {reason}")

    def enable(self, pressed: bool, now_ns: int) -> None:
        """One heartbeat of the enable switch.

        While it is released the hold begins anew all the time, and a target that the arm has left
        (the world was reset, a person moved it) is put on the measured pose again; so nothing that
        was planned or aimed at before the release is carried out after it.
        """
        self.arm.enable(now_ns, pressed)
        self._check_enable(now_ns)

    def chunk(self, chunk: ActionChunk, now_ns: int) -> str:
        """Take a gated chunk; returns "" or why it was rejected (the arm then holds)."""
        if not self._may_move(now_ns):
            return f"the arm is {self.arm.mode.value}: {self.arm.reason}"
        try:
            self.playback.accept(chunk, now_ns, blend=self._decision == Decision.ALLOW)
        except ChunkRejected as error:
            self._hold(now_ns, str(error))
            return str(error)
        return ""

    def tick(self, now_ns: int) -> Target | None:
        """The target to send in this control period; None: send nothing (not armed, or faulted
        before a pose was known). While holding, the target stays where it is.
        """
        late = self.watchdog.late(now_ns)
        if self._may_move(now_ns) and late:
            self._hold(now_ns, "; ".join(late))
        action = self.playback.tick(now_ns)
        if action is None or self._state is None:
            self.arm.hold(now_ns, self.playback.reason)
        elif self.arm.moving(now_ns):
            following = self.playback.following
            self.target.step(action, self._state[:3], self._state[3:6], following)
        return None if self.arm.mode == ArmMode.DISARMED else self.target.current

    def arm_now(self, now_ns: int) -> Reply:
        """Arm: the target is put on the measured pose, so arming never moves the arm."""
        late = self.watchdog.late(now_ns)
        if late and self.arm.mode == ArmMode.DISARMED:
            return Reply(False, "; ".join(late))
        before = self.arm.mode
        reply = self.arm.arm(now_ns)
        if reply.accepted and before == ArmMode.DISARMED:
            self._freeze(as_measured=True)
            self.playback.restart(now_ns, "armed; waiting for a chunk")
        return reply

    def stop(self, now_ns: int, reason: str = "stopped by request") -> Reply:
        """Hold and disarm."""
        self._hold(now_ns, reason)
        return self.arm.disarm(now_ns, reason)

    def fault(self, now_ns: int, reason: str) -> None:
        """Hold and latch a fault of the robot or its driver."""
        self._hold(now_ns, reason)
        self.arm.fault(now_ns, reason)

    def _may_move(self, now_ns: int) -> bool:
        self._check_enable(now_ns)
        if not self.arm.may_move(now_ns):
            self._hold(now_ns, self.arm.enable_fault(now_ns) or self.arm.reason)
        elif self._released:
            self._hold(now_ns, "waiting for a measured pose after the enable switch was pressed")
        else:
            return True
        return False

    def _check_enable(self, now_ns: int) -> None:
        fault = self.arm.enable_fault(now_ns)
        if fault:
            self._released = True
            self._hold(now_ns, fault, anew=True)

    def _hold(self, now_ns: int, reason: str, anew: bool = False) -> None:
        if self.playback.executing or self.arm.mode == ArmMode.RUNNING:
            self._freeze()
        self.playback.hold(now_ns, reason, anew)
        self.arm.hold(now_ns, reason)

    def _moved_by_others(self) -> bool:
        if self._state is None or self.target.current is None:
            return False
        current = self.target.current
        turn = turn_between(current.quaternion, quaternion_of(self._state[3:6]))
        return bool(
            np.linalg.norm(self._state[:3] - current.position) > MOVED_POSITION
            or np.linalg.norm(turn) > MOVED_ROTATION
        )

    def _freeze(self, as_measured: bool = False) -> None:
        """Put the target on the measured pose, so that the arm does not go on to an old target.

        The gripper keeps its command, or with `as_measured` what it is seen to do: open, or
        closed around something.
        """
        if self._state is None:
            return
        if self.target.current is None or as_measured:
            gripper = -1.0 if self._state[6:].mean() > OPEN_FINGER else 1.0
        else:
            gripper = self.target.current.gripper
        self.target.reset(self._state[:3], self._state[3:6], gripper)
