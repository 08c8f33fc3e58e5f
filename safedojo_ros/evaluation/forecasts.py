"""Quality of forecasts of an event: ranking, calibration, and a threshold of the right rate."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from safedojo_ros.evaluation.statistics import ClusterBootstrap

CURVE_BINS, ERROR_BINS = 10, 15
"""Bins of the reliability curve and of the expected calibration error."""

RESAMPLES = 100
"""Fewer than usual, since ranking many thousand steps takes long."""


def forecast_quality(truth: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """AUROC and AP, where `truth` (N,) has both outcomes, Brier and ECE of `probability` (N,)."""
    return {n: float(metric(truth, probability)) for n, metric in _metrics(truth).items()}


def forecast_figures(
    truth: np.ndarray, probability: np.ndarray, episode: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """`forecast_quality` with intervals over episodes, and the reliability curve.

    truth (N,) bool, probability (N,), episode (N,).
    """
    result: dict[str, Any] = {"steps": len(truth), "contact_steps": int(truth.sum())}
    if len(truth) == 0:
        return result
    draws = ClusterBootstrap(episode, seed, resamples=RESAMPLES)
    for name in _metrics(truth):

        def statistic(rows: np.ndarray, name: str = name) -> float:
            metric = _metrics(truth[rows]).get(name)
            return math.nan if metric is None else float(metric(truth[rows], probability[rows]))

        result[name] = asdict(draws.estimate(statistic))
    result["reliability"] = reliability_curve(truth, probability)
    return result


def _metrics(truth: np.ndarray) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    """The metrics that can be measured on `truth`."""
    if not 0 < truth.sum() < len(truth):
        return {"brier": brier_score, "ece": expected_calibration_error}
    ranking = {"auroc": area_under_roc, "average_precision": average_precision_score}
    return ranking | {"brier": brier_score, "ece": expected_calibration_error}


def area_under_roc(truth: np.ndarray, score: np.ndarray) -> float:
    """P(a positive is ranked over a negative), ties counting half; `truth` needs both."""
    truth = np.asarray(truth, dtype=bool)
    positives = int(truth.sum())
    ranks = rankdata(score)[truth].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(truth) - positives)))


def brier_score(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean squared distance of forecast and outcome."""
    return float(np.square(truth - probability).mean())


def expected_calibration_error(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean gap between predicted and observed frequency over equally wide bins."""
    index, gap = _bins(probability, ERROR_BINS), 0.0
    for b in np.unique(index):
        here = index == b
        gap += float(here.mean() * abs(truth[here].mean() - probability[here].mean()))
    return gap


def reliability_curve(truth: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Mean forecast, observed frequency and count in each equally wide bin that is not empty."""
    index = _bins(probability, CURVE_BINS)
    return [
        {
            "forecast": float(probability[index == b].mean()),
            "observed": float(truth[index == b].mean()),
            "count": int((index == b).sum()),
        }
        for b in np.unique(index)
    ]


def _bins(probability: np.ndarray, count: int) -> np.ndarray:
    return np.minimum((probability * count).astype(int), count - 1)


def rate_threshold(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The threshold that as many of `predicted` (E,) exceed as `truth` (E,) bool has cases."""
    order = np.sort(predicted)[::-1]
    count = int(truth.sum())
    above = order[count - 1] if count else 1.0
    below = order[count] if count < len(order) else 0.0
    return float(np.clip((above + below) / 2, 0.01, 0.99))
