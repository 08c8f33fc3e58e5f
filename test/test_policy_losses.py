"""The flow-matching loss of imitation: what it averages over, and at which times."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from safedojo_ros.learning.policy_losses import PolicyBatch, imitation_loss
from safedojo_ros.models.normalisation import unit_scales

DRAWS = 200


class Still:
    """A policy whose velocity is zero; it remembers when it was asked."""

    chunk_length, device = 4, torch.device("cpu")
    scales = unit_scales()
    answer: Any = None

    def prefix(self, images: torch.Tensor, tokens: torch.Tensor) -> Any:
        return SimpleNamespace(repeated=lambda draws: None)

    def velocity(
        self, prefix: Any, state: torch.Tensor, noisy: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        self.times, self.noisy = time, noisy
        return self.answer(noisy, time) if self.answer else torch.zeros_like(noisy)


def batch(
    actions: torch.Tensor, exists: torch.Tensor, executed: torch.Tensor | None = None
) -> PolicyBatch:
    empty = torch.zeros(len(actions), 1)
    state, places = torch.zeros(len(actions), 8), torch.zeros(len(actions), 3, 3)
    executed = actions if executed is None else executed
    return PolicyBatch(empty, empty, state, actions, executed, exists, places)


def test_the_loss_is_the_mean_square_over_the_steps_that_exist() -> None:
    actions = torch.full((8, 4, 7), 100.0)
    exists = torch.zeros(8, 4, dtype=torch.bool)
    actions[:, :2], exists[:, :2] = 3.0, True
    generator = torch.Generator().manual_seed(0)
    loss, _ = imitation_loss(Still(), batch(actions, exists), DRAWS, 0, 0.0, generator)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(1 + 3.0**2, rel=0.03)  # of noise less action


def test_times_are_drawn_towards_the_noise_as_pi0_does() -> None:
    policy = Still()
    shape = (8, 4)
    imitation_loss(
        policy,  # type: ignore[arg-type]
        batch(torch.zeros(*shape, 7), torch.ones(shape, dtype=torch.bool)),
        DRAWS,
        0,
        0.0,
        torch.Generator().manual_seed(0),
    )
    assert 0.001 <= policy.times.min() <= policy.times.max() <= 1.0
    assert policy.times.mean().item() == pytest.approx(0.6, abs=0.02)  # of Beta(1.5, 1)
    spread = policy.noisy.flatten(1).std(dim=1)
    assert torch.allclose(spread, policy.times[:, 0], rtol=0.6, atol=0.05)


def test_a_late_chunk_begins_with_what_was_executed_and_the_loss_is_of_the_rest() -> None:
    policy, exists = Still(), torch.ones(8, 4, dtype=torch.bool)
    actions = torch.full((8, 4, 7), 3.0)
    late = batch(actions, exists)
    loss, _ = imitation_loss(policy, late, DRAWS, 3, 0.0, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    known = policy.times == 0.0
    assert known.sum(1).bincount(minlength=4).tolist() == pytest.approx([400] * 4, rel=0.2)
    assert torch.equal(known, known.cummin(1).values), "they come first"
    assert torch.equal(policy.noisy[known], torch.full_like(policy.noisy[known], 3.0))
    assert loss.item() == pytest.approx(1 + 3.0**2, rel=0.05), "of noise less action"


def test_what_answers_a_later_disturbance_is_not_asked_for() -> None:
    actions = torch.zeros(8, 4, 7)
    actions[:, 2:] = 100.0  # the way back, after the second step was disturbed
    executed = actions.clone()
    executed[:, 1, 0] = 5.0
    disturbed = batch(actions, torch.ones(8, 4, dtype=torch.bool), executed)

    def loss(longest_delay: int) -> float:
        generator = torch.Generator().manual_seed(0)
        return imitation_loss(Still(), disturbed, DRAWS, longest_delay, 0.0, generator)[0].item()  # type: ignore[arg-type]

    assert loss(0) == pytest.approx(1.0, rel=0.05)
    assert loss(3) > 1000.0, "but what answers a committed one is"


def test_a_chunk_makes_up_for_where_the_committed_steps_lead() -> None:
    """The loss is nothing for who gives back, in two steps, what the first ones led aside."""
    policy, far = Still(), 1000.0  # so far that the noise is nothing beside it

    def makes_up(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        known = times == 0.0
        led = (noisy * known[..., None]).sum(1, keepdim=True)
        steps = torch.arange(4) - known.sum(1)[:, None]
        late = known.any(1)[:, None] & (steps >= 0) & (steps < 2)
        return torch.where(late[..., None], led / 2, 0.0)  # velocity: noise less action

    shape = (8, 4)
    still = batch(torch.zeros(*shape, 7), torch.ones(shape, dtype=torch.bool))
    losses = []
    for policy.answer in (makes_up, None):
        generator = torch.Generator().manual_seed(0)
        losses.append(imitation_loss(policy, still, DRAWS, 3, far, generator)[0].item())  # type: ignore[arg-type]
    assert losses[0] < 2.0 < 10_000.0 < losses[1]
