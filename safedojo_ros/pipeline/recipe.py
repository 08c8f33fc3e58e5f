"""A recipe: everything that a preset sets, each stage's section as its own configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from safedojo_ros.core.config import from_mapping
from safedojo_ros.fidelity.thresholds import ValidationConfig
from safedojo_ros.learning.autoencoder import AutoencoderConfig
from safedojo_ros.learning.imitation import ImitationConfig
from safedojo_ros.learning.presets import preset_values
from safedojo_ros.learning.rl.methods import PracticeConfig
from safedojo_ros.learning.safety_head import SafetyConfig
from safedojo_ros.learning.success import SuccessConfig
from safedojo_ros.learning.world_model import WorldModelConfig


@dataclass(frozen=True)
class PipelineConfig:
    """How much a pipeline collects and evaluates."""

    demonstrations: int = 1500
    """Episodes of the experts."""
    direct_share: float = 0.8
    """Share of them that ignore the obstacle."""
    demonstration_noise: float = 0.015
    """Sigma of the bursts of noise in them, m a step."""
    demonstration_linger: int = 0
    """Control steps recorded after success in them."""
    only_successes: bool = True
    """Keep no other of them."""
    rollouts: int = 1500
    """Episodes of the base policy for world model, success classifier and safety head."""
    rollout_levels: tuple[int, ...] = (1,)
    """Levels of rollouts and held-out rollouts."""
    rollout_noise: float = 0.01
    """Sigma of the bursts of noise in rollouts, m a step."""
    held_out: int = 150
    """Further episodes for validation, from the validation split, without noise."""
    linger: int = 8
    """Control steps recorded after success in every rollout."""
    max_steps: int = 150
    """Control steps of an episode, everywhere."""
    image_size: int = 64
    """Side of the recorded images, pixels."""
    safe_steps: int = 0
    """Updates by which the policy is fine-tuned on demonstrations without a contact before it
    practises; 0: none."""
    safe_learning_rate: float = 5e-4
    """Learning rate of these."""
    first_head_steps: int = 200
    """Updates of the first safety head, beside which the autoencoder is kept until one has learned
    from imagined states, too."""
    fresh: int = 0
    """Episodes of the policies of a first practice, at the levels of [practice], from which world
    model and success classifier learn, too; 0: none, and one practice."""
    fresh_steps: int = 4000
    """Updates of the world model on all episodes then."""
    fresh_learning_rate: float = 1e-3
    """Learning rate of these."""
    evaluation: int = 200
    """Episodes of the final evaluation, at each level."""
    workers: int = 2
    """Processes of the experts."""


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


def read_recipe(preset: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a preset (a known name or a TOML file), changed by "section.key=value" texts.

    Raises `ConfigError` for an unknown preset, section or key, naming the nearest known one.
    """
    return from_mapping(Recipe, preset_values(preset, list(settings)))
