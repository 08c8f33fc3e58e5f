"""Methods beside each other: rates with intervals, pairs on the same episodes, practised rates.

A run is one evaluation (what `safedojo evaluate --json` wrote) of one method and training seed,
with what its practice left (practice.json, metrics.jsonl), where it practised at all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.protocol import LEVEL_NAMES, TrialResult, figures
from safedojo_ros.evaluation.statistics import mcnemar_exact, paired_difference

RATES = {
    "tsr": lambda r: r.success,
    "car": lambda r: not r.collided,
    "ssr": lambda r: r.success and not r.collided,
}
"""{rate: whether an episode counts for it}."""


@dataclass(frozen=True)
class MethodRun:
    """One evaluated run. practice: contents of practice.json; metrics: rows of metrics.jsonl."""

    method: str
    seed: int
    results: list[TrialResult]
    max_steps: int
    practice: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, float]] = ()


def read_evaluation(path: Path) -> tuple[list[TrialResult], int]:
    """Episodes and step limit of an evaluation's JSON; raises `ConfigError` naming the file."""
    try:
        report = json.loads(path.read_text())
        results = [TrialResult(**episode) for episode in report["episodes"]]
        return results, int(report["settings"]["max_steps"])
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no evaluation ({error!r}); write one with safedojo evaluate --json"
        ) from None


def paired_tests(
    first: Sequence[TrialResult], second: Sequence[TrialResult]
) -> dict[str, dict[str, Any]]:
    """{rate: difference first − second with its interval, McNemar's p, episodes} on common trials.

    Each trial (seed, task, level) counts once; raises `ConfigError` where none is common.
    """
    ours = {(r.seed, r.task, r.level): r for r in first}
    theirs = {(r.seed, r.task, r.level): r for r in second}
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise ConfigError("the two evaluations have no episode in common; use the same seeds")
    tests = {}
    for rate, counts in RATES.items():
        a = [bool(counts(ours[key])) for key in common]
        b = [bool(counts(theirs[key])) for key in common]
        tests[rate] = {
            "difference": asdict(paired_difference(a, b)),
            "p_value": mcnemar_exact(a, b),
            "episodes": len(common),
        }
    return tests


def compare(runs: Sequence[MethodRun], baseline: str = "base") -> dict[str, Any]:
    """Everything that the report shows, as plain values.

    Rates are pooled over a method's training seeds, with the seeds' own beside them; pairs are
    with `baseline`, seed by seed of training, and pooled differences are of all their episodes.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    levels = sorted({r.level for run in runs for r in run.results})
    base = next((run for run in runs if run.method == baseline), None)
    table = []
    for method in methods:
        mine = [run for run in runs if run.method == method]
        for level in levels:
            row = _row(method, level, mine)
            if base is not None and method != baseline and row["episodes"]:
                row["against"] = {
                    str(run.seed): paired_tests(_at(run, level), _at(base, level)) for run in mine
                }
            table.append(row)
    return {
        "schema": 1,
        "baseline": baseline,
        "methods": methods,
        "table": table,
        "practised": [_practised(run) for run in runs if run.practice],
        "curves": [
            {"method": run.method, "seed": run.seed, "rows": [dict(row) for row in run.metrics]}
            for run in runs
            if run.metrics
        ],
    }


def _at(run: MethodRun, level: int) -> list[TrialResult]:
    return [r for r in run.results if r.level == level]


def _row(method: str, level: int, runs: Sequence[MethodRun]) -> dict[str, Any]:
    pooled = [r for run in runs for r in _at(run, level)]
    found = asdict(figures(pooled, runs[0].max_steps))
    each: dict[str, list[float]] = {}
    for rate, counts in RATES.items():
        parts = [_at(run, level) for run in runs]
        each[rate] = [float(np.mean([counts(r) for r in part])) for part in parts if part]
    return {
        "method": method,
        "level": LEVEL_NAMES[level],
        "training_seeds": len(runs),
        "real_episodes": _mean([run.practice.get("real_episodes", 0) for run in runs]),
        "real_collisions": _mean([run.practice.get("real_collisions", 0) for run in runs]),
        "by_seed": each,
        "spread": {rate: float(np.std(values)) for rate, values in each.items()},
        **found,
    }


def _practised(run: MethodRun) -> dict[str, Any]:
    """What practice said of the policy that was chosen, beside what was measured then."""
    best = run.practice["best"]
    chosen = next(e for e in run.practice["evaluations"] if e["step"] == best)
    return {
        "method": run.method,
        "seed": run.seed,
        "updates": best,
        "practised": chosen["practised"],
        "measured": chosen["measured"],
        "gap": chosen["gap"],
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
