"""The world model: clean context, actions that matter, states that can be learned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_episodes import CAMERAS, synthetic, written

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.fidelity.replay_error import replay_errors
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.latents import recorded_latents
from safedojo_ros.learning.data.replay import ReplayStarts, replay
from safedojo_ros.learning.fit import fit
from safedojo_ros.learning.world_model import (
    WorldModelConfig,
    WorldModelLoss,
    imagined_context,
    new_world_model,
    train_world_model,
)
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.world_model import WorldModel, WorldModelSize
from safedojo_ros.pipeline.recipe import read_recipe

SIZE = WorldModelSize(heads=2, head_dim=16, layers=2, feed_forward=64)


def drifting(length: int, seed: int) -> Episode:
    """A bright square that moves as the action says; the state is where it is."""
    rng = np.random.default_rng(seed)
    actions = np.zeros((length, 7), np.float32)
    actions[:, 0] = rng.choice([-0.02, 0.02])
    state = np.zeros((length, 8), np.float32)
    state[1:, 0] = np.cumsum(actions[:-1, 0])
    images = np.zeros((length, 64, 64, 3), np.uint8)
    for t in range(length):
        x = int(np.clip(32 + 50 * state[t, 0], 4, 60))
        images[t, 24:40, x - 4 : x + 4] = 255
    views = dict.fromkeys(CAMERAS, images)
    return synthetic(views, state, actions, seed, instruction="push the square")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drifting") / "data"
    return written(root, (drifting(24, seed) for seed in range(12)))


@pytest.fixture
def model(episodes: Path) -> WorldModel:
    torch.manual_seed(0)
    autoencoder = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    return new_world_model(autoencoder, WorldModelConfig(size=SIZE), [episodes])


def sample(
    model: WorldModel, count: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Context, state, chunk, noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (model.autoencoder.size.latent_channels, 8, 16)
    return (
        torch.randn((count, SIZE.context, *shape), generator=generator),
        torch.randn(count, 8, generator=generator),
        torch.randn(count, SIZE.chunk_length, 7, generator=generator),
        torch.randn((count, SIZE.future, *shape), generator=generator),
    )


def trained(training: WorldModelLoss) -> list[float]:
    """The losses of a training."""
    losses = []

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        values = training.frames(step, generator)
        losses.append(values["loss"].item())
        return values

    fit("world model", training.network, loss, training.config)
    return losses


def test_two_cameras_lie_side_by_side_and_come_back(model: WorldModel) -> None:
    images = torch.rand(1, 3, 2, 3, 64, 64) * 2 - 1
    latents = model.encode(images)
    assert latents.shape == (1, 3, 8, 8, 16)
    assert model.decode(latents).shape == images.shape
    right = model.autoencoder.encode(images[0, :, 1])
    torch.testing.assert_close(latents[0, ..., 8:], right)


def test_one_noise_is_one_future_and_the_chunk_matters(model: WorldModel) -> None:
    model.parts.eval()
    given = sample(model)
    context, state, chunk, noise = given
    frames, states = model.imagine(*given)
    again, _ = model.imagine(*given)
    torch.testing.assert_close(frames, again)
    other, other_states = model.imagine(context, state, -chunk, noise)
    assert (frames - other).abs().max() > 1e-6
    assert (states - other_states).abs().max() > 1e-6


def test_standing_still_is_what_needs_no_learning(model: WorldModel) -> None:
    context, _, _, noise = sample(model)
    start = model.flow_start(context, noise)
    apart = (start - context[:, -1:]).std() / noise.std()
    assert float(apart) == pytest.approx(SIZE.noise_scale, rel=1e-4)


def test_the_frames_know_where_the_arm_will_be(model: WorldModel) -> None:
    context, state, chunk, noise = sample(model)
    channels = context.shape[2]
    seen: list[torch.Tensor] = []
    model.network.frames.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.network.velocity(context, noise, torch.ones(2), state, chunk)
    drawn, constant = (
        seen[0]
        .transpose(1, 2)[:, :, channels:]
        .split([channels, 8 + SIZE.context + SIZE.future], dim=2)
    )
    reached = model.network.state(state, chunk, context[:, -1])[:, SIZE.stride - 1 :: SIZE.stride]
    states = torch.cat([state[:, None], reached], dim=1)
    torch.testing.assert_close(constant[:, 1:, :8, 0, 0], states)
    torch.testing.assert_close(drawn[:, 1:], model.network.drawing(states))
    assert not drawn[:, 0].any()  # the remembered frame
    assert not constant[:, 0, :8].any()
    numbers = constant[0, :, 8:, 0, 0].argmax(-1)
    assert numbers.tolist() == list(range(SIZE.context + SIZE.future))


def test_the_state_that_is_reached_depends_on_what_is_seen(model: WorldModel) -> None:
    context, state, chunk, noise = sample(model)
    other = context.clone()
    other[:, -1] += 1.0
    assert not torch.allclose(
        model.imagine(context, state, chunk, noise)[1], model.imagine(other, state, chunk, noise)[1]
    )
    other = context.clone()
    other[:, 0] += 1.0  # only the newest frame shows what is between the fingers now
    assert torch.equal(
        model.imagine(context, state, chunk, noise)[1], model.imagine(other, state, chunk, noise)[1]
    )


def test_the_first_frame_of_the_context_is_remembered(model: WorldModel) -> None:
    context, _, _, frames = sample(model)
    longer = torch.cat([context, context[:, :1] + 1.0], dim=1)
    for size in (SIZE, replace(SIZE, context=3)):
        model.size = size
        given = longer[:, : size.context]
        context = model.advanced(given, frames)
        torch.testing.assert_close(context[:, 0], given[:, 0])
        torch.testing.assert_close(context[:, 1:], frames[:, 1 - size.context :])


def test_a_context_needs_a_remembered_and_a_new_frame() -> None:
    with pytest.raises(ConfigError, match="context is 1"):
        WorldModelSize(context=1)
    with pytest.raises(ConfigError, match="stride 3"):
        WorldModelSize(stride=3)


def test_the_arm_is_drawn_where_its_state_says(model: WorldModel, episodes: Path) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")
    config = WorldModelConfig(size=SIZE, drawing_steps=800, early_batch=64)
    losses = WorldModelLoss(config, model, data)
    fit("arm", model.network.drawing, losses.drawing(), config.early(config.drawing_steps))
    drawn = model.network.drawing(data.state).detach()
    missed = (drawn - data.latents.float()).square().mean()
    assert missed < 0.6 * data.latents.float().var(0).mean()
    assert missed < 0.8 * (drawn.roll(5, 0) - data.latents.float()).square().mean()


def test_several_processes_share_the_batches_of_the_early_networks_too(
    model: WorldModel, episodes: Path
) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")
    config = WorldModelConfig(size=SIZE, early_batch=8, batches_per_step=2, seed=3)
    early = config.early(5)
    assert (early.batches_per_step, early.seed) == (2, 3)
    losses = WorldModelLoss(config, model, data)
    for loss in (losses.state(), losses.drawing()):
        values = [loss(0, torch.Generator().manual_seed(n))["loss"].item() for n in (7, 8, 7)]
        assert values[0] == values[2] != values[1]


def test_the_context_is_clean_and_the_future_has_its_time(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    forward = model.network.frames.forward

    def spy(
        clip: torch.Tensor, clean: int, time: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        seen.append((clean, time))
        answer: torch.Tensor = forward(clip, clean, time, actions)
        return answer

    monkeypatch.setattr(model.network.frames, "forward", spy)
    context, state, chunk, noise = sample(model)
    velocity = model.network.velocity(context, noise, torch.tensor([0.3, 0.7]), state, chunk)
    assert velocity.shape == noise.shape
    ((clean, time),) = seen
    assert clean == SIZE.context
    assert time.tolist() == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_flow_is_followed_in_equal_steps(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    context, state, chunk, noise = sample(model)
    times: list[float] = []

    def velocity(
        context: torch.Tensor, noisy: torch.Tensor, time: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        times.append(float(time[0]))
        return torch.full_like(noisy, 3.0 * len(times))

    monkeypatch.setattr(model.network, "velocity", velocity)
    frames, _ = model.imagine(context, state, chunk, noise, denoising_steps=steps)
    assert times == [1.0 - step / steps for step in range(steps)]
    travelled = model.flow_start(context, noise) - frames
    expected = 3.0 * sum(range(1, steps + 1)) / steps
    torch.testing.assert_close(travelled, torch.full_like(travelled, expected), rtol=0, atol=1e-4)


def test_a_saved_world_model_imagines_the_same(model: WorldModel, tmp_path: Path) -> None:
    model.parts.eval()
    model.save(tmp_path)
    given = sample(model)
    torch.testing.assert_close(
        model.imagine(*given)[0], WorldModel.load(tmp_path).imagine(*given)[0]
    )


def test_latents_are_kept_beside_the_images_and_found_without_reading_all(
    model: WorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve episodes: those that name the latents are fewer."""
    root = tmp_path / "data"
    with EpisodeWriter(root, 64, CAMERAS) as writer:
        for seed in range(12):
            writer.add(drifting(10, seed))
    first = recorded_latents(EpisodeReader(root), model.autoencoder)
    read: list[int] = []
    load_arrays = EpisodeReader.load_arrays

    def watched(reader: EpisodeReader, indices: list[int], *more: object) -> FrameArrays:
        read.extend(indices)
        return load_arrays(reader, indices, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(EpisodeReader, "load_arrays", watched)
    assert torch.equal(recorded_latents(EpisodeReader(root), model.autoencoder), first)
    assert sorted({0, 11} & set(read)) == [0, 11]
    assert len(read) < 12
    monkeypatch.undo()
    with EpisodeWriter(root, 64, CAMERAS) as writer:
        writer.add(drifting(10, 12))
    assert len(recorded_latents(EpisodeReader(root), model.autoencoder)) == len(first) + 10
    other = FrameAutoencoder(model.autoencoder.size)
    assert not torch.equal(recorded_latents(EpisodeReader(root), other)[: len(first)], first)


def test_transitions_stay_inside_their_episode(model: WorldModel, episodes: Path) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")
    starts = data.chunk_starts(np.ones(12, dtype=bool), SIZE.chunk_length)
    assert len(starts) == 12 * (24 - 8)
    first, start = torch.tensor([24, 24 + 15]), torch.tensor([24, 24])
    context, future, state, chunk = data.transitions(SIZE, first, start)
    torch.testing.assert_close(context[0, 0], data.latents[24].float())
    torch.testing.assert_close(context[1, 0], data.latents[24].float())
    torch.testing.assert_close(context[1, 1], data.latents[24 + 15].float())
    remembering = data.transitions(SIZE, first, start, torch.tensor([24, 24 + 5]))
    torch.testing.assert_close(remembering.context[1, 0], data.latents[24 + 5].float())
    torch.testing.assert_close(future[1, -1], data.latents[24 + 23].float())
    torch.testing.assert_close(state[0], data.state[24])
    torch.testing.assert_close(chunk[1, -1], data.actions[24 + 22])


def test_the_context_is_noised_and_a_share_of_the_samples_begins_at_the_start_of_the_flow(
    model: WorldModel, episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    velocity = model.network.velocity

    def spy(context: torch.Tensor, frames: torch.Tensor, time: torch.Tensor, *rest: Any) -> Any:
        seen.append((context, time))
        return velocity(context, frames, time, *rest)

    monkeypatch.setattr(model.network, "velocity", spy)

    def drawn(context_noise: float, start_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        config = WorldModelConfig(
            size=SIZE,
            batch_size=64,
            static_share=0.0,
            context_noise=context_noise,
            start_share=start_share,
        )
        WorldModelLoss(config, model, data).frames(0, torch.Generator().manual_seed(0))
        return seen[-1]

    clean, time = drawn(context_noise=0.0, start_share=0.0)
    assert torch.all(time < 1)
    noised, at_start = drawn(context_noise=0.4, start_share=0.25)
    level = (noised - clean).flatten(1).std(dim=1)
    assert 0.0 < level.min() < 0.1
    assert 0.3 < level.max() < 0.42
    assert 0.1 < (at_start == 1).float().mean() < 0.4


def test_the_state_dynamics_see_noised_frames(
    model: WorldModel, episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")
    views = []
    forward = model.network.state.forward

    def spy(state: torch.Tensor, chunk: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        views.append(view)
        return forward(state, chunk, view)

    monkeypatch.setattr(model.network.state, "forward", spy)
    for noise in (0.0, 0.4):
        config = WorldModelConfig(size=SIZE, early_batch=64, context_noise=noise)
        WorldModelLoss(config, model, data).state()(0, torch.Generator())
    level = (views[1] - views[0]).flatten(1).std(dim=1)
    assert 0.0 < level.min() < 0.1
    assert 0.3 < level.max() < 0.42


def test_a_forced_context_is_what_a_replay_imagined(episodes: Path) -> None:
    torch.manual_seed(0)
    autoencoder = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    config = WorldModelConfig(size=replace(SIZE, noise_scale=1e-6))
    model = new_world_model(autoencoder, config, [episodes])
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    data = LatentEpisodes.read([episodes], model, "cpu")
    start = torch.tensor([0, 24])
    context, state = imagined_context(model, data, 2, start + 16, start, start, torch.Generator())
    replayed = replay(model, data, ReplayStarts(start, start, np.arange(2)), chunks=2)
    latents, states = replayed.latents, replayed.states
    assert torch.allclose(context[:, -1], latents[:, -1], atol=1e-5)
    assert torch.allclose(state, states[:, -1], atol=1e-5)
    assert torch.equal(context[:, 0], data.latents[start].float())
    assert not torch.allclose(context[:, -1], data.latents[start + 16].float(), atol=1e-2)


def test_self_forcing_grows_from_nothing(model: WorldModel, episodes: Path) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")

    def losses(share: float) -> list[float]:
        config = WorldModelConfig(size=SIZE, steps=4, batch_size=8, self_forcing=share)
        fresh = new_world_model(model.autoencoder, config, [episodes])
        return trained(WorldModelLoss(config, fresh, data))

    plain, forced = losses(0.0), losses(1.0)
    assert plain[0] == forced[0]
    assert plain[3] != forced[3]


def test_training_lowers_the_error_and_reports_by_horizon(
    model: WorldModel, episodes: Path, tmp_path: Path
) -> None:
    data = LatentEpisodes.read([episodes], model, "cpu")
    config = WorldModelConfig(
        size=SIZE, steps=60, batch_size=8, warmup_steps=5, state_steps=200, early_batch=32
    )
    training = WorldModelLoss(config, model, data)
    of_state = training.state()
    fit("state", model.network.state, of_state, config.early(config.state_steps))
    assert of_state(200, torch.Generator())["loss"] < 0.05
    losses = trained(training)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    smoke = read_recipe("smoke").world_model
    fresh = new_world_model(model.autoencoder, smoke, [episodes])
    before = [parameter.clone() for parameter in fresh.network.frames.parameters()]
    train_world_model(smoke, fresh, data, tmp_path / "run")
    after = fresh.network.frames.parameters()
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert any(changed)
    errors = replay_errors(fresh, data, np.ones(12, dtype=bool), chunks=2, replays=8)
    assert [error.steps for error in errors] == [8, 16]
    assert all(error.mse[1] <= error.mse[0] <= error.mse[2] for error in errors)
