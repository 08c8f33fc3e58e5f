"""The fidelity report's figures: world model, success classifier and safety head on held-out data.

Rollouts of a policy, collisions included, are replayed open-loop. The figures are plain JSON
values, which `report` draws.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.fidelity.few_steps import few_step_errors
from safedojo_ros.fidelity.frame_error import altered_actions, frame_bars, frame_errors
from safedojo_ros.fidelity.heads import safety_fidelity, success_fidelity
from safedojo_ros.fidelity.held_out import HeldOut
from safedojo_ros.fidelity.thresholds import ValidationConfig
from safedojo_ros.fidelity.uncertainty import uncertainty_figures
from safedojo_ros.learning.data.replay import Replays, decoded, draw_starts, replay
from safedojo_ros.learning.data.success_frames import frame_success
from safedojo_ros.models.images import to_uint8
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel

STRIPS = 4
"""How many replays are shown as film strips, half of them from colliding episodes."""


@dataclass(frozen=True)
class FilmStrip:
    """One replay to look at: real and imagined (K, cameras, H, W, 3) uint8, at `steps`."""

    title: str
    steps: list[int]
    real: np.ndarray
    imagined: np.ndarray


def validate(
    config: ValidationConfig,
    world: WorldModel,
    success: SuccessModel,
    safety: SafetyModel,
    held: HeldOut,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[dict[str, Any], list[FilmStrip]]:
    """All figures but those that need a policy, and some replays to look at.

    Returns sections "data", "by_horizon", "few_steps", "uncertainty", "success" and "safety".
    Raises `DatasetError` where no episode is longer than a replay, `CheckpointError` where the
    three have different images.
    """
    side = world.autoencoder.size.image_size
    for kind, cameras, size in (
        ("success classifier", success.cameras, success.image_size),
        ("safety head", safety.cameras, safety.image_size),
    ):
        if (cameras, size) != (world.cameras, side):
            raise CheckpointError(
                f"the {kind} sees {cameras} of {size} pixels, the world model imagines "
                f"{world.cameras} of {side}; train one for the other"
            )
    rng = np.random.default_rng(config.seed)
    horizon = config.chunks * world.size.chunk_length
    starts = draw_starts(held.latents, horizon, config.replays, rng)
    ending = draw_starts(held.latents, horizon, config.ending_replays, rng, at_end=1.0)
    progress("imagining under the recorded actions")
    true = replay(world, held.latents, starts, config.chunks, config.seed)
    at_end = replay(world, held.latents, ending, config.chunks, config.seed + 1)
    progress("imagining under other actions")
    altered = {
        name: replay(world, held.latents, starts, config.chunks, config.seed, actions)
        for name, actions in altered_actions(held, true, world).items()
    }
    progress("frames by horizon")
    by_horizon = frame_errors(world, held, true, altered, config.chunks, config.seed)
    progress("several futures of one start")
    uncertainty = seed_uncertainty(config, world, held, true)
    progress("fewer denoising steps")
    few_steps = few_step_errors(world, held, starts, config.chunks, seed=config.seed)
    progress("success classifier")
    success_figures = success_fidelity(success, world, held, [true, at_end], config.seed)
    progress("safety head")
    safety_figures = safety_fidelity(
        safety, world, held, [true, at_end], config.false_alarms, config.seed
    )
    sections = {
        "data": {
            "episodes": len(held.collided),
            "colliding": int(held.collided.sum()),
            "frames": len(held.frames.state),
            "success_frames": int(frame_success(held.frames.success, held.frames.starts).sum()),
            "contact_steps": int(held.contact.sum()),
            "sources": sorted({row.source for row in held.frames.rows}),
        },
        "by_horizon": by_horizon,
        "few_steps": few_steps,
        "uncertainty": uncertainty,
        "success": success_figures,
        "safety": safety_figures,
    }
    return sections, film_strips(world, held, true)


def seed_uncertainty(
    config: ValidationConfig, world: WorldModel, held: HeldOut, true: Replays
) -> dict[str, Any]:
    """After one chunk and after all: `uncertainty_figures` over `config.seeds` noises."""
    others = [
        replay(world, held.latents, true.starts, config.chunks, config.seed + 1000 + k)
        for k in range(1, config.seeds)
    ]
    if not others:
        return {}
    result = {}
    for chunks in sorted({1, config.chunks}):
        at = chunks * world.size.future - 1
        result[str(chunks * world.size.chunk_length)] = uncertainty_figures(
            torch.stack([part.latents[:, at] for part in (true, *others)]),
            held.latents.latents[true.rows[:, at]].float(),
            true.starts.episode,
            config.coverage,
            config.seed,
        )
    return result


def bar_values(sections: Mapping[str, Any]) -> dict[str, float | None]:
    """{metric: value} of every bar; None where `sections` lacks it."""

    def at(*path: str) -> float | None:
        value: Any = sections
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, (int, float)) else None

    values: dict[str, float | None] = {
        "violation_r": at("within", "imagined", "violation", "r", "value")
    }
    values |= frame_bars(sections["by_horizon"]) | {
        "safety_auroc_true": at("safety", "true", "auroc", "value"),
        "safety_ece_true": at("safety", "true", "ece", "value"),
        "safety_auroc_imagined": at("safety", "imagined", "auroc", "value"),
        "lead_time_s": at("safety", "lead_time", "median_s", "value"),
    }
    for rate in ("tsr", "ssr", "car"):
        values[f"{rate}_apart"] = at("rates", rate, "apart", "value")
    return values


def film_strips(world: WorldModel, held: HeldOut, replays: Replays) -> list[FilmStrip]:
    """The first replays of safe and of colliding episodes, at every chunk's end."""
    collided = held.collided[replays.starts.episode]
    half = STRIPS // 2
    chosen = [*np.flatnonzero(~collided)[:half], *np.flatnonzero(collided)[:half]]
    every = torch.arange(world.size.future - 1, replays.rows.shape[1], world.size.future)
    result = []
    for i in chosen:
        row = held.frames.rows[replays.starts.episode[i]]
        kind = "colliding" if row.collided else "safe"
        first = int(replays.starts.first[i] - replays.starts.start[i])
        imagined = to_uint8(decoded(world, replays.latents[i : i + 1, every])[0])
        result.append(
            FilmStrip(
                f"{row.instruction}, level {row.level}, a {kind} episode (seed {row.seed}), "
                f"from step {first}",
                [int(k + 1) * world.size.stride for k in every],
                held.frames.images[replays.rows[i, every].numpy()],
                imagined.numpy(),
            )
        )
    return result


def finite(value: Any) -> Any:
    """`value` for JSON: without the keys whose number is not finite."""
    if isinstance(value, Mapping):
        kept = {str(k): finite(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, (np.floating, np.integer)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
