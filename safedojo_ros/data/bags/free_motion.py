"""Contact by the external wrench: where it leaves what it is in motion without contact.

An arm reports forces where it touches nothing, too: by payload, friction, acceleration, and by the
task itself. So what counts is measured, from a recording of the task without any contact that is
to be avoided, and the limits lie a little beyond all of it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.bags.reader import BagReader
from safedojo_ros.data.bags.takes import WRENCH_KIND, wrench_of

MARGIN = 0.25
"""Share of the way from the median to the farthest that a limit lies beyond it."""
LEAST_MARGIN = np.array([1.0] * 3 + [0.1] * 3)
"""N and Nm: that it lies beyond it at least, since a sensor is noisy and drifts."""
PARTS = 10
"""Pieces of a recording, each judged by the others."""
FEWEST = 100
"""Wrenches of free motion."""


@dataclass(frozen=True)
class FreeMotion:
    """low, high: (6,) of force (N) and torque (Nm), between which nothing is touched."""

    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(wrenches: np.ndarray) -> "FreeMotion":
        """From wrenches (N, 6) of motion without contact; raises `DatasetError` for too few.

        Each number has limits of its own, upwards and downwards: a gripper that is pressed onto
        the table says nothing about a push from the side.
        """
        return _beyond(_reach(wrenches), MARGIN)

    def contact(self, wrenches: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the wrenches (N, 6) have a number beyond its limits."""
        return np.asarray(((wrenches < self.low) | (wrenches > self.high)).any(axis=1))

    def __str__(self) -> str:
        parts = zip("xyz", self.low, self.high, strict=False)
        return "contact beyond " + ", ".join(f"{n} {a:.1f} to {b:.1f} N" for n, a, b in parts)


def false_alarms(wrenches: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(M,) share of the wrenches (N, 6) of free motion that would be contact, by each margin (M,).

    margins: see `MARGIN`. Each tenth of the recording is judged by the limits of the other nine,
    since none of it leaves its own. Raises `DatasetError` for too few.
    """
    parts = np.array_split(wrenches, PARTS)
    alarms = np.zeros(len(margins))
    for number, part in enumerate(parts):
        others = np.concatenate(parts[:number] + parts[number + 1 :])
        reach = _reach(others)
        for at, margin in enumerate(margins):
            alarms[at] += _beyond(reach, float(margin)).contact(part).sum()
    return alarms / max(1, len(wrenches))


def _reach(wrenches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, least and largest of each of the numbers (N, 6); raises `DatasetError`."""
    if len(wrenches) < FEWEST:
        raise DatasetError(
            f"{len(wrenches)} wrenches of free motion, expected at least {FEWEST}; record the "
            "task for a minute without contact"
        )
    return np.median(wrenches, axis=0), wrenches.min(axis=0), wrenches.max(axis=0)


def _beyond(reach: tuple[np.ndarray, np.ndarray, np.ndarray], margin: float) -> FreeMotion:
    """Limits that lie this share of its reach beyond it."""
    middle, low, high = reach
    return FreeMotion(
        low - np.maximum(margin * (middle - low), LEAST_MARGIN),
        high + np.maximum(margin * (high - middle), LEAST_MARGIN),
    )


def free_wrenches(bags: list[Path], topic: str) -> np.ndarray:
    """(N, 6) force (N) and torque (Nm) on `topic`, in any namespace."""
    found = []
    for bag in bags:
        reader = BagReader(bag)
        for message in reader.messages():
            if message.kind == WRENCH_KIND and f"/{message.topic}".endswith(f"/{topic}"):
                found.append(wrench_of(reader.decode(message)))
    return np.array(found).reshape(-1, 6)
