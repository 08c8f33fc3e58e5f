"""A recipe: everything that a preset sets, each stage's section as its own configuration."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields

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


@dataclass(frozen=True)
class PipelineConfig:
    """How much a pipeline collects and evaluates."""

    demonstrations: int = 2400
    """Episodes of the experts, at least 1."""
    direct_share: float = 0.6
    """Share of them that ignore the obstacle, [0, 1]."""
    demonstration_noise: float = 0.015
    """Sigma of the bursts of noise in them, m a step, 0 or more."""
    demonstration_linger: int = 0
    """Control steps recorded after success in them, 0 or more."""
    only_successes: bool = True
    """Keep no other of them."""
    rollouts: int = 1500
    """Episodes of the base policy for world model, success classifier and safety head, at least
    1."""
    rollout_levels: tuple[int, ...] = (1,)
    """Levels of rollouts and held-out rollouts."""
    rollout_noise: float = 0.01
    """Sigma of the bursts of noise in rollouts, m a step, 0 or more."""
    held_out: int = 150
    """Further episodes for validation, from the validation split, without noise; at least 1."""
    linger: int = 8
    """Control steps recorded after success in every rollout, 0 or more."""
    max_steps: int = 150
    """Control steps of an episode, everywhere, at least 1."""
    image_size: int = 64
    """Side of the recorded images, pixels, at least 1."""
    safe_steps: int = 1500
    """Updates by which the policy is fine-tuned on demonstrations without a contact before
    practice, 0 or more; 0: none."""
    safe_learning_rate: float = 5e-4
    """Learning rate of these, above 0."""
    first_head_steps: int = 200
    """Updates of the first safety head, beside which the autoencoder is kept until one has learned
    from imagined states, too; at least 1."""
    evaluation: int = 200
    """Episodes of the final evaluation at each level, at least 1."""
    workers: int = 2
    """Processes of the experts, at least 1."""

    def __post_init__(self) -> None:
        for name in ("demonstrations", "rollouts", "held_out", "max_steps", "image_size"):
            check_ranges(self, **{name: "[1, inf)"})
        for name in ("first_head_steps", "evaluation", "workers"):
            check_ranges(self, **{name: "[1, inf)"})
        for name in ("demonstration_noise", "rollout_noise", "safe_steps"):
            check_ranges(self, **{name: "[0, inf)"})
        check_ranges(self, demonstration_linger="[0, inf)", linger="[0, inf)")
        check_ranges(self, safe_learning_rate="(0, inf)")
        check_ranges(self, direct_share="[0, 1]")


@dataclass(frozen=True)
class Recipe:
    """The sections of a preset."""

    policy: ImitationConfig = field(default_factory=ImitationConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    success: SuccessConfig = field(default_factory=SuccessConfig)
    practice: PracticeConfig = field(default_factory=PracticeConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)


SECTIONS = tuple(f.name for f in fields(Recipe))


def read_recipe(
    preset: str, overrides: Iterable[str] = (), reads: Collection[str] = SECTIONS
) -> Recipe:
    """The recipe of a preset (a known name or a TOML file) with `overrides`, "section.key=value".

    reads: the sections that the caller reads; an override of another one would do nothing.
    Raises `ConfigError` for an unknown preset, for an unknown section or key anywhere, naming the
    nearest known one, for a value of another type or out of range, and for such an override.
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
    return from_mapping(Recipe, with_overrides(read_preset(preset), overrides))
