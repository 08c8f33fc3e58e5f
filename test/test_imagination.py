"""The imagined world: the same steps as a real one, futures that repeat, costs that count once."""

import dataclasses

import numpy as np
import pytest
import torch

from safedojo_ros.core.costs import CostLimit
from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.learning.rl.imagined_world import (
    ImaginedWorld,
    Keyframes,
    keyframes_of,
)
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.safety_head import SafetyModel, tiny_safety
from safedojo_ros.models.success_classifier import SuccessModel, tiny_success
from safedojo_ros.models.world_model import WorldModel, WorldModelSize

SENTENCE = "put the red cube on the plate"
SIZE = WorldModelSize(heads=2, head_dim=16, layers=1, feed_forward=32, stride=2, denoising_steps=2)


@pytest.fixture(scope="module")
def safety() -> SafetyModel:
    return tiny_safety(0)


@pytest.fixture(scope="module")
def world_model(safety: SafetyModel) -> WorldModel:
    torch.manual_seed(1)
    model = WorldModel(safety.autoencoder, SIZE, unit_scales())
    model.parts.eval()
    return model


def observations(count: int) -> list[Observation]:
    rng = np.random.default_rng(3)
    state = np.array([0.0, 0.0, 0.2, np.pi, 0.0, 0.0, 0.04, 0.04], np.float32)
    return [
        Observation(
            {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in ("agentview", "wrist")},
            state + 0.01 * i,
            SENTENCE,
        )
        for i in range(count)
    ]


def classifier(threshold: float, consecutive: int = 2) -> SuccessModel:
    """Random weights; a threshold near 0 sees success in every frame, near 1 in none."""
    model = tiny_success(0, (SENTENCE,))
    model.threshold, model.consecutive = threshold, consecutive
    return model


def never() -> SuccessModel:
    return classifier(1.0 - 1e-9)


def always(consecutive: int = 2) -> SuccessModel:
    return classifier(1e-9, consecutive)


def imagine(world: ImaginedWorld, starts: Keyframes, steps: int = 2, scale: float = 0.01) -> list:
    rng = np.random.default_rng(0)
    world.seed(0)
    world.reset(starts)
    return [world.step(scale * rng.standard_normal((len(starts), 8, 7))) for _ in range(steps)]


def test_a_policy_acts_in_it_as_in_a_real_world(
    world_model: WorldModel, safety: SafetyModel
) -> None:
    policy = tiny_policy(0, [SENTENCE])
    world = ImaginedWorld(world_model, never(), safety)
    seen = world.reset(keyframes_of(world_model, observations(3)))
    for _ in range(2):
        outcome = world.step(policy.act(seen))
        seen = outcome.observations
        for observation in seen:
            observation.validate(policy.cameras)
    assert outcome.success.shape == outcome.cost.shape == outcome.valid.shape == (3, 8)
    assert outcome.frames.shape == (3, 4, 2, 64, 64, 3)
    assert np.all((outcome.cost > 0) & (outcome.cost < 1))
    assert outcome.valid.all()
    assert not outcome.done.any()


def test_the_same_seed_imagines_the_same(world_model: WorldModel, safety: SafetyModel) -> None:
    world = ImaginedWorld(world_model, never(), safety)
    starts = keyframes_of(world_model, observations(2))
    first, second = imagine(world, starts), imagine(world, starts)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.cost, other.cost)
    world.seed(1)
    world.reset(starts)
    assert np.any(world.step(np.zeros((2, 8, 7))).frames != first[0].frames)


def test_the_first_cost_is_what_the_safety_node_would_say(world_model: WorldModel) -> None:
    safety = tiny_safety()
    safety.autoencoder.load_state_dict(world_model.autoencoder.state_dict())
    starts = observations(2)
    chunks = 0.01 * np.random.default_rng(1).standard_normal((2, 8, 7))
    world = ImaginedWorld(world_model, never(), safety)
    world.reset(keyframes_of(world_model, starts))
    np.testing.assert_allclose(world.step(chunks).cost, safety.step_cost(starts, chunks), atol=1e-5)


def test_other_costs_are_imagined_beside_contact(world_model: WorldModel) -> None:
    safety = tiny_safety(others=(CostLimit("near"), CostLimit("high")))
    safety.autoencoder.load_state_dict(world_model.autoencoder.state_dict())
    starts = observations(2)
    chunks = 0.01 * np.random.default_rng(1).standard_normal((2, 8, 7))
    world = ImaginedWorld(world_model, never(), safety, max_steps=6)
    world.reset(keyframes_of(world_model, starts))
    outcome, costs = world.step(chunks), safety.step_costs(starts, chunks)
    assert list(outcome.others) == ["near", "high"]
    for seen, n in ((outcome.cost, 0), (outcome.others["near"], 1), (outcome.others["high"], 2)):
        np.testing.assert_allclose(seen[:, :6], costs[:, :6, n], atol=1e-5)
        assert not seen[:, 6:].any(), "beyond the end"
    assert not world.step(chunks).others["near"].any()


def test_later_costs_are_judged_by_the_frame_that_the_future_began_with(
    world_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    safety = tiny_safety()
    safety.autoencoder.load_state_dict(world_model.autoencoder.state_dict())
    given: list[tuple[torch.Tensor, ...]] = []
    judge = safety.head.forward

    def note(*inputs: torch.Tensor) -> torch.Tensor:
        given.append(inputs)
        return judge(*inputs)

    monkeypatch.setattr(safety.head, "forward", note)
    starts = keyframes_of(world_model, observations(2))
    imagine(ImaginedWorld(world_model, never(), safety), starts, steps=3, scale=0.3)
    assert len(given) == 3
    for latents, _, _ in given:
        torch.testing.assert_close(latents, world_model.stacked(starts.context[:, -1]))
    assert not torch.allclose(given[0][1], given[2][1])  # but with the present state


def test_part_of_a_chunk_is_imagined_as_in_the_whole(
    world_model: WorldModel, safety: SafetyModel
) -> None:
    starts = keyframes_of(world_model, observations(2))
    chunks = 0.01 * np.random.default_rng(0).standard_normal((2, 8, 7))
    world = ImaginedWorld(world_model, never(), safety, max_steps=8)
    world.seed(0)
    world.reset(starts)
    whole = world.step(chunks)
    world.seed(0)
    world.reset(starts)
    part = world.step(chunks, 4)  # two frames of four
    apart = part.frames.astype(int) - whole.frames[:, :2]
    assert np.abs(apart).max() <= 1  # fewer images decoded together round otherwise
    np.testing.assert_array_equal(part.cost, whole.cost[:, :4])
    assert part.valid.shape == (2, 4)
    np.testing.assert_array_equal(part.observations[0].images["wrist"], part.frames[0, -1, 1])
    assert not part.done.any()
    assert world.step(chunks, 4).done.all()
    with pytest.raises(ConfigError, match="stride, 2"):
        world.step(chunks, 3)


def test_success_ends_a_future_at_the_frame_that_completes_the_row(
    world_model: WorldModel, safety: SafetyModel
) -> None:
    world = ImaginedWorld(world_model, always(consecutive=3), safety)
    first, second = imagine(world, keyframes_of(world_model, observations(2)))
    assert first.done.all()
    np.testing.assert_array_equal(first.valid.sum(1), [6, 6])  # 3 frames, 2 steps apart
    np.testing.assert_array_equal(np.argwhere(first.success), [[0, 5], [1, 5]])
    assert not first.cost[:, 6:].any()
    assert not second.valid.any()
    assert not second.success.any()
    assert not second.cost.any()


def test_a_row_of_frames_may_cross_chunks(world_model: WorldModel, safety: SafetyModel) -> None:
    world = ImaginedWorld(world_model, always(consecutive=5), safety)
    first, second = imagine(world, keyframes_of(world_model, observations(1)))
    assert not first.done.any()
    np.testing.assert_array_equal(np.argwhere(second.success), [[0, 1]])


def test_a_future_ends_at_its_last_step(world_model: WorldModel, safety: SafetyModel) -> None:
    world = ImaginedWorld(world_model, never(), safety, max_steps=12)
    first, second = imagine(world, keyframes_of(world_model, observations(1)))
    assert (first.valid.sum(), second.valid.sum()) == (8, 4)
    assert second.done.all()
    assert not second.success.any()


def test_one_future_does_not_depend_on_its_neighbours_end(
    world_model: WorldModel, safety: SafetyModel
) -> None:
    starts = keyframes_of(world_model, observations(2))
    chunks = 0.01 * np.random.default_rng(5).standard_normal((2, 2, 8, 7))
    world = ImaginedWorld(world_model, never(), safety)
    world.seed(0)
    world.reset(starts)
    both = [world.step(chunk) for chunk in chunks]
    world.seed(0)
    world.reset(starts)
    world.step(chunks[0])
    world._done[0] = True
    lonely = world.step(chunks[1])
    np.testing.assert_allclose(lonely.cost[1], both[1].cost[1], atol=1e-5)
    assert not lonely.valid[0].any()


def test_futures_begin_at_larger_images_averaged_down(world_model: WorldModel) -> None:
    small = observations(2)
    large = [
        dataclasses.replace(
            o, images={name: image.repeat(2, 0).repeat(2, 1) for name, image in o.images.items()}
        )
        for o in small
    ]
    expected, starts = keyframes_of(world_model, small), keyframes_of(world_model, large, batch=1)
    torch.testing.assert_close(starts.context, expected.context, atol=1e-4, rtol=1e-4)


def test_groups_are_copies_of_their_keyframe(world_model: WorldModel) -> None:
    starts = keyframes_of(world_model, observations(2)).repeated(3)
    assert len(starts) == 6
    torch.testing.assert_close(starts.context[0], starts.context[2])
    assert torch.any(starts.context[2] != starts.context[3])
    chosen = starts.chosen(np.array([3, 0]))
    torch.testing.assert_close(chosen.state[0], starts.state[3])


def test_models_that_do_not_belong_together_are_refused(
    world_model: WorldModel, safety: SafetyModel
) -> None:
    with pytest.raises(CheckpointError, match="different autoencoders"):
        ImaginedWorld(world_model, never(), tiny_safety(7))
    blind = never()
    blind.cameras = ("agentview",)
    with pytest.raises(CheckpointError, match="train one for the other"):
        ImaginedWorld(world_model, blind, safety)


def test_what_does_not_fit_is_refused(world_model: WorldModel, safety: SafetyModel) -> None:
    world = ImaginedWorld(world_model, never(), safety)
    with pytest.raises(ConfigError, match="call reset first"):
        world.step(np.zeros((1, 8, 7)))
    starts = keyframes_of(world_model, observations(1))
    with pytest.raises(ConfigError, match="was not trained on"):
        world.reset(dataclasses.replace(starts, instructions=("juggle",)))
    world.reset(starts)
    with pytest.raises(ConfigError, match="chunks have shape"):
        world.step(np.zeros((1, 4, 7)))
