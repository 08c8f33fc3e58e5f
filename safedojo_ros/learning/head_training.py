"""Training of the frame autoencoder, then of the safety head on its latents."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot_reader import EpisodeReader
from safedojo_ros.learning.latents import recorded_latents
from safedojo_ros.learning.training_run import TrainingRun, learning_rate_factor, progress_bar
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.pictures import to_unit
from safedojo_ros.models.safety_head import SafetyHeadSize, SafetyModel


@dataclass(frozen=True)
class AutoencoderConfig:
    """How the frame autoencoder is trained.

    batch_size: pictures; moments: how many recorded moments it sees, over all data sets.
    """

    size: AutoencoderSize = field(default_factory=AutoencoderSize)
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 2e-3
    kl_weight: float = 1e-6
    warmup_steps: int = 50
    save_every: int = 250
    moments: int = 40_000
    seed: int = 0


@dataclass(frozen=True)
class SafetyConfig:
    """How the safety head is trained.

    positive_weight: of a contact step in the binary cross-entropy; held_out: share of episodes
    kept for temperature and for the printed figures, split by episode.
    """

    size: SafetyHeadSize = field(default_factory=SafetyHeadSize)
    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    positive_weight: float = 1.0
    held_out: float = 0.2
    cost_m: int = 4
    cost_limit: float = 0.2
    warmup_steps: int = 50
    save_every: int = 500
    seed: int = 0


def recorded_pictures(directories: list[Path], count: int) -> torch.Tensor:
    """(N, cameras, H, W, 3) uint8: about `count` moments, evenly spaced over all data sets."""
    readers = [EpisodeReader(directory) for directory in directories]
    every = max(1, sum(reader.frames for reader in readers) // count)
    parts = [torch.from_numpy(reader.load_arrays().images[::every].copy()) for reader in readers]
    return torch.cat(parts)


def train_autoencoder(
    config: AutoencoderConfig,
    images: torch.Tensor,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
) -> FrameAutoencoder:
    """Fit to `images` (N, cameras, H, W, 3) uint8."""
    torch.manual_seed(config.seed)
    autoencoder = FrameAutoencoder(config.size).to(device)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), config.learning_rate)
    run = TrainingRun(directory, resume)
    first = run.restore(autoencoder, optimizer)
    latent = (config.size.latent_channels, config.size.latent_size, config.size.latent_size)
    with progress_bar("autoencoder", first, config.steps) as show:
        for step in range(first, config.steps):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            frames = torch.randint(len(images), (config.batch_size,), generator=generator)
            camera = torch.randint(images.shape[1], (config.batch_size,), generator=generator)
            pictures = to_unit(images[frames, camera].to(device))
            noise = torch.randn((config.batch_size, *latent), generator=generator).to(device)
            rate = learning_rate_factor(step, config.warmup_steps, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate
            loss, squared = autoencoder.loss(pictures, config.kl_weight, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
            optimizer.step()
            show(step + 1, f"mse {squared.item():.4f}")
            if (step + 1) % 10 == 0:
                run.record(step + 1, {"loss": loss.item(), "mse": squared.item()})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                run.save(step + 1, autoencoder, optimizer)
    run.close()
    autoencoder.eval()
    with torch.no_grad():
        pictures = to_unit(images[:: max(1, len(images) // 256)].to(device)).flatten(0, 1)
        autoencoder.latent_scale.fill_(
            autoencoder.network.encode(pictures).latent_dist.mode().std()
        )
    return autoencoder


@dataclass
class ContactFrames:
    """What the head learns from: one row a frame.

    latents: (N, cameras·C, s, s) float16; state: (N, 8); chunks: (N, H, 7) executed actions;
    contact: (N, H); exists: (N, H), false past the episode's end; episode: (N,) its index.
    """

    latents: torch.Tensor
    state: torch.Tensor
    chunks: torch.Tensor
    contact: torch.Tensor
    exists: torch.Tensor
    episode: np.ndarray


def contact_frames(
    data_directories: list[Path], model: SafetyModel, device: str = "cpu"
) -> ContactFrames:
    """Encode every frame of the data sets; raises `DatasetError` where there is none."""
    parts: list[tuple[torch.Tensor, ...]] = []
    episodes, count = [], 0
    for directory in data_directories:
        arrays = EpisodeReader(directory).load_arrays()
        lengths = np.diff(arrays.starts)
        if len(lengths) == 0:
            raise DatasetError(f"{directory} holds no episodes; collect some first")
        ends = np.repeat(arrays.starts[1:], lengths)
        rows = np.arange(len(ends))[:, None] + np.arange(model.chunk_length)
        exists = rows < ends[:, None]
        rows = np.minimum(rows, ends[:, None] - 1)
        actions = np.where(exists[..., None], arrays.actions[rows], 0.0).astype(np.float32)
        contact = (arrays.cost[rows] > 0) & exists
        parts.append(
            (
                recorded_latents(directory, arrays, model.autoencoder, device).flatten(1, 2),
                model.scales.state.normalise(torch.from_numpy(arrays.state.astype(np.float32))),
                model.scales.action.normalise(torch.from_numpy(actions)),
                torch.from_numpy(contact.astype(np.float32)),
                torch.from_numpy(exists.astype(np.float32)),
            )
        )
        episodes.append(count + np.repeat(np.arange(len(lengths)), lengths))
        count += len(lengths)
    latents, state, chunks, contact, alive = (torch.cat(c) for c in zip(*parts, strict=True))
    return ContactFrames(latents, state, chunks, contact, alive, np.concatenate(episodes))


def train_safety_head(
    config: SafetyConfig,
    model: SafetyModel,
    frames: ContactFrames,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Fit the head, set its temperature; returns the held-out figures.

    Raises `DatasetError` where nothing was ever touched: there would be nothing to learn.
    """
    if not frames.contact.any():
        raise DatasetError("no contact in these episodes; collect some with --levels 1,2")
    if frames.episode.max() < 2:
        raise DatasetError("fewer than 3 episodes; two are held out, so collect more")
    order = np.random.default_rng(config.seed).permutation(int(frames.episode.max()) + 1)
    held_out = np.isin(frames.episode, order[: max(2, round(config.held_out * len(order)))])
    rows = torch.from_numpy(np.flatnonzero(~held_out))
    head = model.head.to(device)
    optimizer = torch.optim.AdamW(
        head.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    run = TrainingRun(directory, resume)
    first = run.restore(head, optimizer)
    weight = torch.tensor(config.positive_weight, device=device)
    with progress_bar("safety head", first, config.steps) as show:
        for step in range(first, config.steps):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            torch.manual_seed(config.seed * 1_000_003 + step)  # dropout
            batch = rows[torch.randint(len(rows), (config.batch_size,), generator=generator)]
            rate = learning_rate_factor(step, config.warmup_steps, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate
            head.train()
            logits = head(
                frames.latents[batch].to(device).float(),
                frames.state[batch].to(device),
                frames.chunks[batch].to(device),
            )
            each = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, frames.contact[batch].to(device), pos_weight=weight, reduction="none"
            )
            exists = frames.exists[batch].to(device)
            loss = (each * exists).sum() / exists.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            show(step + 1, f"loss {loss.item():.4f}")
            if (step + 1) % 20 == 0:
                run.record(step + 1, {"loss": loss.item()})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                run.save(step + 1, head, optimizer)
    run.close()
    return held_out_figures(model, frames, held_out, device)


def held_out_figures(
    model: SafetyModel, frames: ContactFrames, held_out: np.ndarray, device: str = "cpu"
) -> dict[str, Any]:
    """Set temperature and contact threshold on half of the held-out episodes, measure on the other.

    Returns AUROC, AP, Brier and ECE per step, what is said of whole episodes, and the counts behind
    them; AUROC and AP only where steps with and without contact are among those measured.
    """
    head = model.head.to(device).eval()
    rows = np.flatnonzero(held_out)
    head.temperature.fill_(1.0)
    batches = []
    with torch.no_grad():
        for start in range(0, len(rows), 1024):
            batch = torch.from_numpy(rows[start : start + 1024])
            latents = frames.latents[batch].to(device).float()
            state, chunks = frames.state[batch].to(device), frames.chunks[batch].to(device)
            batches.append(head(latents, state, chunks).cpu())
    logits, contact = torch.cat(batches), frames.contact[rows]
    exists = frames.exists[rows].bool()
    tune = torch.from_numpy(np.isin(frames.episode[rows], np.unique(frames.episode[rows])[::2]))
    head.temperature.fill_(fit_temperature(logits[tune][exists[tune]], contact[tune][exists[tune]]))
    probability = torch.sigmoid(logits / head.temperature.cpu())
    predicted, touched = worst_of_episodes(
        (probability * exists).numpy(), contact.numpy(), frames.episode[rows]
    )
    model.contact_threshold = rate_threshold(predicted[::2], touched[::2])
    judged = predicted[1::2] > model.contact_threshold
    chosen = ~tune
    truth = contact[chosen][exists[chosen]].numpy()
    forecast = probability[chosen][exists[chosen]].numpy()
    ranking = {}
    if 0 < truth.sum() < len(truth):
        ranking["auroc"] = float(roc_auc_score(truth, forecast))
        ranking["average_precision"] = float(average_precision_score(truth, forecast))
    return ranking | {
        "brier": float(brier_score_loss(truth, forecast)),
        "ece": expected_calibration_error(truth, forecast),
        "temperature": float(head.temperature),
        "contact_threshold": model.contact_threshold,
        "episode_accuracy": float((judged == touched[1::2]).mean()),
        "episode_contact_rate": float(touched[1::2].mean()),
        "episode_predicted_rate": float(judged.mean()),
        "steps": len(truth),
        "contact_steps": int(truth.sum()),
        "episodes": len(np.unique(frames.episode[rows][chosen.numpy()])),
    }


def worst_of_episodes(
    probability: np.ndarray, contact: np.ndarray, episode: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(largest step probability, whether there was contact) of each episode, judged chunk by chunk.

    probability, contact: (N, H) from every frame on; episode: (N,), its frames in a row. Only the
    frames at which a chunk would begin count: an episode is judged as it is acted.
    """
    names, first, place = np.unique(episode, return_index=True, return_inverse=True)
    begins = (np.arange(len(episode)) - first[place]) % probability.shape[1] == 0
    predicted, touched = np.zeros(len(names)), np.zeros(len(names), dtype=bool)
    np.maximum.at(predicted, place[begins], probability[begins].max(1))
    np.logical_or.at(touched, place[begins], contact[begins].any(1))
    return predicted, touched


def rate_threshold(predicted: np.ndarray, touched: np.ndarray) -> float:
    """The threshold over which as many episodes are `predicted` (E,) as were `touched` (E,)."""
    order = np.sort(predicted)[::-1]
    count = int(touched.sum())
    above = order[count - 1] if count else 1.0
    below = order[count] if count < len(order) else 0.0
    return float(np.clip((above + below) / 2, 0.01, 0.99))


def fit_temperature(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """The temperature of least cross-entropy, from a logarithmic grid."""
    candidates = torch.logspace(-1, 1, 81)
    losses = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits / t, truth).item()
        for t in candidates
    ]
    return float(candidates[int(np.argmin(losses))])


def expected_calibration_error(truth: np.ndarray, probability: np.ndarray, bins: int = 15) -> float:
    """Mean gap between predicted and observed frequency over equally wide bins."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gap = 0.0
    for b in range(bins):
        chosen = index == b
        if chosen.any():
            gap += float(chosen.mean() * abs(truth[chosen].mean() - probability[chosen].mean()))
    return gap


def new_safety_model(
    autoencoder: FrameAutoencoder, config: SafetyConfig, directory: Path
) -> SafetyModel:
    """An untrained head over `autoencoder`, normalised by the data set in `directory`."""
    arrays = EpisodeReader(directory).load_arrays(images=False)
    return SafetyModel(
        autoencoder,
        config.size,
        RobotScales.from_data(arrays.state, arrays.actions),
        tuple(arrays.cameras) or ("agentview", "wrist"),
        config.cost_m,
        config.cost_limit,
    )
