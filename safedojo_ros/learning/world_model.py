"""Training of the world model on recorded episodes, over the latents of a frozen autoencoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays
from safedojo_ros.learning.data.latents import encode, recorded_latents
from safedojo_ros.learning.fit import FitConfig, Loss, fit
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.world_model import WorldModel, WorldModelSize

LEAST_SPREAD = 1e-3
"""Standard deviations of the state; what hardly ever changes is not counted more finely."""

EARLY_RATE = 2e-3
"""Learning rate of the two small networks that are fitted before the frames."""


@dataclass(frozen=True)
class WorldModelConfig(FitConfig):
    """How the world model is trained; `safedojo train world-model` reads it."""

    size: WorldModelSize = field(default_factory=WorldModelSize)
    """Of its network."""
    batch_size: int = 32
    """Chunks a gradient step, at least 1."""
    weight_decay: float = 1e-4
    """Of AdamW, 0 or more."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises; then it falls by half a cosine, 0 or more."""
    context_noise: float = 0.1
    """Largest standard deviation of the noise on the context latents (of unit variance), so that
    the model bears its own errors later, 0 or more."""
    static_share: float = 0.05
    """Of the samples, in which the scene stands still because the action does, [0, 1]."""
    start_share: float = 0.5
    """Of the samples, at t = 1, where every sample of the flow begins and a one-step sample is
    made, [0, 1]."""
    self_forcing: float = 0.0
    """Of the samples, whose context is what the model itself imagined before (arXiv 2506.08009);
    the share grows from nothing to this while it learns, [0, 1]."""
    self_forcing_chunks: int = 3
    """Over how many chunks at most, at least 1."""
    remember_start: float = 0.8
    """Of the samples, that remember their episode's first frame; the others remember any frame
    before the chunk, [0, 1]."""
    emphasis: float = 0.0
    """How much more the error of a cell counts where its frame differs from the usual one, in units
    of the mean difference: small objects, and the obstacle among them, are few cells, 0 or more."""
    state_steps: int = 3000
    """Gradient steps of the state dynamics, which come first, 0 or more."""
    drawing_steps: int = 3000
    """Gradient steps of the arm's drawing, which come next, 0 or more."""
    early_batch: int = 256
    """Frames of each of these steps, at least 1."""
    held_out: float = 0.1
    """Share of the episodes that are never trained on, (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("static_share", "start_share", "self_forcing", "remember_start"):
            check_ranges(self, **{name: "[0, 1]"})
        for name in ("context_noise", "emphasis", "state_steps", "drawing_steps"):
            check_ranges(self, **{name: "[0, inf)"})
        check_ranges(self, self_forcing_chunks="[1, inf)", early_batch="[1, inf)")
        check_ranges(self, held_out="(0, 1)")

    def early(self, steps: int) -> FitConfig:
        """Of the two small networks that are fitted before the frames."""
        return FitConfig(
            steps, self.early_batch, EARLY_RATE, warmup_steps=100, gradient_clip=math.inf
        )


@dataclass
class LatentEpisodes:
    """Recorded episodes as the world model sees them.

    latents: (N, C, h, w) float16; state (N, 8) and actions (N, 7), executed, normalised;
    cost, success: (N,); starts: (E + 1,) first frame of each episode; rows: what is known of each
    episode.
    """

    latents: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    cost: np.ndarray
    success: np.ndarray
    starts: np.ndarray
    rows: list[Any]

    @staticmethod
    def read(directories: Sequence[Path], model: WorldModel, device: str) -> "LatentEpisodes":
        """Encode every frame; raises `DatasetError` where there is none.

        The pictures of one data set at a time are held in memory.
        """
        readers = [EpisodeReader(directory) for directory in directories]
        parts = [reader.load_arrays(images=False) for reader in readers]
        latents = [recorded_latents(reader, model.autoencoder, device) for reader in readers]
        if not any(arrays.rows for arrays in parts):
            raise DatasetError(f"no episodes in {[str(d) for d in directories]}; collect some")
        return LatentEpisodes.join(parts, latents, model)

    @staticmethod
    def encode(parts: Sequence[FrameArrays], model: WorldModel, device: str) -> "LatentEpisodes":
        """Encode every frame of data sets that are in memory, one after the other."""
        images = [torch.from_numpy(arrays.images) for arrays in parts]
        latents = [encode(part, model.autoencoder, device) for part in images]
        return LatentEpisodes.join(parts, latents, model)

    @staticmethod
    def join(
        parts: Sequence[FrameArrays], latents: Sequence[torch.Tensor], model: WorldModel
    ) -> "LatentEpisodes":
        """Data sets one after the other; latents: of each (N, cameras, C, s, s)."""
        rows = [row for arrays in parts for row in arrays.rows]
        lengths = np.concatenate([np.diff(arrays.starts) for arrays in parts])
        state = torch.from_numpy(np.concatenate([a.state for a in parts]).astype(np.float32))
        actions = torch.from_numpy(np.concatenate([a.actions for a in parts]).astype(np.float32))
        return LatentEpisodes(
            torch.cat([torch.cat(list(part.unbind(1)), dim=-1) for part in latents]),
            model.scales.state.normalise(state),
            model.scales.action.normalise(actions),
            np.concatenate([a.cost for a in parts]),
            np.concatenate([a.success for a in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
            rows,
        )

    def held_out(self, share: float, seed: int) -> np.ndarray:
        """(E,) bool: the episodes that are never trained on."""
        order = np.random.default_rng(seed).permutation(len(self.rows))
        chosen = np.zeros(len(self.rows), dtype=bool)
        chosen[order[: max(1, round(share * len(order)))]] = True
        return chosen


def new_world_model(
    autoencoder: FrameAutoencoder, config: WorldModelConfig, directories: Sequence[Path]
) -> WorldModel:
    """An untrained world model, normalised by the data sets."""
    torch.manual_seed(config.seed)
    parts = [EpisodeReader(directory).load_arrays(images=False) for directory in directories]
    state = np.concatenate([a.state for a in parts])
    actions = np.concatenate([a.actions for a in parts])
    return WorldModel(
        autoencoder,
        config.size,
        RobotScales.from_data(state, actions),
        tuple(parts[0].cameras) or ("agentview", "wrist"),
    )


class WorldModelLoss:
    """Flow matching of the chunk's frames, and what is fitted before: the state dynamics and the
    arm's drawing.

    starts: (M, 2) frames at which chunks of episodes that are trained on begin, and their
    episode's first. Raises `DatasetError` where there is none.
    """

    def __init__(
        self, config: WorldModelConfig, model: WorldModel, data: LatentEpisodes, device: str = "cpu"
    ) -> None:
        self.config, self.model, self.data, self.device = config, model, data, device
        self.network = model.network.to(device)
        held_out = data.held_out(config.held_out, config.seed)
        self.starts = chunk_starts(data, ~held_out, config.size.chunk_length)
        if len(self.starts) == 0:
            raise DatasetError(
                f"no episode is longer than a chunk of {config.size.chunk_length} steps"
            )

    def frames(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Of a batch of chunks."""
        config, size = self.config, self.config.size
        chosen = torch.randint(len(self.starts), (config.batch_size,), generator=generator)
        first, episode_start = self.starts[chosen].unbind(1)
        past = (first - episode_start) * torch.rand(config.batch_size, generator=generator)
        from_start = torch.rand(config.batch_size, generator=generator) < config.remember_start
        remembered = episode_start + torch.where(from_start, 0, past.long())
        context, future, state, chunk, reached = clip(
            self.data, size, first, episode_start, remembered
        )
        forced = torch.rand(config.batch_size, generator=generator)
        forced = forced < config.self_forcing * step / config.steps
        depth = int(torch.randint(config.self_forcing_chunks, (), generator=generator)) + 1
        forced &= first - depth * size.chunk_length >= episode_start
        if forced.any():
            rows = (first[forced], episode_start[forced], remembered[forced])
            context[forced], state[forced] = imagined_context(
                self.model, self.data, depth, *rows, generator
            )
        still = torch.rand(config.batch_size, generator=generator) < config.static_share
        context, future, chunk = self._stand_still(still, context, future, chunk)
        reached = reached[:, size.stride - 1 :: size.stride]
        context, future, state, chunk, reached = (
            tensor.to(self.device) for tensor in (context, future, state, chunk, reached)
        )
        if context.is_cuda:  # a GPU draws its noise itself
            generator = torch.Generator(context.device).manual_seed(generator.initial_seed())
        draw: dict[str, Any] = {"generator": generator, "device": context.device}
        noise = torch.randn(future.shape, **draw)
        blur = torch.randn(context.shape, **draw)
        level = config.context_noise * torch.rand(config.batch_size, **draw)
        context = context + level[:, None, None, None, None] * blur
        time = torch.sigmoid(torch.randn(config.batch_size, **draw))  # logit-normal
        at_start = torch.rand(config.batch_size, **draw) < config.start_share
        time = torch.where(at_start, 1.0, time)
        share = time[:, None, None, None, None]
        start = self.model.flow_start(context, noise)
        velocity = self.network.velocity(
            context, (1 - share) * future + share * start, time, state, chunk
        )
        weight = self._weight(future, reached)
        return {"loss": ((velocity - (start - future)).square() * weight).mean()}

    @torch.no_grad()
    def _weight(self, future: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
        """(B, F, 1, h, w), 1 on average: how much a cell of `future` (B, F, C, h, w) counts.

        reached: (B, F, 8) states of the arm, of which the usual frames are drawn.
        """
        if not self.config.emphasis:
            return torch.ones_like(future[:, :, :1])
        unusual = (future - self.network.drawing(reached)).square().mean(dim=2, keepdim=True)
        weight = 1 + self.config.emphasis * unusual / unusual.mean()
        return weight / weight.mean()

    def state(self) -> Loss:
        """Of the state dynamics; the frames are conditioned on what they say.

        It is Huber's, in units of the usual change: a pushed gripper turns by many standard
        deviations, and squares of that would drown all else.
        """
        dynamics, data = self.network.state, self.data
        steps = torch.arange(self.config.size.chunk_length)
        every = self.starts[:, 0]
        change = data.state[every[:, None] + steps + 1] - data.state[every][:, None]
        dynamics.spread.copy_(change.std(dim=0, correction=0) + LEAST_SPREAD)
        draws, noise = (torch.Generator().manual_seed(self.config.seed) for _ in range(2))

        def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            rows = self._rows(draws)
            state, chunk = data.state[rows], data.actions[rows[:, None] + steps]
            states = data.state[rows[:, None] + steps + 1].to(self.device)
            view = data.latents[rows].float()
            level = self.config.context_noise * torch.rand(len(rows), 1, 1, 1, generator=noise)
            view += level * torch.randn(view.shape, generator=noise)
            predicted = dynamics(*(part.to(self.device) for part in (state, chunk, view)))
            missed = (predicted - states) / dynamics.spread
            huber = torch.nn.functional.smooth_l1_loss
            return {"loss": huber(missed, torch.zeros_like(missed), beta=0.1)}

        return loss

    def drawing(self) -> Loss:
        """Of the arm's drawing, against recorded frames.

        Half of them end a chunk: an episode's last frames begin none.
        """
        drawing, data = self.network.drawing, self.data
        ends = torch.arange(self.config.early_batch) % 2 * self.config.size.chunk_length
        draws = torch.Generator().manual_seed(self.config.seed)

        def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            rows = self._rows(draws) + ends
            seen = data.latents[rows].float().to(self.device)
            drawn = drawing(data.state[rows].to(self.device))
            return {"loss": torch.nn.functional.mse_loss(drawn, seen)}

        return loss

    def _rows(self, draws: torch.Generator) -> torch.Tensor:
        """(early_batch,) random frames at which a chunk begins."""
        chosen = torch.randint(len(self.starts), (self.config.early_batch,), generator=draws)
        return self.starts[chosen, 0]

    def _stand_still(
        self,
        still: torch.Tensor,
        context: torch.Tensor,
        future: torch.Tensor,
        chunk: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where `still`: the last frame stays, under an action of no motion and the same grip."""
        if not still.any():
            return context, future, chunk
        rest = self.model.scales.action.normalise(torch.zeros(chunk.shape[-1]))
        quiet = chunk.clone()
        quiet[..., :6] = rest[:6]
        quiet[..., 6] = chunk[:, :1, 6]
        last = context[:, -1:].expand_as(future)
        wide = still[:, None, None, None, None]
        return (
            torch.where(wide, context[:, -1:].expand_as(context), context),
            torch.where(wide, last, future),
            torch.where(still[:, None, None], quiet, chunk),
        )


def chunk_starts(data: LatentEpisodes, episodes: np.ndarray, length: int) -> torch.Tensor:
    """(M, 2): frames from which a whole chunk is recorded, and their episode's first frame."""
    pairs = [
        (frame, data.starts[e])
        for e in np.flatnonzero(episodes).tolist()
        for frame in range(data.starts[e], data.starts[e + 1] - length)
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def clip(
    data: LatentEpisodes,
    size: WorldModelSize,
    first: torch.Tensor,
    episode_start: torch.Tensor,
    remembered: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Context, future frames, state at the start, chunk, and states after each step.

    first: (B,) frames at which the chunk begins; before an episode's start its first frame stands
    in for the missing context. remembered: (B,) the context's first frame, default: the episode's.
    """
    back = torch.arange(2 - size.context, 1) * size.stride
    ahead = torch.arange(1, size.future + 1) * size.stride
    steps = torch.arange(size.chunk_length)
    newest = torch.maximum(first[:, None] + back, episode_start[:, None])
    remembered = episode_start if remembered is None else remembered
    context_rows = torch.cat([remembered[:, None], newest], dim=1)
    return (
        data.latents[context_rows].float(),
        data.latents[first[:, None] + ahead].float(),
        data.state[first],
        data.actions[first[:, None] + steps],
        data.state[first[:, None] + steps + 1],
    )


@torch.no_grad()
def imagined_context(
    model: WorldModel,
    data: LatentEpisodes,
    depth: int,
    first: torch.Tensor,
    episode_start: torch.Tensor,
    remembered: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context and state at `first` (B,) as they are in a future begun `depth` chunks before.

    The recorded actions are imagined, from the recorded frames at its beginning on.
    """
    length, device = model.size.chunk_length, model.device
    begin = first - depth * length
    remembered = torch.minimum(remembered, begin)
    context, future, state, _, _ = clip(data, model.size, begin, episode_start, remembered)
    context, state = context.to(device), state.to(device)
    for played in range(depth):
        rows = begin[:, None] + played * length + torch.arange(length)
        noise = torch.randn(future.shape, generator=generator).to(device)
        frames, states = model.imagine(context, state, data.actions[rows].to(device), noise)
        context, state = model.advanced(context, frames), states[:, -1]
    return context.cpu(), state.cpu()


def train_world_model(
    config: WorldModelConfig,
    model: WorldModel,
    data: LatentEpisodes,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
) -> None:
    """Train `model` in place, in `directory`."""
    run = TrainingRun(directory, resume)
    losses = WorldModelLoss(config, model, data, device)
    network = losses.network
    if not run.begun:
        fit("state", network.state, losses.state(), config.early(config.state_steps))
        fit("arm", network.drawing, losses.drawing(), config.early(config.drawing_steps))
    named = network.named_parameters()
    parameters = [p for name, p in named if not name.startswith("state.")]
    fit("world model", network, losses.frames, config, run, parameters=parameters)
    model.parts.eval()
