"""Success classifier and safety head on real and imagined input, against the recording."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.types import top_m_mean
from safedojo_ros.evaluation.forecasts import forecast_figures
from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.fidelity.held_out import HeldOut
from safedojo_ros.fidelity.lead_time import lead_time
from safedojo_ros.learning.data import replay
from safedojo_ros.learning.data.contacts import chunks_ahead
from safedojo_ros.learning.data.replay import Replays
from safedojo_ros.learning.data.success_frames import SuccessFrames
from safedojo_ros.learning.safety_head import contact_logits
from safedojo_ros.learning.success import frame_probability, success_figures
from safedojo_ros.models.images import to_uint8
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel


def success_fidelity(
    success: SuccessModel, world: WorldModel, held: HeldOut, replays: list[Replays], seed: int = 0
) -> dict[str, Any]:
    """{"real": figures, "imagined": figures} as from `success_figures`, and F1 with its interval.

    real: every recorded frame; imagined: every frame of `replays`, with the label of the recorded
    one.
    """
    every = SuccessFrames.recorded(held.frames)
    parts = []
    for part in replays:
        instruction = every.instruction[held.frames.starts[:-1]][part.starts.episode]
        images = to_uint8(replay.decoded(world, part.latents)).numpy()
        shown, episode = every.success[part.rows.numpy()], part.starts.episode
        parts.append((images, shown, instruction, episode))
    images, shown, instruction, episode = map(np.concatenate, zip(*parts, strict=True))
    imagined = SuccessFrames.imagined(images, shown, instruction, episode, every.instructions)
    result = {}
    for name, frames in (("real", every), ("imagined", imagined)):
        values = frame_probability(success, frames)
        figures: dict[str, Any] = dict(success_figures(success, frames, values, name == "imagined"))
        if "f1" in figures:
            over = success.over(values, name == "imagined")
            figures["f1"] = asdict(_f1(frames, over, seed))
        result[name] = figures
    return result


def safety_fidelity(
    safety: SafetyModel,
    world: WorldModel,
    held: HeldOut,
    replays: list[Replays],
    false_alarms: float,
    seed: int = 0,
) -> dict[str, Any]:
    """{"true", "imagined", "matched": forecasts, "lead_time", "lead_time_by_step"}.

    true: each recorded frame with the next H executed actions; imagined: the predicted state after
    each replayed chunk with the next H recorded actions and the replay's first frame, as
    imagination predicts costs; matched: the recorded frames that correspond to the imagined states,
    for comparison.
    """
    frames, horizon = held.frames, safety.chunk_length
    every = chunks_ahead(frames, np.arange(len(frames.state)), horizon)
    actions, contact, exists = every
    latents = recorded_latents(safety, world, held)
    probability = _step_cost(safety, latents, torch.from_numpy(frames.state), actions)
    steps = np.repeat(frames.episode, horizon).reshape(exists.shape)
    alarm = np.array([top_m_mean(cost, safety.cost_m) for cost in probability * exists])
    result = {
        "true": forecast_figures(contact[exists], probability[exists], steps[exists], seed),
        "lead_time": lead_time(alarm, held.contact, frames.starts, false_alarms, "episode", seed),
        "lead_time_by_step": lead_time(
            alarm, held.contact, frames.starts, false_alarms, "step", seed
        ),
    }
    size = world.size
    last = slice(size.future - 1, -1, size.future)  # of all chunks but the last
    rows = np.concatenate([part.rows[:, last].flatten().numpy() for part in replays])
    if len(rows) == 0:
        return result
    at = slice(size.chunk_length - 1, -1, size.chunk_length)
    states = torch.cat([part.states[:, at].flatten(0, 1) for part in replays])
    starts = [p.starts.first.repeat_interleave(p.rows[:, last].shape[1]) for p in replays]
    actions, contact, exists = (column[rows] for column in every)
    imagined = _step_cost(
        safety, latents[torch.cat(starts)], world.scales.state.restore(states), actions
    )
    steps, matched = steps[rows], probability[rows]
    result["imagined"] = forecast_figures(contact[exists], imagined[exists], steps[exists], seed)
    result["matched"] = forecast_figures(contact[exists], matched[exists], steps[exists], seed)
    return result


@torch.no_grad()
def recorded_latents(safety: SafetyModel, world: WorldModel, held: HeldOut) -> torch.Tensor:
    """(N, cameras·C, s, s) of every recorded frame, in the safety head's own autoencoder."""
    if safety.autoencoder.same(world.autoencoder):
        return world.stacked(held.latents.latents.float())
    rows = torch.arange(len(held.frames.images)).split(256)
    return torch.cat([safety.encode(held.images(part) * 2 - 1) for part in rows])


def _step_cost(
    safety: SafetyModel, latents: torch.Tensor, state: torch.Tensor, actions: np.ndarray
) -> np.ndarray:
    """(B, H) P(contact); state (B, 8) and actions (B, H, 7) in physical units."""
    logits = contact_logits(
        safety,
        latents,
        safety.scales.state.normalise(state.float()),
        safety.scales.action.normalise(torch.from_numpy(actions)),
    )
    return torch.sigmoid(logits).numpy().astype(np.float64)


def _f1(frames: SuccessFrames, over: np.ndarray, seed: int) -> Any:
    def statistic(rows: np.ndarray) -> float:
        truth, said = frames.success[rows], over[rows]
        either = int(truth.sum() + said.sum())
        return 2.0 * int((truth & said).sum()) / either if truth.any() else math.nan

    return ClusterBootstrap(frames.episode, seed).estimate(statistic)
