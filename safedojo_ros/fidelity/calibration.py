"""How good forecasts of contact are: ranking, calibration, and how early an alarm comes."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.learning.safety_head import expected_calibration_error

BINS = 10
RESAMPLES = 100
"""Ranking many thousand steps takes a while; the interval is of whole episodes anyway."""


def forecast_figures(
    truth: np.ndarray, probability: np.ndarray, episode: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """AUROC, AP, Brier and ECE with intervals over episodes, and the reliability curve.

    truth (N,) bool, probability (N,), episode (N,). AUROC and AP only where both outcomes occur.
    """
    result: dict[str, Any] = {"steps": len(truth), "contact_steps": int(truth.sum())}
    if len(truth) == 0:
        return result
    draws = ClusterBootstrap(episode, seed, resamples=RESAMPLES)
    metrics = {"brier": brier_score, "ece": expected_calibration_error}
    if 0 < truth.sum() < len(truth):
        metrics |= {"auroc": area_under_roc, "average_precision": average_precision_score}
    for name, metric in metrics.items():

        def statistic(rows: np.ndarray, metric: Any = metric, name: str = name) -> float:
            if name in ("auroc", "average_precision") and not 0 < truth[rows].sum() < len(rows):
                return math.nan
            return float(metric(truth[rows], probability[rows]))

        result[name] = asdict(draws.estimate(statistic))
    result["reliability"] = reliability_curve(truth, probability)
    return result


def area_under_roc(truth: np.ndarray, probability: np.ndarray) -> float:
    """P(a positive is ranked over a negative), ties counting half; both must be there."""
    positives = int(truth.sum())
    ranks = rankdata(probability)[truth].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(truth) - positives)))


def brier_score(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean squared distance of forecast and outcome."""
    return float(np.square(truth - probability).mean())


def reliability_curve(truth: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Mean forecast, observed frequency and count in each equally wide bin that is not empty."""
    index = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "forecast": float(probability[index == b].mean()),
            "observed": float(truth[index == b].mean()),
            "count": int((index == b).sum()),
        }
        for b in np.unique(index)
    ]


def lead_time(
    alarm: np.ndarray,
    contact: np.ndarray,
    starts: np.ndarray,
    false_alarms: float,
    per: str = "episode",
    seed: int = 0,
) -> dict[str, Any]:
    """How long before the first contact of an episode the first alarm comes.

    alarm: (N,) strength of the alarm at each step, here the chunk cost; contact: (N,) bool;
    starts: (E + 1,). The threshold is the lowest at which at most the share `false_alarms` is
    alarmed of the episodes without contact (`per` "episode"), or of their steps ("step"). By step
    a false alarm somewhere in an episode is likely, and counts as a long lead where contact
    follows: the figure by episode is the stricter one. A contact that no alarm precedes has a lead
    of 0.

    Returns the median in seconds with its interval, the share of contacts that were preceded, the
    threshold, and the counts; without a median where either kind of episode is missing.
    """
    free, touched = [], []
    for first, end in zip(starts[:-1], starts[1:], strict=True):
        if contact[first:end].any():
            touched.append((first, first + int(np.argmax(contact[first:end]))))
        elif end > first:
            free.append(alarm[first:end])
    result: dict[str, Any] = {
        "contact_episodes": len(touched),
        "free_episodes": len(free),
        "false_alarms": false_alarms,
        "per": per,
    }
    if not touched or not free:
        return result
    quiet = np.array([steps.max() for steps in free]) if per == "episode" else np.concatenate(free)
    allowed = min(math.floor(false_alarms * len(quiet) + 1e-9), len(quiet) - 1)
    threshold = float(np.sort(quiet)[::-1][allowed])
    leads = []
    for first, when in touched:
        over = np.flatnonzero(alarm[first : when + 1] > threshold)
        leads.append(CONTROL_PERIOD * (when - first - int(over[0])) if len(over) else 0.0)
    values = np.array(leads)
    draws = ClusterBootstrap(np.arange(len(values)), seed)
    median = draws.estimate(lambda rows: float(np.median(values[rows])))
    return result | {
        "threshold": threshold,
        "median_s": asdict(median),
        "preceded": float((values > 0).mean()),
        "measured_false_alarms": float((quiet > threshold).mean()),
    }
