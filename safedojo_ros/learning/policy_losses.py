"""The losses of imitation."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.prefix import Known, Prefix

MAKING_UP = 2
"""Steps in which a chunk makes up for where the committed steps led."""

DISTURBED = 1e-3
"""Difference of an executed from an imitated action, normalised, that is more than rounding."""


@dataclass(frozen=True)
class PolicyBatch:
    """B demonstrated frames, on the policy's device.

    images: (B, cameras, 3, S, S); tokens: (B, L); state: (B, S), actions: (B, H, A), those to
    imitate, and executed: (B, H, A), what the robot did, all normalised; exists: (B, H) bool, false
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
    aside: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, Prefix]:
    """Mean squared error of the velocity, at `draws` (time, noise, delay) for each frame; and the
    encoded images and instruction, (B, ...).

    A delay of d steps, 0 to `longest_delay`, each as often: the first d steps are what the robot
    executed, at time 0, and the loss is of the rest (arXiv 2512.05964). They lead aside, by a
    distance of standard deviation `aside` (m) along each axis, and the next `MAKING_UP` steps lead
    back: what is committed is the end of an older plan, which a policy must not go on with. Left
    out are steps after a disturbance that comes later: what answers it cannot be foreseen.
    """
    shape = len(batch.state) * draws, policy.chunk_length
    size = policy.scales.action_size
    noise = torch.randn(*shape, size, generator=generator)
    # Beta(1.5, 1) by inversion: more weight on noisy chunks, as π0 does
    time = 0.001 + 0.999 * torch.rand(shape[0], generator=generator) ** (1 / 1.5)
    delay = torch.randint(longest_delay + 1, (shape[0],), generator=generator)
    steps = torch.arange(shape[1]) - delay[:, None]
    mask = steps < 0
    ways = torch.randn(shape[0], 1, min(3, size), generator=generator)
    if policy.scales.moves_gripper:
        ways = aside / policy.scales.action.scale[:3] * ways
    else:  # committed steps of other kinds lead nowhere else
        ways = torch.zeros_like(ways)
    there = ways * (mask / delay.clamp(min=1)[:, None])[..., None]
    back = ways * ((~mask & (steps < MAKING_UP) & (delay > 0)[:, None]) / MAKING_UP)[..., None]
    noise, time, mask, there, back = (
        each.to(policy.device) for each in (noise, time, mask, there, back)
    )
    actions, executed, state, exists = (
        each.repeat_interleave(draws, 0)
        for each in (batch.actions, batch.executed, batch.state, batch.exists)
    )
    disturbed = ((executed - actions).abs().amax(-1) > DISTURBED) & ~mask
    foreseen = disturbed.cumsum(1) - disturbed.long() == 0
    executed = executed + functional.pad(there, (0, size - ways.shape[2]))
    actions = actions - functional.pad(back, (0, size - ways.shape[2]))
    times = time[:, None].masked_fill(mask, 0.0)
    noisy = times[..., None] * noise + (1 - times[..., None]) * actions
    noisy = Known(executed, mask).put_into(noisy)
    prefix = policy.prefix(batch.images, batch.tokens)
    error = policy.velocity(prefix.repeated(draws), state, noisy, times) - (noise - actions)
    weight = (exists & ~mask & foreseen)[..., None].float()
    return (error.square() * weight).sum() / (weight.sum() * size).clamp(min=1.0), prefix
