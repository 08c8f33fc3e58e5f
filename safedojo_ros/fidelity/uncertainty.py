"""Whether a world model knows when it is wrong: variance over noise seeds against error."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from safedojo_ros.evaluation.statistics import ClusterBootstrap


def uncertainty_figures(
    seeds: torch.Tensor,
    recorded: torch.Tensor,
    episode: np.ndarray,
    coverage: float = 0.9,
    seed: int = 0,
) -> dict[str, Any]:
    """Rank correlation of spread and error, and the coverage of a conformal bound.

    seeds: (S, B, C, h, w) latents imagined from the same start under S noises; recorded: (B, C, h,
    w); episode: (B,). Spread: standard deviation over the seeds; error: RMS distance of the first
    seed's frame from the recorded one. The bound on the error is q · spread, with q set on half of
    the episodes and its coverage measured on the others (split conformal prediction). Figures are
    left out where there are too few data.
    """
    spread = seeds.var(dim=0).flatten(1).mean(1).sqrt().numpy()
    error = (seeds[0] - recorded).square().flatten(1).mean(1).sqrt().numpy()
    result: dict[str, Any] = {"replays": len(error), "seeds": len(seeds)}

    def correlation(rows: np.ndarray) -> float:
        if len(np.unique(spread[rows])) < 2 or len(np.unique(error[rows])) < 2:
            return math.nan
        return float(spearmanr(spread[rows], error[rows]).statistic)

    estimate = ClusterBootstrap(episode, seed).estimate(correlation)
    if math.isfinite(estimate.value):
        result["spearman"] = asdict(estimate)
    names = np.unique(episode)
    tune = np.isin(episode, names[np.random.default_rng(seed).permutation(len(names))][::2])
    factor = conformal_factor(error[tune], spread[tune], coverage)
    if factor is not None and (~tune).any():
        held = error[~tune] <= factor * spread[~tune]
        interval = ClusterBootstrap(episode[~tune], seed).mean(held.astype(float))
        result |= {"factor": factor, "coverage": asdict(interval), "wanted_coverage": coverage}
    return result


def conformal_factor(error: np.ndarray, spread: np.ndarray, coverage: float) -> float | None:
    """The q of error <= q · spread that holds with probability `coverage` for one more case.

    None where there are too few cases for a finite one.
    """
    rank = math.ceil((len(error) + 1) * coverage)
    if rank > len(error):
        return None
    return float(np.sort(error / np.maximum(spread, 1e-9))[rank - 1])
