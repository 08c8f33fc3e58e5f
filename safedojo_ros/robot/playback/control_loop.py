"""One control tick: from what was heard to the target that goes to the arm. No ROS in it."""

from collections.abc import Mapping

import numpy as np

from safedojo_ros.core.errors import ChunkRejected
from safedojo_ros.core.rotation import quaternion_of, turn_between
from safedojo_ros.core.types import STATE_SIZE, ActionChunk, Decision
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.gate.freshness import FUTURE_TOLERANCE
from safedojo_ros.robot.limits import outside
from safedojo_ros.robot.playback.arm_state import MAY_MOVE, ArmMode, ArmState, Reply
from safedojo_ros.robot.playback.playback import ChunkPlayback
from safedojo_ros.robot.playback.target import Target, TargetPose
from safedojo_ros.robot.publishers import OnePublisher
from safedojo_ros.robot.watchdog import Watchdog

MEASUREMENT = "measured state"
SAFETY = "safety state"
WATCHDOG = "watchdog"
DEADLINES: Mapping[str, float] = {MEASUREMENT: 0.2, SAFETY: 0.5}
"""Seconds that the measured pose and the gate's state may be silent before the arm is disarmed."""

GUARDED = ("robot/enable", "safety/state", "safety/action_chunk")
"""Topics that the arm obeys: each has one publisher."""

MAX_SPEED, MAX_TURN_RATE = 3.0, 10.0
"""m/s (the FR3's own limit) and rad/s (its wrist joints together) that no arm exceeds: a measured
pose that is further from the last one is wrong."""

SLACK_POSITION, SLACK_TURN = 0.02, 0.1
"""m and rad that two measured poses may differ beyond that."""

OPEN_FINGER = 0.038
"""Metres of each finger (0.04 at most) beyond which the gripper counts as open."""


class ControlLoop:
    """What the Franka node does with its messages; the node only converts and publishes.

    Call `measured`, `safety`, `enable`, `chunk`, `matched`, `heard` and `guard` as messages and
    events come, `tick` every control period. What ends in which mode is written at `ArmState`.

    A chunk is executed only while the gate's newest decision is ALLOW or SLOW and its state covers
    the chunk: its `last_sequence` is not less. Two topics may be reordered on their way, so a chunk
    waits for its state, for one control period at most.
    """

    def __init__(
        self,
        playback: ChunkPlayback,
        target: TargetPose,
        arm: ArmState,
        deadlines: Mapping[str, float] = DEADLINES,
        realtime_factor: float = 1.0,
    ) -> None:
        self.playback, self.target, self.arm = playback, target, arm
        self.watchdog = Watchdog(deadlines)
        self.rejected, self.last_rejection = 0, ""
        self._max_speed = MAX_SPEED * realtime_factor
        self._max_turn_rate = MAX_TURN_RATE * realtime_factor
        self._publishers = {topic: OnePublisher(topic) for topic in GUARDED}
        self._names: dict[str, str] = {}
        self._guards: dict[str, str] = {}
        self._state: np.ndarray | None = None
        self._measured_at: int | None = None
        self._decision, self._judged = Decision.HOLD, 0
        self._waiting: tuple[ActionChunk, int] | None = None
        self._released = True
        self._pressed_at: int | None = None
        self._resting = True
        self._now: int | None = None

    # ---------------------------------------------------------------- what is heard

    def measured(self, state: np.ndarray, now_ns: int, stamp_ns: int | None = None) -> str:
        """Take the arm's measured state (8,), measured at `stamp_ns` (now); returns "" or why it
        was ignored: a state that is not newer than the last one says nothing new.
        """
        self._watch_clock(now_ns)
        stamp = now_ns if stamp_ns is None else stamp_ns
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (STATE_SIZE,) or not np.all(np.isfinite(state)):
            return f"measured state is {state.tolist()}, expected {STATE_SIZE} finite numbers"
        ahead = (stamp - now_ns) / SECOND
        if ahead > FUTURE_TOLERANCE:
            return f"measured state is from {ahead:.2f} s in the future; synchronise the clocks"
        if stamp_ns is not None and self._measured_at is not None and stamp <= self._measured_at:
            return "measured state is a repeated or an older one"
        jump = self._jump(state, stamp)
        self._measured_at = stamp
        if jump and self.arm.mode in MAY_MOVE:
            self.fault(now_ns, jump)
            return jump
        self.watchdog.feed(MEASUREMENT, min(stamp, now_ns))
        self._state = state
        pressed = self._pressed_at is not None and stamp >= self._pressed_at
        if self._released and pressed and not self.arm.enable_fault(now_ns):
            self._released = False
            self._freeze(as_measured=True)
        self._check_place(now_ns)
        return ""

    def safety(
        self,
        decision: Decision,
        reason: str,
        now_ns: int,
        last_sequence: int = 0,
        sent_at_ns: int | None = None,
    ) -> None:
        """Take the gate's enforced decision, sent at `sent_at_ns` (now), and the newest sequence
        that it has judged (0: none).

        HOLD holds at once, STOP is a fault. A sequence that went down is a restarted stream.
        """
        self._watch_clock(now_ns)
        before, self._judged = self._judged, last_sequence
        self._decision = decision
        self.watchdog.feed(SAFETY, now_ns if sent_at_ns is None else min(sent_at_ns, now_ns))
        if decision == Decision.STOP:
            self.fault(now_ns, f"safety gate: STOP, {reason}")
        elif last_sequence < before:
            self.disarm(
                now_ns,
                f"the gate's count of chunks went from {before} back to {last_sequence}: the "
                "policy or the gate was started again",
            )
        elif decision == Decision.HOLD:
            self._hold(now_ns, f"safety gate: {reason}")
        self._take_waiting(now_ns)

    def enable(self, pressed: bool, now_ns: int, sent_at_ns: int | None = None) -> None:
        """One heartbeat of the enable switch, sent at `sent_at_ns` (now).

        Nothing that was planned or aimed at before a release is carried out after it: the arm is
        disarmed, and cannot be armed before it has been measured after the press.
        """
        self._watch_clock(now_ns)
        self.arm.enable(now_ns, pressed, sent_at_ns)
        self._check_enable(now_ns)
        if pressed and self._pressed_at is None:
            self._pressed_at = now_ns if sent_at_ns is None else sent_at_ns

    def chunk(self, chunk: ActionChunk, now_ns: int) -> str:
        """Take a gated chunk, now or when the gate's state covers it.

        Returns "" or why it was rejected (the arm then holds). `rejected` and `last_rejection` also
        know of those that waited in vain.
        """
        self._watch_clock(now_ns)
        if not self._may_move(now_ns):
            return self._reject(f"the arm is {self.arm.mode.value}: {self.arm.reason}", now_ns)
        if chunk.sequence > self._judged:
            self._waiting = chunk, now_ns
            return ""
        return self._accept(chunk, now_ns)

    def matched(self, topic: str, count: int, came: int, names: str, now_ns: int) -> None:
        """The publishers of a guarded topic have changed: `count` of them, `came` new; `names` says
        which nodes they are."""
        self._names[topic] = names
        fault = self._publishers[topic].matched(count, came)
        if fault and count > 1:
            self._contradiction(f"{fault}: {names}; end all but one", now_ns)
        elif fault:
            self.disarm(now_ns, fault)

    def named(self, topic: str, names: str) -> None:
        """The graph knows the names of a topic's publishers now; it learns of them after these."""
        before, self._names[topic] = self._names.get(topic, ""), names
        if before:
            self.arm.reason = self.arm.reason.replace(before, names)

    def heard(self, topic: str, number: int | None, now_ns: int) -> None:
        """A message of a guarded topic came, the `number`-th of its publisher (None: unknown).

        Another publisher's first message may be that of a node that was killed and is back, so it
        is no fault; two that go on speaking in turns keep the arm from being armed.
        """
        fault = self._publishers[topic].heard(number, now_ns)
        if fault:
            self.disarm(now_ns, fault)

    def guard(self, name: str, fault: str, now_ns: int) -> None:
        """What another guard finds: a sentence disarms the arm and forbids arming, "" does not."""
        self._guards[name] = fault
        if fault:
            self.disarm(now_ns, f"{name}: {fault}")

    # ---------------------------------------------------------------- the control tick

    def tick(self, now_ns: int) -> Target | None:
        """The target to send in this control period; None: send nothing.

        Whatever takes the arm out of RUNNING puts the target on the measured pose, and this is sent
        once also when the arm was disarmed; from then on nothing is.
        """
        self._watch_clock(now_ns)
        late, stall = self.watchdog.late(now_ns), self.playback.stalled(now_ns)
        if stall or late:
            self.disarm(now_ns, stall or "; ".join(late))
        self._may_move(now_ns)
        self._drop_waiting(now_ns)
        action = self.playback.tick(now_ns)
        if action is None or self._state is None:
            self.arm.hold(now_ns, self.playback.reason)
        elif self.arm.moving(now_ns):
            following = self.playback.following
            self.target.step(action, self._state[:3], self._state[3:6], following)
        if self.arm.mode != ArmMode.RUNNING and self._left_behind():
            self._freeze()
        rested, self._resting = self._resting, self.arm.mode == ArmMode.DISARMED
        if self.arm.mode == ArmMode.FAULT and self.arm.enable_fault(now_ns):
            self._resting = True
        return None if rested and self._resting else self.target.current

    def arm_now(self, now_ns: int) -> Reply:
        """Arm: the target is put on the measured pose, so arming never moves the arm.

        Only a chunk that was observed and judged after that is executed.
        """
        self._watch_clock(now_ns)
        before = self.arm.mode
        if before == ArmMode.DISARMED:
            why_not = self._unfit(now_ns)
            if why_not:
                return Reply(False, why_not)
        reply = self.arm.arm(now_ns)
        if reply.accepted and before == ArmMode.DISARMED:
            self._freeze(as_measured=True)
            self.playback.restart(now_ns, "armed; waiting for a chunk", self._judged)
            self._waiting = None
        return reply

    def stop(self, now_ns: int, reason: str = "stopped by request") -> Reply:
        """Hold and disarm."""
        self._hold(now_ns, reason)
        return self.arm.disarm(now_ns, reason)

    def disarm(self, now_ns: int, reason: str) -> None:
        """Hold and disarm if the arm is armed: from now on a person is needed."""
        if self.arm.mode in MAY_MOVE:
            self.stop(now_ns, reason)

    def fault(self, now_ns: int, reason: str) -> None:
        """Hold and latch a fault of the robot or its driver."""
        if self.arm.mode == ArmMode.DISARMED:
            self._freeze(as_measured=True)
        self._hold(now_ns, reason)
        self.arm.fault(now_ns, reason)

    # ---------------------------------------------------------------- who may move it

    def enabled(self, now_ns: int) -> bool:
        """Whether the enable switch is held, and the arm was measured since it was pressed."""
        return not self._released and not self.arm.enable_fault(now_ns)

    def _may_move(self, now_ns: int) -> bool:
        self._check_enable(now_ns)
        return self.arm.may_move(now_ns)

    def _check_enable(self, now_ns: int) -> None:
        fault = self.arm.enable_fault(now_ns)
        if fault:
            self._released, self._pressed_at = True, None
            self._hold(now_ns, fault)
            self.arm.check(now_ns)

    def _unfit(self, now_ns: int) -> str:
        """Why the arm cannot be armed whatever the switch says, or ""."""
        reasons = [self.arm.enable_fault(now_ns), *self.watchdog.late(now_ns)]
        for topic, publishers in self._publishers.items():
            several = publishers.several(now_ns)
            reasons.append(several and f"{several}: {self._names[topic]}; end all but one")
        reasons += [f"{name}: {fault}" for name, fault in self._guards.items() if fault]
        if not any(reasons):
            if self._released:
                reasons.append("waiting for a measured pose after the enable switch was pressed")
            elif self._state is not None:
                reasons.append(
                    outside(self.target.workspace, self._state[:3], self.target.max_lead)
                )
        return "; ".join(reason for reason in reasons if reason)

    def _contradiction(self, reason: str, now_ns: int) -> None:
        if self.arm.mode in MAY_MOVE:
            self.fault(now_ns, reason)

    def _watch_clock(self, now_ns: int) -> None:
        last, self._now = self._now, now_ns
        if last is not None and now_ns < last:
            self._measured_at = self._pressed_at = None
            self.disarm(now_ns, f"the clock went back by {(last - now_ns) / SECOND:.3f} s")

    # ---------------------------------------------------------------- chunks

    def _accept(self, chunk: ActionChunk, now_ns: int) -> str:
        if self._decision > Decision.SLOW:
            return self._reject(
                f"chunk {chunk.sequence} came while the gate says {self._decision.name}", now_ns
            )
        try:
            self.playback.accept(chunk, now_ns, slow=self._decision == Decision.SLOW)
        except ChunkRejected as error:
            return self._reject(str(error), now_ns)
        return ""

    def _reject(self, reason: str, now_ns: int) -> str:
        self.rejected += 1
        self.last_rejection = reason
        self._hold(now_ns, reason)
        return reason

    def _take_waiting(self, now_ns: int) -> None:
        if self._waiting is None or self._waiting[0].sequence > self._judged:
            return
        chunk, self._waiting = self._waiting[0], None
        if self._may_move(now_ns):
            self._accept(chunk, now_ns)

    def _drop_waiting(self, now_ns: int) -> None:
        if self._waiting is None:
            return
        chunk, since = self._waiting
        if now_ns - since >= self.playback.config.freshness.period * SECOND:
            self._waiting = None
            self._reject(
                f"the gate has not judged chunk {chunk.sequence}; the last one that its state "
                f"names is {self._judged}",
                now_ns,
            )

    # ---------------------------------------------------------------- where it is

    def _hold(self, now_ns: int, reason: str) -> None:
        if self.playback.executing or self.arm.mode == ArmMode.RUNNING:
            self._freeze()
        self.playback.hold(now_ns, reason)
        self.arm.hold(now_ns, reason)

    def _jump(self, state: np.ndarray, stamp: int) -> str:
        """Why the arm cannot have moved from its last measured state to this one, or ""."""
        if self._state is None or self._measured_at is None:
            return ""
        seconds = max(0, stamp - self._measured_at) / SECOND
        moved = float(np.linalg.norm(state[:3] - self._state[:3]))
        turned = _angle(quaternion_of(self._state[3:6]), state[3:6])
        if (
            moved <= self._max_speed * seconds + SLACK_POSITION
            and turned <= self._max_turn_rate * seconds + SLACK_TURN
        ):
            return ""
        return (
            f"the measured pose jumped by {moved:.3f} m and {turned:.2f} rad in {seconds:.3f} s, "
            f"an arm moves {self._max_speed:g} m/s and {self._max_turn_rate:g} rad/s at most"
        )

    def _check_place(self, now_ns: int) -> None:
        if self._state is not None and self.arm.mode in MAY_MOVE:
            left = outside(self.target.workspace, self._state[:3], self.target.max_lead)
            if left:
                self.disarm(now_ns, left)

    def _left_behind(self) -> bool:
        """Whether the arm is further from its target than the lead: something else has moved it."""
        if self._state is None or self.target.current is None:
            return False
        current = self.target.current
        return bool(
            np.linalg.norm(self._state[:3] - current.position) > self.target.max_lead
            or _angle(current.quaternion, self._state[3:6]) > self.target.max_turn
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


def _angle(quaternion: np.ndarray, axis_angle: np.ndarray) -> float:
    """rad between a unit quaternion (4,) and an axis-angle (3,)."""
    return float(np.linalg.norm(turn_between(quaternion, quaternion_of(axis_angle))))
