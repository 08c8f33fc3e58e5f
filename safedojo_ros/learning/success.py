"""Training of the success classifier on recorded frames, and on imagined ones beside them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.evaluation.forecasts import area_under_roc, rate_threshold
from safedojo_ros.learning.data.splits import held_out_episodes
from safedojo_ros.learning.data.success_frames import SuccessFrames, kinds_of_frames
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.images import to_unit
from safedojo_ros.models.success_classifier import SuccessModel, SuccessSize, sustained

THRESHOLDS = np.linspace(0.02, 0.98, 97)
BATCH = 256
"""Frames that are judged together."""


@dataclass(frozen=True)
class SuccessConfig(FitConfig):
    """How the success classifier is trained. Used by `safedojo train success`."""

    size: SuccessSize = field(default_factory=SuccessSize)
    """Size of the network."""
    batch_size: int = 128
    """Frames in each gradient step, at least 1."""
    learning_rate: float = 2e-3
    """Learning rate after the warm-up, its maximum, 0 or more."""
    success_share: float = 0.3
    """Share of a batch that shows success, [0, 1]."""
    near_share: float = 0.3
    """Share of a batch from shortly before the first success, the hardest frames without it,
    [0, 1]."""
    near: int = 20
    """How many frames before the first success count as shortly before it, at least 0."""
    consecutive: int = 3
    """Frames in a row over the threshold that make a success, at least 1; in the checkpoint."""
    stride: int = 2
    """Control steps between two of these frames, at least 1; in the checkpoint."""
    imagined_share: float = 0.4
    """Share of a batch that is imagined, [0, 1]. Used with --world-model."""
    replays: int = 512
    """Futures that are imagined to train on, at least 1. Used with --world-model."""
    chunks: int = 5
    """Length of these futures, chunks, at least 1."""
    shift: int = 2
    """Largest random shift of the images, pixels, at least 0."""
    colour_jitter: float = 0.1
    """Largest relative change of the images' brightness and contrast, [0, 1)."""
    ema_decay: float = 0.998
    """Decay of the moving average of the weights, [0, 1), lower in the first steps; the checkpoint
    holds that average."""
    held_out: float = 0.2
    """Share of the episodes that is not trained on, but gives threshold and figures, (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("success_share", "near_share", "imagined_share"):
            check_ranges(self, **{name: "[0, 1]"})
        for name in ("consecutive", "stride", "replays", "chunks"):
            check_ranges(self, **{name: "[1, inf)"})
        check_ranges(self, near="[0, inf)", shift="[0, inf)", held_out="(0, 1)")
        check_ranges(self, colour_jitter="[0, 1)", ema_decay="[0, 1)")


def new_success_model(
    config: SuccessConfig, instructions: tuple[str, ...], cameras: tuple[str, ...]
) -> SuccessModel:
    """An untrained classifier."""
    torch.manual_seed(config.seed)
    return SuccessModel(
        config.size, instructions, cameras, consecutive=config.consecutive, stride=config.stride
    )


def train_success(
    config: SuccessConfig,
    model: SuccessModel,
    frames: SuccessFrames,
    imagined: SuccessFrames | None,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Fit `model` in place, choose its threshold; returns the held-out figures.

    Raises `DatasetError` where no frame that may be trained on shows a success, or where the images
    have another size.
    """
    model.resize = frames.resize
    if frames.images.shape[2:4] != (model.image_size, model.image_size):
        raise DatasetError(
            f"images are {frames.images.shape[3]}x{frames.images.shape[2]} pixels, expected "
            f"{model.image_size}x{model.image_size}; set success.size.image_size"
        )
    if frames.episode.max() < 3:
        raise DatasetError("fewer than 4 episodes; two are held out, so collect more")
    count = int(frames.episode.max()) + 1
    held_out = held_out_episodes(count, config.held_out, config.seed)
    training = ~np.isin(frames.episode, held_out)
    if not frames.success[training].any() or frames.success[training].all():
        raise DatasetError("the training frames are all alike; collect more, with --linger 8")
    sources = [(frames, kinds_of_frames(frames, training, config.near))]
    if imagined is not None:
        known = ~np.isin(imagined.episode, held_out)
        near = config.near // config.stride
        sources.append((imagined, kinds_of_frames(imagined, known, near)))
    network = model.network.to(device)
    average = averaged(network, config.ema_decay)

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        images, instruction, success = frame_batch(config, sources, step, device)
        logits = model.logits(images, instruction)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
        return {"loss": cross_entropy(logits, success)}

    fit("success", network, loss, config, TrainingRun(directory, resume), average=average)
    network.load_state_dict(average.module.state_dict())
    network.eval()
    return choose_threshold(model, frames, imagined, held_out)


def averaged(network: torch.nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """A moving average of weights and batch statistics.

    Its decay is lower in the first updates, so that it follows a training of few updates, too.
    """

    def mean(kept: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        return keep * kept + (1 - keep) * new

    return torch.optim.swa_utils.AveragedModel(network, avg_fn=mean, use_buffers=True)


def frame_batch(
    config: SuccessConfig,
    sources: list[tuple[SuccessFrames, list[np.ndarray]]],
    step: int,
    device: str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shifted images, instruction and label of a batch drawn from the seed and `step`."""
    rng = np.random.default_rng((config.seed, step))
    few = round(config.imagined_share * config.batch_size) if len(sources) > 1 else 0
    parts = []
    for (frames, kinds), count in zip(sources, (config.batch_size - few, few), strict=False):
        shares = (config.success_share, config.near_share)
        counts = [round(share * count) for share in shares]
        counts.append(count - sum(counts))
        chosen = np.concatenate([rng.choice(k, n) for k, n in zip(kinds, counts, strict=True)])
        parts.append((frames.images[chosen], frames.instruction[chosen], frames.success[chosen]))
    images, instruction, success = (np.concatenate(c) for c in zip(*parts, strict=True))
    seen = _shifted(to_unit(torch.from_numpy(images).to(device)), config.shift, rng)
    shape = (len(seen), 1, 1, 1, 1)
    contrast, brightness = (
        torch.from_numpy(config.colour_jitter * rng.uniform(-1, 1, shape)).float().to(device)
        for _ in range(2)
    )
    seen = (seen * (1 + contrast) + brightness).clamp(-1, 1)
    label = torch.from_numpy(success).float().to(device)
    return seen, torch.from_numpy(instruction).to(device), label


def _shifted(images: torch.Tensor, most: int, rng: np.random.Generator) -> torch.Tensor:
    """Each sample moved by up to `most` pixels, all its cameras alike; edges are repeated."""
    side = images.shape[-1]
    corners = most + rng.integers(-most, most + 1, (len(images), 2))
    wide = torch.nn.functional.pad(images.flatten(1, 2), (most,) * 4, mode="replicate")
    moved = [p[:, y : y + side, x : x + side] for p, (y, x) in zip(wide, corners, strict=True)]
    return torch.stack(moved).unflatten(1, images.shape[1:3])


def choose_threshold(
    model: SuccessModel, real: SuccessFrames, imagined: SuccessFrames | None, held_out: np.ndarray
) -> dict[str, Any]:
    """Set the thresholds of best F1 on half of the held-out episodes; measure on the other half.

    The figures go into `model.validation`, too: {"real": ..., "imagined": ...} as from
    `success_figures`, with the thresholds.
    """
    tune, test = held_out[::2], held_out[1::2]
    figures: dict[str, Any] = {"consecutive": model.consecutive}
    sources = {"real": real} if imagined is None else {"real": real, "imagined": imagined}
    model.imagined_threshold = None
    for name, frames in sources.items():
        chosen = frames.of(np.isin(frames.episode, tune))
        threshold = best_threshold(chosen.success, frame_probability(model, chosen))
        if name == "real":
            model.threshold = threshold
        elif len(chosen.success):
            model.imagined_threshold = threshold
        chosen = frames.of(np.isin(frames.episode, test))
        if len(chosen.success):
            probability = frame_probability(model, chosen)
            figures[name] = success_figures(model, chosen, probability, name == "imagined")
    figures["threshold"] = model.threshold
    figures["imagined_threshold"] = model.imagined_threshold
    model.validation = figures
    return figures


def match_rate(
    model: SuccessModel, scores: np.ndarray, success: np.ndarray, policy: str
) -> dict[str, Any]:
    """Set the threshold for imagined frames at which as many trials succeed as in the simulator.

    scores: (N,) the highest threshold at which each trial succeeds in imagination; success: (N,)
    bool, in the simulator; policy: whose trials they are. Returns the trials' figures, with the
    AUROC of the scores, and puts them into `model.validation` beside the threshold.
    """
    model.imagined_threshold = rate_threshold(scores, success)
    figures: dict[str, Any] = {"policy": policy, "trials": len(success)}
    figures["success"] = float(success.mean())
    if success.any() and not success.all():
        figures["auroc"] = area_under_roc(success, scores)
    model.validation |= {"imagined_threshold": model.imagined_threshold, "matched": figures}
    return figures


def frame_probability(model: SuccessModel, frames: SuccessFrames) -> np.ndarray:
    """(N,) P(success) of each frame."""
    parts = [np.zeros(0)]
    for start in range(0, len(frames.success), BATCH):
        rows = slice(start, start + BATCH)
        images = to_unit(torch.from_numpy(frames.images[rows]))
        asked = [frames.instructions[i] for i in frames.instruction[rows]]
        parts.append(model.probability(images, asked).cpu().numpy().astype(np.float64))
    return np.concatenate(parts)


def best_threshold(truth: np.ndarray, probability: np.ndarray) -> float:
    """The threshold of best F1, the middle one where several are equally good; 0.5 without truth.

    truth (N,) bool, probability (N,).
    """
    if not truth.any():
        return 0.5
    over = probability[:, None] >= THRESHOLDS
    hits = (over & truth[:, None]).sum(0)
    scores = 2 * hits / (over.sum(0) + truth.sum())
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(THRESHOLDS[best[len(best) // 2]])


def success_figures(
    model: SuccessModel, frames: SuccessFrames, probability: np.ndarray, imagined: bool
) -> dict[str, float]:
    """How often the classifier is right, frame by frame and by the decision rule.

    probability: (N,). Recorded frames are one control step apart, imagined ones as many as the rule
    needs. false_success_rate: share of the frames without success that are taken for one;
    false_success_clips: share of the clips without success that the rule calls one;
    missed_success_clips: share of the clips with as many frames of success as the rule needs that
    it does not. Figures without a case are left out.
    """
    truth, over = frames.success, model.over(probability, imagined)
    apart = 1 if imagined else model.stride
    result = {
        "frames": float(len(truth)),
        "success_frames": float(truth.sum()),
        "accuracy": float(accuracy_score(truth, over)),
    }
    if truth.any() and not truth.all():
        result["f1"] = float(f1_score(truth, over))
        result["kappa"] = float(cohen_kappa_score(truth, over))
    if not truth.all():
        result["false_success_rate"] = float(over[~truth].mean())
    called: dict[str, list[bool]] = {"without": [], "with": []}
    for clip in np.unique(frames.clip):
        rows = np.flatnonzero(frames.clip == clip)[::-1][::apart][::-1]
        by_rule = bool(sustained(over[rows], model.consecutive).any())
        if not truth[frames.clip == clip].any():
            called["without"].append(by_rule)
        elif sustained(truth[rows], model.consecutive).any():
            called["with"].append(by_rule)
    result |= {"clips_without": float(len(called["without"]))}
    result |= {"clips_with": float(len(called["with"]))}
    if called["without"]:
        result["false_success_clips"] = float(np.mean(called["without"]))
    if called["with"]:
        result["missed_success_clips"] = 1.0 - float(np.mean(called["with"]))
    return result
