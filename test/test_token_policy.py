"""Action tokens: bins, parallel decoding, exact likelihoods, and learning from reward."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.learning.rl.constrained_grpo import ConstrainedGRPO, UpdateConfig, chunk_log_ratio
from safedojo_ros.learning.rl.multiplier import MultiplierConfig
from safedojo_ros.learning.rl.rollout import Rollouts, roll_out
from safedojo_ros.models.flow_sde import FlowConfig, StochasticFlow
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.policy import PolicySample
from safedojo_ros.models.stochastic import stochastic
from safedojo_ros.models.token_policy import (
    TokenPolicy,
    draw_bins,
    from_bins,
    tiny_tokens,
    to_bins,
)
from safedojo_ros.models.token_sampling import StochasticTokens, TokenSampling
from safedojo_ros.worlds.vector import ChunkOutcome


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


def sampling(temperature: float = 1.0) -> StochasticTokens:
    return StochasticTokens(tiny_tokens(), TokenSampling(temperature))


# -------------------------------------------------------------------- bins


@given(st.integers(2, 512), st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9))
def test_an_action_comes_back_within_half_a_bin(bins: int, values: list[float]) -> None:
    actions = torch.tensor(values)
    chosen = to_bins(actions, bins)
    assert int(chosen.min()) >= 0
    assert int(chosen.max()) < bins
    assert (from_bins(chosen, bins) - actions).abs().max() <= 1 / bins + 1e-6


@given(st.integers(2, 512))
def test_every_bin_comes_back_and_what_lies_outside_goes_to_the_ends(bins: int) -> None:
    every = torch.arange(bins)
    assert torch.equal(to_bins(from_bins(every, bins), bins), every)
    assert to_bins(torch.tensor([-7.0, 7.0]), bins).tolist() == [0, bins - 1]


def test_the_bins_span_the_first_to_the_last_percentile() -> None:
    rng = np.random.default_rng(0)
    actions = rng.normal(0.01, 0.02, (5000, 7))
    actions[:, 6] = np.sign(actions[:, 6])
    actions[0] = 9.0  # an outlier
    actions[:, 5] = 0.0  # a column that never moves
    scales = RobotScales.from_quantiles(rng.normal(size=(5000, 8)), actions)
    low, high = np.quantile(actions[:, 0], [0.01, 0.99])
    edges = torch.tensor([[low] + 6 * [0.0], [high] + 5 * [0.0] + [1.0]]).float()
    normalised = scales.action.normalise(edges)
    torch.testing.assert_close(normalised[:, 0], torch.tensor([-1.0, 1.0]))
    assert float(normalised[1, 6]) == 1.0
    still = scales.action.restore(from_bins(to_bins(normalised, 256), 256))[:, 5]
    assert still.abs().max() < 1e-5


# -------------------------------------------------------------------- parallel decoding


def passes(policy: TokenPolicy) -> list[int]:
    """A list that gets an entry whenever the language model runs."""
    seen: list[int] = []
    model = policy.network.backbone.language_model
    model.register_forward_hook(lambda *_: seen.append(1))
    return seen


def test_a_whole_chunk_takes_one_pass_of_the_language_model() -> None:
    policy = tiny_tokens()
    seen = passes(policy)
    assert policy.act(observations(3)).shape == (3, 8, 7)
    assert len(seen) == 1


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 30, 55])
def test_every_action_position_sees_every_other(changed: int) -> None:
    policy = tiny_tokens().to("cpu")
    inputs = policy.inputs(observations(1))
    before, _ = policy.network(*inputs)
    policy.network.placeholders[changed] += 1.0
    after, _ = policy.network(*inputs)
    moved = (after - before).abs().amax(-1).flatten()
    assert moved.shape == (8 * 7,)
    assert float(moved.min()) > 1e-6


@torch.no_grad()
def test_pictures_state_and_sentence_all_matter() -> None:
    sentences = ["put the red cube on the plate", "push the bowl to the mark"]
    policy = tiny_tokens(instructions=sentences)
    one, other = observations(2)
    base, _ = policy.network(*policy.inputs([one]))
    changes: list[dict[str, Any]] = [
        {"images": other.images},
        {"state": other.state},
        {"instruction": sentences[1]},
    ]
    for change in changes:
        changed, _ = policy.network(*policy.inputs([replace(one, **change)]))
        assert float((changed - base).abs().amax(-1).min()) > 1e-6


@torch.no_grad()
def test_padding_behind_the_instruction_is_not_seen() -> None:
    policy = tiny_tokens()
    pictures, tokens, state = policy.inputs(observations(1))
    assert int((tokens == 0).sum()) == 5
    before, context = policy.network(pictures, tokens, state)
    policy.network.backbone.get_input_embeddings().weight[0] += 5.0
    after, other = policy.network(pictures, tokens, state)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(other, context)
    without, _ = policy.network(pictures, tokens[:, :7], state)
    torch.testing.assert_close(without, before, atol=1e-5, rtol=1e-4)


# -------------------------------------------------------------------- acting


def warm(temperature: float) -> TokenPolicy:
    policy = tiny_tokens()
    policy.size = replace(policy.size, temperature=temperature)
    return policy


def test_at_temperature_zero_the_likeliest_bin_is_taken_whatever_the_noise() -> None:
    policy, seen = tiny_tokens(), observations(2)
    one = policy.act(seen, generators(2))
    np.testing.assert_array_equal(one, policy.act(seen, generators(2, seed=9)))
    with torch.no_grad():
        logits, _ = policy.network(*policy.inputs(seen))
    np.testing.assert_array_equal(one, policy.actions(logits.argmax(-1)))


def test_above_it_the_noise_decides_and_the_temperature_travels_with_the_checkpoint(
    tmp_path: Path,
) -> None:
    policy, seen = warm(0.7), observations(2)
    one = policy.act(seen, generators(2))
    assert (one != policy.act(seen, generators(2, seed=9))).any()
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, TokenPolicy)
    np.testing.assert_array_equal(one, loaded.act(seen, generators(2)))
    np.testing.assert_allclose(one[1:], policy.act(seen[1:], generators(1, seed=1)))
    assert np.isfinite(policy.act(seen)).all()


def test_bins_are_drawn_as_often_as_they_are_likely() -> None:
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    log_prob = probability.log().expand(1, 200, 100, 4)
    drawn = draw_bins(log_prob, generators(1)).flatten()
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, probability, atol=0.01, rtol=0.0)


def test_each_family_refuses_the_other_ones_checkpoint(tmp_path: Path) -> None:
    tiny_policy().save(tmp_path)
    with pytest.raises(CheckpointError, match="is a 'pi0', expected 'token_policy'"):
        TokenPolicy.load(tmp_path)


# -------------------------------------------------------------------- likelihood


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_log_probs_are_those_of_a_categorical_at_the_rollouts_temperature(
    temperature: float,
) -> None:
    tokens = sampling(temperature)
    sample = tokens.sample_with_log_prob(observations(3), generators(3))
    with torch.no_grad():
        logits, _ = tokens.policy.network(*tokens.policy.inputs(observations(3)))
        again = tokens.log_prob(sample)
    direct = torch.distributions.Categorical(logits=logits / temperature)
    expected = direct.log_prob(sample.tensors["bins"]).sum(-1)
    assert sample.log_prob.shape == (3, 8)
    torch.testing.assert_close(sample.log_prob, expected)
    torch.testing.assert_close(again, sample.log_prob)
    np.testing.assert_array_equal(sample.chunks, tokens.policy.actions(sample.tensors["bins"]))


def test_a_chunk_depends_on_its_own_generator_alone() -> None:
    tokens, seen = sampling(), observations(4)
    sample = tokens.sample_with_log_prob(seen, generators(4))
    alone = tokens.sample_with_log_prob(seen[2:3], generators(1, seed=2))
    np.testing.assert_allclose(alone.chunks[0], sample.chunks[2])


def test_samples_are_selected_and_joined() -> None:
    tokens = sampling()
    sample = tokens.sample_with_log_prob(observations(3), generators(3))
    joined = PolicySample.concatenate([sample.select(torch.tensor([i])) for i in range(3)])
    torch.testing.assert_close(tokens.log_prob(joined), tokens.log_prob(sample))
    assert tokens.features(joined).shape == (3, tokens.feature_size)
    assert (tokens.features(joined)[0] != tokens.features(joined)[1]).any()


def test_every_weight_learns_from_the_likelihood() -> None:
    tokens = sampling()
    sample = tokens.sample_with_log_prob(observations(2), generators(2))
    tokens.log_prob(sample).sum().backward()
    for name, parameter in tokens.policy.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_factory_knows_each_family_and_refuses_strangers() -> None:
    flow, tokens = FlowConfig(), TokenSampling(0.5)
    assert isinstance(stochastic(tiny_policy(), flow, tokens), StochasticFlow)
    made = stochastic(tiny_tokens(), flow, tokens)
    assert isinstance(made, StochasticTokens)
    assert made.config.temperature == 0.5
    stranger: Any = type("Scripted", (), {"checkpoint_id": "x"})()
    with pytest.raises(ConfigError, match="policy x is a Scripted"):
        stochastic(stranger, flow, tokens)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_without_a_temperature_there_is_no_likelihood(temperature: float) -> None:
    with pytest.raises(ConfigError, match="tokens.temperature is"):
        sampling(temperature)


# -------------------------------------------------------------------- practice


def coarse() -> StochasticTokens:
    """Two steps of four bins: what a random policy tries often enough to learn from."""
    fine = tiny_tokens()
    size = replace(fine.size, bins=4, chunk_length=2)
    torch.manual_seed(0)
    policy = TokenPolicy(size, fine.tokenizer, fine.scales, fine.instructions)
    return StochasticTokens(policy, TokenSampling())


class SignWorld:
    """One chunk: success where its last action's first number is above 0, a touch of 0.1 in every
    step whose second number is."""

    def __init__(self, count: int) -> None:
        self.seen = observations(1) * count

    def step(self, chunks: np.ndarray, steps: int) -> ChunkOutcome:
        chunks = chunks[:, :steps]
        success = np.zeros(chunks.shape[:2])
        success[:, -1] = chunks[:, -1, 0] > 0
        cost = 0.1 * (chunks[..., 1] > 0)
        done = np.ones(len(chunks), dtype=bool)
        return ChunkOutcome(self.seen, success, cost, 0 * cost, np.ones_like(cost) > 0, done)


def rollouts(tokens: StochasticTokens, update: int = 0) -> Rollouts:
    world = SignWorld(32)
    return roll_out(tokens, world, lambda: world.seen, np.arange(32) // 8, 1, (0, update))


def test_the_ratio_is_one_before_the_first_update() -> None:
    tokens = sampling()
    played = rollouts(tokens)
    with torch.no_grad():
        new = tokens.log_prob(played.sample)
    log_ratio = chunk_log_ratio(new, played.sample.log_prob, played.executed)
    assert float(log_ratio.abs().max()) < 1e-3


def test_practice_raises_the_reward_and_lowers_the_cost() -> None:
    tokens = coarse()
    config = UpdateConfig(learning_rate=2e-3, cost_m=2, minibatch=32, target_kl=9.0)
    learner = ConstrainedGRPO(tokens, config, MultiplierConfig(signal="cost", limit=0.01))
    rows = [learner.update(rollouts(tokens, k), (0, k)) for k in range(15)]
    first, last = rows[:3], rows[-3:]
    assert np.mean([row["reward"] for row in first]) < 0.7
    assert np.mean([row["reward"] for row in last]) > 0.9
    costs = [float(np.mean([row["cost_top_m"] for row in part])) for part in (first, last)]
    assert costs[1] < 0.5 * costs[0]
