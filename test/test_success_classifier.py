"""The success classifier: what it accepts, its rule, its labels, and that it learns to see."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_episodes import CAMERAS, synthetic, written

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError, DatasetError, ObservationRejected
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning import success as training
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.replay import ReplayStarts, replay
from safedojo_ros.learning.data.success_frames import (
    SuccessFrames,
    frame_success,
    imagined_frames,
    kinds_of_frames,
    recorded_frames,
)
from safedojo_ros.learning.world_model import WorldModelConfig, new_world_model
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.loading import load_success
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.success_classifier import (
    SuccessModel,
    SuccessSize,
    sustained,
    tiny_success,
)
from safedojo_ros.models.world_model import WorldModel, WorldModelSize

SENTENCES = ("raise the light", "lower the light")


def lighting(seed: int, length: int = 26) -> Episode:
    """Success shows as a light: at the top for one sentence, at the bottom for the other."""
    rng = np.random.default_rng(seed)
    succeeds = seed % 4 < 2
    images = rng.integers(0, 60, (length, 64, 64, 3), np.uint8)
    success = np.zeros(length, bool)
    if succeeds:
        success[length - 9 :] = True
    for t in range(1, length):
        upper = bool(success[t - 1]) == (seed % 2 == 0)
        images[t, slice(4, 20) if upper else slice(44, 60), 20:44] = 230
    state = rng.normal(size=(length, 8)).astype(np.float32)
    actions = np.clip(rng.normal(size=(length, 7)) * 0.01, -0.05, 0.05).astype(np.float32)
    views, sentence = dict.fromkeys(CAMERAS, images), SENTENCES[seed % 2]
    return synthetic(views, state, actions, seed, success=success, instruction=sentence)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("lights") / "data", map(lighting, range(16)))


@pytest.fixture(scope="module")
def frames(episodes: Path) -> SuccessFrames:
    return recorded_frames([episodes])


@pytest.fixture(scope="module")
def world(episodes: Path) -> WorldModel:
    torch.manual_seed(0)
    size = WorldModelSize(2, 16, 2, feed_forward=64, stride=2, denoising_steps=1)
    autoencoder = FrameAutoencoder(AutoencoderSize(widths=(8, 8, 16, 16)))
    return new_world_model(autoencoder, WorldModelConfig(size=size), [episodes])


@given(over=st.lists(st.booleans(), max_size=12), consecutive=st.integers(1, 4))
def test_success_is_that_many_frames_in_a_row(over: list[bool], consecutive: int) -> None:
    expected = [
        t + 1 >= consecutive and all(over[t + 1 - consecutive : t + 1]) for t in range(len(over))
    ]
    assert sustained(np.array(over, bool), consecutive).tolist() == expected


def test_each_instruction_has_a_logit_of_its_own(tmp_path: Path) -> None:
    model = tiny_success(instructions=SENTENCES)
    images = torch.rand(3, 2, 3, 64, 64) * 2 - 1
    probability = model.probability(images, [SENTENCES[0]] * 3)
    assert probability.shape == (3,)
    assert bool(((probability > 0) & (probability < 1)).all())
    mixed = model.probability(images, [SENTENCES[0], SENTENCES[1], SENTENCES[0]])
    torch.testing.assert_close(mixed[::2], probability[::2])
    assert abs(float(mixed[1] - probability[1])) > 1e-6
    model.threshold, model.validation = 0.7, {"real": {"f1": 0.5}}
    model.imagined_threshold = 0.9
    model.save(tmp_path)
    loaded = load_success(tmp_path)
    torch.testing.assert_close(loaded.probability(images, [SENTENCES[0]] * 3), probability)
    assert (loaded.threshold, loaded.consecutive, loaded.stride) == (0.7, 3, 2)
    assert loaded.over(np.array([0.6, 0.8, 0.95]), imagined=False).tolist() == [False, True, True]
    assert loaded.over(np.array([0.6, 0.8, 0.95]), imagined=True).tolist() == [False, False, True]
    assert loaded.validation == model.validation
    assert loaded.instructions == SENTENCES


def test_without_pooling_in_the_stem_the_resnet_sees_twice_the_resolution(tmp_path: Path) -> None:
    size = SuccessSize(embedding=8, widths=(8, 16), depths=(1, 1), stem_pooling=False)
    model = SuccessModel(size, SENTENCES)
    features = model.network.resnet(torch.zeros(1, 6, 64, 64)).last_hidden_state
    assert features.shape[-2:] == (16, 16)
    assert tiny_success().network.resnet(torch.zeros(1, 6, 64, 64)).last_hidden_state.shape[-1] == 8
    model.save(tmp_path)
    images = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    asked = list(SENTENCES[:2])
    torch.testing.assert_close(
        load_success(tmp_path).probability(images, asked), model.probability(images, asked)
    )


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = tiny_success()
    with pytest.raises(ObservationRejected, match="not trained on 'fetch me a coffee'"):
        model.probability(torch.zeros(1, 2, 3, 64, 64), ["fetch me a coffee"])
    with pytest.raises(ObservationRejected, match=r"expected \(1, 2, 3, 64, 64\)"):
        model.probability(torch.zeros(1, 1, 3, 64, 64), list(model.instructions))
    tiny_safety().save(tmp_path)
    with pytest.raises(CheckpointError, match="expected 'success_resnet'"):
        load_success(tmp_path)


def test_a_frame_shows_what_the_step_before_it_did() -> None:
    success = np.array([0, 1, 1, 1, 0, 0, 1], bool)  # episodes of three and of four steps
    shown = frame_success(success, np.array([0, 3, 7]))
    assert shown.tolist() == [False, False, True, False, True, False, False]


def test_the_threshold_is_that_of_best_f1() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1], bool)
    threshold = training.best_threshold(truth, np.array([0.1, 0.2, 0.6, 0.8, 0.9, 0.95]))
    assert threshold == pytest.approx(0.7, abs=0.011)
    assert training.best_threshold(np.zeros(6, bool), np.linspace(0, 1, 6)) == 0.5


def test_figures_count_frames_and_clips() -> None:
    model = tiny_success()
    model.threshold, model.consecutive = 0.5, 2
    truth = np.array([0, 0, 0, 0] + [0, 0, 1, 1] + [0, 0, 1, 1], bool)
    clip = np.repeat([0, 1, 2], 4)
    probability = np.array([0.9, 0.8, 0.1, 0.1] + [0.1, 0.1, 0.9, 0.9] + [0.1, 0.1, 0.9, 0.2])
    images = np.zeros((12, 2, 1, 1, 3), np.uint8)
    frames = SuccessFrames(images, truth, np.zeros(12, int), clip, clip, ("a",))
    figures = training.success_figures(model, frames, probability, imagined=True)
    assert figures["false_success_rate"] == 2 / 8
    assert figures["false_success_clips"] == 1.0  # the only clip without success was called one
    assert figures["missed_success_clips"] == 0.5
    assert figures["accuracy"] == pytest.approx(9 / 12)
    assert figures["f1"] == pytest.approx(6 / 9)


def test_the_classifier_learns_to_see_success(frames: SuccessFrames, tmp_path: Path) -> None:
    config = training.SuccessConfig(
        size=SuccessSize(embedding=8, widths=(8, 16), depths=(1, 1)),
        steps=60,
        batch_size=32,
        learning_rate=1e-2,
        warmup_steps=5,
        held_out=0.4,
    )
    model = training.new_success_model(config, frames.instructions, CAMERAS)
    figures = training.train_success(config, model, frames, None, tmp_path / "run")
    assert figures["real"]["f1"] > 0.9
    assert figures["real"]["missed_success_clips"] == 0.0
    assert "imagined" not in figures
    other = frames.of(frames.success)
    other.instruction = 1 - other.instruction
    assert training.frame_probability(model, other).max() < model.threshold


def test_imagined_frames_carry_the_labels_of_their_recording(
    episodes: Path, world: WorldModel, frames: SuccessFrames
) -> None:
    data = LatentEpisodes.read([episodes], world, "cpu")
    imagined = imagined_frames(world, data, frames.instructions, 12, 2, 0)
    assert imagined.images.shape == (12 * 8, 2, 64, 64, 3)
    assert 0 < imagined.success.sum() < len(imagined.success)
    failed = [not row.success for row in data.rows]
    assert not imagined.success[np.isin(imagined.episode, np.flatnonzero(failed))].any()
    ending = imagined.success.reshape(12, 8)[6:]
    assert ending.any(axis=1).all(), "half of the futures end in success"
    with pytest.raises(DatasetError, match="no episode is longer than a replay of 80 steps"):
        imagined_frames(world, data, frames.instructions, 12, 10, 0)


def test_a_replay_is_the_same_whatever_the_batch(episodes: Path, world: WorldModel) -> None:
    data = LatentEpisodes.read([episodes], world, "cpu")
    starts = ReplayStarts(torch.tensor([3, 30, 60]), torch.tensor([0, 26, 52]), np.arange(3))
    whole = replay(world, data, starts, chunks=2)
    assert whole.latents.shape[:2] == (3, 8)
    assert whole.states.shape == (3, 16, 8)
    assert whole.rows[1].tolist() == list(range(32, 47, 2))
    single = replay(world, data, starts, chunks=2, batch=1)
    torch.testing.assert_close(single.latents, whole.latents)
    torch.testing.assert_close(single.states, whole.states)
    still = replay(world, data, starts, 2, actions=torch.zeros(3, 16, 7))
    assert (still.latents - whole.latents).abs().max() > 1e-6


def test_the_command_trains_on_real_and_imagined_frames(
    episodes: Path, world: WorldModel, tmp_path: Path
) -> None:
    (tmp_path / "world").mkdir()
    world.save(tmp_path / "world")
    store = CheckpointStore(tmp_path / "store")
    store.publish("world_model", tmp_path / "world", spec=world.spec())
    options = ["--data", str(episodes), "--store", str(tmp_path / "store"), "--preset", "smoke"]
    options += ["--device", "cpu", "--world-model", "latest", "--publish", "--force"]
    assert main(["train", "success", "--out", str(tmp_path / "run"), *options]) == 0
    model = load_success(store.resolve("success"))
    assert model.instructions == tuple(sorted(SENTENCES))
    assert model.validation["imagined"]["frames"] > 0
    assert store.show("success").fidelity["real"]["frames"] > 0


def test_data_without_success_is_refused(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "data", 64, CAMERAS) as writer:
        writer.add(lighting(2))
    with pytest.raises(DatasetError, match="--linger 8"):
        recorded_frames([tmp_path / "data"])


def test_each_source_of_frames_sets_its_own_threshold(
    frames: SuccessFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SimpleNamespace(consecutive=1, threshold=0.5, imagined_threshold=0.5, validation={})
    monkeypatch.setattr(training, "frame_probability", lambda model, given: given.success * 0.5)
    monkeypatch.setattr(training, "success_figures", lambda *given: {})
    held_out = np.unique(frames.episode)

    def thresholds(imagined: SuccessFrames | None) -> tuple[float, float | None]:
        chances = iter((0.3, 0.7))
        monkeypatch.setattr(training, "best_threshold", lambda label, chance: next(chances))
        training.choose_threshold(model, frames, imagined, held_out)  # type: ignore[arg-type]
        return model.threshold, model.imagined_threshold

    assert thresholds(None) == (0.3, None)
    assert thresholds(frames) == (0.3, 0.7)


def test_a_sample_is_moved_as_a_whole_and_no_further_than_asked() -> None:
    images = torch.zeros(64, 2, 3, 16, 16)
    images[..., 8, 8] = 1.0
    moved = training._shifted(images, 2, np.random.default_rng(0))
    assert moved.shape == images.shape
    rows, columns = zip(*(torch.nonzero(sample[0, 0])[0].tolist() for sample in moved), strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (6, 10, 6, 10)
    assert torch.equal(moved[:, 0], moved[:, 1])


def test_the_frames_before_a_success_are_known_and_stay_in_their_clip() -> None:
    success = np.array([0, 0, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    clip = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    frames = SuccessFrames(
        np.zeros((9, 1, 4, 4, 3), np.uint8), success, np.zeros(9, int), clip, clip, ("go",)
    )
    kinds = kinds_of_frames(frames, np.ones(9, dtype=bool), near=2)
    assert [rows.tolist() for rows in kinds] == [[3, 4, 7], [1, 2, 5, 6], [0, 8]]
    first_clip_only = kinds_of_frames(frames, clip == 0, near=5)
    assert [rows.tolist() for rows in first_clip_only] == [[3, 4], [0, 1, 2], [0, 1, 2, 3, 4]]


def test_the_average_follows_at_once_and_then_slowly() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = training.averaged(network, decay=0.98)

    def after(value: float, updates: int) -> float:
        torch.nn.init.constant_(network.weight, value)
        for _ in range(updates):
            average.update_parameters(network)
        return next(average.module.parameters()).item()

    assert after(1.0, 1) == 1.0
    assert after(0.0, 10) < 1e-3
    after(0.0, 1000)
    assert after(1.0, 10) == pytest.approx(1 - 0.98**10)
