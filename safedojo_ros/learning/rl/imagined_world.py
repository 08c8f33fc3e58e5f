"""The imagined world: world model, success classifier and safety head as a world to act in.

It offers `reset` and `step` like `worlds.vector.VectorWorld`, so a rollout does not know whether it
dreams. Futures begin at real keyframes; each step adds a chunk of imagined frames, from which the
policy acts again and success is read; costs are read from the keyframe and the imagined state.
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import ACTION_SIZE, Observation
from safedojo_ros.models.images import stack_pictures, to_uint8
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel
from safedojo_ros.worlds.vector import ChunkOutcome


@dataclass(frozen=True)
class ImaginationConfig:
    """How futures are drawn and read.

    max_steps: control steps after which a future ends; futures: noise seeds for one future, of
    which the policy sees the first; cost_quantile: over these futures, 0.5 the median, towards 1
    more pessimistic; denoising_steps: of a chunk's frames, 0 for the checkpoint's own;
    contact_threshold: P(contact) of a step above which the future counts as a collision, 0 for the
    safety checkpoint's own.
    """

    max_steps: int = 150
    futures: int = 1
    cost_quantile: float = 0.5
    denoising_steps: int = 0
    contact_threshold: float = 0.0


@dataclass(frozen=True)
class Keyframes:
    """N real moments at which futures begin.

    context: (N, F, C, h, w) latents, of a remembered frame and the newest ones; state: (N, 8) in m
    and rad; instructions: N.
    """

    context: torch.Tensor
    state: torch.Tensor
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.instructions)

    def repeated(self, times: int) -> "Keyframes":
        """Each moment `times` times, one after the other: the groups of GRPO."""
        return Keyframes(
            self.context.repeat_interleave(times, 0),
            self.state.repeat_interleave(times, 0),
            tuple(text for text in self.instructions for _ in range(times)),
        )

    def chosen(self, rows: np.ndarray) -> "Keyframes":
        """Some of the moments, by their index."""
        return Keyframes(
            self.context[rows], self.state[rows], tuple(self.instructions[i] for i in rows)
        )


@dataclass(frozen=True)
class ImaginedOutcome(ChunkOutcome):
    """`ChunkOutcome` of B imagined chunks, of H steps each that are done; displacement is not
    imagined and stays 0.

    cost: (B, H) P(contact); success_probability: (B, H) of the frame that shows the step;
    frames: (B, F, cameras, S, S, 3) uint8, zeros where nothing was imagined; uncertainty: (B,)
    spread of the last latent over the futures, 0 where there is only one.
    """

    success_probability: np.ndarray
    frames: np.ndarray
    uncertainty: np.ndarray


class ImaginedWorld:
    """B independent futures, stepped together by whole chunks."""

    def __init__(
        self,
        world_model: WorldModel,
        success: SuccessModel,
        safety: SafetyModel,
        config: ImaginationConfig | None = None,
        seed: int = 0,
    ) -> None:
        """The readers go where the world model is. Raises `CheckpointError` where the three do not
        belong together.
        """
        self.world_model, self.success, self.safety = world_model, success, safety
        self.config = config or ImaginationConfig()
        self.horizon, self.cameras = world_model.size.chunk_length, world_model.cameras
        self.image_size = world_model.autoencoder.size.image_size
        self.max_steps = self.config.max_steps
        self.contact_threshold = self.config.contact_threshold or safety.contact_threshold
        _check_pair(world_model, safety)
        if success.cameras != world_model.cameras:
            raise CheckpointError(
                f"the success classifier sees {success.cameras}, the world model "
                f"{world_model.cameras}; train one for the other"
            )
        self.device = world_model.device
        for network in (world_model.parts, success.network, safety.network):
            network.to(self.device).eval()
        self._generator = torch.Generator().manual_seed(seed)
        self._keyframes: Keyframes | None = None

    def seed(self, seed: int) -> None:
        """Begin the stream of noise anew."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def reset(self, keyframes: Keyframes) -> list[Observation]:
        """Begin one future at each keyframe."""
        unknown = sorted(set(keyframes.instructions) - set(self.success.instructions))
        if unknown:
            raise ConfigError(
                f"the success classifier was not trained on {unknown}; it knows "
                f"{list(self.success.instructions)}"
            )
        count, futures = len(keyframes), self.config.futures
        self._keyframes = keyframes
        seen = keyframes.context.float().to(self.device)
        self._context = seen.repeat_interleave(futures, 0)
        self._scene = self.world_model.stacked(seen[:, -1])
        state = self.world_model.scales.state.normalise(keyframes.state.float().to(self.device))
        self._state = state.repeat_interleave(futures, 0)
        self._steps = np.zeros(count, dtype=int)
        self._streak = np.zeros(count, dtype=int)
        self._done = np.zeros(count, dtype=bool)
        pictures = to_uint8(self.world_model.decode(seen[:, -1:]))[:, 0].cpu()
        self._observations = [
            self._observation(i, pictures[i].numpy(), keyframes.state[i].numpy())
            for i in range(count)
        ]
        return list(self._observations)

    def whole_strides(self, steps: int | None) -> int:
        """How many steps of a chunk `step` does; raises `ConfigError` for part of a stride."""
        steps, stride = steps or self.horizon, self.world_model.size.stride
        if steps % stride or steps > self.horizon:
            raise ConfigError(
                f"{steps} steps of a chunk of {self.horizon} cannot be imagined: choose a multiple "
                f"of the world model's stride, {stride}"
            )
        return steps

    @torch.no_grad()
    def step(self, chunks: np.ndarray, steps: int | None = None) -> ImaginedOutcome:
        """Imagine `chunks` (B, H, 7), metres and radians; futures that are done stay as they are.

        steps: of each chunk that are done, whole strides of the world model (default: all).
        Raises `ConfigError` for another shape or part of a stride, or before `reset`.
        """
        if self._keyframes is None:
            raise ConfigError("the imagined world has no keyframes yet; call reset first")
        count, model = len(self._keyframes), self.world_model
        size, config = model.size, self.config
        if np.shape(chunks) != (count, self.horizon, ACTION_SIZE):
            raise ConfigError(
                f"chunks have shape {np.shape(chunks)}, expected ({count}, {self.horizon}, 7)"
            )
        steps = self.whole_strides(steps)
        seen = steps // size.stride
        cells = (size.future, *self._context.shape[2:])
        noise = torch.randn((count * config.futures, *cells), generator=self._generator)
        active = np.flatnonzero(~self._done)
        if not len(active):
            return self._read(active, np.zeros((0, steps)), np.zeros((0, seen)))
        rows = (active[:, None] * config.futures + np.arange(config.futures)).ravel()
        taken = torch.from_numpy(within_bounds(np.asarray(chunks)[active]).astype(np.float32))
        taken = taken.repeat_interleave(config.futures, 0).to(self.device)
        context, state = self._context[rows], self._state[rows]
        cost = self._cost(active, state, taken)
        chunk = model.scales.action.normalise(taken)
        frames, states = model.imagine(
            context, state, chunk, noise[rows].to(self.device), config.denoising_steps or None
        )
        frames, states, cost = frames[:, :seen], states[:, :steps], cost[:, :steps]
        self._context[rows] = model.advanced(context, frames)
        self._state[rows] = states[:, -1]
        pictures = model.decode(frames)
        shape = (len(active), config.futures, seen)
        sentences = [
            self._keyframes.instructions[i] for i in active for _ in range(config.futures * seen)
        ]
        probability = self.success.probability(pictures.flatten(0, 1), sentences)
        outcome = self._read(active, cost, probability.reshape(shape).mean(1).cpu().numpy())
        shown = to_uint8(pictures[:: config.futures]).cpu().numpy()
        outcome.frames[active] = shown
        final = model.scales.state.restore(states[:: config.futures, -1]).cpu().numpy()
        for place, i in enumerate(active.tolist()):
            self._observations[i] = self._observation(i, shown[place, -1], final[place])
        outcome.observations[:] = self._observations
        if config.futures > 1:
            last = frames[:, -1].reshape(len(active), config.futures, -1)
            outcome.uncertainty[active] = last.std(1).mean(1).cpu().numpy()
        return outcome

    def _cost(self, active: np.ndarray, state: torch.Tensor, chunk: torch.Tensor) -> np.ndarray:
        """(active, H) P(contact) at the configured quantile over the futures.

        state (active · futures, 8); chunk (active · futures, H, 7). The picture is the real one
        that the future began with: where the obstacle is cannot be seen better in imagined ones.
        """
        safety, shape = self.safety, (len(active), self.config.futures)
        state = self.world_model.scales.state.restore(state)
        logits = safety.head(
            self._scene[active],
            safety.scales.state.normalise(state).unflatten(0, shape),
            safety.scales.action.normalise(chunk).unflatten(0, shape),
        )
        return torch.sigmoid(logits).quantile(self.config.cost_quantile, dim=1).cpu().numpy()

    def _read(
        self, active: np.ndarray, cost: np.ndarray, probability: np.ndarray
    ) -> ImaginedOutcome:
        """Success by consecutive frames, and which steps of the chunk still belong to a future."""
        count, horizon, size = len(self._done), cost.shape[1], self.world_model.size
        frames = probability.shape[1]
        success, costs, probabilities = (np.zeros((count, horizon)) for _ in range(3))
        valid = np.zeros((count, horizon), dtype=bool)
        probabilities[active] = np.repeat(probability, size.stride, axis=1)
        over = self.success.over(probability, imagined=True)
        for place, i in enumerate(active):
            steps = min(horizon, self.max_steps - self._steps[i])
            for frame in range(frames):
                self._streak[i] = self._streak[i] + 1 if over[place, frame] else 0
                end = (frame + 1) * size.stride
                if self._streak[i] >= self.success.consecutive and end <= steps:
                    success[i, end - 1], steps, self._done[i] = 1.0, end, True
                    break
            valid[i, :steps] = True
            costs[i, :steps] = cost[place, :steps]
            self._steps[i] += steps
            self._done[i] |= self._steps[i] >= self.max_steps
        probabilities *= valid
        shape = (count, frames, len(self.cameras), self.image_size, self.image_size, 3)
        return ImaginedOutcome(
            list(self._observations),
            success,
            costs,
            np.zeros((count, horizon)),
            valid,
            self._done.copy(),
            probabilities,
            np.zeros(shape, dtype=np.uint8),
            np.zeros(count),
        )

    def _observation(self, i: int, pictures: np.ndarray, state: np.ndarray) -> Observation:
        """pictures: (cameras, S, S, 3) uint8; state: (8,)."""
        assert self._keyframes is not None
        images = dict(zip(self.cameras, pictures, strict=True))
        return Observation(images, state.astype(np.float32), self._keyframes.instructions[i])


def keyframes_of(model: WorldModel, observations: list[Observation], batch: int = 128) -> Keyframes:
    """Keyframes of single moments: the frame stands in for what came before it."""
    side, parts = model.autoencoder.size.image_size, []
    for first in range(0, len(observations), batch):
        pictures = stack_pictures(observations[first : first + batch], model.cameras, side)
        parts.append(model.encode(pictures[:, None].to(model.device)).cpu())
    latents = torch.cat(parts)
    context = latents.expand(-1, model.size.context, -1, -1, -1).contiguous()
    state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
    return Keyframes(context, state, tuple(o.instruction for o in observations))


def _check_pair(world_model: WorldModel, safety: SafetyModel) -> None:
    """The head must read the latents that the world model imagines."""
    ours, theirs = world_model.autoencoder.state_dict(), safety.autoencoder.state_dict()
    same = ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape
        and torch.equal(ours[name], theirs[name].to(ours[name].device))
        for name in ours
    )
    if not same or safety.cameras != world_model.cameras:
        raise CheckpointError(
            f"safety head {safety.checkpoint_id} and world model {world_model.checkpoint_id} see "
            "through different autoencoders; train the world model with --safety of this head"
        )
    if safety.chunk_length != world_model.size.chunk_length:
        raise CheckpointError(
            f"the safety head judges chunks of {safety.chunk_length} steps, the world model "
            f"imagines {world_model.size.chunk_length}"
        )
