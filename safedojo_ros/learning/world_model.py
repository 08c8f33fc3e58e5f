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
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.splits import held_out_episodes
from safedojo_ros.learning.fit import FitConfig, Loss, fit
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.world_model import WorldModel, WorldModelSize

LEAST_SPREAD = 1e-3
"""Added to the standard deviations of the state, which errors are divided by."""

EARLY_RATE = 2e-3
"""Learning rate of the two small networks that are fitted first: state dynamics, arm drawing."""


@dataclass(frozen=True)
class WorldModelConfig(FitConfig):
    """How the world model is trained. Used by `safedojo train world-model`."""

    size: WorldModelSize = field(default_factory=WorldModelSize)
    """Size of the network."""
    batch_size: int = 32
    """Chunks in each gradient step, at least 1."""
    weight_decay: float = 1e-4
    """AdamW's weight decay, 0 or more."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises, 0 or more; then it falls to 0 by half a cosine."""
    context_noise: float = 0.1
    """Largest standard deviation of the noise on the context latents (of unit variance), 0 or more.
    It makes the model robust to its own errors."""
    static_share: float = 0.05
    """Share of the samples with no motion: zero actions, and frames that stay the same, [0, 1]."""
    start_share: float = 0.5
    """Share of the samples at flow time t = 1, where sampling starts (and ends, with one denoising
    step), [0, 1]."""
    self_forcing: float = 0.0
    """Share of the samples whose context the model has imagined itself (arXiv 2506.08009), [0, 1];
    it grows from 0 to this over the training."""
    self_forcing_chunks: int = 3
    """Most chunks that are imagined for such a context, at least 1."""
    remember_start: float = 0.8
    """Share of the samples whose context begins with the episode's first frame, [0, 1]; in the
    others it begins with a random earlier one."""
    state_steps: int = 3000
    """Gradient steps of the state dynamics, which are fitted first, 0 or more."""
    drawing_steps: int = 3000
    """Gradient steps of the arm's drawing, which is fitted second, 0 or more."""
    early_batch: int = 256
    """Frames in each batch of these two, at least 1."""
    held_out: float = 0.1
    """Share of the episodes that is never trained on, (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("static_share", "start_share", "self_forcing", "remember_start"):
            check_ranges(self, **{name: "[0, 1]"})
        for name in ("context_noise", "state_steps", "drawing_steps"):
            check_ranges(self, **{name: "[0, inf)"})
        check_ranges(self, self_forcing_chunks="[1, inf)", early_batch="[1, inf)")
        check_ranges(self, held_out="(0, 1)")

    def early(self, steps: int) -> FitConfig:
        """The configuration of the two small networks that are fitted first."""
        return FitConfig(
            steps,
            self.early_batch,
            EARLY_RATE,
            warmup_steps=100,
            gradient_clip=math.inf,
            seed=self.seed,
            batches_per_step=self.batches_per_step,
        )


def new_world_model(
    autoencoder: FrameAutoencoder, config: WorldModelConfig, sources: Sequence[Source]
) -> WorldModel:
    """An untrained world model, normalised by the data sets."""
    torch.manual_seed(config.seed)
    readers = open_all(sources)
    frames = load_frames(readers, images=False)
    scales = RobotScales.from_data(frames.state, frames.actions, frames.contract, frames.resize)
    return WorldModel(autoencoder, config.size, scales, readers[0].cameras)


def held_out(config: WorldModelConfig, data: LatentEpisodes) -> np.ndarray:
    """(E,) bool: the episodes that are never trained on."""
    numbers = held_out_episodes(len(data.rows), config.held_out, config.seed, least=1)
    return np.isin(np.arange(len(data.rows)), numbers)


class WorldModelLoss:
    """The losses of the frames (flow matching), the state dynamics and the arm's drawing.

    starts: (M, 2) first frames of all chunks that are trained on, and of their episodes. Raises
    `DatasetError` where there is none.
    """

    def __init__(
        self, config: WorldModelConfig, model: WorldModel, data: LatentEpisodes, device: str = "cpu"
    ) -> None:
        self.config, self.model, self.data, self.device = config, model, data, device
        self.network = model.network.to(device)
        self.starts = data.chunk_starts(~held_out(config, data), config.size.chunk_length)
        if len(self.starts) == 0:
            raise DatasetError(
                f"no episode is longer than a chunk of {config.size.chunk_length} steps"
            )

    def frames(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The loss of a batch of chunks."""
        config, size = self.config, self.config.size
        chosen = torch.randint(len(self.starts), (config.batch_size,), generator=generator)
        first, episode_start = self.starts[chosen].unbind(1)
        past = (first - episode_start) * torch.rand(config.batch_size, generator=generator)
        from_start = torch.rand(config.batch_size, generator=generator) < config.remember_start
        remembered = episode_start + torch.where(from_start, 0, past.long())
        context, future, state, chunk = self.data.transitions(
            size, first, episode_start, remembered
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
        context, future, state, chunk = (
            tensor.to(self.device) for tensor in (context, future, state, chunk)
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
        return {"loss": (velocity - (start - future)).square().mean()}

    def state(self) -> Loss:
        """The loss of the state dynamics, which the frames are conditioned on.

        It is Huber's, in units of the standard deviation of the change: a pushed gripper turns by
        many of these, and their squares would dominate the loss.
        """
        dynamics, data = self.network.state, self.data
        steps = torch.arange(self.config.size.chunk_length)
        every = self.starts[:, 0]
        change = data.state[every[:, None] + steps + 1] - data.state[every][:, None]
        dynamics.spread.copy_(change.std(dim=0, correction=0) + LEAST_SPREAD)

        def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            rows = self._rows(generator)
            state, chunk = data.state[rows], data.actions[rows[:, None] + steps]
            states = data.state[rows[:, None] + steps + 1].to(self.device)
            view = data.latents[rows].float()
            level = self.config.context_noise * torch.rand(len(rows), 1, 1, 1, generator=generator)
            view += level * torch.randn(view.shape, generator=generator)
            predicted = dynamics(*(part.to(self.device) for part in (state, chunk, view)))
            missed = (predicted - states) / dynamics.spread
            huber = torch.nn.functional.smooth_l1_loss
            return {"loss": huber(missed, torch.zeros_like(missed), beta=0.1)}

        return loss

    def drawing(self) -> Loss:
        """The loss of the arm's drawing, against recorded frames.

        Half of the frames end a chunk, since no chunk begins at an episode's last ones.
        """
        drawing, data = self.network.drawing, self.data
        ends = torch.arange(self.config.early_batch) % 2 * self.config.size.chunk_length

        def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
            rows = self._rows(generator) + ends
            seen = data.latents[rows].float().to(self.device)
            drawn = drawing(data.state[rows].to(self.device))
            return {"loss": torch.nn.functional.mse_loss(drawn, seen)}

        return loss

    def _rows(self, generator: torch.Generator) -> torch.Tensor:
        """(early_batch,) random frames at which a chunk begins."""
        chosen = torch.randint(len(self.starts), (self.config.early_batch,), generator=generator)
        return self.starts[chosen, 0]

    def _stand_still(
        self,
        still: torch.Tensor,
        context: torch.Tensor,
        future: torch.Tensor,
        chunk: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where `still`: the last frame repeats, with actions of no motion and the same gripper."""
        if not still.any():
            return context, future, chunk
        quiet = self.model.scales.resting(chunk)
        last = context[:, -1:].expand_as(future)
        wide = still[:, None, None, None, None]
        return (
            torch.where(wide, context[:, -1:].expand_as(context), context),
            torch.where(wide, last, future),
            torch.where(still[:, None, None], quiet, chunk),
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
    """Context and state at `first` (B,) of a future that started `depth` chunks earlier.

    It starts from the recorded frames there and imagines the recorded actions.
    """
    length, device = model.size.chunk_length, model.device
    begin = first - depth * length
    remembered = torch.minimum(remembered, begin)
    before = data.transitions(model.size, begin, episode_start, remembered)
    context, state = before.context.to(device), before.state.to(device)
    for chunk in range(depth):
        rows = begin[:, None] + chunk * length + torch.arange(length)
        noise = torch.randn(before.future.shape, generator=generator).to(device)
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
    fit(
        "world model",
        network,
        losses.frames,
        config,
        run,
        parameters=parameters,
        compile=[network.frames],
    )
    model.parts.eval()
