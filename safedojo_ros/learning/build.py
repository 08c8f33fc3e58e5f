"""Builds the trainer of practice from a configuration, a method and loaded models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.evaluation.protocol import EvaluationReport, evaluate, world_trials
from safedojo_ros.learning.imitation import Demonstrations
from safedojo_ros.learning.rl.anchor import Anchor
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
from safedojo_ros.learning.rl.methods import Method
from safedojo_ros.learning.rl.practice import Practice, PracticeConfig, for_method
from safedojo_ros.learning.rl.spread_rollouts import SpreadRollouts
from safedojo_ros.learning.rl.starts import KeyframeStarts, SimulatorStarts, recorded_keyframes
from safedojo_ros.models.flow_sde import StochasticFlow
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.policy import StoredPolicy
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel
from safedojo_ros.worlds.registry import DEFAULT_WORLD, world_kind
from safedojo_ros.worlds.seeds import split_seeds
from safedojo_ros.worlds.vector import VectorWorld


@dataclass(frozen=True)
class Imagination:
    """The models that imagine futures; data: episodes whose first frames the futures start from."""

    world_model: WorldModel
    success: SuccessModel
    safety: SafetyModel
    data: Sequence[Path]


def build_practice(
    config: PracticeConfig,
    method: Method,
    base: PI0Policy,
    tasks: Sequence[str],
    directory: Path,
    *,
    simulator: str = DEFAULT_WORLD,
    imagination: Imagination | None = None,
    demonstrations: Sequence[Path] = (),
    resume: bool = False,
    missed_gates: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    workers: SpreadRollouts | None = None,
) -> Practice:
    """The trainer that fine-tunes `base` on `tasks` in `directory`; `run` starts it.

    simulator: name of the world that `base` is measured in; imagination: for methods that train
    there; demonstrations: data sets that the policy keeps imitating; the rest: see `Practice`.
    Raises `ConfigError` or `CheckpointError` where these do not fit each other, or `directory`
    holds another run.
    """
    config = for_method(config, method)
    world: KeyframeStarts | SimulatorStarts
    if imagination is not None and base.resize != imagination.world_model.resize:
        raise CheckpointError(
            f"policy {base.checkpoint_id} saw images made to fit by '{base.resize}', world model "
            f"{imagination.world_model.checkpoint_id} by '{imagination.world_model.resize}'; "
            "practise with models of one rule"
        )
    if method.world == "simulator":
        world = _simulator(config, base, tasks, simulator)
    elif imagination is None:
        raise ConfigError("practice in imagination starts from recorded keyframes; give --data")
    else:
        world = _imagined(config, imagination, tasks)
    anchor = None
    if demonstrations and config.anchor.weight:
        data = Demonstrations.read(demonstrations, config.anchor.only_safe)
        anchor = Anchor(config.anchor, base, data)
    return Practice(
        config,
        method,
        StochasticFlow(base, config.flow),
        world,
        lambda policy: measured(policy, config, tasks, simulator),
        directory,
        resume,
        list(missed_gates),
        stop,
        anchor,
        workers,
    )


def measured(
    policy: StoredPolicy,
    config: PracticeConfig,
    tasks: Sequence[str],
    simulator: str = DEFAULT_WORLD,
) -> EvaluationReport:
    """Evaluate on validation seeds, with the step limit of practice."""
    count = config.evaluation_episodes
    seeds = split_seeds("validation", 0, count)
    trials = world_trials(simulator, seeds, tasks, config.levels)
    steps = config.max_chunks * policy.chunk_length
    cameras = tuple(policy.cameras)
    vector = VectorWorld(policy.image_size, steps, cameras, world=simulator)
    batch = world_kind(simulator).side_by_side
    settings = {"split": "validation", "first_seed": 0, "episodes": count}
    execute = config.execute or None
    return evaluate(policy, trials, vector, execute=execute, batch=batch, settings=settings)


def _simulator(
    config: PracticeConfig, base: StoredPolicy, tasks: Sequence[str], simulator: str
) -> SimulatorStarts:
    """The simulated world, with as many worlds as an update has trajectories."""
    steps = config.max_chunks * base.chunk_length
    vector = VectorWorld(base.image_size, steps, tuple(base.cameras), world=simulator)
    sizes = config.groups, config.group_size, config.seed
    return SimulatorStarts(vector, tasks, config.levels, *sizes)


def _imagined(config: PracticeConfig, parts: Imagination, tasks: Sequence[str]) -> KeyframeStarts:
    """The imagined world, whose futures start from recorded keyframes."""
    steps = config.max_chunks * parts.world_model.size.chunk_length
    world = ImaginedWorld(parts.world_model, parts.success, parts.safety, steps)
    world.whole_strides(config.execute)  # refused here, before anything is measured
    keyframes = recorded_keyframes(parts.world_model, parts.data, config.levels, tasks)
    return KeyframeStarts(world, keyframes, config.groups, config.group_size, config.seed)
