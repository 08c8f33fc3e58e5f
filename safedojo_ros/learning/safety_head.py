"""Training of the safety head on recorded frames, and on the states that futures are imagined in.

An episode says more than what its own frames were followed by: wherever the hand has been in it,
and was about to go, is an answer to every picture of the same scene. So each picture is shown with
its own moment and with others of its episode, taken from before the obstacle was first touched.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import COST_M
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.data.latents import recorded_latents
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.safety_head import SafetyHeadSize, SafetyModel


@dataclass(frozen=True)
class SafetyConfig(FitConfig):
    """How the safety head is trained; `safedojo train safety` reads it."""

    size: SafetyHeadSize = field(default_factory=SafetyHeadSize)
    """Of its network."""
    steps: int = 2000
    """Gradient steps, 0 or more."""
    batch_size: int = 128
    """Images a gradient step, at least 1."""
    save_every: int = 500
    """Steps between two saves to resume from, at least 1."""
    queries: int = 4
    """Frames of the same episode whose chunks the head is asked about for each image, its own
    among them, at least 1."""
    positive_weight: float = 1.0
    """Of a contact step in the binary cross-entropy, above 0."""
    imagined_share: float = 0.4
    """Of a batch, where there are imagined states, [0, 1]."""
    replays: int = 2048
    """Futures that are imagined, at least 1."""
    chunks: int = 5
    """Length of each, at least 2."""
    held_out: float = 0.2
    """Share of the episodes for temperature, threshold and the printed figures, (0, 1]."""
    cost_m: int = COST_M
    """M: the largest step costs that make the chunk cost, at least 1; goes into the checkpoint."""
    cost_limit: float = 0.2
    """Chunk cost that a policy is asked to stay under, (0, 1); goes into the checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queries", "replays", "cost_m"):
            check_ranges(self, **{name: "[1, inf)"})
        check_ranges(self, positive_weight="(0, inf)", imagined_share="[0, 1]", chunks="[2, inf)")
        check_ranges(self, held_out="(0, 1]", cost_limit="(0, 1)")


@dataclass
class ContactFrames:
    """What the head learns from: one row a frame.

    latents: (N, cameras·C, s, s) float16; state: (N, 8); chunks: (N, H, 7) executed actions;
    contact: (N, H); exists: (N, H), false past the episode's end; episode: (N,) its index;
    begin: (N,) the recorded row that its episode begins with; untouched: (N,) how many rows from
    there on the obstacle is where this row's picture shows it, 0 where it may have been moved.
    """

    latents: torch.Tensor
    state: torch.Tensor
    chunks: torch.Tensor
    contact: torch.Tensor
    exists: torch.Tensor
    episode: np.ndarray
    begin: torch.Tensor
    untouched: torch.Tensor

    def of(self, rows: torch.Tensor) -> "ContactFrames":
        """The frames of these rows (int64)."""
        return ContactFrames(
            self.latents[rows],
            self.state[rows],
            self.chunks[rows],
            self.contact[rows],
            self.exists[rows],
            self.episode[rows.numpy()],
            self.begin[rows],
            self.untouched[rows],
        )


def scene_untouched(cost: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N,) `ContactFrames.untouched` of recorded frames: up to the one before the first contact.

    cost: (N,) of each step; starts: (E + 1,) first frame of each episode.
    """
    counts = []
    for first, end in zip(starts[:-1], starts[1:], strict=True):
        touched = np.flatnonzero(cost[first:end] > 0)
        count = touched[0] + 1 if len(touched) else end - first
        counts.append(np.where(np.arange(end - first) < count, count, 0))
    return np.concatenate(counts)


def contact_frames(
    data_directories: list[Path], model: SafetyModel, device: str = "cpu"
) -> ContactFrames:
    """Encode every frame of the data sets; raises `DatasetError` where there is none."""
    parts: list[tuple[torch.Tensor, ...]] = []
    episodes = rows_before = 0
    for directory in data_directories:
        reader = EpisodeReader(directory)
        arrays = reader.load_arrays(images=False)
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
                recorded_latents(reader, model.autoencoder, device).flatten(1, 2),
                model.scales.state.normalise(torch.from_numpy(arrays.state.astype(np.float32))),
                model.scales.action.normalise(torch.from_numpy(actions)),
                torch.from_numpy(contact.astype(np.float32)),
                torch.from_numpy(exists.astype(np.float32)),
                torch.from_numpy(episodes + np.repeat(np.arange(len(lengths)), lengths)),
                torch.from_numpy(rows_before + np.repeat(arrays.starts[:-1], lengths)),
                torch.from_numpy(scene_untouched(arrays.cost, arrays.starts)),
            )
        )
        episodes += len(lengths)
        rows_before += len(ends)
    latents, state, chunks, contacts, exist, episode, begin, untouched = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return ContactFrames(latents, state, chunks, contacts, exist, episode.numpy(), begin, untouched)


def train_safety_head(
    config: SafetyConfig,
    model: SafetyModel,
    frames: ContactFrames,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
    imagined: ContactFrames | None = None,
) -> dict[str, Any]:
    """Fit the head, set its temperature; returns the held-out figures.

    imagined: learned from beside `frames`, see `learning.data.imagined_contacts`. Raises
    `DatasetError` where nothing was ever touched: there would be nothing to learn.
    """
    if not frames.contact.any():
        raise DatasetError("no contact in these episodes; collect some with --levels 1,2")
    if frames.episode.max() < 2:
        raise DatasetError("fewer than 3 episodes; two are held out, so collect more")
    apart = held_out_episodes(config, int(frames.episode.max()) + 1)
    sources = [frames] if imagined is None else [frames, imagined]
    known = [torch.from_numpy(np.flatnonzero(~np.isin(s.episode, apart))) for s in sources]
    head = model.head.to(device)
    weight = torch.tensor(config.positive_weight, device=device)

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = [part.to(device) for part in query_batch(config, sources, known, generator)]
        latents, state, chunks, contact, exists = batch
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            head(latents.float(), state, chunks), contact, pos_weight=weight, reduction="none"
        )
        return {"loss": (each * exists).sum() / exists.sum()}

    fit("safety head", head, loss, config, TrainingRun(directory, resume))
    figures = held_out_figures(model, frames, np.isin(frames.episode, apart), device)
    if imagined is not None:
        rows = np.flatnonzero(np.isin(imagined.episode, apart))
        logits = contact_logits(model, imagined, rows)
        forecast = torch.sigmoid(logits).flatten().numpy()
        truth = imagined.contact[rows].flatten().numpy()
        figures["imagined"] = forecast_quality(truth, forecast) if len(rows) else {}
    return figures


def held_out_episodes(config: SafetyConfig, count: int) -> np.ndarray:
    """Numbers of those of `count` episodes that are never trained on, in a random order."""
    order = np.random.default_rng(config.seed).permutation(count)
    return np.asarray(order[: max(2, round(config.held_out * count))])


def query_batch(
    config: SafetyConfig,
    sources: list[ContactFrames],
    known: list[torch.Tensor],
    generator: torch.Generator,
) -> list[torch.Tensor]:
    """Latents (B, …) of random rows and, K frames each, state, chunks, contact and exists.

    sources: recorded frames, and imagined ones if there are any; known: the rows of each that may
    be trained on. A row's own frame comes first; the others are recorded ones of its episode, and
    do not exist where its image shows an obstacle that may have been moved.
    """
    recorded, others = sources[0], config.queries - 1
    few = round(config.imagined_share * config.batch_size) if len(sources) > 1 else 0
    parts = []
    for frames, rows, count in zip(sources, known, (config.batch_size - few, few), strict=False):
        own = frames.of(rows[torch.randint(len(rows), (count,), generator=generator)])
        share = torch.rand(count, others, generator=generator)
        at = own.begin[:, None] + (share * own.untouched[:, None]).long()
        exists = recorded.exists[at] * (own.untouched > 0)[:, None, None]
        columns = [
            torch.cat([mine[:, None], theirs], dim=1)
            for mine, theirs in (
                (own.state, recorded.state[at]),
                (own.chunks, recorded.chunks[at]),
                (own.contact, recorded.contact[at]),
                (own.exists, exists),
            )
        ]
        parts.append([own.latents, *columns])
    return [torch.cat(column) for column in zip(*parts, strict=True)]


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
    logits, contact = contact_logits(model, frames, rows), frames.contact[rows]
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
    return forecast_quality(truth, forecast) | {
        "temperature": float(head.temperature),
        "contact_threshold": model.contact_threshold,
        "episode_accuracy": float((judged == touched[1::2]).mean()),
        "episode_contact_rate": float(touched[1::2].mean()),
        "episode_predicted_rate": float(judged.mean()),
        "steps": len(truth),
        "contact_steps": int(truth.sum()),
        "episodes": len(np.unique(frames.episode[rows][chosen.numpy()])),
    }


@torch.no_grad()
def contact_logits(model: SafetyModel, frames: ContactFrames, rows: np.ndarray) -> torch.Tensor:
    """(B, H) of these rows, on the CPU."""
    head = model.head.eval()
    device = head.temperature.device
    parts = [frames.of(part) for part in torch.from_numpy(rows).split(1024)]
    logits = [
        head(p.latents.to(device).float(), p.state.to(device), p.chunks.to(device)) for p in parts
    ]
    return torch.cat(logits).cpu()


def forecast_quality(truth: np.ndarray, forecast: np.ndarray) -> dict[str, float]:
    """AUROC and AP, where `truth` (N,) has both kinds, Brier and ECE of `forecast` (N,)."""
    ranking = {}
    if 0 < truth.sum() < len(truth):
        ranking["auroc"] = float(roc_auc_score(truth, forecast))
        ranking["average_precision"] = float(average_precision_score(truth, forecast))
    return ranking | {
        "brier": float(brier_score_loss(truth, forecast)),
        "ece": expected_calibration_error(truth, forecast),
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


def rate_threshold(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The threshold over which as many of `predicted` (E,) lie as `truth` (E,) bool has cases."""
    order = np.sort(predicted)[::-1]
    count = int(truth.sum())
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
    torch.manual_seed(config.seed)
    arrays = EpisodeReader(directory).load_arrays(images=False)
    return SafetyModel(
        autoencoder,
        config.size,
        RobotScales.from_data(arrays.state, arrays.actions),
        tuple(arrays.cameras) or ("agentview", "wrist"),
        config.cost_m,
        config.cost_limit,
    )
