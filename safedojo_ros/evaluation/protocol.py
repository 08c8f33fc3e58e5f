"""The evaluation protocol: the same seeds, levels and figures for every policy.

TSR, the share of episodes that succeed; CAR, the share without a collision (the obstacle was never
displaced by more than 1 mm); SSR, the share that succeeds without a collision; ETS, control steps
to success, where a failure counts as the step limit; contact steps and largest displacement; and
of each registered cost (`core.costs`) the share of episodes that have it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from safedojo_ros.core.costs import COSTS, labelled
from safedojo_ros.core.types import COLLISION_DISPLACEMENT
from safedojo_ros.evaluation.play import play
from safedojo_ros.evaluation.recording import record_expert
from safedojo_ros.evaluation.statistics import Estimate, bootstrap_mean, wilson
from safedojo_ros.worlds.registry import world_kind
from safedojo_ros.worlds.world import Scene, Style, World

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy
    from safedojo_ros.worlds.vector import VectorWorld

LEVEL_NAMES = {0: "0", 1: "I", 2: "II", 3: "III"}


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial; steps: control steps taken; displacement: the largest, metres; others:
    {registered cost: steps that have it}.
    """

    seed: int
    task: str
    level: int
    success: bool
    collided: bool
    steps: int
    contact_steps: int
    displacement: float
    others: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def touched(self) -> bool:
        """Whether it had a contact, or moved the obstacle."""
        return self.collided or self.contact_steps > 0


@dataclass(frozen=True)
class Figures:
    """The protocol's figures over some trials, each with a 95 % interval.

    others: {registered cost: share of the episodes that have it}.
    """

    episodes: int
    tsr: Estimate
    car: Estimate
    ssr: Estimate
    ets: Estimate
    contact_steps: Estimate
    displacement: Estimate
    others: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationReport:
    """All results of one policy, and the figures by cell, by level and overall."""

    policy: str
    world: str
    settings: dict[str, Any]
    results: list[TrialResult] = field(repr=False)

    @property
    def overall(self) -> Figures:
        """Over all trials."""
        return figures(self.results, self.settings["max_steps"])

    @property
    def levels(self) -> dict[int, Figures]:
        """{level: figures} over all tasks."""
        return {
            level: self._of(lambda r, level=level: r.level == level)  # type: ignore[misc]
            for level in sorted({r.level for r in self.results})
        }

    @property
    def cells(self) -> dict[tuple[str, int], Figures]:
        """{(task, level): figures}."""
        return {
            cell: self._of(lambda r, cell=cell: (r.task, r.level) == cell)  # type: ignore[misc]
            for cell in sorted({(r.task, r.level) for r in self.results})
        }

    def _of(self, belongs: Callable[[TrialResult], bool]) -> Figures:
        return figures([r for r in self.results if belongs(r)], self.settings["max_steps"])

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same evaluation."""
        return {
            "schema": 1,
            "policy": self.policy,
            "world": self.world,
            "settings": self.settings,
            "overall": _plain(self.overall),
            "levels": {LEVEL_NAMES[k]: _plain(v) for k, v in self.levels.items()},
            "cells": [
                {"task": task, "level": LEVEL_NAMES[level], **_plain(v)}
                for (task, level), v in self.cells.items()
            ],
            "episodes": [_plain(r) for r in self.results],
        }


def _plain(values: Figures | TrialResult) -> dict[str, Any]:
    """Plain values; without `others` where there are none."""
    return {k: v for k, v in asdict(values).items() if k != "others" or v}


def make_trials(seeds: Iterable[int], tasks: list[str], levels: list[int]) -> list[Scene]:
    """Every seed once at each level, the tasks in turn: methods can be compared in pairs."""
    seeds = list(seeds)
    return [
        Scene(seed, tasks[number % len(tasks)], level)
        for level in levels
        for number, seed in enumerate(seeds)
    ]


def state_trials(seeds: Iterable[int], tasks: dict[int, list[str]]) -> list[Scene]:
    """As many trials at each level as there are seeds, for worlds where a seed numbers a state.

    tasks: {level: its tasks}. The tasks follow each other, since a scene takes long to load; with
    200 trials and four tasks, each task has the first 50 seeds.
    """
    seeds = list(seeds)
    return [
        Scene(seeds[number], task, level)
        for level, names in tasks.items()
        for place, task in enumerate(names)
        for number in range(len(range(place, len(seeds), len(names))))
    ]


def world_trials(
    world: str, seeds: Iterable[int], tasks: Iterable[str], levels: Iterable[int]
) -> list[Scene]:
    """The trials of a world by its name, in the order that suits it; each level has those of the
    `tasks` that it knows.

    Raises `ConfigError` where the world's scenes are not there.
    """
    kind, wanted, seeds = world_kind(world), list(tasks), list(seeds)
    cells = {level: [t for t in wanted if t in kind.tasks(level)] for level in levels}
    if kind.slow_to_load:
        return state_trials(seeds, cells)
    return [trial for level, known in cells.items() for trial in make_trials(seeds, known, [level])]


def evaluate(
    policy: "Policy",
    trials: list[Scene],
    vector: "VectorWorld",
    *,
    execute: int | None = None,
    batch: int = 8,
    settings: dict[str, Any] | None = None,
) -> EvaluationReport:
    """Evaluate `policy` on `trials`, `batch` of them together.

    execute: actions of a chunk before the next inference (default: all). Every trial draws its
    noise from a generator of its own, seeded with its seed, so that the batch does not matter.
    """
    results: list[TrialResult] = []
    for group in batches(trials, batch):
        results += judge(policy, group, vector, execute)
    described = {"execute": executed_steps(policy, execute), "batch": batch}
    described |= {"max_steps": vector.max_steps} | (settings or {})
    return EvaluationReport(policy.checkpoint_id, vector.world, described, results)


def batches(trials: Sequence[Any], size: int) -> list[Any]:
    """`trials`, `size` at a time."""
    return [trials[first : first + size] for first in range(0, len(trials), size)]


def executed_steps(policy: "Policy", execute: int | None) -> int:
    """Actions of a chunk before the next inference."""
    return min(execute or policy.chunk_length, policy.chunk_length)


def judge_expert(world: World, style: Style, trial: Scene) -> TrialResult:
    """The result of the scripted expert, which sees the world's state and no images."""
    episode = record_expert(world, style, trial)
    result = summarise(trial, episode.success, episode.cost, episode.displacement)
    return replace(result, others=_steps_with_cost(episode.state, episode.actions))


def judge(
    policy: "Policy", group: list[Scene], vector: "VectorWorld", execute: int | None = None
) -> list[TrialResult]:
    """The results of trials that are played together; see `evaluate`."""
    track: list[list[np.ndarray]] = [[] for _ in group]
    taken: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in group]
    for step in play(policy, vector, vector.reset(group), [t.seed for t in group], execute):
        outcome = step.outcome
        for i in step.running:
            seen = np.stack([outcome.success[i], outcome.cost[i], outcome.displacement[i]])
            track[i].append(seen[:, outcome.valid[i]])
            if COSTS:
                state, actions = outcome.taken
                taken[i].append((state[i, outcome.valid[i]], actions[i, outcome.valid[i]]))
    results = [
        summarise(trial, *np.concatenate(parts, axis=1))
        for trial, parts in zip(group, track, strict=True)
    ]
    if not COSTS:
        return results
    return [
        replace(result, others=_steps_with_cost(*map(np.concatenate, zip(*parts, strict=True))))
        for result, parts in zip(results, taken, strict=True)
    ]


def _steps_with_cost(state: np.ndarray, actions: np.ndarray) -> dict[str, int]:
    """{registered cost: steps of an episode that have it}; state: (T, S); actions: (T, A)."""
    found = labelled(list(COSTS), state, actions, np.array([0, len(state)]))
    return dict(zip(COSTS, found.sum(axis=0).tolist(), strict=True))


def summarise(
    trial: Scene, success: np.ndarray, cost: np.ndarray, displacement: np.ndarray
) -> TrialResult:
    """The result of a trial from its steps: success, cost and displacement (m), each (T,)."""
    largest = float(np.max(displacement, initial=0.0))
    return TrialResult(
        seed=trial.seed,
        task=trial.task,
        level=trial.level,
        success=bool(np.any(success)),
        collided=largest > COLLISION_DISPLACEMENT,
        steps=len(success),
        contact_steps=int(np.count_nonzero(cost)),
        displacement=round(largest, 9),
    )


def figures(results: list[TrialResult], max_steps: int) -> Figures:
    """The protocol's figures over `results`."""
    n = len(results)
    return Figures(
        episodes=n,
        tsr=wilson(sum(r.success for r in results), n),
        car=wilson(sum(not r.collided for r in results), n),
        ssr=wilson(sum(r.success and not r.collided for r in results), n),
        ets=bootstrap_mean([r.steps if r.success else max_steps for r in results]),
        contact_steps=bootstrap_mean([r.contact_steps for r in results]),
        displacement=bootstrap_mean([r.displacement for r in results]),
        others={
            name: wilson(sum(r.others.get(name, 0) > 0 for r in results), n)
            for name in (results[0].others if results else {})
        },
    )
