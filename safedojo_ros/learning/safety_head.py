"""Training of the safety head on recorded contacts, and on imagined states beside them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.costs import COSTS
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import COST_M
from safedojo_ros.data.lerobot.frames import Source, open_set
from safedojo_ros.evaluation.forecasts import area_under_roc, forecast_quality, rate_threshold
from safedojo_ros.learning.data.contacts import ContactFrames, query_batch
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.replay import ReplayStarts, replay
from safedojo_ros.learning.data.splits import held_out_episodes
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.safety_head import SafetyHeadSize, SafetyModel
from safedojo_ros.models.world_model import WorldModel


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
    probes: int = 6
    """Probes of its scene that it is asked about for each image besides, where the data sets have
    any, 0 or more."""
    imagined_share: float = 0.4
    """Of a batch, where there are imagined states, [0, 1]."""
    replays: int = 2048
    """Futures that are imagined, at least 1."""
    chunks: int = 5
    """Length of each, at least 2."""
    held_out: float = 0.2
    """Share of the episodes for temperature, threshold and the printed figures, (0, 1]."""
    cost_m: int = COST_M
    """M: the largest step costs that make the chunk cost, at least 1, at most a chunk's steps; goes
    into the checkpoint."""
    cost_limit: float = 0.2
    """Chunk cost that a policy is asked to stay under, (0, 1); goes into the checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("queries", "replays", "cost_m"):
            check_ranges(self, **{name: "[1, inf)"})
        check_ranges(self, probes="[0, inf)", imagined_share="[0, 1]", chunks="[2, inf)")
        check_ranges(self, held_out="(0, 1]", cost_limit="(0, 1)")
        check_ranges(self, cost_m=f"[1, {self.size.chunk_length}]")


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

    imagined: learned from beside `frames`. Raises `DatasetError` where nothing was ever touched:
    there would be nothing to learn.
    """
    if not frames.contact.any():
        raise DatasetError(
            "no contact in these episodes; collect some with --level I,II, or name the column in "
            "the contract, labels.cost"
        )
    for cost, found in zip(model.others, frames.others.flatten(0, 1).T, strict=True):
        if not found.any():
            raise DatasetError(
                f"no step of these episodes has cost '{cost.name}'; collect some that do, or look "
                "at what its label says"
            )
    if frames.episode.max() < 2:
        raise DatasetError("fewer than 3 episodes; two are held out, so collect more")
    apart = held_out_episodes(int(frames.episode.max()) + 1, config.held_out, config.seed)
    sources = [frames] if imagined is None else [frames, imagined]
    known = [torch.from_numpy(np.flatnonzero(~np.isin(s.episode, apart))) for s in sources]
    head = model.head.to(device)
    few = round(config.imagined_share * config.batch_size) if imagined is not None else 0
    counts = (config.batch_size - few, few)

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = query_batch(sources, known, counts, config.queries, generator, config.probes)
        latents, state, chunks, contact, exists, others = (part.to(device) for part in batch)
        logits = head(latents.float(), state, chunks)
        entropies = {"loss": _entropy(logits[..., 0], contact, exists)}
        for number, cost in enumerate(model.others):
            label = others[..., number]
            there = exists * ~label.isnan()
            entropies[cost.name] = _entropy(logits[..., 1 + number], label.nan_to_num(), there)
            entropies["loss"] = entropies["loss"] + entropies[cost.name]
        return entropies

    fit("safety head", head, loss, config, TrainingRun(directory, resume), compile=[head])
    figures = held_out_figures(model, frames, np.isin(frames.episode, apart), device)
    if imagined is not None:
        some = imagined.of(torch.from_numpy(np.flatnonzero(np.isin(imagined.episode, apart))))
        figures["imagined"] = {}
        if len(some.state):
            forecast = torch.sigmoid(contact_logits(model, some.latents, some.state, some.chunks))
            truth = some.contact.flatten().numpy()
            figures["imagined"] = forecast_quality(truth, forecast.flatten().numpy())
    return figures


def _entropy(logits: torch.Tensor, truth: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the steps that exist."""
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (each * exists).sum() / exists.sum()


def held_out_figures(
    model: SafetyModel, frames: ContactFrames, held_out: np.ndarray, device: str = "cpu"
) -> dict[str, Any]:
    """Set temperatures and thresholds on half of the held-out episodes, measure on the other.

    Returns AUROC, AP, Brier and ECE per step, what is said of whole episodes, and the counts behind
    them; AUROC and AP only where steps with and without contact are among those measured. "others"
    has the same of each cost beside contact.
    """
    head = model.head.to(device).eval()
    frames = frames.of(torch.from_numpy(np.flatnonzero(held_out)))
    head.temperature.fill_(1.0)
    logits = cost_logits(model, frames.latents, frames.state, frames.chunks)
    labels = torch.cat([frames.contact[..., None], frames.others], dim=-1)
    judged = [_one_cost(logits[..., n], labels[..., n], frames) for n in range(labels.shape[-1])]
    temperatures = torch.tensor([each["temperature"] for each in judged])
    head.temperature.copy_(temperatures.reshape(head.temperature.shape))
    figures, *others = judged
    model.contact_threshold = figures["contact_threshold"]
    model.others = tuple(
        replace(cost, threshold=each["contact_threshold"])
        for cost, each in zip(model.others, others, strict=True)
    )
    if others:
        figures["others"] = {
            cost.name: {name.replace("contact", "cost"): value for name, value in each.items()}
            for cost, each in zip(model.others, others, strict=True)
        }
    return figures


def _one_cost(logits: torch.Tensor, contact: torch.Tensor, frames: ContactFrames) -> dict[str, Any]:
    """Temperature, threshold and figures of one cost of held-out frames; logits, contact: (N, H),
    of contact or of another cost."""
    exists = frames.exists.bool()
    tune = torch.from_numpy(np.isin(frames.episode, np.unique(frames.episode)[::2]))
    temperature = fit_temperature(logits[tune][exists[tune]], contact[tune][exists[tune]])
    probability = torch.sigmoid(logits / temperature)
    predicted, touched = worst_of_episodes(
        (probability * exists).numpy(), contact.numpy(), frames.episode
    )
    threshold = rate_threshold(predicted[::2], touched[::2])
    judged = predicted[1::2] > threshold
    chosen = ~tune
    truth = contact[chosen][exists[chosen]].numpy()
    forecast = probability[chosen][exists[chosen]].numpy()
    return forecast_quality(truth, forecast) | {
        "temperature": temperature,
        "contact_threshold": threshold,
        "episode_accuracy": float((judged == touched[1::2]).mean()),
        "episode_contact_rate": float(touched[1::2].mean()),
        "episode_predicted_rate": float(judged.mean()),
        "steps": len(truth),
        "contact_steps": int(truth.sum()),
        "episodes": len(np.unique(frames.episode[chosen.numpy()])),
    }


def contact_logits(
    model: SafetyModel, latents: torch.Tensor, state: torch.Tensor, chunks: torch.Tensor
) -> torch.Tensor:
    """(B, H), on the CPU, of latents (B, cameras·C, s, s), normalised state (B, 8) and chunks."""
    return cost_logits(model, latents, state, chunks)[..., 0]


@torch.no_grad()
def cost_logits(
    model: SafetyModel, latents: torch.Tensor, state: torch.Tensor, chunks: torch.Tensor
) -> torch.Tensor:
    """The same of every cost, (B, H, C)."""
    head = model.head.eval()
    device = head.temperature.device
    parts = zip(*(values.split(1024) for values in (latents, state, chunks)), strict=True)
    logits = [head(*(part.to(device).float() for part in some)) for some in parts]
    return torch.cat(logits).cpu()


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


def fit_temperature(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """The temperature of least cross-entropy, from a logarithmic grid."""
    candidates = torch.logspace(-1, 1, 81)
    losses = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits / t, truth).item()
        for t in candidates
    ]
    return float(candidates[int(np.argmin(losses))])


def new_safety_model(
    autoencoder: FrameAutoencoder, config: SafetyConfig, source: Source
) -> SafetyModel:
    """An untrained head over `autoencoder`, of contact and of the registered costs, normalised by
    one data set."""
    torch.manual_seed(config.seed)
    reader = open_set(source)
    arrays = reader.load_arrays(images=False)
    return SafetyModel(
        autoencoder,
        config.size,
        RobotScales.from_data(arrays.state, arrays.actions, arrays.contract, arrays.resize),
        reader.cameras,
        config.cost_m,
        config.cost_limit,
        others=tuple(cost.limits for cost in COSTS.values()),
    )


def calibrate_threshold(
    config: SafetyConfig, model: SafetyModel, world: WorldModel, data: LatentEpisodes
) -> dict[str, float]:
    """Set the contact threshold by imagined episodes; returns what it says of others.

    Held-out episodes are imagined from their first frame to their end, under their recorded
    actions. Over the threshold are as many of one half as really had a contact; the figures are of
    the other half.
    """
    episodes = held_out_episodes(len(data.rows), config.held_out, config.seed)
    predicted, touched = imagined_worst(model, world, data, episodes)
    model.contact_threshold = rate_threshold(predicted[::2], touched[::2])
    judged, truth = predicted[1::2] > model.contact_threshold, touched[1::2]
    figures = {
        "contact_threshold": model.contact_threshold,
        "episode_accuracy": float((judged == truth).mean()),
        "episode_contact_rate": float(truth.mean()),
        "episode_predicted_rate": float(judged.mean()),
    }
    if truth.any() and not truth.all():
        figures["episode_auroc"] = area_under_roc(truth, predicted[1::2])
    return figures


@torch.no_grad()
def imagined_worst(
    model: SafetyModel, world: WorldModel, data: LatentEpisodes, episodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(largest P(contact) of a step, whether there was contact) of whole episodes (E,) imagined."""
    horizon = world.size.chunk_length
    start = torch.from_numpy(data.starts[episodes])
    lengths = data.starts[1:][episodes] - data.starts[episodes]
    chunks = -(-int(lengths.max()) // horizon)
    steps = np.arange(chunks * horizon)
    rows = data.starts[episodes][:, None] + np.minimum(steps, lengths[:, None] - 1)
    exists = steps < lengths[:, None]
    actions = data.actions[torch.from_numpy(rows)]
    starts = ReplayStarts(start, start, episodes)
    states = replay(world, data, starts, chunks, actions=actions).states
    state = torch.cat([data.state[start][:, None], states], dim=1)[:, ::horizon][:, :chunks]
    device = model.head.temperature.device
    model.network.eval()
    logits = model.head(
        world.stacked(data.latents[start].float().to(device)),
        model.scales.state.normalise(world.scales.state.restore(state.to(device))),
        model.scales.action.normalise(
            world.scales.action.restore(actions.to(device).unflatten(1, (chunks, horizon)))
        ),
    )
    probability = torch.sigmoid(logits[..., 0]).flatten(1).cpu().numpy()
    contact = (data.cost[rows] > 0) & exists
    return (probability * exists).max(1), contact.any(1)
