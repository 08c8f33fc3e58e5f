"""Advantages of a group's trajectories from reward and cost, each standardised apart.

Standardising R − λC would hide λ in the ratio of the two spreads; standardising apart and then
combining keeps its meaning. Symbols: R reward and C cost of a trajectory, μ_g and σ_g mean and
standard deviation in its group, λ the multiplier.

paper       Z_r − λ·Z_c                                       SafeDojo, for reproduction
normalised  (Z_r − λ·(C − μ_g) / max(σ_g, σ_floor)) / (1 + λ)
global      (R' / σ_R − λ·C' / σ_C) / (1 + λ)                  ' leave-one-out, σ running
switching   −Z_c while J_c > d + tolerance, else Z_r           CRPO
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

LEAST_SPREAD = 1e-6
Mode = Literal["paper", "normalised", "global", "switching"]
MODES: tuple[Mode, ...] = ("paper", "normalised", "global", "switching")


@dataclass(frozen=True)
class Groups:
    """Which trajectories began alike: index (B,) int, from 0 to count − 1, all groups present."""

    index: np.ndarray

    @property
    def count(self) -> int:
        """How many groups."""
        return int(self.index.max()) + 1

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(G,) mean of `values` (B,) in each group."""
        return np.bincount(self.index, values) / np.bincount(self.index)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """(G,) standard deviation of `values` (B,) in each group."""
        off = values - self.mean(values)[self.index]
        return np.sqrt(self.mean(off**2))

    def centred(self, values: np.ndarray) -> np.ndarray:
        """(B,) `values` minus their group's mean."""
        return values - self.mean(values)[self.index]

    def standardised(self, values: np.ndarray, floor: float = LEAST_SPREAD) -> np.ndarray:
        """(B,) centred `values` over the group's standard deviation, or `floor` if that is more."""
        return self.centred(values) / np.maximum(self.spread(values), floor)[self.index]

    def leave_one_out(self, values: np.ndarray) -> np.ndarray:
        """(B,) `values` minus the mean of the *others* in the group; 0 in a group of one."""
        size = np.bincount(self.index)[self.index]
        return self.centred(values) * size / np.maximum(size - 1, 1)

    def informative(
        self, reward: np.ndarray, cost: np.ndarray | None, least: tuple[float, float]
    ) -> np.ndarray:
        """(G,) bool: the group's members differ in reward or in cost (None: no constraint).

        least: the smallest standard deviations of reward and cost that count as a difference.
        Judged by reward alone, groups that all succeed but differ in safety would be lost.
        """
        kept = self.spread(reward) > least[0]
        return kept if cost is None else kept | (self.spread(cost) > least[1])


class RunningSpread(torch.nn.Module):
    """One running standard deviation inside groups for each signal, for the mode `global`."""

    def __init__(self, keep: float = 0.9) -> None:
        super().__init__()
        self.keep = keep
        self.variance: torch.Tensor
        self.register_buffer("variance", torch.full((2,), torch.nan, dtype=torch.float64))

    def update(self, groups: Groups, reward: np.ndarray, cost: np.ndarray) -> tuple[float, float]:
        """Fold in these groups; returns σ_R and σ_C, at least `LEAST_SPREAD`."""
        signals = (reward, cost)
        seen = torch.tensor([float(np.mean(groups.spread(v) ** 2)) for v in signals])
        fresh = torch.isnan(self.variance)
        mixed = self.keep * self.variance + (1.0 - self.keep) * seen
        self.variance.copy_(torch.where(fresh, seen.to(mixed), mixed))
        spread = self.variance.sqrt().clamp_min(LEAST_SPREAD)
        return float(spread[0]), float(spread[1])


def group_advantage(
    mode: Mode,
    groups: Groups,
    reward: np.ndarray,
    cost: np.ndarray,
    multiplier: float,
    *,
    cost_floor: float = LEAST_SPREAD,
    running: tuple[float, float] = (1.0, 1.0),
    over_limit: bool = False,
) -> np.ndarray:
    """(B,) advantages of trajectories with `reward` and `cost` (B,), under λ = `multiplier`.

    cost_floor: σ_floor; running: σ_R and σ_C of `global`; over_limit: J_c > d + tolerance, for
    `switching`.
    """
    if mode == "paper":
        return groups.standardised(reward) - multiplier * groups.standardised(cost)
    if mode == "normalised":
        for_cost = groups.standardised(cost, cost_floor)
        return (groups.standardised(reward) - multiplier * for_cost) / (1.0 + multiplier)
    if mode == "global":
        for_reward = groups.leave_one_out(reward) / running[0]
        for_cost = groups.leave_one_out(cost) / running[1]
        return (for_reward - multiplier * for_cost) / (1.0 + multiplier)
    return -groups.standardised(cost, cost_floor) if over_limit else groups.standardised(reward)
