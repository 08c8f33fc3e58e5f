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
        if len(wrenches) < FEWEST:
            raise DatasetError(
                f"{len(wrenches)} wrenches of free motion, expected at least {FEWEST}; record the "
                "task for a minute without contact"
            )
        middle, low, high = np.median(wrenches, axis=0), wrenches.min(axis=0), wrenches.max(axis=0)
        return FreeMotion(
            low - np.maximum(MARGIN * (middle - low), LEAST_MARGIN),
            high + np.maximum(MARGIN * (high - middle), LEAST_MARGIN),
        )

    def contact(self, wrenches: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the wrenches (N, 6) have a number beyond its limits."""
        return np.asarray(((wrenches < self.low) | (wrenches > self.high)).any(axis=1))

    def __str__(self) -> str:
        parts = zip("xyz", self.low, self.high, strict=False)
        return "contact beyond " + ", ".join(f"{n} {a:.1f} to {b:.1f} N" for n, a, b in parts)


def free_motion(bags: list[Path], topic: str) -> FreeMotion:
    """From the wrenches on `topic`, in any namespace; raises `DatasetError` for too few."""
    found = []
    for bag in bags:
        reader = BagReader(bag)
        for message in reader.messages():
            if message.kind == WRENCH_KIND and f"/{message.topic}".endswith(f"/{topic}"):
                found.append(wrench_of(reader.decode(message)))
    return FreeMotion.of(np.array(found).reshape(-1, 6))
