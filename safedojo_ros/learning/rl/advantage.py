"""Advantages of a group's trajectories from reward and cost, each standardised separately.

Standardising R − λC would make the effect of λ depend on the two spreads; standardising first and
combining afterwards does not. Symbols: R reward and C cost of a trajectory, μ_g and σ_g mean and
standard deviation in its group, Z = (· − μ_g) / σ_g, λ the multiplier.

paper       Z_r − λ·Z_c                                       SafeDojo, for reproduction
normalised  (Z_r − λ·(C − μ_g) / max(σ_g, σ_floor)) / (1 + λ)

Of several costs each has a λ of its own, and Σ λ·Z_c and 1 + Σ λ stand in these places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEAST_SPREAD = 1e-6
"""Floor of a standard deviation that is divided by."""

Mode = Literal["normalised", "paper"]


@dataclass(frozen=True)
class Groups:
    """Which trajectories share a start: index (B,) int, 0 to count − 1, no group empty."""

    index: np.ndarray

    @property
    def count(self) -> int:
        """How many groups."""
        return len(np.bincount(self.index))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(G,) mean of `values` (B,) in each group."""
        return np.bincount(self.index, values) / np.bincount(self.index)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(G,) standard deviation of `values` (B,) in each group."""
        return np.sqrt(self.mean(self.centred(values) ** 2))

    def centred(self, values: np.ndarray) -> np.ndarray:
        """(B,) `values` minus their group's mean."""
        return values - self.mean(values)[self.index]

    def standardised(self, values: np.ndarray, floor: float = LEAST_SPREAD) -> np.ndarray:
        """(B,) centred `values` over the larger of `floor` and the group's standard deviation."""
        return self.centred(values) / np.maximum(self.spread(values), floor)[self.index]

    def differing(self, values: np.ndarray, least_spread: float) -> np.ndarray:
        """(G,) bool: the group's members differ in `values` by more than `least_spread`."""
        return self.spread(values) > least_spread


def group_advantage(
    mode: Mode,
    groups: Groups,
    reward: np.ndarray,
    cost: np.ndarray,
    multiplier: float,
    cost_floor: float = LEAST_SPREAD,
    others: Sequence[tuple[np.ndarray, float]] = (),
) -> np.ndarray:
    """(B,) advantages of trajectories with `reward` and `cost` (B,), under λ = `multiplier`.

    cost_floor: σ_floor of `normalised`; others: cost (B,) and λ of each other cost.
    """
    floor = LEAST_SPREAD if mode == "paper" else cost_floor
    advantage, weight = groups.standardised(reward), 1.0
    for each, penalty in ((cost, multiplier), *others):
        advantage = advantage - penalty * groups.standardised(each, floor)
        weight += penalty
    return advantage if mode == "paper" else advantage / weight
