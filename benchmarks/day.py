"""A day of operation in minutes: a fault every minute, a swap every ten, nothing missed.

`python benchmarks/day.py` runs gate, hot swap and control loop for 24 simulated hours at 20 Hz,
around an arm that follows and a policy that moves it about (`benchmarks/hostile.py`, with nothing
odd in between). Every minute one fault of the catalogue is put in. The arm has to stop within the
fault's own bound, stay stopped until a person comes (five seconds later) or the cause is gone, and
work again after that. Every ten minutes the other one of two real checkpoints is loaded beside and
taken over between two chunks. It prints a line an hour, and at the end the times to standstill.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hostile import MS, PERIOD, SECOND, Cell, RuleBroken

from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap
from safedojo_ros.core.types import ActionChunk
from safedojo_ros.robot.playback.control_loop import GUARDED

MINUTE = 60 * SECOND
LASTS = 3 * SECOND
"""How long a fault stays."""
PERSON_AFTER = 5 * SECOND
BACK_WITHIN = 3 * SECOND
"""From a person's help, or the end of the cause, to the next action."""
CHUNK = 0.85
"""Seconds that a whole chunk lasts, and a period: no fault stops it sooner if chunks cease."""
MEMORY = 1.1
"""Resident memory after the last hour may be so much of that after the second."""


@dataclass(frozen=True)
class Fault:
    """begin: puts it in and returns what ends it; within: s to standstill; person: who resumes."""

    name: str
    begin: Callable[["Day"], Callable[[], None] | None]
    within: float
    person: bool


class Day(Cell):
    """A cell without oddities, in which the day's faults are put."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, oddities=0)
        self.pressed = True
        self.age = 40 * MS
        self.proposal: np.ndarray | None = None
        self.ask: Callable[[Any], Any] | None = None
        self.checkpoint = ""
        self.chunks = 0

    def honest_enable(self) -> None:
        self.enable(self.pressed, self.now)

    def honest_measured(self) -> None:
        self.measured(self.state.copy(), self.now)

    def honest_chunk(self) -> None:
        self.sequence += 1
        self.chunks += 1
        actions = np.zeros((16, 7))
        actions[:, :3] = np.clip(np.array([0.05, 0.0, 0.2]) - self.state[:3], -0.01, 0.01)
        actions[:, :3] += self.numbers.uniform(-0.02, 0.02, 3)
        if self.proposal is not None:
            actions = self.proposal
        chunk = ActionChunk(
            actions,
            observed_at=self.now - self.age,
            sequence=self.sequence,
            checkpoint=self.checkpoint,
        )
        self.judged(chunk, self.ask or (lambda chunks: np.full(chunks.shape[:2], 0.01)))

    # ---------------------------------------------------------------- faults

    def mute(self, *jobs: str) -> None:
        for job in jobs:
            self.muted[getattr(self, job)] = self.now + LASTS

    def set(self, **values: Any) -> Callable[[], None]:
        before = {name: getattr(self, name) for name in values}
        for name, value in values.items():
            setattr(self, name, value)

        def end() -> None:
            for name, value in before.items():
                setattr(self, name, value)

        return end

    def publishers(self, topic: str, count: int, came: int) -> None:
        self.loop.matched(topic, 1, 1, "mine", self.now)
        self.person.lost(topic)
        self.loop.matched(topic, count, came, "somebody", self.now)
        self.loop.matched(topic, 1, 0, "mine", self.now)

    def back(self, seconds: float) -> None:
        self.now -= round(seconds * SECOND)
        self.person.lost("clock")


def silent_gate(day: Day) -> None:
    day.mute("honest_state", "honest_chunk")


def jumped(day: Day) -> None:
    state = day.state.copy()
    state[0] += 0.34
    day.advance(MS)
    day.measured(state, day.now)


def frozen(day: Day) -> None:
    """The same measured state again and again."""
    state, stamp, until = day.state.copy(), day.now, day.now + LASTS
    day.mute("honest_measured")
    day.muted[day.honest_measured] = until
    day.measured(state, stamp)


def restarted(day: Day) -> None:
    day.sequence = 0


def stopped_gate(day: Day) -> None:
    day.sequence += 1
    chunk = ActionChunk(np.zeros((16, 7)), observed_at=day.now - MS, sequence=day.sequence)
    day.judged(chunk, lambda chunks: np.full(chunks.shape[:2], 0.99))


def contact(chunks: np.ndarray) -> np.ndarray:
    return np.full(chunks.shape[:2], 0.7)


def spoofed(day: Day) -> Callable[[], None]:
    end = day.set(ask=contact)
    day.honest_chunk()
    day.chunk(ActionChunk(np.full((8, 7), 0.04), observed_at=day.now, sequence=day.sequence))
    return end


def second(topic: str) -> Callable[[Day], None]:
    return lambda day: day.publishers(topic, count=2, came=1)


def nobody(topic: str) -> Callable[[Day], None]:
    return lambda day: day.publishers(topic, count=0, came=0)


def guard(day: Day) -> Callable[[], None]:
    day.loop.guard("watchdog", "lets go", day.now)
    day.person.lost("guard")
    return lambda: day.loop.guard("watchdog", "", day.now)


def failing(chunks: np.ndarray) -> np.ndarray:
    raise RuntimeError("out of memory")


NAN = np.full((16, 7), np.nan)
WIDE = np.full((16, 7), 0.06)
FAULTS = (
    Fault("the switch is released", lambda day: day.set(pressed=False), 0.05, True),
    Fault("the switch's heartbeat ceases", lambda day: day.mute("honest_enable"), 0.35, True),
    Fault("the gate falls silent", silent_gate, 0.35, True),
    Fault("the arm's state falls silent", lambda day: day.mute("honest_measured"), 0.25, True),
    Fault("the arm's state is repeated", frozen, 0.25, True),
    Fault("the measured pose jumps", jumped, 0.05, True),
    Fault("the gate says STOP", stopped_gate, 0.05, True),
    Fault("the policy starts again", restarted, CHUNK, True),
    Fault("the clock goes back by a second", lambda day: day.back(1.0), 0.05, True),
    Fault("the clock goes back by a minute", lambda day: day.back(60.0), 0.05, True),
    Fault("the loop stalls for a second", lambda day: day.advance(SECOND), 0.05, True),
    Fault("the robot reports a fault", lambda day: day.loop.fault(day.now, "reflex"), 0.05, True),
    Fault("the watchdog lets go", guard, 0.05, True),
    *(Fault(f"two publishers of {topic}", second(topic), 0.05, True) for topic in GUARDED),
    *(Fault(f"no publisher of {topic}", nobody(topic), 0.05, True) for topic in GUARDED),
    Fault("the policy falls silent", lambda day: day.mute("honest_chunk"), CHUNK, False),
    Fault("chunks are not finite", lambda day: day.set(proposal=NAN), CHUNK, False),
    Fault("chunks are beyond the limits", lambda day: day.set(proposal=WIDE), CHUNK, False),
    Fault("chunks are a second old", lambda day: day.set(age=SECOND), CHUNK, False),
    Fault("the safety head fails", lambda day: day.set(ask=failing), CHUNK, False),
    Fault("the safety head predicts contact",
          lambda day: day.set(ask=contact), CHUNK, False),
    Fault("a chunk is spoofed while the gate holds", spoofed, 0.05, False),
)  # fmt: skip


# ---------------------------------------------------------------- the day


def ran(day: Day) -> bool:
    """One period; whether the arm executed an action in it."""
    before = day.counts["executed"]
    day.period()
    return day.counts["executed"] > before


def put_in(day: Day, fault: Fault) -> float:
    """The fault from its beginning to the arm working again; s to standstill.

    Raises `RuleBroken` where the arm moved too long, resumed by itself, or did not come back.
    """
    if not any(ran(day) for _ in range(BACK_WITHIN // PERIOD)):
        day.broken(f"it does not work before '{fault.name}'")
    end, periods = fault.begin(day), 0
    last = 0
    for periods in range(1, PERSON_AFTER // PERIOD + 1):
        if periods == LASTS // PERIOD and end is not None:
            end()
        moved = ran(day)
        if moved and (fault.person or periods < LASTS // PERIOD):
            last = periods
    standstill = last * PERIOD / SECOND
    if standstill > fault.within:
        day.broken(f"'{fault.name}': it executed for {standstill:.2f} s")
    if fault.person:
        day.help()
    if not any(ran(day) for _ in range(BACK_WITHIN // PERIOD)):
        day.broken(f"it does not work again after '{fault.name}'")
    return standstill


def swapper(device: str = "cpu") -> HotSwap[Any]:
    """A hot swap of the policies that ship, as the policy node has it."""
    from safedojo_ros.models.loading import load_policy

    return HotSwap(load_policy, partial(find_checkpoint, "policy"))


def megabytes() -> float:
    """Resident now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> int:
    """Run the day."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun, day = time.monotonic(), Day(options.seed)
    swap, names = swapper(), ("base", "safe")
    swap.start_with(names[0])
    assert swap.current is not None
    day.checkpoint = swap.current.id
    for _ in range(10):
        day.period()
    day.help()
    order = [day.random.choice(FAULTS) for _ in range(options.hours * 60)]
    standstill: dict[str, list[float]] = {}
    swaps = ticks = 0
    memory: list[float] = []
    for minute, fault in enumerate(order):
        periods = day.counts["tick"] + MINUTE // PERIOD
        for _ in range(day.random.randrange(16)):  # anywhere in a chunk
            day.period()
        standstill.setdefault(fault.name, []).append(put_in(day, fault))
        if minute % 10 == 5:
            swap.request(names[(minute // 10 + 1) % 2])
            while swap.status == "loading":
                day.period()
        while day.counts["tick"] < periods:
            day.period()
            if swap.take_ready() is not None and swap.current is not None:
                day.checkpoint, swaps = swap.current.id, swaps + 1
            if not day.person.armed:
                day.broken("it was disarmed with no fault put in")
        if minute % 60 == 59:
            memory.append(megabytes())
            ticks = day.counts["tick"]
            print(
                f"hour {minute // 60 + 1}: {ticks:,} ticks, {day.counts['executed']:,} actions, "
                f"{swaps} swaps, {memory[-1]:.0f} MB",
                flush=True,
            )
    print(f"{'fault':48}{'times':>6}{'to standstill, median':>24}{'longest':>9}")
    for name, seconds in sorted(standstill.items()):
        print(f"{name:48}{len(seconds):6}{np.median(seconds):22.2f} s{max(seconds):7.2f} s")
    flat = len(memory) < 3 or memory[-1] <= MEMORY * memory[1]
    print(
        f"{options.hours} hours: {len(order)} faults, none missed, nothing resumed by itself; "
        f"{swaps} swaps; memory {'flat' if flat else 'GROWS'}; "
        f"{(time.monotonic() - begun) / 60:.1f} minutes"
    )
    return 0 if flat else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuleBroken as broken:
        sys.exit(str(broken))
