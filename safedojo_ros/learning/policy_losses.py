"""The loss of imitation."""

from dataclasses import dataclass

import torch

from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.models.pi0_policy import PI0Policy


@dataclass(frozen=True)
class PolicyBatch:
    """B demonstrated frames, on the policy's device.

    images: (B, cameras, 3, S, S); tokens: (B, L); state: (B, 8) and actions: (B, H, 7),
    normalised; exists: (B, H) bool, false beyond the episode's end.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    exists: torch.Tensor


def imitation_loss(
    policy: PI0Policy, batch: PolicyBatch, draws: int, generator: torch.Generator
) -> torch.Tensor:
    """Mean squared error of the velocity, at `draws` (time, noise) pairs for each frame.

    Images and instruction are encoded once for all draws.
    """
    noise = torch.randn(
        len(batch.state) * draws, policy.chunk_length, ACTION_SIZE, generator=generator
    )
    # Beta(1.5, 1) by inversion: more weight on noisy chunks, as π0 does
    time = 0.001 + 0.999 * torch.rand(len(noise), generator=generator) ** (1 / 1.5)
    noise, time = noise.to(policy.device), time.to(policy.device)
    actions = batch.actions.repeat_interleave(draws, 0)
    state = batch.state.repeat_interleave(draws, 0)
    noisy = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
    prefix = policy.prefix(batch.images, batch.tokens).repeated(draws)
    error = policy.velocity(prefix, state, noisy, time) - (noise - actions)
    weight = batch.exists.repeat_interleave(draws, 0)[..., None].float()
    return (error.square() * weight).sum() / (weight.sum() * ACTION_SIZE)
