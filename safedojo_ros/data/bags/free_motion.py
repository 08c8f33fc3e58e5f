"""Contact by the external wrench: where it leaves what it is in motion without contact.

An arm reports forces where it touches nothing, too: by payload, friction, acceleration, and by the
task itself. So what counts is measured, from a recording of the task without any contact that is
to be avoided, and a limit lies a little beyond all of it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.bags.reader import BagReader
from safedojo_ros.data.bags.takes import WRENCH_KIND, wrench_of

MARGIN = 1.25
"""The limit over the largest distance in free motion."""
LEAST_SPREAD = np.array([0.1] * 3 + [0.01] * 3)
"""N and Nm: a sensor's own noise, below which a spread is none."""
FEWEST = 100
"""Wrenches of free motion."""


@dataclass(frozen=True)
class FreeMotion:
    """mean, spread: (6,) of force (N) and torque (Nm); limit: largest distance without contact."""

    mean: np.ndarray
    spread: np.ndarray
    limit: float

    @staticmethod
    def of(wrenches: np.ndarray) -> "FreeMotion":
        """From wrenches (N, 6) of motion without contact; raises `DatasetError` for too few."""
        if len(wrenches) < FEWEST:
            raise DatasetError(
                f"{len(wrenches)} wrenches of free motion, expected at least {FEWEST}; record the "
                "task for a minute without contact"
            )
        mean = np.median(wrenches, axis=0)
        spread = np.maximum(wrenches.std(axis=0), LEAST_SPREAD)
        free = FreeMotion(mean, spread, 0.0)
        return FreeMotion(mean, spread, MARGIN * float(free.distance(wrenches).max()))

    def distance(self, wrenches: np.ndarray) -> np.ndarray:
        """(N,) of wrenches (N, 6): the largest of their six numbers, in spreads from the mean."""
        return np.asarray(np.abs((wrenches - self.mean) / self.spread).max(axis=1))

    def contact(self, wrenches: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the wrenches (N, 6) are beyond the limit."""
        return self.distance(wrenches) > self.limit

    def __str__(self) -> str:
        force = ", ".join(f"{value:.1f}" for value in self.limit * self.spread[:3])
        return f"contact from {force} N aside of {np.round(self.mean[:3], 1).tolist()} N on"


def free_motion(bags: list[Path], topic: str) -> FreeMotion:
    """From the wrenches on `topic`, in any namespace; raises `DatasetError` for too few."""
    found = []
    for bag in bags:
        reader = BagReader(bag)
        for message in reader.messages():
            if message.kind == WRENCH_KIND and f"/{message.topic}".endswith(f"/{topic}"):
                found.append(wrench_of(reader.decode(message)))
    return FreeMotion.of(np.array(found).reshape(-1, 6))
