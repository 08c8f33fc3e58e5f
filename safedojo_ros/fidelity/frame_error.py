"""Errors of imagined frames and states by horizon, separately for safe and colliding episodes."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.fidelity import image_error
from safedojo_ros.fidelity.held_out import HeldOut, decoded
from safedojo_ros.learning.data.replay import Replays
from safedojo_ros.models.world_model import WorldModel, WorldModelSize

SPACES = ("camera", "reconstruction")
GROUPS = ("all", "safe", "colliding")


def horizons(size: WorldModelSize, chunks: int) -> list[int]:
    """Control steps after which errors are reported: half a chunk, then the end of every chunk."""
    half = size.chunk_length // 2
    first = [half] if half and half % size.stride == 0 else []
    return first + [(k + 1) * size.chunk_length for k in range(chunks)]


def altered_actions(held: HeldOut, replays: Replays, world: WorldModel) -> dict[str, torch.Tensor]:
    """(B, T, A) normalised: "permuted", another replay's; "zeroed", without motion."""
    steps = torch.arange(replays.states.shape[1])
    actions = held.latents.actions[replays.starts.first[:, None] + steps]
    if world.scales.moves_gripper:
        zeroed = world.scales.action.normalise(torch.zeros_like(actions))
        zeroed[..., 6] = actions[..., 6]
    else:
        zeroed = world.scales.resting(actions)
    return {"permuted": actions.roll(1, 0), "zeroed": zeroed}


def frame_errors(
    world: WorldModel,
    held: HeldOut,
    true: Replays,
    altered: dict[str, Replays],
    chunks: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One entry for each horizon and group; every figure with its interval over episodes.

    camera: errors against the camera's images; reconstruction: against the autoencoder's images of
    the recorded frames. In each, "copying" is the error of the last seen frame, which any model
    must beat; PSNR and SSIM are of the true actions. autoencoder: error of the decoded recorded
    latents against the camera's images. latent_distance: mean squared distance in the latents (unit
    variance) of this project's autoencoder; it is no published feature distance.
    """
    first = true.starts.first
    seen = {"camera": held.images(first)}
    seen["reconstruction"] = decoded(world, held.latents.latents[first][:, None])[:, 0]
    seen_latents = held.latents.latents[first].float()
    result = []
    for steps in horizons(world.size, chunks):
        at = steps // world.size.stride - 1
        rows = true.rows[:, at]
        real = {"camera": held.images(rows)}
        recorded = held.latents.latents[rows].float()
        real["reconstruction"] = decoded(world, recorded[:, None])[:, 0]
        frames = {"mse": decoded(world, true.latents[:, at, None])[:, 0]}
        for name, other in altered.items():
            frames[name] = decoded(world, other.latents[:, at, None])[:, 0]
        columns: dict[str, np.ndarray] = {}
        for space in SPACES:
            for name, images in (frames | {"copying": seen[space]}).items():
                error = image_error.mean_squared_error(images, real[space])
                columns[f"{space}.{name}"] = error.numpy()
            for name, images in (("", frames["mse"]), ("copying_", seen[space])):
                error = image_error.mean_squared_error(images, real[space])
                columns[f"{space}.{name}psnr"] = image_error.peak_signal_to_noise(error).numpy()
                columns[f"{space}.{name}ssim"] = image_error.structural_similarity(
                    images, real[space]
                ).numpy()
        floor = image_error.mean_squared_error(real["reconstruction"], real["camera"])
        columns["camera.autoencoder"] = floor.numpy()
        imagined = true.latents[:, at]
        columns["latent_distance"] = _squared(imagined, recorded)
        columns["latent_copying"] = _squared(seen_latents, recorded)
        if world.scales.moves_gripper:  # else the state does not tell where it is
            columns["state_cm"] = _state_error(world, held, true, steps)
        result += _grouped(steps, columns, held.collided, true.starts.episode, seed)
    return result


def frame_bars(entries: list[dict[str, Any]]) -> dict[str, float | None]:
    """{metric: value} for the bars on frames (against the camera's) and states."""
    every = [e for e in entries if e["group"] == "all"]
    by_steps = {e["steps"]: e for e in every}

    def of(steps: int, name: str) -> float | None:
        return by_steps[steps]["camera"][name]["value"] if steps in by_steps else None

    def state(steps: int) -> float | None:
        known = "state_cm" in by_steps.get(steps, {})
        return by_steps[steps]["state_cm"]["value"] if known else None

    def ratio(steps: int, over: str, under: str) -> float | None:
        above, below = of(steps, over), of(steps, under)
        return above / max(below, 1e-12) if above is not None and below is not None else None

    over_copying = [r for s in by_steps if (r := ratio(s, "mse", "copying")) is not None]
    return {
        "mse_over_copying": max(over_copying, default=None),
        "copying_over_mse_8": ratio(8, "copying", "mse"),
        "permuted_over_mse_8": ratio(8, "permuted", "mse"),
        "state_cm_8": state(8),
        "state_cm_40": state(40),
    }


def _state_error(world: WorldModel, held: HeldOut, replays: Replays, steps: int) -> np.ndarray:
    """(B,) distance of the predicted end-effector from the recorded one, cm."""
    predicted = world.scales.state.restore(replays.states[:, steps - 1])[:, :3].numpy()
    recorded = held.frames.state[replays.starts.first.numpy() + steps, :3]
    return np.asarray(100.0 * np.linalg.norm(predicted - recorded, axis=1))


def _squared(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    return np.asarray((one - other).square().flatten(1).mean(1))


def _grouped(
    steps: int, columns: dict[str, np.ndarray], collided: np.ndarray, episode: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    members = {"all": np.ones(len(episode), bool), "safe": ~collided[episode]}
    members["colliding"] = collided[episode]
    result = []
    for group in GROUPS:
        chosen = members[group]
        if not chosen.any():
            continue
        draws = ClusterBootstrap(episode[chosen], seed)
        entry: dict[str, Any] = {"steps": steps, "group": group, "replays": int(chosen.sum())}
        entry["episodes"] = len(np.unique(episode[chosen]))
        for name, values in columns.items():
            space, _, metric = name.rpartition(".")
            target = entry.setdefault(space, {}) if space else entry
            target[metric] = asdict(draws.mean(values[chosen]))
        result.append(entry)
    return result
