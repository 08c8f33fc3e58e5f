"""The flow-matching loss of imitation: what it averages over, and at which times."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from safedojo_ros.learning.policy_losses import PolicyBatch, imitation_loss

DRAWS = 200


class Still:
    """A policy whose velocity is zero; it remembers when it was asked."""

    chunk_length, device = 4, torch.device("cpu")

    def prefix(self, images: torch.Tensor, tokens: torch.Tensor) -> Any:
        return SimpleNamespace(repeated=lambda draws: None)

    def velocity(
        self, prefix: Any, state: torch.Tensor, noisy: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        self.times, self.noisy = time, noisy
        return torch.zeros_like(noisy)


def batch(actions: torch.Tensor, exists: torch.Tensor) -> PolicyBatch:
    empty = torch.zeros(len(actions), 1)
    return PolicyBatch(empty, empty, torch.zeros(len(actions), 8), actions, exists)


def test_the_loss_is_the_mean_square_over_the_steps_that_exist() -> None:
    actions = torch.full((8, 4, 7), 100.0)
    exists = torch.zeros(8, 4, dtype=torch.bool)
    actions[:, :2], exists[:, :2] = 3.0, True
    loss = imitation_loss(Still(), batch(actions, exists), DRAWS, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(1 + 3.0**2, rel=0.03)  # of noise less action


def test_times_are_drawn_towards_the_noise_as_pi0_does() -> None:
    policy = Still()
    shape = (8, 4)
    imitation_loss(
        policy,  # type: ignore[arg-type]
        batch(torch.zeros(*shape, 7), torch.ones(shape, dtype=torch.bool)),
        DRAWS,
        torch.Generator().manual_seed(0),
    )
    assert 0.001 <= policy.times.min() <= policy.times.max() <= 1.0
    assert policy.times.mean().item() == pytest.approx(0.6, abs=0.02)  # of Beta(1.5, 1)
    spread = policy.noisy.flatten(1).std(dim=1)
    assert torch.allclose(spread, policy.times, rtol=0.6, atol=0.05)
