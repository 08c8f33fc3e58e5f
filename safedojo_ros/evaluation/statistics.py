"""Intervals and paired tests for rates and means of episodes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
EDGES = (0.025, 0.975)
"""Quantiles that a 95 % interval ends at."""


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval [low, high]; nan where there are no episodes."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """A rate and its Wilson score interval; raises `ValueError` unless 0 <= successes <= n."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are not possible")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(rate, low, high)


def mcnemar_exact(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value that two methods succeed equally often on the same episodes.

    Only the pairs in which exactly one of the two succeeds count (binomial test at one half).
    """
    a, b = _paired(first, second)
    only_first = int(np.sum((a != 0) & (b == 0)))
    only_second = int(np.sum((a == 0) & (b != 0)))
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of `values` with its 95 % percentile bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return Estimate(math.nan, math.nan, math.nan)
    chosen = np.random.default_rng(seed).integers(0, array.size, (RESAMPLES, array.size))
    low, high = np.quantile(array[chosen].mean(axis=1), EDGES)
    return Estimate(float(array.mean()), float(low), float(high))


class ClusterBootstrap:
    """95 % intervals of any statistic of rows in clusters, such as frames in episodes.

    Whole clusters are resampled, since the rows of one are alike. clusters: (N,) the cluster of
    each row. All statistics have the same draws.
    """

    def __init__(self, clusters: np.ndarray, seed: int = 0, resamples: int = 200) -> None:
        _, index = np.unique(clusters, return_inverse=True)
        order = np.argsort(index, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(index))[:-1])
        rng = np.random.default_rng(seed)
        self.every = np.arange(len(index))
        self.draws = [
            np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
            for _ in range(resamples if len(index) else 0)
        ]

    def estimate(self, statistic: Callable[[np.ndarray], float]) -> Estimate:
        """`statistic` maps rows (indices) to a value; draws where it is nan are left out."""
        value = float(statistic(self.every)) if len(self.every) else math.nan
        values = np.array([statistic(rows) for rows in self.draws])
        values = values[np.isfinite(values)]
        if len(values) == 0:
            return Estimate(value, math.nan, math.nan)
        low, high = np.quantile(values, EDGES)
        return Estimate(value, float(low), float(high))

    def mean(self, values: np.ndarray) -> Estimate:
        """Mean of `values` (N,)."""
        return self.estimate(lambda rows: float(values[rows].mean()))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of first - second over the same episodes, resampled as pairs."""
    a, b = _paired(first, second)
    return bootstrap_mean((a - b).tolist())


def _paired(
    first: Sequence[float] | Sequence[bool], second: Sequence[float] | Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"{a.shape} and {b.shape} are not pairs of the same episodes")
    return a, b
