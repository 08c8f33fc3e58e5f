"""Stage: success and safety of a policy or a scripted expert on held-out seeds."""

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from safedojo_ros.checkpoints.names import DEFAULT_POLICY
from safedojo_ros.checkpoints.provenance import made_here
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.evaluation.film import film_strip
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.plot import png
from safedojo_ros.evaluation.protocol import (
    EvaluationReport,
    TrialResult,
    batches,
    executed_steps,
    judge,
    judge_expert,
    world_trials,
)
from safedojo_ros.evaluation.timing import TimedPolicy
from safedojo_ros.evaluation.workers.spread import Make
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.pipeline.filters import RunTimeFilter, gate_figures, taken_counts
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.policies import open_policy
from safedojo_ros.pipeline.request import OnDevice, check_counts, check_unused, named
from safedojo_ros.pipeline.scenes import LEVELS_OPTION, OnWorld, chosen_tasks, task_names
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS
from safedojo_ros.worlds.registry import DEFAULT_WORLD, open_world, world_kind
from safedojo_ros.worlds.seeds import SPLITS, split_seeds
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy, ProposingPolicy


@dataclass(frozen=True)
class Evaluation(OnWorld, OnDevice):
    """Which policy is evaluated, in which scenes, and where the figures are written."""

    checkpoint: str = named("policy", DEFAULT_POLICY)
    """policy: name, id, directory or openpi:ws://HOST:PORT (default: safe)"""
    policy: Literal["expert:direct", "expert:safe"] | None = None
    """evaluate a scripted expert instead of --checkpoint"""
    level: tuple[int, ...] = field(default=(), metadata=LEVELS_OPTION)
    """0, I, II, several by comma, or all (default); III, where the obstacle moves, when it is asked
    for (tabletop); SafeLIBERO has I and II"""
    tasks: tuple[str, ...] = field(default=(), metadata={"parse": task_names})
    """names of the world's tasks by comma, or all (default)"""
    episodes: int = 100
    """episodes at each level, shared by its tasks; SafeLIBERO's protocol has 200"""
    seed: int = 0
    """first seed within the split"""
    split: str = field(default="evaluation", metadata={"choices": tuple(SPLITS)})
    """seeds that the scenes are made from"""
    filter: RunTimeFilter = field(default_factory=RunTimeFilter)
    players: Players = field(default_factory=Players)
    execute: int | None = None
    """actions of a chunk between two inferences (default: as the running stack's schedule has it;
    with --instant all)"""
    latency: int = LATENCY_STEPS
    """control steps from an observation to the first action that answers it (default: the running
    stack's)"""
    instant: bool = False
    """the world waits for every chunk, as no robot does"""
    max_steps: int | None = None
    """control steps an episode (default: the world's, 150 to 550)"""
    batch: int = 8
    """worlds side by side"""
    json: Path | None = field(default=None, metadata={"metavar": "FILE"})
    """write the figures and every episode to this file"""
    film: Path | None = field(default=None, metadata={"metavar": "FILE"})
    """draw the first episode as a film strip, PNG"""

    def __post_init__(self) -> None:
        check_counts(self, "episodes", "batch", "max_steps", "execute", "latency")
        if self.policy:
            why = "is about a checkpoint; --policy is an expert"
            check_unused(self, why, "checkpoint", "execute", "latency", "film", "batch", "instant")
            if self.filter.filter:
                raise ConfigError(f"--filter {why}")
        if self.instant:
            check_unused(self, "is not for --instant", "latency")
        if self.film and self.filter.filter == "cbf-oracle":
            raise ConfigError("--film shows the policy alone, without the oracle before its world")
        if self.film and self.filter.zones:
            raise ConfigError("--film shows the policy alone, without the zones' points")
        if self.filter.filter in ("cbf", "cbf-oracle") and self.world != DEFAULT_WORLD:
            raise ConfigError(f"--filter {self.filter.filter} knows the tabletop's obstacles only")
        if self.filter.zones and self.world != DEFAULT_WORLD:
            raise ConfigError("--zones knows the tabletop's obstacles only")

    @property
    def steps(self) -> int:
        """Control steps an episode."""
        return self.max_steps or world_kind(self.world).max_steps

    def trials(self) -> list[Scene]:
        """The scenes of world, levels, tasks and seeds; raises `ConfigError`."""
        seeds = split_seeds(self.split, self.seed, self.episodes)
        levels = self.level or world_kind(self.world).levels
        tasks = chosen_tasks(self.world, self.tasks, levels)
        return world_trials(self.world, seeds, tasks, levels)


def evaluate(asked: Evaluation) -> EvaluationReport:
    """Run every trial; write the files that are asked for.

    Raises `ConfigError`, `CheckpointError` where a policy or safety head does not fit, or
    `WorkerLost`.
    """
    trials = asked.trials()
    asked_for = {"split": asked.split, "first_seed": asked.seed, "episodes": asked.episodes}
    if asked.policy:
        report = _evaluate_expert(asked, trials, asked_for)
    else:
        policy = _policy(asked)
        report = _evaluate_policy(asked, policy, trials, asked_for)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(asked.json, json.dumps(report.to_json(), indent=1) + "\n")
    if asked.film and not asked.policy:
        asked.film.parent.mkdir(parents=True, exist_ok=True)
        cameras = tuple(policy.cameras)
        vector = VectorWorld(policy.image_size, asked.steps, cameras, world=asked.world)
        execute = asked.execute if asked.instant else None
        player, made = _timed(asked, policy), made_here()
        strip = film_strip(player, trials[0], vector, execute, made)
        write_whole(asked.film, png(strip))
    return report


def _timed(asked: Evaluation, policy: "ProposingPolicy") -> "Policy":
    """`policy` as the running stack executes it, or itself with --instant."""
    if asked.instant:
        return policy
    return cast("Policy", TimedPolicy(policy, asked.latency, asked.execute))


def _policy(asked: Evaluation) -> "ProposingPolicy":
    device = asked.players.device(asked.device)
    policy = open_policy(asked.checkpoint, asked.store, device)
    return asked.filter.before(policy, asked.execute, asked.store, device)


def _evaluate_policy(
    asked: Evaluation,
    policy: "ProposingPolicy",
    trials: list[Scene],
    asked_for: dict[str, Any],
) -> EvaluationReport:
    execute = executed_steps(_timed(asked, policy), asked.execute if asked.instant else None)
    settings = {"execute": execute, "batch": asked.batch, "max_steps": asked.steps} | asked_for
    if asked.filter.filter:
        settings["filter"] = asked.filter.filter
    settings["latency"] = 0 if asked.instant else asked.latency
    make = partial(PolicyPlayer, asked, policy)
    results, counts = _played(asked, make, batches(trials, asked.batch), len(trials))
    if isinstance(policy, GatedPolicy):
        settings["gate"] = gate_figures(policy, counts)
    return EvaluationReport(policy.checkpoint_id, asked.world, settings, results)


def _evaluate_expert(
    asked: Evaluation, trials: list[Scene], asked_for: dict[str, Any]
) -> EvaluationReport:
    make = partial(ExpertPlayer, asked)
    results, _ = _played(asked, make, batches(trials, 1), len(trials))
    settings = {"max_steps": asked.steps} | asked_for
    return EvaluationReport(str(asked.policy), asked.world, settings, results)


def _played(
    asked: Evaluation, make: Make, groups: list[list[Scene]], total: int
) -> tuple[list[TrialResult], Counter[str]]:
    """The results of all groups, and the gate's counts."""
    results, counts = list[TrialResult](), Counter[str]()
    with (
        progress_bar("evaluating", 0, total) as show,
        closing(asked.players.play(make, groups)) as played,
    ):
        for judged, counted in played:
            results += judged
            counts += counted
            show(len(results))
    return results, counts


class PolicyPlayer:
    """Judges trials that are played together; each worker has one, with its worlds."""

    def __init__(self, asked: Evaluation, policy: "ProposingPolicy") -> None:
        self.policy, self.judged = policy, _timed(asked, policy)
        self.execute = asked.execute if asked.instant else None
        # the head's images may be larger than the policy's
        head = policy.safety if isinstance(policy, GatedPolicy) else None
        size = (head or policy).image_size
        vector = VectorWorld(size, asked.steps, tuple(policy.cameras), world=asked.world)
        if asked.filter.filter == "cbf-oracle":
            from safedojo_ros.evaluation.filters.cbf import CbfWorld

            vector = cast("VectorWorld", CbfWorld(vector))
        if asked.filter.zones:
            from safedojo_ros.evaluation.filters.zones import SurveyedWorld

            vector = cast("VectorWorld", SurveyedWorld(vector))
        self.vector = vector

    def __call__(self, trials: list[Scene]) -> tuple[list[TrialResult], Counter[str]]:
        """The trials' results, and what the gate counted in them."""
        results = judge(self.judged, trials, self.vector, self.execute)
        gated = isinstance(self.policy, GatedPolicy)
        return results, taken_counts(self.policy) if gated else Counter()  # type: ignore[arg-type]


class ExpertPlayer:
    """Judges a scripted expert, in a world without images."""

    def __init__(self, asked: Evaluation) -> None:
        self.style: Any = str(asked.policy).removeprefix("expert:")
        self.world = open_world(asked.world, 64, (), asked.steps, render_images=False)

    def __call__(self, trials: list[Scene]) -> tuple[list[TrialResult], Counter[str]]:
        """The trials' results; no gate counts."""
        return [judge_expert(self.world, self.style, trial) for trial in trials], Counter()
