"""Comparison of methods: rates with intervals, paired tests, rates in practice and measured.

A run is one evaluation (from `safedojo evaluate --json`) of one method and training seed, with
practice.json and metrics.jsonl where it trained.
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

END_WINDOW = 5
"""Last updates over which a rate in practice is averaged before it is compared with its limit."""

LIMIT_TOLERANCE = 0.05
"""How far from its limit a rate of violations may end to count as held."""


@dataclass(frozen=True)
class LearningCost:
    """Real episodes that learning took: (how many, how many touched or moved the obstacle).

    data: behind the data sets that imagination starts from; played: rollouts of practice itself;
    measured: evaluations that watch practice and choose its policy.
    """

    data: tuple[int, int] = (0, 0)
    played: tuple[int, int] = (0, 0)
    measured: tuple[int, int] = (0, 0)

    @staticmethod
    def of(practice: Mapping[str, Any]) -> "LearningCost":
        """From the contents of practice.json; zeros where they are empty."""
        if not practice:
            return LearningCost()
        data, rows = practice["data"], practice["evaluations"]
        return LearningCost(
            (data["episodes"], data["collisions"]),
            (practice["real_episodes"], practice["real_collisions"]),
            (sum(row["episodes"] for row in rows), sum(row["collisions"] for row in rows)),
        )


@dataclass(frozen=True)
class MethodRun:
    """One evaluated run.

    practice, metrics: contents of practice.json and rows of metrics.jsonl, empty without practice;
    learned: practice.json of another run, where this one evaluates that run's policy.
    """

    method: str
    seed: int
    results: list[TrialResult]
    max_steps: int
    practice: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, float]] = ()
    learned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> LearningCost:
        """What learning its policy took."""
        return LearningCost.of(self.practice or self.learned)


def read_evaluation(path: Path) -> tuple[list[TrialResult], int]:
    """Episodes and step limit of an evaluation's JSON; raises `ConfigError` naming the file."""
    try:
        report = json.loads(path.read_bytes())
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


def compare(
    runs: Sequence[MethodRun], baseline: str = "base", ablations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything that the report shows, as plain values.

    table: methods by level, "all" over them; cells: methods by task and level. Rates are pooled
    over a method's training seeds, with the rates of each seed beside them. against: tests with the
    run of `baseline` of the same training seed (its first run where it has no such seed);
    difference: to `baseline` over all seeds, resampled by episode. ablations: {ablation: its
    method}.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    levels: list[int | None] = [*sorted({r.level for run in runs for r in run.results})]
    base = [run for run in runs if run.method == baseline]
    wanted = [*levels, None] if len(levels) > 1 else levels
    table, cells = [], []
    for method in methods:
        mine = [run for run in runs if run.method == method]
        for level in wanted:
            row = _row(method, level, mine)
            if base and method != baseline and row["episodes"]:
                others = {run.seed: _part(run, level) for run in base}
                first = next(iter(others.values()))
                row["against"] = {
                    str(run.seed): paired_tests(_part(run, level), others.get(run.seed, first))
                    for run in mine
                }
                row["difference"] = pooled_difference(
                    [_part(run, level) for run in mine], list(others.values())
                )
            table.append(row)
        played = sorted({(r.task, r.level) for run in mine for r in run.results})
        cells += [_row(method, level, mine, task) for task, level in played]
    return {
        "schema": 2,
        "baseline": baseline,
        "methods": methods,
        "table": table,
        "cells": cells,
        "ablations": [
            {"ablation": name, "method": method}
            for name, method in (ablations or {}).items()
            if method in methods
        ],
        "in_practice": [row for run in runs if run.practice for row in _rates_in_practice(run)],
        "limits": [row for run in runs for row in _limits(run)],
        "curves": [
            {"method": run.method, "seed": run.seed, "rows": [dict(row) for row in run.metrics]}
            for run in runs
            if run.metrics
        ],
    }


def pooled_difference(
    ours: Sequence[Sequence[TrialResult]], theirs: Sequence[Sequence[TrialResult]]
) -> dict[str, dict[str, float]]:
    """{rate: mean difference with its interval} on common trials, a trial's runs averaged first.

    ours, theirs: results of each training seed. The interval is over trials, which the training
    seeds share; the spread over training seeds is reported beside it.
    """
    found = {}
    for rate, counts in RATES.items():
        means = []
        for side in (ours, theirs):
            each: dict[tuple[int, str, int], list[float]] = {}
            for r in (r for results in side for r in results):
                each.setdefault((r.seed, r.task, r.level), []).append(float(counts(r)))
            means.append({key: float(np.mean(values)) for key, values in each.items()})
        common = sorted(means[0].keys() & means[1].keys())
        first, second = ([side[key] for key in common] for side in means)
        found[rate] = asdict(paired_difference(first, second))
    return found


def _part(run: MethodRun, level: int | None, task: str | None = None) -> list[TrialResult]:
    """Results at `level` and of `task`, None for any."""
    return [r for r in run.results if level in (None, r.level) and task in (None, r.task)]


def _row(
    method: str, level: int | None, runs: Sequence[MethodRun], task: str | None = None
) -> dict[str, Any]:
    parts = [_part(run, level, task) for run in runs]
    found = asdict(figures([r for part in parts for r in part], runs[0].max_steps))
    each = {
        rate: [float(np.mean([counts(r) for r in part])) for part in parts if part]
        for rate, counts in RATES.items()
    }
    costs = [run.cost for run in runs]
    learning = {
        name: _means([getattr(cost, name) for cost in costs])
        for name in ("data", "played", "measured")
    }
    return {
        "method": method,
        "task": task or "all",
        "level": "all" if level is None else LEVEL_NAMES[level],
        "training_seeds": len(runs),
        "learning": learning,
        "real_episodes": learning["data"]["episodes"] + learning["played"]["episodes"],
        "real_collisions": learning["data"]["collisions"] + learning["played"]["collisions"],
        "by_seed": each,
        "spread": {rate: float(np.std(values)) for rate, values in each.items()},
        **found,
    }


def _rates_in_practice(run: MethodRun) -> list[dict[str, Any]]:
    """Rates in practice beside measured ones, before practice and of the chosen policy.

    For practice in imagination, those before are what it predicts of the base policy.
    """
    moments = {"before": 0, "after": run.practice["best"]}
    rows = {row["step"]: row for row in run.practice["evaluations"]}
    return [
        {
            "method": run.method,
            "seed": run.seed,
            "moment": moment,
            "updates": step,
            "in_practice": rows[step]["in_practice"],
            "measured": rows[step]["measured"],
            "gap": rows[step]["gap"],
        }
        for moment, step in moments.items()
        if step in rows
    ]


def _limits(run: MethodRun) -> list[dict[str, Any]]:
    """Whether practice ended at its limit of violations, for a run with an adapted multiplier."""
    limit = run.practice.get("limit")
    if not run.metrics or limit is None:
        return []
    ended = float(np.mean([row["violations"] for row in run.metrics[-END_WINDOW:]]))
    multiplier = float(run.metrics[-1]["multiplier"])
    return [
        {
            "method": run.method,
            "seed": run.seed,
            "limit": limit,
            "violations": ended,
            "multiplier": multiplier,
            "held": abs(ended - limit) <= LIMIT_TOLERANCE or (ended < limit and multiplier == 0.0),
        }
    ]


def _means(pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """{"episodes", "collisions"}, averaged over training seeds."""
    episodes, collisions = np.mean(pairs, axis=0)
    return {"episodes": float(episodes), "collisions": float(collisions)}
