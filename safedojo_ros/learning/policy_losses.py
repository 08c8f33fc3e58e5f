"""The losses of imitation."""

from dataclasses import dataclass

import torch

from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.models.pi0_policy import Known, PI0Policy, Prefix

CENTIMETRE = 0.01


@dataclass(frozen=True)
class PolicyBatch:
    """B demonstrated frames, on the policy's device.

    images: (B, cameras, 3, S, S); tokens: (B, L); state: (B, 8), actions: (B, H, 7), those to
    imitate, and executed: (B, H, 7), what the robot did, all normalised; exists: (B, H) bool, false
    beyond the episode's end; places: (B, 3, 3) metres, see `Demonstrations.places`.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    executed: torch.Tensor
    exists: torch.Tensor
    places: torch.Tensor


def imitation_loss(
    policy: PI0Policy,
    batch: PolicyBatch,
    draws: int,
    longest_delay: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, Prefix]:
    """Mean squared error of the velocity, at `draws` (time, noise, delay) for each frame; and the
    encoded images and instruction, (B, ...).

    A delay of d steps, 0 to `longest_delay`, each as often: the first d steps are what the robot
    executed, without noise and at time 0, and the loss is of the rest (arXiv 2512.05964).
    """
    shape = len(batch.state) * draws, policy.chunk_length
    noise = torch.randn(*shape, ACTION_SIZE, generator=generator)
    # Beta(1.5, 1) by inversion: more weight on noisy chunks, as π0 does
    time = 0.001 + 0.999 * torch.rand(shape[0], generator=generator) ** (1 / 1.5)
    delay = torch.randint(longest_delay + 1, (shape[0],), generator=generator)
    mask = torch.arange(shape[1]) < delay[:, None]
    noise, time, mask = (each.to(policy.device) for each in (noise, time, mask))
    actions, executed, state, exists = (
        each.repeat_interleave(draws, 0)
        for each in (batch.actions, batch.executed, batch.state, batch.exists)
    )
    times = time[:, None].masked_fill(mask, 0.0)
    noisy = times[..., None] * noise + (1 - times[..., None]) * actions
    noisy = Known(executed, mask).put_into(noisy)
    prefix = policy.prefix(batch.images, batch.tokens)
    error = policy.velocity(prefix.repeated(draws), state, noisy, times) - (noise - actions)
    weight = (exists & ~mask)[..., None].float()
    return (error.square() * weight).sum() / (weight.sum() * ACTION_SIZE).clamp(min=1.0), prefix


class PlaceReader(torch.nn.Module):
    """Reads the places of a frame off what the action expert sees. Exists in training only.

    Imitation asks late for where things are; this loss asks from the first step on. The labels are
    the demonstrations' own: nobody has to mark an object.
    """

    def __init__(self, policy: PI0Policy) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(policy.feature_size, 9)

    def loss(self, prefix: Prefix, places: torch.Tensor) -> torch.Tensor:
        """Scalar: Huber's loss of `places` (B, 3, 3), in centimetres, quadratic below 2 mm."""
        read = self.linear(prefix.features())
        wanted = places.flatten(1) / CENTIMETRE
        return torch.nn.functional.smooth_l1_loss(read, wanted, beta=0.2)
