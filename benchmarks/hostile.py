"""Hostile sequences through gate and control loop, with every rule checked after every message.

`python benchmarks/hostile.py` delivers ten million messages and ticks: honest ones, and lost,
repeated, delayed, reordered, malformed, spoofed and misdated ones, through the real `SafetyGate`
and the real `ControlLoop`, in as many processes as there are cores. It ends with the first broken
rule, or prints how many messages of each kind were delivered and how often the arm moved.

The rules are kept here a second time, without the code under test: nothing is executed outside
ALLOW and SLOW, without the switch, with a guard silent, or before a person has armed the arm after
a fault that needs one; no target leaves the workspace or the lead; no step is longer than a step;
on the way to the targets no millisecond is beyond the limits of velocity, acceleration and jerk.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from velocity_client import Motion

from safedojo_ros.core.bounds import MAX_DELTA_POSITION
from safedojo_ros.core.types import CONTROL_PERIOD, ActionChunk, Decision
from safedojo_ros.robot.gate.gate import GateConfig, SafetyGate
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.arm_state import MAY_MOVE, ArmMode, ArmState
from safedojo_ros.robot.playback.control_loop import GUARDED, ControlLoop
from safedojo_ros.robot.playback.playback import ChunkPlayback
from safedojo_ros.robot.playback.reference import MotionLimits
from safedojo_ros.robot.playback.target import TargetPose

SECOND, MS = 10**9, 10**6
PERIOD = round(CONTROL_PERIOD * SECOND)
BOX = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))
LEAD = 0.06
DEADLINES = {"measured state": 0.2, "safety state": 0.3}
ENABLE_DEADLINE = 0.3
FASTEST = 3.0
"""m/s of an arm."""
LONGEST_GAP = round(0.25 * SECOND)
"""ns between two ticks of a loop that has not stalled."""
LONGEST_STEP = MAX_DELTA_POSITION * 3**0.5 + 1e-6
"""Metres of one action along the diagonal."""
MOTION = MotionLimits((0.425, 0.625), (2.7, 5.1), CONTROL_PERIOD)
"""Of the arm behind the targets: a quarter of its velocity, 0.3 of its acceleration."""
EVERY = 8
"""Control steps between two chunks of the honest policy."""
ODDITIES = (0.005, 0.02, 0.1, 0.4)
"""Share of the honest messages that something happens to; one of these for a cell's whole life."""


class RuleBroken(AssertionError):
    """A rule did not hold; the message says which, and after what."""


@dataclass
class Person:
    """What a person knows who watches the messages: may the arm move? Kept apart from the loop."""

    armed: bool = False
    pressed: bool = False
    pressed_at: int = -SECOND * 10
    measured_at: int = -SECOND * 10
    gate_at: int = -SECOND * 10
    decision: Decision = Decision.HOLD
    judged: int = 0
    needs: str = ""
    """Why a person is needed, "" while nobody is."""

    def lost(self, why: str) -> None:
        """Something happened after which nothing may resume by itself."""
        self.armed, self.needs = False, self.needs or why

    def silent(self, now: int) -> str:
        """Which guard is silent now, or ""."""
        for name, at, seconds in (
            ("enable", self.pressed_at, ENABLE_DEADLINE),
            ("measured", self.measured_at, DEADLINES["measured state"]),
            ("gate", self.gate_at, DEADLINES["safety state"]),
        ):
            if now - at > seconds * SECOND:
                return name
        return ""


@dataclass
class Cell:
    """Policy, gate, control loop and an arm that follows, on a clock that only this file moves."""

    seed: int
    oddities: float | None = None
    """Share of the messages that something happens to; None: drawn from `ODDITIES`. With 0 no
    person comes, either."""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        if self.oddities is None:
            self.oddities = self.random.choice(ODDITIES)
        self.numbers = np.random.default_rng(self.seed)
        self.now = 1000 * SECOND
        self.latest = self.now
        self.loop = ControlLoop(
            ChunkPlayback(), TargetPose(BOX, LEAD), ArmState(ENABLE_DEADLINE), DEADLINES
        )
        self.gate = SafetyGate(GateConfig(stop_cost=0.98))
        self.person = Person()
        self.state = np.array([0.0, 0.0, 0.2, np.pi, 0.0, 0.0, 0.04, 0.04])
        self.seen = self.state.copy()
        """The state that the loop was last given and took."""
        self.seen_stamp = self.now
        self.ticked_at: int | None = None
        self.observed: dict[int, int] = {}
        """{sequence: newest observation of a chunk that carried it}."""
        self.sequence = 0
        self.muted: dict[Callable[[], None], int] = {}
        """Until when an honest one says nothing."""
        self.kept: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        """Messages of before, to be repeated."""
        self.history: list[str] = []
        self.steps = 0
        self.moved_since_seen = 0.0
        self.motion: Motion | None = None

    @property
    def delivered(self) -> int:
        """Messages, ticks and attacks so far."""
        return sum(self.counts.values()) - self.counts["executed"]

    # ---------------------------------------------------------------- one control period

    def period(self) -> int:
        """Everybody's messages of one period, some of them spoilt; returns how many there were."""
        draw, before = self.random.random, self.delivered
        late = draw() < self.oddities / 2
        self.advance(round(PERIOD * draw() * 8) if late else PERIOD)
        jobs = [self.honest_enable, self.honest_measured, self.honest_state]
        if self.steps % EVERY == 0:
            jobs.append(self.honest_chunk)
        if draw() < self.oddities:
            self.random.shuffle(jobs)
        for job in jobs:
            if draw() < self.oddities or self.now < self.muted.get(job, 0):
                continue  # lost
            job()
            if draw() < self.oddities * 2:
                self.random.choice(ATTACKS)(self)
        self.tick()
        self.steps += 1
        if self.oddities and not self.person.armed and draw() < 0.2:
            self.help()
        return self.delivered - before

    def advance(self, nanoseconds: int) -> None:
        self.now += nanoseconds
        self.latest = max(self.latest, self.now)

    def note(self, what: str) -> None:
        self.counts[what] += 1
        self.history.append(what)
        del self.history[:-30]

    # ---------------------------------------------------------------- what the honest ones say

    def honest_enable(self) -> None:
        self.enable(True, self.now - self.random.randrange(5 * MS))

    def honest_measured(self) -> None:
        self.measured(self.state.copy(), self.now - self.random.randrange(5 * MS))

    def honest_state(self) -> None:
        self.gate_state(self.gate.decision, self.gate.last_sequence)

    def honest_chunk(self) -> None:
        self.sequence += 1
        actions = np.zeros((16, 7))
        actions[:, :3] = self.numbers.uniform(-0.02, 0.02, 3)
        actions[:, 3:6] = self.numbers.uniform(-0.05, 0.05, 3)
        actions[:, 6] = self.random.choice((-1.0, 1.0))
        observed = self.now - self.random.randrange(20 * MS, 150 * MS)
        self.judged(ActionChunk(actions, observed_at=observed, sequence=self.sequence))

    def judged(self, chunk: ActionChunk, ask: Callable[[Any], Any] | None = None) -> None:
        """A chunk through the gate, then state and chunk to the arm."""
        cost = self.random.random() ** 6
        honest: Callable[[Any], Any] = lambda chunks: np.full(chunks.shape[:2], cost)  # noqa: E731
        result = self.gate.decide((chunk,), ask or honest, 0.5, lambda: self.now)
        self.gate_state(result.decision, self.gate.last_sequence)
        if result.forwarded is not None:
            self.chunk(result.forwarded)

    # ---------------------------------------------------------------- deliveries

    def deliver(self, what: str, call: Callable[..., Any], *arguments: Any) -> None:
        self.note(what)
        if self.random.random() < 0.05:
            self.kept.append((call, arguments))
            del self.kept[:-64]
        call(*arguments)

    def enable(self, pressed: bool, sent_at: int) -> None:
        self.deliver("enable", self._enable, pressed, sent_at)

    def _enable(self, pressed: bool, sent_at: int) -> None:
        person = self.person
        person.pressed, person.pressed_at = pressed, sent_at
        if not pressed:
            person.lost("released")
        self.loop.enable(pressed, self.now, sent_at)

    def measured(self, state: np.ndarray, stamp: int) -> None:
        self.deliver("measured", self._measured, state, stamp)

    def _measured(self, state: np.ndarray, stamp: int) -> None:
        moved = float(np.linalg.norm(state[:3] - self.seen[:3])) if len(state) == 8 else 0.0
        possible = FASTEST * max(0, stamp - self.seen_stamp) / SECOND + 0.0201
        if not self.loop.measured(state, self.now, stamp):
            if moved > possible:
                self.person.lost("jump")
            self.seen_stamp = stamp
            self.person.measured_at = max(self.person.measured_at, min(stamp, self.now))
            self.moved_since_seen += moved
            self.seen = state
        elif self.loop.arm.mode == ArmMode.FAULT:
            self.person.lost("jump")

    def gate_state(self, decision: Decision, judged: int) -> None:
        self.deliver("state", self._state, decision, judged)

    def _state(self, decision: Decision, judged: int) -> None:
        person = self.person
        if judged < person.judged:
            person.lost("restarted")
        person.decision, person.judged, person.gate_at = decision, judged, self.now
        if decision == Decision.STOP:
            person.lost("STOP")
        self.loop.safety(decision, "as told", self.now, judged)

    def chunk(self, chunk: ActionChunk) -> None:
        self.deliver("chunk", self._chunk, chunk)

    def _chunk(self, chunk: ActionChunk) -> None:
        before = self.observed.get(chunk.sequence, 0)
        self.observed[chunk.sequence] = max(before, chunk.observed_at)
        self.loop.chunk(chunk, self.now)

    def help(self) -> None:
        """A person comes, recovers what is to be recovered and arms."""
        self.note("person")
        if self.gate.decision == Decision.STOP or not self.oddities:
            self.gate.recover()
            self.honest_state()
        if self.loop.arm.mode == ArmMode.FAULT:
            self.loop.arm.recover(self.now)
        if self.loop.arm.mode in MAY_MOVE:
            return
        if self.loop.arm_now(self.now).accepted:
            if not self.person.pressed or self.person.silent(self.now):
                self.broken(f"armed although {self.person.silent(self.now) or 'released'}")
            self.person.armed, self.person.needs = True, ""
            self.armed_at, self.ticked_at = self.now, None

    # ---------------------------------------------------------------- the tick and the rules

    def tick(self) -> None:
        self.note("tick")
        person, loop = self.person, self.loop
        silent = person.silent(self.now)
        if silent:
            person.lost(f"{silent} silent")
        if self.ticked_at is not None and self.now - self.ticked_at > LONGEST_GAP:
            person.lost("stalled")
        self.ticked_at = self.now
        before = loop.target.current
        old = None if before is None else before.position.copy()
        target = loop.tick(self.now)
        if loop.arm.mode in (ArmMode.DISARMED, ArmMode.FAULT):
            person.lost(loop.arm.reason)
        running = loop.arm.mode == ArmMode.RUNNING
        if self.motion is not None:
            fault = self.motion.period(target if running else None)
            if fault:
                self.broken(fault)
        if target is None:
            return
        if not (np.isfinite(target.position).all() and np.isfinite(target.quaternion).all()):
            self.broken(f"the target is {target}")
        if running:
            self.counts["executed"] += 1
            self._check_execution(target.position, old)
        elif old is not None and np.abs(target.position - old).max() > 1e-9:
            off = float(np.linalg.norm(target.position - self.seen[:3]))
            if off > 1e-6:
                self.broken(f"the target moved, to {off:.4f} m from the arm")
        gap = target.position - self.state[:3]
        self.state[:3] += gap * min(1.0, self.random.uniform(0.5, 1.0))
        self.state[3:6] = target.axis_angle
        self.moved_since_seen = 0.0

    def _check_execution(self, goal: np.ndarray, old: np.ndarray | None) -> None:
        person = self.person
        if not person.armed:
            self.broken(f"it executes although a person is needed: {person.needs}")
        if person.decision > Decision.SLOW:
            self.broken(f"it executes under {person.decision.name}")
        if not person.pressed:
            self.broken("it executes with the switch released")
        sequence = self.loop.playback.last_sequence
        if sequence > person.judged:
            self.broken("it executes what the gate has not judged")
        if self.observed[sequence] <= self.armed_at:
            self.broken("it executes what was observed before a person armed the arm")
        lead = float(np.linalg.norm(goal - self.seen[:3]))
        if lead > LEAD + 1e-6:
            self.broken(f"the target is {lead:.3f} m ahead of the arm")
        allowed = max(beyond(self.seen[:3]), 0.0 if old is None else beyond(old))
        if beyond(goal) > allowed + 1e-9:
            self.broken(f"the target is {beyond(goal):.3f} m outside the workspace")
        if old is not None:
            step = float(np.linalg.norm(goal - old))
            if step > LONGEST_STEP + self.moved_since_seen:
                self.broken(f"a step of {step:.3f} m")

    def broken(self, what: str) -> None:
        raise RuleBroken(
            f"seed {self.seed}, step {self.steps}, {what}; the arm is {self.loop.arm.mode}, "
            f"{self.loop.arm.reason or 'executing'}; the gate says {self.gate.reason or 'ALLOW'}; "
            f"after {', '.join(self.history)}"
        )


def beyond(position: np.ndarray) -> float:
    """Metres outside the workspace."""
    return float(np.linalg.norm(position - BOX.clamp(position)))


# ---------------------------------------------------------------- what the hostile ones do


def repeat(cell: Cell) -> None:
    """An old message, as it was."""
    if cell.kept:
        call, arguments = cell.random.choice(cell.kept)
        cell.note("repeated")
        call(*arguments)


def release(cell: Cell) -> None:
    cell.enable(False, cell.now)


def enable_from_elsewhen(cell: Cell) -> None:
    cell.enable(True, cell.now + cell.random.randrange(-5 * SECOND, 5 * SECOND))


def spoofed_allow(cell: Cell) -> None:
    """A state that nobody judged, or of another stream."""
    judged = cell.random.choice((0, 1, cell.sequence, cell.sequence + 1, 2**63))
    cell.gate_state(Decision.ALLOW, judged)


def stop(cell: Cell) -> None:
    cell.gate_state(cell.random.choice((Decision.HOLD, Decision.STOP)), cell.gate.last_sequence)


def wild_actions(cell: Cell) -> np.ndarray:
    """Anything that an array may hold."""
    draw = cell.random
    length = draw.choice((0, 1, 2, 16, 64, 2000))
    width = 7 if draw.random() < 0.9 else draw.choice((0, 6, 8))
    actions = cell.numbers.normal(0.0, 10.0 ** draw.uniform(-3, 3), (length, width))
    if actions.size and draw.random() < 0.5:
        actions.flat[draw.randrange(actions.size)] = draw.choice(
            (np.nan, np.inf, -np.inf, 1e308, -0.0, 0.06, 1.5)
        )
    return actions


def spoofed_chunk(cell: Cell) -> None:
    """Past the gate, straight to the arm."""
    draw = cell.random
    actions = np.full((8, 7), 0.04) if draw.random() < 0.5 else wild_actions(cell)
    cell.chunk(
        ActionChunk(
            actions,
            period=draw.choice((0.05, 0.05, 0.05, 0.0, -1.0, np.nan, 1e9)),
            observed_at=cell.now - draw.choice((10 * MS, 40 * MS, SECOND, -SECOND, cell.now)),
            sequence=draw.choice((0, 1, cell.sequence, cell.sequence + 1, 2**64 - 1)),
            checkpoint=draw.choice(("", "spoof")),
            frame=draw.choice(("base", "base", "base", "", "world")),
        )
    )


def wild_proposal(cell: Cell) -> None:
    """Nonsense of the policy, through the gate."""
    cell.sequence += cell.random.choice((0, 1, 5))
    observed = cell.now - cell.random.choice((0, 40 * MS, 2 * SECOND, -SECOND))
    cell.judged(ActionChunk(wild_actions(cell), observed_at=observed, sequence=cell.sequence))


def blind_head(cell: Cell) -> None:
    """A safety head that raises, or answers with what is no probability."""
    answer = cell.random.choice((np.nan, np.inf, -1.0, 2.0, None))

    def ask(chunks: np.ndarray) -> np.ndarray:
        if answer is None:
            raise RuntimeError("out of memory")
        return np.full(chunks.shape[:2], answer)

    cell.sequence += 1
    actions = np.full((16, 7), 0.01)
    cell.judged(ActionChunk(actions, observed_at=cell.now - 40 * MS, sequence=cell.sequence), ask)


def wild_pose(cell: Cell) -> None:
    state = cell.state.copy()
    which = cell.random.randrange(4)
    if which == 0:
        state[cell.random.randrange(8)] = cell.random.choice((np.nan, np.inf, -np.inf))
    elif which == 1:
        state[:3] += cell.numbers.normal(0.0, 0.3, 3)
    elif which == 2:
        state = state[: cell.random.randrange(8)]
    else:
        state[:3] += cell.numbers.normal(0.0, 0.003, 3)
    cell.measured(state, cell.now + cell.random.choice((0, 0, 0, -40 * MS, SECOND, -SECOND)))


def pushed_arm(cell: Cell) -> None:
    """Somebody leans against the arm."""
    cell.state[:3] += cell.numbers.uniform(-0.02, 0.02, 3)


def clock_back(cell: Cell) -> None:
    cell.note("clock back")
    cell.now -= round(10.0 ** cell.random.uniform(6, 11))
    cell.person.lost("clock")


def clock_ahead(cell: Cell) -> None:
    cell.note("clock ahead")
    cell.advance(round(10.0 ** cell.random.uniform(8, 12)))


def mute(cell: Cell) -> None:
    """One of them says nothing for a while."""
    cell.note("mute")
    jobs = (cell.honest_enable, cell.honest_measured, cell.honest_state)
    cell.muted[cell.random.choice(jobs)] = cell.now + cell.random.randrange(2 * SECOND)


def second_publisher(cell: Cell) -> None:
    cell.note("second publisher")
    topic = cell.random.choice(GUARDED)
    if cell.loop.arm.mode in MAY_MOVE:
        cell.person.lost(f"two on {topic}")
    cell.loop.matched(topic, 2, 1, "mine and another", cell.now)
    cell.loop.matched(topic, 1, 0, "mine", cell.now)


def lost_publisher(cell: Cell) -> None:
    cell.note("lost publisher")
    topic = cell.random.choice(GUARDED)
    cell.loop.matched(topic, 1, 1, "mine", cell.now)
    cell.person.lost(f"nobody on {topic}")
    cell.loop.matched(topic, 0, 0, "", cell.now)


def policy_again(cell: Cell) -> None:
    """The policy was killed and counts from one again."""
    cell.note("policy again")
    cell.sequence = 0


def guard(cell: Cell) -> None:
    cell.note("guard")
    cell.loop.guard("watchdog", "lets go", cell.now)
    cell.person.lost("guard")
    cell.loop.guard("watchdog", "", cell.now)


def service_stop(cell: Cell) -> None:
    cell.note("service stop")
    cell.loop.stop(cell.now)
    cell.person.lost("stopped")


def robot_fault(cell: Cell) -> None:
    cell.note("robot fault")
    cell.loop.fault(cell.now, "reflex")
    cell.person.lost("reflex")


RARE = (
    *(mute, mute, mute, clock_back, clock_ahead, second_publisher, lost_publisher, policy_again),
    *(guard, service_stop, robot_fault, release, stop),
)
OFTEN = (
    *(repeat, enable_from_elsewhen, spoofed_allow, spoofed_chunk, wild_proposal, blind_head),
    *(wild_pose, pushed_arm),
)
ATTACKS = (*RARE, *OFTEN * 6)


def campaign(seed: int, messages: int, tell: Callable[[int], None] = lambda done: None) -> Counter:
    """Cells of 20,000 messages each, until `messages` are delivered. Raises `RuleBroken`."""
    counts: Counter[str] = Counter()
    done = 0
    while done < messages:
        cell, own = Cell(seed + done), 0
        cell.motion = Motion(MOTION, cell.state)
        while own < 20_000 and done + own < messages:
            own += cell.period()
        done += own
        counts += cell.counts
        tell(done)
    return counts


def _work(task: tuple[int, int]) -> Counter:
    return campaign(*task)


def main() -> int:
    """Share the messages out over the cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    start, parts = time.monotonic(), 10 * options.workers
    each = -(-options.messages // parts)
    tasks = [(options.seed + part * 10**9, each) for part in range(parts)]
    counts: Counter[str] = Counter()
    with multiprocessing.Pool(options.workers) as pool:
        for number, found in enumerate(pool.imap_unordered(_work, tasks), 1):
            counts += found
            print(f"{number} of {parts} parts, {sum(counts.values()):,} messages", flush=True)
    executed = counts.pop("executed")
    for what, count in counts.most_common():
        print(f"{what:20}{count:12,}")
    minutes = (time.monotonic() - start) / 60
    print(
        f"{sum(counts.values()):,} messages and ticks, the arm executed at {executed:,} ticks; "
        f"no rule was broken; {minutes:.1f} minutes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
