"""Practice: pre-flight, updates, measured evaluation, stop and roll back, resumable.

Its directory holds the files of `TrainingRun`, evaluations.jsonl (one line for each measured
evaluation) and policies/<update>, the policy that was evaluated after that update.

The policy that is measured and kept is a blend of the base policy's weights and the trained ones,
as in WiSE-FT (arXiv 2109.01903). The blend forgets less of what the base policy could do in scenes
that practice does not cover.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError, SafeDojoError
from safedojo_ros.core.files import write_whole
from safedojo_ros.evaluation.protocol import EvaluationReport
from safedojo_ros.evaluation.statistics import Estimate, wilson
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.learning.rl.anchor import Anchor, AnchorConfig
from safedojo_ros.learning.rl.constrained_grpo import ConstrainedGRPO, UpdateConfig
from safedojo_ros.learning.rl.methods import Method
from safedojo_ros.learning.rl.multiplier import MultiplierConfig
from safedojo_ros.learning.rl.preflight import PreflightConfig, check_rollouts
from safedojo_ros.learning.rl.rollout import Rollouts, roll_out
from safedojo_ros.learning.rl.spread_rollouts import SpreadRollouts
from safedojo_ros.learning.rl.starts import DividedWorld, PracticeWorld
from safedojo_ros.learning.training_run import METRICS_FILE, TrainingRun
from safedojo_ros.models.flow_sde import FlowConfig
from safedojo_ros.models.policy import StochasticPolicy, StoredPolicy

EVALUATIONS_FILE = "evaluations.jsonl"
IMAGINED_WINDOW = 3
"""Last updates over which an imagined rate is averaged to compare it with the measured one."""

RATES = ("success", "violations", "safe_success")


@dataclass(frozen=True)
class SimulatorConfig:
    """Sizes for the simulator, where every trajectory is a real episode. They replace the fields of
    the same name for the methods `safevla`, `grpo` and `ppo`; 0 keeps those."""

    updates: int = 25
    """Updates of the policy, 0 or more; fewer where `real_episodes` pays for fewer."""
    groups: int = 8
    """Groups in each update, 0 or more."""
    minibatch: int = 128
    """Most chunks in a gradient step, 0 or more; replaces `update.minibatch`."""

    def __post_init__(self) -> None:
        check_ranges(self, updates="[0, inf)", groups="[0, inf)", minibatch="[0, inf)")


@dataclass(frozen=True)
class PracticeConfig:
    """One run of practice. Used by every method, unless a field says otherwise.

    The defaults are the measured recipe of the preset `tiny`. What a method fixes is no setting:
    see `learning.rl.methods`.
    """

    updates: int = 15
    """Updates of the policy, at least 1. After the tenth, the policy began to exploit errors of the
    imagined world."""
    groups: int = 24
    """Groups in each update, at least 1; the trajectories of a group share a start. With 8, the
    results of training seeds differed widely."""
    group_size: int = 8
    """Trajectories in a group, at least 1; methods without a critic need 2."""
    max_chunks: int = 14
    """Length after which a trajectory ends, whole chunks, at least 1."""
    execute: int = 0
    """Actions of a chunk that are executed before the next inference, 0 or more; 0: all. In
    imagination it is a multiple of the world model's stride."""
    levels: tuple[int, ...] = (1, 2)
    """Levels of the scenes that trajectories start in, each 0 to 3."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks of these scenes; empty: all tasks that the policy knows."""
    evaluate_every: int = 5
    """Updates between two evaluations in the simulator, at least 1."""
    evaluation_episodes: int = 64
    """Episodes of such an evaluation at each level, at least 1; it uses validation seeds."""
    gap_bar: float = 0.15
    """How far an imagined rate may lie outside the 95 % interval of the measured one before
    practice stops, [0, 1]."""
    real_episodes: int = 1500
    """Episodes that a run in the simulator may spend on rollouts, 0 or more; it ends with the last
    update that they pay for. 0: no limit."""
    blend: float = 0.5
    """Weight of the trained policy in the blend that is measured and kept, (0, 1]; the base policy
    has the rest. 1: the trained policy itself."""
    seed: int = 0
    """Seed of starts, rollouts and minibatches, 0 or more."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """How the policy explores in its rollouts."""
    update: UpdateConfig = field(default_factory=UpdateConfig)
    """How a batch of rollouts updates the policy."""
    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)
    """The limit on violations, and how λ follows it. Used by constrained methods."""
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    """The imitation loss. Used where demonstrations are given."""
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    """Checks before the first update."""
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    """Sizes of the methods that train in the simulator."""

    def __post_init__(self) -> None:
        for name in ("updates", "groups", "max_chunks", "evaluate_every", "evaluation_episodes"):
            check_ranges(self, **{name: "[1, inf)"})
        check_ranges(self, group_size="[1, inf)", blend="(0, 1]", gap_bar="[0, 1]")
        check_ranges(self, execute="[0, inf)", real_episodes="[0, inf)", seed="[0, inf)")


def for_method(config: PracticeConfig, method: Method) -> PracticeConfig:
    """`config` with the sizes of `method`'s world, and no more updates than real episodes pay for.

    Raises `ConfigError` for groups of one without a critic, or a budget below one update.
    """
    if method.baseline == "group" and config.group_size < 2:
        raise ConfigError(f"practice.group_size is {config.group_size}; a group needs 2 or more")
    if method.world == "imagination":
        return config
    real = config.simulator
    updates, groups = real.updates or config.updates, real.groups or config.groups
    each = groups * config.group_size
    if config.real_episodes:
        updates = min(updates, config.real_episodes // each)
    if updates == 0:
        raise ConfigError(
            f"practice.real_episodes is {config.real_episodes}, an update takes {each} episodes"
        )
    update = replace(config.update, minibatch=real.minibatch or config.update.minibatch)
    return replace(config, updates=updates, groups=groups, update=update)


class PracticeRefused(SafeDojoError):
    """A pre-flight check or a gate failed before the first update."""


@dataclass(frozen=True)
class PracticeOutcome:
    """How practice ended.

    completed: all updates were made, or all that the budget pays for; stopped: why not, else "";
    best: of the evaluations in which imagination and measurement agree, the update with the highest
    measured safe success; policy: its directory; evaluations: the lines of evaluations.jsonl;
    real_episodes, real_collisions: of rollouts in the simulator; unenforced: checks that failed but
    were not enforced.
    """

    completed: bool
    stopped: str
    best: int
    policy: Path
    evaluations: list[dict[str, Any]]
    real_episodes: int
    real_collisions: int
    unenforced: list[str]


class Practice:
    """One run of a method; its configuration comes from `for_method`.

    measure: evaluates a policy in the simulator on validation seeds; missed_gates: one sentence for
    each gate that the world model missed; stop: called before every update, true: save and end;
    anchor: the imitation loss, if any; workers: where rollouts are made, None: in this process;
    the world must then be a `DividedWorld`.
    Raises `PracticeRefused`, or `ConfigError` when the directory holds another run.
    """

    def __init__(
        self,
        config: PracticeConfig,
        method: Method,
        policy: StochasticPolicy,
        world: PracticeWorld,
        measure: Callable[[StoredPolicy], EvaluationReport],
        directory: Path,
        resume: bool = False,
        missed_gates: list[str] | None = None,
        stop: Callable[[], bool] = lambda: False,
        anchor: Anchor | None = None,
        workers: SpreadRollouts | None = None,
    ) -> None:
        self.workers = workers
        self.config, self.policy, self.world = config, policy, world
        self.measure, self.directory, self.stop = measure, directory, stop
        torch.manual_seed(config.seed)  # a critic's first weights
        self.learner = ConstrainedGRPO(
            policy, config.update, config.multiplier, method, anchor, world.others
        )
        self.base = deepcopy(policy.modules.state_dict())
        self.groups = np.arange(config.groups * config.group_size) // config.group_size
        self.run_state = TrainingRun(directory, resume)
        self.first = self.run_state.restore(self.learner.modules, self.learner.optimizer)
        self.metrics = _rewind(directory / METRICS_FILE, self.first)
        self.evaluations = _rewind(directory / EVALUATIONS_FILE, self.first)
        self.missed_gates = missed_gates or []
        self.unenforced: list[str] = []

    def run(self) -> PracticeOutcome:
        """Make the updates that are left, with measured evaluations between them."""
        try:
            return self._run()
        finally:
            if self.workers:
                self.workers.close()

    def _run(self) -> PracticeOutcome:
        config, stopped, step = self.config, "", self.first
        if step == 0:
            self._refuse_if(self.missed_gates)
        with progress_bar("practice", step, config.updates) as show:
            while True:
                due = step % config.evaluate_every == 0 or step == config.updates
                if due and step not in [row["step"] for row in self.evaluations]:
                    stopped = self._evaluate(step)
                if stopped or step == config.updates:
                    break
                if self.stop():
                    stopped = f"asked to stop after {step} updates; continue with --resume"
                    break
                metrics = self._update(step)
                step += 1
                show(
                    step,
                    f"success {metrics['success']:.2f} violations "
                    f"{metrics['violations']:.2f} λ {metrics['multiplier']:.2f}",
                )
        self.run_state.close()
        return self._outcome(step == config.updates and not stopped, stopped)

    def _update(self, step: int) -> dict[str, float]:
        rollouts = self._roll_out(step)
        if step == 0:
            self._refuse_if(check_rollouts(self.learner, rollouts, self.config.preflight))
        metrics = self.learner.update(rollouts, (self.config.seed, step))
        self.run_state.record(step + 1, metrics)
        self.metrics.append({"step": step + 1} | metrics)
        self.run_state.save(step + 1, self.learner.modules, self.learner.optimizer)
        return metrics

    def _roll_out(self, step: int) -> Rollouts:
        config = self.config
        if self.workers:
            world = cast("DividedWorld", self.world)
            length = config.max_chunks, config.seed, config.execute
            return self.workers.roll_out(self.policy, world, step, self.groups, *length)
        return roll_out(
            self.policy,
            self.world,
            lambda: self.world.start(step),
            self.groups,
            config.max_chunks,
            (config.seed, step),
            config.execute,
        )

    def _evaluate(self, step: int) -> str:
        """Measure, save, compare with imagination; returns why practice must stop, or ""."""
        target = self.directory / "policies" / str(step)
        target.mkdir(parents=True, exist_ok=True)
        with self._blended() as policy:
            report = self.measure(policy)
            policy.save(target)
        measured = measured_rates(report)
        window = self.metrics[-IMAGINED_WINDOW:] if step else [self._figures()]
        imagined = {name: float(np.mean([row[name] for row in window])) for name in RATES}
        gaps = {name: gap(imagined[name], measured[name]) for name in RATES}
        differing = [
            f"{name.replace('_', ' ')} is {imagined[name]:.2f} in practice and "
            f"{measured[name].value:.2f} ({measured[name].low:.2f} to {measured[name].high:.2f}) "
            f"measured"
            for name in RATES
            if gaps[name] > self.config.gap_bar
        ]
        for name in (f"violations_{cost.name}" for cost in self.world.others):
            imagined[name] = float(np.mean([row[name] for row in window]))
            known = report.overall.others.get(name.removeprefix("violations_"))
            measured |= {name: known} if known else {}
        enforced = not self.world.real and self.config.preflight.enforced
        row = {
            "step": step,
            "measured": {name: asdict(estimate) for name, estimate in measured.items()},
            "in_practice": imagined,
            "gap": gaps,
            "trusted": not differing or not enforced,
            "report": {"levels": report.to_json()["levels"], "settings": report.settings},
            "episodes": len(report.results),
            "collisions": sum(r.touched for r in report.results),
        }
        with (self.directory / EVALUATIONS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.evaluations.append(row)
        if not differing or self.world.real:
            return ""
        sentence = (
            f"after {step} updates imagination and measurement differ by more than "
            f"{self.config.gap_bar:g} beyond the interval: {'; '.join(differing)}"
        )
        if not enforced:
            self.unenforced.append(sentence)
            return ""
        if step == 0:
            raise PracticeRefused(f"{sentence}; improve world model and heads before practice")
        return sentence

    @contextmanager
    def _blended(self) -> Iterator[StoredPolicy]:
        """Inside, the policy has the blended weights; afterwards, its trained ones again."""
        modules, share = self.policy.modules, self.config.blend
        if share == 1.0:
            yield self.policy.policy
            return
        trained = deepcopy(modules.state_dict())
        blend = {
            name: torch.lerp(self.base[name], value, share) if value.is_floating_point() else value
            for name, value in trained.items()
        }
        modules.load_state_dict(blend)
        try:
            yield self.policy.policy
        finally:
            modules.load_state_dict(trained)

    def _figures(self) -> dict[str, float]:
        return self._roll_out(0).figures(self.config.update.cost_m)

    def _refuse_if(self, failed: list[str]) -> None:
        if failed and self.config.preflight.enforced:
            raise PracticeRefused("no update was made: " + "; ".join(failed))
        self.unenforced += failed

    def _outcome(self, completed: bool, stopped: str) -> PracticeOutcome:
        trusted = [row for row in self.evaluations if row["trusted"]] or self.evaluations[:1]
        best = max(trusted, key=lambda row: (row["measured"]["safe_success"]["value"], row["step"]))
        each, played, collided = len(self.groups), 0, 0
        if self.world.real:
            played = each * len(self.metrics)
            collided = sum(round(each * row["violations"]) for row in self.metrics)
        return PracticeOutcome(
            completed,
            stopped,
            best["step"],
            self.directory / "policies" / str(best["step"]),
            self.evaluations,
            played,
            collided,
            self.unenforced,
        )


def measured_rates(report: EvaluationReport) -> dict[str, Estimate]:
    """Success, violations (a contact or a displacement) and safe success of a report."""
    violated = [r.touched for r in report.results]
    safe = [r.success and not v for r, v in zip(report.results, violated, strict=True)]
    count = len(report.results)
    return {
        "success": wilson(sum(r.success for r in report.results), count),
        "violations": wilson(sum(violated), count),
        "safe_success": wilson(sum(safe), count),
    }


def gap(rate: float, measured: Estimate) -> float:
    """How far `rate` lies outside the measured interval, 0 inside."""
    return max(measured.low - rate, rate - measured.high, 0.0)


def _rewind(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines up to `step`; later ones, of updates that were not saved, are deleted."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # a line that a killed run left half-written
            continue
    kept = [row for row in rows if row["step"] <= step]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept
