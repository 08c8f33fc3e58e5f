"""Every method of practice as a configuration of one trainer (design, section 7)."""

from dataclasses import dataclass, field, replace
from typing import Literal

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.constrained_grpo import UpdateConfig
from safedojo_ros.learning.imagination import ImaginationConfig
from safedojo_ros.learning.multiplier import MultiplierConfig
from safedojo_ros.learning.preflight import PreflightConfig
from safedojo_ros.models.flow_sde import FlowConfig


@dataclass(frozen=True)
class PracticeConfig:
    """One run of practice.

    world: where it plays; updates; groups of group_size trajectories an update; max_chunks:
    longest trajectory (it replaces imagination.max_steps); levels, tasks (none: all) of the
    starts; evaluate_every: updates between two measured evaluations of evaluation_episodes
    validation seeds at each level; gap_bar: how far an imagined rate may lie outside the measured
    one's 95 % interval.
    """

    world: Literal["imagination", "simulator"] = "imagination"
    updates: int = 60
    groups: int = 8
    group_size: int = 8
    max_chunks: int = 12
    levels: tuple[int, ...] = (1,)
    tasks: tuple[str, ...] = ()
    evaluate_every: int = 10
    evaluation_episodes: int = 48
    gap_bar: float = 0.15
    seed: int = 0
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    multiplier: MultiplierConfig = field(default_factory=MultiplierConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


METHODS = {
    "safedojo": ("imagination", True, "group"),
    "wmpo": ("imagination", False, "group"),
    "safevla": ("simulator", True, "critic"),
    "grpo": ("simulator", False, "group"),
    "ppo": ("simulator", False, "critic"),
}
"""{method: (world, constrained, baseline of the advantage)}."""


def for_method(config: PracticeConfig, method: str) -> PracticeConfig:
    """`config` as `method` has it; raises `ConfigError` for an unknown method or bad sizes."""
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'; choose one of {', '.join(METHODS)}")
    for name in ("updates", "groups", "max_chunks", "evaluate_every", "evaluation_episodes"):
        if getattr(config, name) < 1:
            raise ConfigError(f"practice.{name} is {getattr(config, name)}, expected at least 1")
    world, constrained, baseline = METHODS[method]
    if baseline == "group" and config.group_size < 2:
        raise ConfigError(f"practice.group_size is {config.group_size}; a group needs 2 or more")
    update = replace(config.update, constrained=constrained, baseline=baseline)  # type: ignore[arg-type]
    return replace(config, world=world, update=update)  # type: ignore[arg-type]
