"""Every method of practice as a configuration of one trainer (design, section 7)."""

from dataclasses import dataclass, field, replace
from typing import Literal

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.rl.anchor import AnchorConfig
from safedojo_ros.learning.rl.constrained_grpo import UpdateConfig
from safedojo_ros.learning.rl.imagined_world import ImaginationConfig
from safedojo_ros.learning.rl.multiplier import MultiplierConfig
from safedojo_ros.learning.rl.preflight import PreflightConfig
from safedojo_ros.models.flow_sde import FlowConfig


@dataclass(frozen=True)
class SimulatorConfig:
    """What methods that play in the simulator have instead, where every trajectory is a real
    episode: updates, groups, and chunks of a minibatch; 0: the same as in imagination.
    """

    updates: int = 0
    groups: int = 0
    minibatch: int = 0


@dataclass(frozen=True)
class PracticeConfig:
    """One run of practice.

    world: where it plays; updates; groups of group_size trajectories an update; max_chunks:
    longest trajectory, in whole chunks (it replaces imagination.max_steps); execute: actions of a
    chunk that are done before the next inference, 0 for all, in imagination a multiple of the world
    model's stride; levels, tasks (none: all) of the starts; evaluate_every: updates between two
    measured evaluations of evaluation_episodes validation seeds at each level; gap_bar: how far an
    imagined rate may lie outside the measured one's 95 % interval; real_episodes: budget of a run
    in the simulator, which ends with the last update that it pays for (0: without end); blend: how
    much of what practice changed is in the policy that is measured and kept, the rest is as in the
    base policy; flow: how the policy explores; anchor: how it goes on imitating demonstrations,
    where there are some; simulator: what the methods that play there have instead.
    """

    world: Literal["imagination", "simulator"] = "imagination"
    updates: int = 60
    groups: int = 8
    group_size: int = 8
    max_chunks: int = 12
    execute: int = 0
    levels: tuple[int, ...] = (1,)
    tasks: tuple[str, ...] = ()
    evaluate_every: int = 10
    evaluation_episodes: int = 48
    gap_bar: float = 0.15
    real_episodes: int = 1500
    blend: float = 1.0
    seed: int = 0
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)


@dataclass(frozen=True)
class Method:
    """world: where it practises; constrained: whether cost has a say; rewarded: whether reward has;
    baseline: of the advantage; fixed: the multiplier stays as it begins.
    """

    world: Literal["imagination", "simulator"] = "imagination"
    constrained: bool = True
    rewarded: bool = True
    baseline: Literal["group", "critic"] = "group"
    fixed: bool = False


METHODS = {
    "safedojo": Method(),
    "wmpo": Method(constrained=False),
    "safevla": Method("simulator", baseline="critic"),
    "grpo": Method("simulator", constrained=False),
    "ppo": Method("simulator", constrained=False, baseline="critic"),
    "no-task": Method(rewarded=False),
    "fixed-multiplier": Method(fixed=True),
}
"""The last two are ablations of safedojo. Without its task head there is no reward: cost alone
drives the policy, and the success classifier only says where a future ends. Without its safety head
there is no cost, and without its constraint cost has no say: both are wmpo.
"""


def for_method(config: PracticeConfig, method: str) -> PracticeConfig:
    """`config` as `method` has it; raises `ConfigError` for an unknown method or bad sizes."""
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'; choose one of {', '.join(METHODS)}")
    chosen, real = METHODS[method], config.simulator
    if chosen.world == "simulator":
        minibatch = real.minibatch or config.update.minibatch
        config = replace(
            config,
            updates=real.updates or config.updates,
            groups=real.groups or config.groups,
            update=replace(config.update, minibatch=minibatch),
        )
    for name in ("updates", "groups", "max_chunks", "evaluate_every", "evaluation_episodes"):
        if getattr(config, name) < 1:
            raise ConfigError(f"practice.{name} is {getattr(config, name)}, expected at least 1")
    for name in ("execute", "real_episodes"):
        if getattr(config, name) < 0:
            raise ConfigError(f"practice.{name} is {getattr(config, name)}, expected 0 or more")
    if not 0.0 < config.blend <= 1.0:
        raise ConfigError(f"practice.blend is {config.blend}, expected within (0, 1]")
    if chosen.baseline == "group" and config.group_size < 2:
        raise ConfigError(f"practice.group_size is {config.group_size}; a group needs 2 or more")
    update = replace(
        config.update,
        constrained=chosen.constrained,
        rewarded=chosen.rewarded,
        baseline=chosen.baseline,
    )
    kind = "fixed" if chosen.fixed else config.multiplier.kind
    multiplier = replace(config.multiplier, kind=kind)
    return replace(config, world=chosen.world, update=update, multiplier=multiplier)


def updates_of(config: PracticeConfig) -> int:
    """How many updates the run makes; raises `ConfigError` where its budget pays for none."""
    if config.world == "imagination" or not config.real_episodes:
        return config.updates
    each = config.groups * config.group_size
    if config.real_episodes < each:
        raise ConfigError(
            f"practice.real_episodes is {config.real_episodes}, an update plays {each} episodes"
        )
    return min(config.updates, config.real_episodes // each)
