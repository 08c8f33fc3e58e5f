"""Training on seconds of data: it learns, resumes exactly, and measures what it claims."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic_episodes import CAMERAS, synthetic, written

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.frames import load_frames, open_all
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.evaluation.forecasts import expected_calibration_error, rate_threshold
from safedojo_ros.learning.data.contacts import (
    SceneProbes,
    chunks_ahead,
    imagined_contacts,
    query_batch,
    recorded_contacts,
    scene_untouched,
)
from safedojo_ros.learning.data.demonstrations import Demonstrations, imitated_ends
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.imitation import (
    ImitationConfig,
    demonstrated_batch,
    new_policy,
    train_policy,
)
from safedojo_ros.learning.safety_head import (
    SafetyConfig,
    calibrate_threshold,
    fit_temperature,
    imagined_worst,
    new_safety_model,
    train_safety_head,
    worst_of_episodes,
)
from safedojo_ros.learning.training_run import METRICS_FILE, STATE_FILE
from safedojo_ros.learning.world_model import WorldModelConfig, new_world_model
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_policy import PI0Policy, tiny_policy
from safedojo_ros.models.places import Places
from safedojo_ros.models.safety_head import SafetyHeadSize
from safedojo_ros.models.world_model import WorldModelSize
from safedojo_ros.pipeline.recipe import read_recipe


def reaching(length: int, seed: int) -> Episode:
    """An episode whose action follows from its state, and whose contacts follow from its chunk."""
    rng = np.random.default_rng(seed)
    state = (rng.normal(size=8) + 0.2 * rng.normal(size=(length, 8))).astype(np.float32)
    actions = np.zeros((length, 7), np.float32)
    actions[:, :3] = 0.01 * state[:, :3]
    actions[:, 6] = np.sign(state[:, 0])
    return synthetic(
        {c: rng.integers(0, 255, (length, 64, 64, 3), np.uint8) for c in CAMERAS},
        state,
        actions,
        seed,
        success=np.arange(length) == length - 1,
        cost=(actions[:, 1] > 0.004).astype(np.float32),
        instruction=("lift the cup", "push the cup")[seed % 2],
        extra={"clean_action": actions},
    )


def metrics(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / METRICS_FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("episodes") / "data"
    return written(root, (reaching(20, seed) for seed in range(30)))


@pytest.fixture(scope="module")
def data(episodes: Path) -> Demonstrations:
    return Demonstrations.read([episodes])


@pytest.fixture(scope="module")
def smoke() -> ImitationConfig:
    return read_recipe("smoke").policy


def test_chunks_never_run_into_the_next_episode(data: Demonstrations) -> None:
    rows, exists = data.chunk_rows(torch.tensor([0, 17, 19, 20]), 4)
    assert rows.tolist() == [[0, 1, 2, 3], [17, 18, 19, 19], [19, 19, 19, 19], [20, 21, 22, 23]]
    assert exists.sum(1).tolist() == [4, 3, 1, 4]


def test_what_lingers_after_success_is_not_imitated() -> None:
    success = np.zeros(12, bool)
    success[[3, 4, 9]] = True
    ends = imitated_ends(success, np.array([3, 6, 9, 12]))
    assert ends.tolist() == [3, 4, 9, 10]


def test_imitation_draws_only_what_is_imitated(tmp_path: Path) -> None:
    episode = reaching(20, 0)
    episode.success[12:] = True
    with EpisodeWriter(tmp_path / "data", 64, CAMERAS) as writer:
        writer.add(episode)
    data = Demonstrations.read([tmp_path / "data"])
    assert data.imitated.tolist() == list(range(13))
    rows, exists = data.chunk_rows(torch.tensor([11]), 4)
    assert rows.tolist() == [[11, 12, 12, 12]]
    assert exists.sum() == 2


def grasping(tmp_path: Path) -> Demonstrations:
    """Two episodes: one closes at step 5 and opens at step 15, one never closes."""
    with EpisodeWriter(tmp_path / "data", 64, CAMERAS) as writer:
        for number, closed in enumerate([slice(5, 15), slice(0, 0)]):
            episode = reaching(20, number)
            episode.state[:, 0] = np.arange(20) / 100 + number
            episode.actions[:, 6] = -1.0
            episode.actions[closed, 6] = 1.0
            writer.add(episode)
    return Demonstrations.read([tmp_path / "data"])


def test_a_frame_knows_where_the_gripper_will_open_or_close_next(tmp_path: Path) -> None:
    data = grasping(tmp_path)
    expected = [5] * 6 + [15] * 10 + [19] * 4 + [39] * 20
    assert data.next_changes().tolist() == expected
    here, there, way = data.places(torch.tensor([2, 25]))[..., 0].T.tolist()
    assert here == pytest.approx([0.02, 1.05])
    assert there == pytest.approx([0.05, 1.19])
    assert way == pytest.approx([0.03, 0.14])


def test_the_steps_before_a_grasp_are_drawn_more_often(tmp_path: Path) -> None:
    data = grasping(tmp_path)
    counts = data.emphasised(3).imitated.bincount().tolist()
    assert counts == [3] * 16 + [1] * 24, "up to 12 steps before it, and none before the end"
    assert torch.equal(data.emphasised(1).imitated, data.imitated)


def test_only_safe_imitates_no_episode_with_a_contact(tmp_path: Path) -> None:
    safe, unsafe, pushing = (reaching(20, seed) for seed in range(3))
    safe.cost[:], unsafe.cost[:], pushing.cost[:] = 0.0, 0.0, 0.0
    unsafe.cost[7], pushing.displacement[9] = 1.0, 1.0
    episodes = {"all": [unsafe, safe, pushing], "bad": [unsafe]}
    for name, chosen in episodes.items():
        with EpisodeWriter(tmp_path / name, 64, CAMERAS) as writer:
            for episode in chosen:
                writer.add(episode)
    assert len(Demonstrations.read([tmp_path / "all"]).imitated) == 60
    data = Demonstrations.read([tmp_path / "all"], only_safe=True)
    assert data.imitated.tolist() == list(range(20, 40))
    with pytest.raises(DatasetError, match="without contact"):
        Demonstrations.read([tmp_path / "bad"], only_safe=True)


def test_imitation_learns(data: Demonstrations, smoke: ImitationConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(smoke, steps=150, batch_size=16, learning_rate=5e-3)
    train_policy(config, data, tmp_path)
    losses = [row["acting"] for row in metrics(tmp_path)]
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:1])


def test_what_the_expert_sees_comes_to_know_places_and_the_expert_is_told() -> None:
    torch.manual_seed(0)
    size = dataclasses.replace(tiny_policy().size, places=True)
    policy = PI0Policy(size, train_tokenizer(["go"]), unit_scales(), ["go"])
    images = torch.zeros(16, 2, 3, 64, 64)
    for row in range(16):  # a bright square, where the gripper will close
        images[row, :, :, 16 * (row // 4) :, 16 * (row % 4) :][..., :16, :16] = 1.0
    across = torch.arange(16) % 4
    places = torch.stack([across, torch.arange(16) // 4, across], -1)[:, None].repeat(1, 3, 1) / 100
    tokens = policy.tokenise(["go"] * 16)
    sees = policy.network.model.vlm.parameters()  # what reads the places stays
    optimizer = torch.optim.AdamW(sees, 3e-3)
    losses = []
    for _ in range(60):
        read = policy.prefix(images, tokens).places
        assert read is not None
        loss = Places.loss(read, places)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    told = policy.network.places
    assert torch.count_nonzero(told.told(torch.ones(1, 9))) == 0, "nothing, to begin with"
    torch.nn.init.normal_(told.tell.weight)
    one, other = torch.zeros(1, 9), torch.zeros(1, 9)
    other[0, 6] = 0.1
    assert (told.told(one) - told.told(other)).abs().max() > 0.01, "a millimetre counts"


def test_the_policy_that_is_kept_has_the_average_of_the_weights(
    data: Demonstrations, smoke: ImitationConfig, tmp_path: Path
) -> None:
    policy = train_policy(smoke, data, tmp_path)
    assert policy.longest_delay == smoke.longest_delay == 3
    kept = load_file(tmp_path / STATE_FILE)
    weights = policy.network.state_dict()
    assert all(torch.equal(v, kept[f"model.1.module.{n}"]) for n, v in weights.items())
    apart = [float((v - kept[f"model.0.{n}"]).abs().max()) for n, v in weights.items()]
    assert 0.0 < max(apart) < 0.1
    stored = load_policy(tmp_path / "checkpoint").network.state_dict()
    assert all(torch.equal(stored[n], v) for n, v in weights.items())


def test_colours_are_jittered_alike_in_all_cameras_and_only_where_asked_for(
    data: Demonstrations, smoke: ImitationConfig
) -> None:
    policy = new_policy(smoke.size, data)

    def images(amount: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return demonstrated_batch(policy, data, 32, amount, generator).images

    plain, jittered = images(0.0), images(0.2)
    assert (jittered - plain).abs().amax((1, 2, 3, 4)).min() > 1e-3
    assert (jittered - plain).abs().max() <= 0.4 + 1e-6
    inner = plain.abs() < 0.5  # nothing is cut off there
    for seen, drawn, where in zip(jittered, plain, inner, strict=True):
        design = torch.stack([drawn[where], torch.ones_like(drawn[where])], dim=1)
        fitted = torch.linalg.lstsq(design, seen[where][:, None]).solution[:, 0]
        torch.testing.assert_close(design @ fitted, seen[where], atol=1e-4, rtol=0)
        assert abs(fitted[0] - 1) < 0.2
        assert abs(fitted[1]) < 0.2


def test_training_goes_on_from_a_policy_with_its_own_normalisation(
    data: Demonstrations, smoke: ImitationConfig, tmp_path: Path
) -> None:
    first = train_policy(smoke, data, tmp_path / "first")
    shifted = dataclasses.replace(data, state=data.state + 1.0)
    still = dataclasses.replace(smoke, learning_rate=0.0)
    second = train_policy(still, shifted, tmp_path / "second", start=first)
    assert second.scales.to_json() == first.scales.to_json()
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_policy_of_another_size_is_no_start(
    data: Demonstrations, smoke: ImitationConfig, tmp_path: Path
) -> None:
    start = new_policy(smoke.size, data)
    wider = dataclasses.replace(smoke, size=dataclasses.replace(smoke.size, width=64))
    with pytest.raises(ConfigError, match="choose the preset"):
        train_policy(wider, data, tmp_path, start=start)


def test_the_safety_head_finds_contacts_that_the_chunk_causes(
    episodes: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    autoencoder = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    config = SafetyConfig(steps=250, batch_size=64, learning_rate=3e-3)
    model = new_safety_model(autoencoder, config, episodes)
    frames = recorded_contacts([episodes], model)
    assert frames.exists.sum() == 30 * (13 * 8 + 28)
    untrained = dataclasses.replace(config, steps=0)
    before = train_safety_head(untrained, model, frames, tmp_path / "untrained")
    after = train_safety_head(config, model, frames, tmp_path / "head")
    assert after["auroc"] > 0.85
    assert after["auroc"] > before["auroc"] + 0.2


def test_the_safety_head_learns_from_imagined_states_beside_recorded_ones(
    episodes: Path, tmp_path: Path
) -> None:
    size = WorldModelSize(heads=2, head_dim=16, layers=1, feed_forward=32)
    eyes = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    world = new_world_model(eyes, WorldModelConfig(size=size), [episodes])
    config = SafetyConfig(
        size=SafetyHeadSize(width=8, hidden=64),
        steps=120,
        batch_size=64,
        replays=128,
        chunks=2,
    )
    model = new_safety_model(world.autoencoder, config, episodes)
    data = LatentEpisodes.read([episodes], world, "cpu")
    imagined = imagined_contacts(model, world, data, config.replays, config.chunks, 0)
    frames = recorded_contacts([episodes], model)
    assert len(imagined.episode) == len(imagined.latents) == 128
    same = (imagined.chunks[:, None] - frames.chunks).abs().amax((2, 3)).argmin(1)
    np.testing.assert_array_equal(frames.episode[same.numpy()], imagined.episode)
    torch.testing.assert_close(imagined.chunks, frames.chunks[same], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(imagined.contact, frames.contact[same])
    began = same - size.chunk_length  # two chunks: the state in between was imagined
    torch.testing.assert_close(imagined.latents, frames.latents[began])
    assert torch.equal(imagined.untouched, frames.untouched[began])
    assert torch.equal(imagined.begin, frames.begin[began])
    figures = train_safety_head(config, model, frames, tmp_path, imagined=imagined)
    assert figures["imagined"]["auroc"] > 0.8
    predicted, touched = imagined_worst(model, world, data, np.arange(30))
    assert touched.tolist() == [data.cost[20 * e : 20 * e + 20].any() for e in range(30)]
    assert predicted[touched].mean() > predicted[~touched].mean() + 0.2
    calibrated = calibrate_threshold(dataclasses.replace(config, held_out=1.0), model, world, data)
    assert calibrated["contact_threshold"] == model.contact_threshold
    assert calibrated["episode_predicted_rate"] == pytest.approx(touched.mean(), abs=0.25)
    with pytest.raises(DatasetError, match="no episode is longer"):
        imagined_contacts(model, world, data, config.replays, 9, 0)


def test_the_scene_counts_as_untouched_up_to_the_frame_before_the_first_contact() -> None:
    cost = np.array([0, 0, 1, 0, 0, 0, 0, 1])
    untouched = scene_untouched(cost, np.array([0, 4, 6, 8]))
    assert untouched.tolist() == [3, 3, 3, 0, 2, 2, 2, 2]


def test_an_image_is_shown_with_other_frames_of_its_episode(episodes: Path) -> None:
    autoencoder = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    config = SafetyConfig(size=SafetyHeadSize(width=8, hidden=64))
    model = new_safety_model(autoencoder, config, episodes)
    frames = recorded_contacts([episodes], model)
    known = torch.arange(0, len(frames.episode), 3)
    latents, state, chunks, contact, exists, _ = query_batch(
        [frames], [known], [200], 5, torch.Generator().manual_seed(0)
    )
    assert state.shape == (200, 5, 8)
    assert chunks.shape == (200, 5, 8, 7)
    row = torch.cdist(state, frames.state).argmin(-1)
    torch.testing.assert_close(chunks, frames.chunks[row])
    torch.testing.assert_close(contact, frames.contact[row])
    torch.testing.assert_close(latents, frames.latents[row[:, 0]])
    assert torch.isin(row[:, 0], known).all()
    episode = torch.from_numpy(frames.episode)[row]
    assert (episode == episode[:, :1]).all()
    untouched = frames.untouched[row[:, 0]]
    assert 0 < (untouched == 0).sum() < 200
    assert not exists[untouched == 0, 1:].any()
    assert torch.equal(exists[untouched > 0], frames.exists[row][untouched > 0])
    within = row - frames.begin[row] < untouched[:, None]
    assert within[untouched > 0, 1:].all()
    assert len(row[:, 1:].unique()) > 100


def test_an_image_is_shown_with_probes_of_its_scene_while_its_obstacle_stands(
    episodes: Path,
) -> None:
    autoencoder = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    config = SafetyConfig(size=SafetyHeadSize(width=8, hidden=64))
    frames = recorded_contacts([episodes], new_safety_model(autoencoder, config, episodes))
    generator = torch.Generator().manual_seed(0)
    known = torch.arange(len(frames.episode))
    assert frames.probes is None
    assert query_batch([frames], [known], [50], 3, generator, probes=4)[1].shape == (50, 3, 8)
    count = int(frames.episode.max()) + 1
    number = torch.arange(count)
    frames.probes = SceneProbes(
        number[:, None].expand(-1, 8).float(),
        torch.zeros(count, 8, 7),
        torch.ones(count, 8),
        number,
        torch.ones(count, dtype=torch.int64),
    )
    latents, state, chunks, contact, exists, _ = query_batch(
        [frames], [known], [200], 3, generator, probes=4
    )
    assert state.shape == (200, 7, 8)
    assert chunks.shape == (200, 7, 8, 7)
    row = torch.cdist(state[:, :1], frames.state).argmin(-1)[:, 0]
    episode = torch.from_numpy(frames.episode)[row]
    assert torch.equal(state[:, 3:, 0], episode[:, None].expand(-1, 4).float())
    assert (contact[:, 3:] == 1).all()
    moved = frames.untouched[row] == 0
    assert 0 < moved.sum() < 200
    assert not exists[moved, 3:].any()
    assert exists[~moved, 3:].all()


def test_temperature_and_calibration_error_know_a_calibrated_forecast() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.02, 0.98, 20_000)
    truth = (rng.uniform(size=probability.size) < probability).astype(np.float32)
    assert expected_calibration_error(truth, probability) < 0.02
    assert expected_calibration_error(truth, np.full_like(probability, 0.9)) > 0.3
    logits = torch.logit(torch.from_numpy(probability)).float()
    assert fit_temperature(3.0 * logits, torch.from_numpy(truth)) == pytest.approx(3.0, rel=0.1)


def test_beyond_an_episode_s_end_there_is_neither_action_nor_contact(episodes: Path) -> None:
    frames = load_frames(open_all([episodes]), images=False)
    ends = frames.starts[1:] - 1
    actions, contact, exists = chunks_ahead(frames, ends, 4)
    assert exists[:, 0].all()
    assert not exists[:, 1:].any()
    assert not contact[:, 1:].any()
    np.testing.assert_array_equal(actions[:, 0], frames.actions[ends].astype(np.float32))
    np.testing.assert_array_equal(actions[:, 1:], 0.0)


def test_an_episode_is_judged_at_the_frames_where_chunks_begin() -> None:
    episode = np.array([4, 4, 4, 7, 7, 7])
    probability = np.array([[0.1, 0.2], [0.9, 0.9], [0.3, 0.1], [0.0, 0.5], [1.0, 1.0], [0.4, 0.0]])
    contact = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [0, 0], [0, 0]])
    predicted, touched = worst_of_episodes(probability, contact, episode)
    np.testing.assert_allclose(predicted, [0.3, 0.5])
    assert touched.tolist() == [True, False]


def test_the_contact_threshold_predicts_as_many_collisions_as_there_were() -> None:
    predicted = np.array([0.9, 0.2, 0.8, 0.1, 0.4])
    for touched in ([1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]):
        threshold = rate_threshold(predicted, np.array(touched))
        assert (predicted > threshold).sum() == sum(touched)
    assert not (predicted > rate_threshold(predicted, np.zeros(5))).any()
