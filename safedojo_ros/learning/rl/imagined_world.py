"""The imagined world: world model, success classifier and safety head as a world to act in.

It has the `reset` and `step` of `worlds.vector.VectorWorld`, so a rollout does not know whether it
is imagined. Futures start from real keyframes. Each step imagines the frames of a chunk; policy and
success classifier see these, the safety head the keyframe's image and the imagined state.
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.images import stack_images, to_uint8
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.world_model import WorldModel
from safedojo_ros.worlds.vector import ChunkOutcome


@dataclass(frozen=True)
class Keyframes:
    """N real frames that futures start from.

    context: (N, F, C, h, w) latents, of a remembered frame and the newest ones; state: (N, 8) in m
    and rad; instructions: N.
    """

    context: torch.Tensor
    state: torch.Tensor
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.instructions)

    def repeated(self, times: int) -> "Keyframes":
        """Each frame `times` times in a row: the groups of GRPO."""
        return Keyframes(
            self.context.repeat_interleave(times, 0),
            self.state.repeat_interleave(times, 0),
            tuple(text for text in self.instructions for _ in range(times)),
        )

    def chosen(self, rows: np.ndarray) -> "Keyframes":
        """The frames with these indices."""
        return Keyframes(
            self.context[rows], self.state[rows], tuple(self.instructions[i] for i in rows)
        )


@dataclass(frozen=True)
class ImaginedOutcome(ChunkOutcome):
    """`ChunkOutcome` of H steps of B imagined chunks; displacement is not imagined and stays 0.

    cost: (B, H) P(contact); success_probability: (B, H) of the frame that shows the step; frames:
    (B, F, cameras, S, S, 3) uint8, zeros for futures that had ended; others: {cost beside contact:
    (B, H)}.
    """

    success_probability: np.ndarray
    frames: np.ndarray
    others: dict[str, np.ndarray]


class ImaginedWorld:
    """B independent futures that are stepped together by whole chunks."""

    def __init__(
        self,
        world_model: WorldModel,
        success: SuccessModel,
        safety: SafetyModel,
        max_steps: int = 150,
        denoising_steps: int | None = None,
    ) -> None:
        """max_steps: control steps after which a future ends; denoising_steps: of a chunk's frames,
        None for the checkpoint's own. The two heads are moved to the world model's device. Raises
        `CheckpointError` where the three do not fit each other.
        """
        self.world_model, self.success, self.safety = world_model, success, safety
        self.max_steps, self.denoising_steps = max_steps, denoising_steps
        self.horizon, self.cameras = world_model.size.chunk_length, world_model.cameras
        self.image_size = world_model.autoencoder.size.image_size
        _check_pair(world_model, safety)
        if success.cameras != world_model.cameras:
            raise CheckpointError(
                f"the success classifier sees {success.cameras}, the world model "
                f"{world_model.cameras}; train one for the other"
            )
        rules = {model.resize for model in (world_model, success, safety)}
        if len(rules) > 1:
            raise CheckpointError(
                "world model, success classifier and safety head saw images made to fit by "
                f"different rules: {', '.join(sorted(rules))}; train them on sets of one rule"
            )
        self.device = world_model.device
        for network in (world_model.parts, success.network, safety.network):
            network.to(self.device).eval()
        self._generator = torch.Generator().manual_seed(0)
        self._keyframes: Keyframes | None = None

    @property
    def contact_threshold(self) -> float:
        """P(contact) of a step above which the future counts as a collision."""
        return self.safety.contact_threshold

    def seed(self, seed: int) -> None:
        """Restart the stream of noise."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def reset(
        self, keyframes: Keyframes, among: tuple[int, int] | None = None
    ) -> list[Observation]:
        """Start one future from each keyframe.

        among: number of the first one, and how many futures there are with those on other workers:
        each has the noise that it has where all are imagined together.
        """
        unknown = sorted(set(keyframes.instructions) - set(self.success.instructions))
        if unknown:
            raise ConfigError(
                f"the success classifier was not trained on {unknown}; it knows "
                f"{list(self.success.instructions)}"
            )
        count = len(keyframes)
        self._keyframes = keyframes
        self._first, self._among = among or (0, count)
        self._context = keyframes.context.float().to(self.device, copy=True)
        self._scene = self.world_model.stacked(self._context[:, -1])
        state = keyframes.state.float().to(self.device)
        self._state = self.world_model.scales.state.normalise(state)
        self._steps = np.zeros(count, dtype=int)
        self._streak = np.zeros(count, dtype=int)
        self._done = np.zeros(count, dtype=bool)
        images = to_uint8(self.world_model.decode(self._context[:, -1:]))[:, 0].cpu()
        self._observations = [
            self._observation(i, images[i].numpy(), keyframes.state[i].numpy())
            for i in range(count)
        ]
        return list(self._observations)

    def whole_strides(self, steps: int | None) -> int:
        """How many steps of a chunk `step` imagines; raises `ConfigError` for part of a stride."""
        steps, stride = steps or self.horizon, self.world_model.size.stride
        if steps % stride or steps > self.horizon:
            raise ConfigError(
                f"{steps} steps of a chunk of {self.horizon} cannot be imagined: choose a multiple "
                f"of the world model's stride, {stride}"
            )
        return steps

    @torch.no_grad()
    def step(self, chunks: np.ndarray, steps: int | None = None) -> ImaginedOutcome:
        """Imagine `chunks` (B, H, 7), metres and radians; futures that are done do not change.

        steps: how many of each chunk, whole strides of the world model (default: all). Raises
        `ConfigError` for another shape or part of a stride, or before `reset`.
        """
        if self._keyframes is None:
            raise ConfigError("the imagined world has no keyframes yet; call reset first")
        count, model = len(self._keyframes), self.world_model
        size = model.size
        wanted = (count, self.horizon, model.scales.action_size)
        if np.shape(chunks) != wanted:
            raise ConfigError(f"chunks have shape {np.shape(chunks)}, expected {wanted}")
        steps = self.whole_strides(steps)
        seen = steps // size.stride
        cells = (size.future, *self._context.shape[2:])
        noise = torch.randn((self._among, *cells), generator=self._generator)
        noise = noise[self._first : self._first + count]
        active = np.flatnonzero(~self._done)
        if not len(active):
            nothing = np.zeros((0, steps, 1 + len(self.safety.others)))
            return self._outcome(active, nothing, np.zeros((0, seen)))
        bounded = model.scales.bounded(np.asarray(chunks)[active])
        taken = torch.from_numpy(bounded.astype(np.float32))
        taken = taken.to(self.device)
        context, state = self._context[active], self._state[active]
        cost = self._cost(active, state, taken)
        chunk = model.scales.action.normalise(taken)
        frames, states = model.imagine(
            context, state, chunk, noise[active].to(self.device), self.denoising_steps
        )
        frames, states, cost = frames[:, :seen], states[:, :steps], cost[:, :steps]
        self._context[active] = model.advanced(context, frames)
        self._state[active] = states[:, -1]
        images = model.decode(frames)
        sentences = [self._keyframes.instructions[i] for i in active for _ in range(seen)]
        probability = self.success.probability(images.flatten(0, 1), sentences)
        outcome = self._outcome(active, cost, probability.reshape(len(active), seen).cpu().numpy())
        shown = to_uint8(images).cpu().numpy()
        outcome.frames[active] = shown
        final = model.scales.state.restore(states[:, -1]).cpu().numpy()
        for place, i in enumerate(active.tolist()):
            self._observations[i] = self._observation(i, shown[place, -1], final[place])
        outcome.observations[:] = self._observations
        return outcome

    def _cost(self, active: np.ndarray, state: torch.Tensor, chunk: torch.Tensor) -> np.ndarray:
        """(active, H, C) of every cost of `chunk` (active, H, 7) from `state` (active, 8).

        The image is the real one that the future started from: imagined ones show the obstacle's
        place no better.
        """
        safety = self.safety
        state = self.world_model.scales.state.restore(state)
        logits = safety.head(
            self._scene[active],
            safety.scales.state.normalise(state),
            safety.scales.action.normalise(chunk),
        )
        return torch.sigmoid(logits).cpu().numpy()

    def _outcome(
        self, active: np.ndarray, cost: np.ndarray, probability: np.ndarray
    ) -> ImaginedOutcome:
        """Success by consecutive frames, and which steps of the chunk were before a future's
        end."""
        count, horizon, size = len(self._done), cost.shape[1], self.world_model.size
        frames = probability.shape[1]
        success, probabilities = (np.zeros((count, horizon)) for _ in range(2))
        costs = np.zeros((count, horizon, cost.shape[2]))
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
            costs[..., 0],
            np.zeros((count, horizon)),
            valid,
            self._done.copy(),
            probabilities,
            np.zeros(shape, dtype=np.uint8),
            {each.name: costs[..., 1 + n] for n, each in enumerate(self.safety.others)},
        )

    def _observation(self, i: int, images: np.ndarray, state: np.ndarray) -> Observation:
        """images: (cameras, S, S, 3) uint8; state: (8,)."""
        assert self._keyframes is not None
        named = dict(zip(self.cameras, images, strict=True))
        return Observation(named, state.astype(np.float32), self._keyframes.instructions[i])


def keyframes_of(model: WorldModel, observations: list[Observation], batch: int = 128) -> Keyframes:
    """Keyframes of single frames, which also take the place of the frames before them."""
    side, parts = model.autoencoder.size.image_size, []
    for first in range(0, len(observations), batch):
        some, size = observations[first : first + batch], model.scales.state_size
        images = stack_images(some, model.cameras, side, size)
        parts.append(model.encode(images[:, None].to(model.device)).cpu())
    latents = torch.cat(parts)
    context = latents.expand(-1, model.size.context, -1, -1, -1).contiguous()
    state = torch.from_numpy(np.stack([o.state for o in observations]).astype(np.float32))
    return Keyframes(context, state, tuple(o.instruction for o in observations))


def _check_pair(world_model: WorldModel, safety: SafetyModel) -> None:
    """Raise `CheckpointError` unless the head's latents and chunks are the world model's."""
    same = world_model.autoencoder.same(safety.autoencoder)
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
