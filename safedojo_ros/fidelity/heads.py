"""The two readers of an imagined world, on real and on imagined input, against replayed truth."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.types import top_m_mean
from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.fidelity.calibration import forecast_figures, lead_time
from safedojo_ros.fidelity.held_out import HeldOut, Replays, decoded
from safedojo_ros.learning import success as training
from safedojo_ros.models.images import to_uint8
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel


def success_fidelity(
    success: SuccessModel, world: WorldModel, held: HeldOut, replays: list[Replays], seed: int = 0
) -> dict[str, Any]:
    """{"real": figures, "imagined": figures} as from `success_figures`, and F1 with its interval.

    real: every recorded frame; imagined: every frame of `replays`, labelled as the recorded one.
    """
    sentences = tuple(sorted(set(held.instructions)))
    index = np.array([sentences.index(sentence) for sentence in held.instructions])
    every = training.SuccessFrames(
        held.images,
        held.shows_success,
        index[held.episode],
        held.episode,
        held.episode,
        sentences,
    )
    dreams = [_imagined(world, held, part, index, sentences) for part in replays]
    lengths = [len(part.rows) for part in replays]
    for part, before in zip(dreams, np.cumsum([0, *lengths[:-1]]), strict=True):
        part.clip += before
    result = {}
    for name, parts in (("real", [every]), ("imagined", dreams)):
        probability = [training.frame_probability(success, part) for part in parts]
        columns = {
            column: np.concatenate([getattr(part, column) for part in parts])
            for column in ("success", "instruction", "clip", "episode")
        }
        frames = training.SuccessFrames(np.empty(0), instructions=sentences, **columns)
        values = np.concatenate(probability)
        dreamt = name == "imagined"
        figures: dict[str, Any] = dict(training.success_figures(success, frames, values, dreamt))
        if "f1" in figures:
            figures["f1"] = asdict(_f1(frames, success.over(values, dreamt), seed))
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
    each replayed chunk with the H actions recorded next, and the frame that the replay began with,
    as costs are judged in imagination; matched: the recorded frames that correspond to these, so
    that the two can be compared.
    """
    chunks, contact, exists = _ahead(safety, held, np.arange(len(held.state)))
    latents = recorded_latents(safety, world, held)
    probability = _step_cost(safety, latents, torch.from_numpy(held.state), chunks)
    steps = np.repeat(held.episode, safety.chunk_length).reshape(exists.shape)
    alarm = np.array([top_m_mean(cost, safety.cost_m) for cost in probability * exists])
    result = {
        "true": forecast_figures(contact[exists], probability[exists], steps[exists], seed),
        "lead_time": lead_time(alarm, held.contact, held.starts, false_alarms, "episode", seed),
        "lead_time_by_step": lead_time(
            alarm, held.contact, held.starts, false_alarms, "step", seed
        ),
    }
    every_chunk = slice(world.size.future - 1, -1, world.size.future)  # its last frame has no next
    rows = np.concatenate([part.rows[:, every_chunk].flatten().numpy() for part in replays])
    at = slice(world.size.chunk_length - 1, -1, world.size.chunk_length)
    states = torch.cat([part.states[:, at].flatten(0, 1) for part in replays])
    if len(rows) == 0:
        return result
    chunks, contact, exists = _ahead(safety, held, rows)
    each = [part.rows[:, every_chunk].shape[1] for part in replays]
    starts = [p.starts.first.repeat_interleave(n) for p, n in zip(replays, each, strict=True)]
    dreamt = _step_cost(
        safety, latents[torch.cat(starts)], world.scales.state.restore(states), chunks
    )
    steps = steps[rows]
    result["imagined"] = forecast_figures(contact[exists], dreamt[exists], steps[exists], seed)
    matched = probability[rows]
    result["matched"] = forecast_figures(contact[exists], matched[exists], steps[exists], seed)
    return result


@torch.no_grad()
def recorded_latents(safety: SafetyModel, world: WorldModel, held: HeldOut) -> torch.Tensor:
    """(N, cameras·C, s, s) of every recorded frame, in the safety head's own autoencoder."""
    if _same(safety.autoencoder, world.autoencoder):
        return world.stacked(held.latents.latents.float())
    rows = torch.arange(len(held.images)).split(256)
    return torch.cat([safety.encode(held.pictures(part) * 2 - 1) for part in rows])


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        mine[k].shape == theirs[k].shape and torch.equal(mine[k], theirs[k].to(mine[k].device))
        for k in mine
    )


def _ahead(
    safety: SafetyModel, held: HeldOut, rows: np.ndarray
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Executed actions (B, H, 7), physical, contact and existence (B, H) of the steps from rows."""
    ends = held.starts[1:][held.episode[rows]]
    steps = rows[:, None] + np.arange(safety.chunk_length)
    exists = steps < ends[:, None]
    steps = np.minimum(steps, ends[:, None] - 1)
    actions = np.where(exists[..., None], held.actions[steps], 0.0).astype(np.float32)
    return torch.from_numpy(actions), held.contact[steps] & exists, exists


@torch.no_grad()
def _step_cost(
    safety: SafetyModel,
    latents: torch.Tensor,
    state: torch.Tensor,
    chunks: torch.Tensor,
) -> np.ndarray:
    """(B, H) P(contact); state (B, 8) and chunks (B, H, 7) in physical units."""
    safety.network.eval()
    parts = [
        torch.sigmoid(
            safety.head(
                latents[rows],
                safety.scales.state.normalise(state[rows].float()),
                safety.scales.action.normalise(chunks[rows]),
            )
        )
        for rows in torch.arange(len(latents)).split(1024)
    ]
    return torch.cat(parts).numpy().astype(np.float64)


def _imagined(
    world: WorldModel,
    held: HeldOut,
    replays: Replays,
    index: np.ndarray,
    sentences: tuple[str, ...],
) -> training.SuccessFrames:
    images = to_uint8(decoded(world, replays.latents) * 2 - 1).numpy()
    count, frames = images.shape[:2]
    return training.SuccessFrames(
        images.reshape(-1, *images.shape[2:]),
        held.shows_success[replays.rows.numpy()].reshape(-1),
        np.repeat(index[replays.starts.episode], frames),
        np.repeat(np.arange(count), frames),
        np.repeat(replays.starts.episode, frames),
        sentences,
    )


def _f1(frames: training.SuccessFrames, over: np.ndarray, seed: int) -> Any:
    def statistic(rows: np.ndarray) -> float:
        truth, said = frames.success[rows], over[rows]
        either = int(truth.sum() + said.sum())
        return 2.0 * int((truth & said).sum()) / either if truth.any() else math.nan

    return ClusterBootstrap(frames.episode, seed).estimate(statistic)
