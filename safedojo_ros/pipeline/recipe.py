"""A recipe: all settings of a preset, one section for each stage."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from safedojo_ros.core.config import check_ranges, from_mapping, nearest, with_overrides
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.fidelity.thresholds import ValidationConfig
from safedojo_ros.learning.autoencoder import AutoencoderConfig
from safedojo_ros.learning.imitation import ImitationConfig
from safedojo_ros.learning.presets import read_preset
from safedojo_ros.learning.rl.practice import PracticeConfig
from safedojo_ros.learning.safety_head import SafetyConfig
from safedojo_ros.learning.success import SuccessConfig
from safedojo_ros.learning.world_model import WorldModelConfig
from safedojo_ros.worlds.registry import DEFAULT_WORLD, world_name


@dataclass(frozen=True)
class PipelineConfig:
    """Where `safedojo pipeline` collects and evaluates, and how much."""

    world: str = DEFAULT_WORLD
    """Name of the world, as `--world` of other commands takes it."""
    tasks: tuple[str, ...] = ()
    """The tasks by name; none: all of the world."""

    demonstrations: int = 2400
    """Episodes of the scripted experts, at least 1."""
    demonstration_levels: tuple[int, ...] = ()
    """Levels of the demonstrations, each 0 to 3; none: the world's usual ones."""
    direct_share: float = 0.6
    """Share of the demonstrations whose expert ignores the obstacle, [0, 1]."""
    demonstration_noise: float = 0.015
    """Standard deviation of the noise bursts in demonstrations, metres a step, 0 or more."""
    demonstration_linger: int = 0
    """Control steps that a demonstration records after success, 0 or more."""
    only_successes: bool = True
    """Keep only the demonstrations that succeed."""
    probes: int = 40
    """Motions near the obstacle that are tried in the scene of each demonstration and rollout, for
    the safety head, 0 or more. They touch the simulated obstacle many times, and count as no
    episode: a real robot makes none."""
    rollouts: int = 3000
    """Episodes of the base policy that world model, success classifier and safety head are trained
    on, at least 1."""
    rollout_levels: tuple[int, ...] = (1, 2)
    """Levels of rollouts and held-out rollouts, each 0 to 3."""
    rollout_noise: float = 0.01
    """Standard deviation of the noise bursts in rollouts, metres a step, 0 or more."""
    held_out: int = 150
    """Held-out rollouts, at least 1: episodes of the base policy on validation seeds, without
    noise, that the imagined world is validated with."""
    linger: int = 8
    """Control steps that a rollout records after success, 0 or more."""
    max_steps: int = 150
    """Control steps after which an episode ends, recorded or evaluated, at least 1."""
    image_size: int = 64
    """Side of the recorded images, pixels, at least 1."""
    safe_steps: int = 1500
    """Gradient steps that fine-tune the base policy on the demonstrations without a contact, 0 or
    more; practice starts from the result. 0: practice starts from the base policy."""
    safe_learning_rate: float = 5e-4
    """Learning rate of this fine-tuning, above 0."""
    first_head_steps: int = 200
    """Gradient steps of the first safety head, at least 1. It is only used until the final one has
    been trained on imagined states, too."""
    evaluation: int = 200
    """Episodes of the final evaluation at each level, at least 1."""
    batch: int = 32
    """Worlds side by side where a policy acts, at least 1."""
    workers: int = 2
    """Processes that record demonstrations side by side, at least 1."""

    def __post_init__(self) -> None:
        world_name(self.world)
        for name in ("demonstrations", "rollouts", "held_out", "max_steps", "image_size"):
            check_ranges(self, **{name: "[1, inf)"})
        for name in ("first_head_steps", "evaluation", "batch", "workers"):
            check_ranges(self, **{name: "[1, inf)"})
        for name in ("demonstration_noise", "rollout_noise", "safe_steps", "probes"):
            check_ranges(self, **{name: "[0, inf)"})
        check_ranges(self, demonstration_linger="[0, inf)", linger="[0, inf)")
        check_ranges(self, safe_learning_rate="(0, inf)")
        check_ranges(self, direct_share="[0, 1]")


@dataclass(frozen=True)
class Recipe:
    """The sections of a preset; `safedojo pipeline` uses all of them."""

    policy: ImitationConfig = field(default_factory=ImitationConfig)
    """Imitation. Used by `safedojo train policy`."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """The frame autoencoder. Used by `safedojo train safety`."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    """The safety head. Used by `safedojo train safety`."""
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """The world model. Used by `safedojo train world-model`."""
    success: SuccessConfig = field(default_factory=SuccessConfig)
    """The success classifier. Used by `safedojo train success`."""
    practice: PracticeConfig = field(default_factory=PracticeConfig)
    """Training in imagination or in the simulator. Used by `safedojo practice` and `sweep`."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """The fidelity report and its bars. Used by `safedojo validate` and `train success`."""
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    """How much is collected and evaluated. Used by `safedojo pipeline` alone."""
    preset: str = ""
    """Where they come from: the preset's name, then each value that --set changed. Manifests keep
    it."""


SECTIONS = tuple(f.name for f in fields(Recipe) if f.name != "preset")


def read_recipe(
    preset: str, overrides: Iterable[str] = (), reads: Collection[str] = SECTIONS
) -> Recipe:
    """The recipe of a preset (a known name or a TOML file) with `overrides`, "section.key=value".

    reads: the sections that the caller reads; an override of another section is refused.
    Raises `ConfigError` for an unknown preset, section or key (it names the nearest known one), for
    a value of another type or out of range, and for an override of a section that is not read.
    """
    overrides = list(overrides)
    for text in overrides:
        section = text.partition("=")[0].partition(".")[0].strip()
        if section not in SECTIONS:
            raise ConfigError(f"--set {text}: no section '{section}'{nearest(section, SECTIONS)}")
        if section not in reads:
            raise ConfigError(
                f"--set {text}: this command does not read [{section}], only "
                f"{', '.join(f'[{name}]' for name in reads)}"
            )
    recipe = from_mapping(Recipe, with_overrides(read_preset(preset), overrides))
    return replace(recipe, preset=", ".join([Path(preset).name, *overrides]))
