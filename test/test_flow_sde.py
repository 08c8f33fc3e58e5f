"""Flow-SDE: exact likelihoods, and marginals that are the ODE's."""

from typing import Any

import numpy as np
import pytest
import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.flow_sde import (
    FlowConfig,
    StochasticFlow,
    gaussian_log_prob,
    sde_transition,
)
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.policy import PolicySample
from safedojo_ros.models.prefix import Prefix

MEAN, SPREAD = 0.7, 0.3


def observations(count: int) -> list[Observation]:
    rng = np.random.default_rng(0)
    return [
        Observation(
            {c: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in ("agentview", "wrist")},
            rng.normal(size=8),
            "put the red cube on the plate",
        )
        for _ in range(count)
    ]


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def flow(**changes: Any) -> StochasticFlow:
    policy = tiny_policy()
    size = type(policy.size)(**{**policy.size.__dict__, "denoising_steps": 4, "temperature": 0.5})
    policy.size = size
    return StochasticFlow(policy, FlowConfig(**({"noise_level": 0.5, "least_time": 0.0} | changes)))


def gaussian_velocity(x: torch.Tensor, time: float, spread: float) -> torch.Tensor:
    """E[noise − action | x] where actions are N(MEAN, spread²) and noise is N(0, 1)."""
    variance = time**2 + (1 - time) ** 2 * spread**2
    off = x - (1 - time) * MEAN
    return time * off / variance - (MEAN + (1 - time) * spread**2 * off / variance)


def marginal(noise_level: float, temperature: float, steps: int, spread: float) -> torch.Tensor:
    """Samples at t = 0 of the SDE with noise at every step but the last; of the ODE for 0."""
    generator = torch.Generator().manual_seed(1)
    x = temperature * torch.randn(40_000, generator=generator, dtype=torch.float64)
    for k in range(steps):
        time, after = 1 - k / steps, 1 - (k + 1) / steps
        velocity = gaussian_velocity(x, time, spread)
        mean, std = sde_transition(
            x, velocity, torch.tensor(time), torch.tensor(after), noise_level, temperature
        )
        x = mean + std * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_sde_has_the_marginals_of_the_ode(temperature: float) -> None:
    """Also where the start noise is cooler than the noise that was trained on."""
    ode = marginal(0.0, temperature, 200, SPREAD)
    sde = marginal(0.1, temperature, 200, SPREAD)
    assert ode.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert ode.std().item() == pytest.approx(temperature * SPREAD, rel=0.03)
    assert sde.mean().item() == pytest.approx(ode.mean().item(), abs=0.01)
    assert sde.std().item() == pytest.approx(ode.std().item(), rel=0.03)


@pytest.mark.parametrize("steps", [2, 5])
def test_for_one_certain_action_the_marginals_agree_at_any_number_of_steps(steps: int) -> None:
    assert marginal(0.7, 0.5, steps, 1e-6).sub(MEAN).abs().max() < 1e-5
    x = MEAN * 0.0 + 0.5 * torch.randn(40_000, generator=torch.Generator().manual_seed(2))
    velocity = gaussian_velocity(x, 1.0, 1e-9)
    mean, std = sde_transition(x, velocity, torch.tensor(1.0), torch.tensor(0.6), 0.7, 0.5)
    halfway = mean + std * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    assert halfway.mean().item() == pytest.approx(0.4 * MEAN, abs=0.01)
    assert halfway.std().item() == pytest.approx(0.6 * 0.5, rel=0.02)


def test_without_noise_a_step_is_the_euler_step() -> None:
    x, velocity = torch.randn(5, 8, 7), torch.randn(5, 8, 7)
    mean, std = sde_transition(x, velocity, torch.tensor(0.8), torch.tensor(0.6), 0.0, 1.0)
    torch.testing.assert_close(mean, x - 0.2 * velocity)
    assert float(std) == 0.0


def direct_log_prob(sample: PolicySample, stochastic: StochasticFlow) -> torch.Tensor:
    """The transition's density by torch's own Normal, one sample at a time."""
    policy, tensors, level = stochastic.policy, sample.tensors, stochastic.config.noise_level
    prefix = Prefix.from_stacked(tensors["keys_values"], tensors["mask"])
    x, moved = tensors["before"], tensors["after"]
    time = 1.0 - tensors["step"] / policy.size.denoising_steps
    velocity = policy.velocity(prefix, tensors["state"], x, time)
    result = torch.zeros(len(sample), policy.chunk_length)
    for i in range(len(sample)):
        after = time[i] - 1.0 / policy.size.denoising_steps
        action, noise = x[i] - time[i] * velocity[i], x[i] + (1 - time[i]) * velocity[i]
        mean = (1 - after) * action + (1 - level**2) ** 0.5 * after * noise
        std = torch.full_like(mean, level * 0.5 * float(after))
        result[i] = torch.distributions.Normal(mean, std).log_prob(moved[i]).sum(-1)
    return result


def test_log_probs_are_those_of_a_direct_computation() -> None:
    stochastic = flow()
    with torch.no_grad():
        sample = stochastic.sample_with_log_prob(observations(6), generators(6))
        again = stochastic.log_prob(sample)
        expected = direct_log_prob(sample, stochastic)
    torch.testing.assert_close(sample.log_prob, expected, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(again, sample.log_prob, atol=1e-3, rtol=1e-4)


def test_a_chunk_is_the_chain_from_its_noise_with_one_noisy_step() -> None:
    """Replayed by hand: Euler steps, but for the one that was drawn."""
    stochastic, seen = flow(), observations(3)
    sample = stochastic.sample_with_log_prob(seen, generators(3))
    policy = stochastic.policy
    prefix = policy.prefix(*policy.inputs(seen)[:2])
    draws = [torch.randn(8, 7, generator=generator) for generator in generators(3)]
    x = policy.size.temperature * torch.stack(draws)
    with torch.no_grad():
        for k in range(4):
            time = torch.full((3,), 1.0 - k / 4)
            euler = x - policy.velocity(prefix, sample.tensors["state"], x, time) / 4
            noisy = (sample.tensors["step"] == k)[:, None, None]
            torch.testing.assert_close(torch.where(noisy, sample.tensors["before"], x), x)
            x = torch.where(noisy, sample.tensors["after"], euler)
    np.testing.assert_allclose(policy.physical(x), sample.chunks, atol=1e-5)


def test_noise_enters_at_one_random_step_and_never_at_the_last() -> None:
    stochastic = flow()
    sample = stochastic.sample_with_log_prob(observations(40), generators(40))
    assert sample.tensors["step"].shape == (40,)
    assert set(sample.tensors["step"].tolist()) == {0, 1, 2}
    early = flow(least_time=0.5).sample_with_log_prob(observations(40), generators(40))
    assert set(early.tensors["step"].tolist()) == {0, 1}  # ends at t = 0.75 and 0.5


def test_a_chunk_depends_on_its_own_generator_alone_and_is_within_limits() -> None:
    stochastic = flow()
    seen = observations(4)
    sample = stochastic.sample_with_log_prob(seen, generators(4))
    alone = stochastic.sample_with_log_prob(seen[2:3], generators(1, seed=2))
    np.testing.assert_allclose(alone.chunks[0], sample.chunks[2], atol=1e-5)
    assert np.abs(sample.chunks[..., :3]).max() <= 0.05
    assert np.abs(sample.chunks[..., 6]).max() <= 1.0


def test_the_gradient_raises_the_likelihood_of_a_sample_and_spares_what_is_frozen() -> None:
    stochastic = flow()
    sample = stochastic.sample_with_log_prob(observations(8), generators(8))
    frozen = [p.clone() for p in stochastic.policy.network.model.vlm.parameters()]
    optimizer = torch.optim.Adam(stochastic.parameters(), 1e-3)
    for _ in range(5):
        loss = -stochastic.log_prob(sample).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert stochastic.log_prob(sample).sum() > sample.log_prob.sum()
    after = stochastic.policy.network.model.vlm.parameters()
    assert all(torch.equal(a, b) for a, b in zip(frozen, after, strict=True))


def test_samples_are_selected_and_joined() -> None:
    stochastic = flow()
    sample = stochastic.sample_with_log_prob(observations(3), generators(3))
    parts = [sample.select(torch.tensor([i])) for i in range(3)]
    joined = PolicySample.concatenate(parts)
    torch.testing.assert_close(stochastic.log_prob(joined), stochastic.log_prob(sample))
    np.testing.assert_array_equal(joined.chunks, sample.chunks)
    assert stochastic.features(joined).shape == (3, stochastic.feature_size)


def test_gaussian_log_prob_is_the_normal_density() -> None:
    x, mean, std = torch.tensor(0.3), torch.tensor(-0.2), torch.tensor(0.7)
    expected = torch.distributions.Normal(mean, std).log_prob(x)
    torch.testing.assert_close(gaussian_log_prob(x, mean, std), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_level": 0.0}, "noise_level is 0.0"),
        ({"least_time": 0.9}, "lower practice.flow.least_time"),
        ({"least_time": -0.1}, "least_time is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        flow(**changes)
