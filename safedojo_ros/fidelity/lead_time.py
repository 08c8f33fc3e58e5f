"""How early an alarm comes before a contact."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.evaluation.statistics import ClusterBootstrap


def lead_time(
    alarm: np.ndarray,
    contact: np.ndarray,
    starts: np.ndarray,
    false_alarms: float,
    per: str = "episode",
    seed: int = 0,
) -> dict[str, Any]:
    """How long before the first contact of an episode the first alarm comes.

    alarm: (N,) value at each step that raises an alarm above a threshold, here the chunk cost;
    contact: (N,) bool; starts: (E + 1,). Of the episodes without contact (`per` "episode"), or of
    their steps ("step"), at most the share `false_alarms` has an alarm; the threshold is the lowest
    with that. By step, many episodes have a false alarm somewhere, and an early one counts as a
    long lead where contact follows: the figure by episode is the stricter one. A contact without an
    earlier alarm has a lead of 0.

    Returns the median in seconds with its interval, the share of contacts with an earlier alarm,
    the threshold, and the counts; no median where either kind of episode is missing.
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
