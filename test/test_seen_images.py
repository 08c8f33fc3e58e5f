"""A safety head judges by images of the kind that it has seen, and refuses others by name."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from proposer import Proposer

from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.core.errors import CheckpointError, DatasetError, ObservationRejected
from safedojo_ros.core.types import Observation
from safedojo_ros.data.lerobot.frames import load_frames, open_all
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.recording import record_expert
from safedojo_ros.learning import seen_images as module
from safedojo_ros.learning.data.splits import held_out_episodes
from safedojo_ros.learning.seen_images import seen_images
from safedojo_ros.models.loading import load_safety
from safedojo_ros.models.safety_head import SafetyModel, tiny_safety
from safedojo_ros.models.seen_images import FILE
from safedojo_ros.models.trial import act_once
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.world import Scene

CAMERAS = ("agentview", "wrist")
CHUNKS = np.zeros((1, 8, 7))
RNG = np.random.default_rng(0)


def covered(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[:, 32:] = 128
    return image


def noisy(image: np.ndarray) -> np.ndarray:
    return np.clip(image + RNG.normal(0.0, 40.0, image.shape), 0, 255).astype(np.uint8)


BOTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "lens blur": lambda image: cv2.GaussianBlur(image, (0, 0), 2.0),
    "darkness": lambda image: (image * 0.2).astype(np.uint8),
}
FIXED: dict[str, Callable[[np.ndarray], np.ndarray]] = BOTH | {
    "noise": noisy,
    "a card before it": covered,
    "inverted colours": lambda image: 255 - image,
    "red for blue": lambda image: image[..., ::-1].copy(),
    "another camera's image": lambda image: image,  # see the test
}


@pytest.fixture(scope="module")
def head() -> SafetyModel:
    return load_safety(find_checkpoint("safety", "shipped"))


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the expert, eight of validation seeds."""
    world, root = TabletopWorld(64, CAMERAS, 150), tmp_path_factory.mktemp("seen") / "data"
    with EpisodeWriter(root, 64, CAMERAS) as writer:
        for number, task in enumerate([*TASKS, *TASKS]):
            writer.add(record_expert(world, "safe", Scene(990_000 + number, task, number % 3)))
    return root


@pytest.fixture(scope="module")
def observations(episodes: Path) -> list[Observation]:
    return [
        Observation(
            {name: episode.images[name][step] for name in CAMERAS}, episode.state[step], "go"
        )
        for episode in EpisodeReader(episodes)
        for step in range(0, len(episode.state), 4)
    ]


def changed(
    observation: Observation, camera: str, change: Callable[[np.ndarray], np.ndarray]
) -> Observation:
    images = dict(observation.images)
    images[camera] = change(images[camera])
    return Observation(images, observation.state, "go")


def test_the_shipped_head_judges_every_image_of_fresh_episodes(
    head: SafetyModel, observations: list[Observation]
) -> None:
    assert head.seen is not None
    for observation in observations:
        head.step_cost([observation], CHUNKS)


@pytest.mark.parametrize("kind", FIXED)
def test_the_fixed_camera_is_refused_where_it_shows_something_else(
    head: SafetyModel, observations: list[Observation], kind: str
) -> None:
    for observation in observations[::9]:
        strange = changed(observation, "agentview", FIXED[kind])
        if kind == "another camera's image":
            strange.images["agentview"] = observation.images["wrist"]
        with pytest.raises(ObservationRejected, match="camera 'agentview' shows what the safety"):
            head.step_cost([strange], CHUNKS)


@pytest.mark.parametrize("kind", BOTH)
def test_the_wrist_s_camera_is_refused_where_it_is_no_witness(
    head: SafetyModel, observations: list[Observation], kind: str
) -> None:
    for observation in observations[::9]:
        with pytest.raises(ObservationRejected, match="camera 'wrist' shows what the safety"):
            head.step_cost([changed(observation, "wrist", BOTH[kind])], CHUNKS)


def test_a_little_light_and_a_sensor_s_noise_are_no_reason_to_refuse(
    head: SafetyModel, observations: list[Observation]
) -> None:
    for observation in observations[::9]:
        for camera in CAMERAS:

            def lit(image: np.ndarray) -> np.ndarray:
                return np.clip(image * 1.04 + RNG.normal(0.0, 1.0, image.shape), 0, 255).astype(
                    np.uint8
                )

            head.step_cost([changed(observation, camera, lit)], CHUNKS)


@pytest.mark.fault(
    "images", "an image unlike those that the safety head has seen", "the gate holds at once"
)
def test_the_gate_holds_before_a_strange_image_and_says_which_camera_shows_it(
    head: SafetyModel, observations: list[Observation]
) -> None:
    policy = GatedPolicy(Proposer(*[0.01] * 4), head, proposals=4)
    episode = torch.Generator()
    strange = changed(observations[0], "wrist", BOTH["lens blur"])
    assert not np.any(policy.act([strange], [episode])[0, :, :6])
    gate = policy._episode(episode).judge.gate
    assert gate.decision.name == "HOLD"
    assert "camera 'wrist' shows what the safety head has not seen: distance" in gate.reason
    assert policy.proposed == 1, "another proposal would not show more"


def test_limits_that_are_set_by_episodes_travel_with_the_checkpoint(
    episodes: Path, observations: list[Observation], tmp_path: Path
) -> None:
    model = tiny_safety()
    model.step_cost([changed(observations[0], "agentview", BOTH["darkness"])], CHUNKS)
    model.seen = seen_images(model, [episodes], 0.3, 0)
    model.save(tmp_path)
    again = load_safety(tmp_path)
    assert str(again.seen) == str(model.seen)
    kept = again.step_cost([observations[0]], CHUNKS)
    np.testing.assert_array_equal(kept, model.step_cost([observations[0]], CHUNKS))
    with pytest.raises(ObservationRejected, match="'agentview'"):
        again.step_cost([changed(observations[0], "agentview", BOTH["darkness"])], CHUNKS)
    act_once("safety", tmp_path, model.spec())


def test_limits_are_set_by_images_of_the_head_s_own_cameras_and_size(episodes: Path) -> None:
    with pytest.raises(DatasetError, match="64"):
        seen_images(tiny_safety(image_size=32), [episodes], 0.3, 0)


def test_of_many_episodes_those_that_are_fitted_are_a_few_from_every_set(
    episodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_all([episodes])[0]
    read: list[Sequence[Sequence[int]]] = []

    def load(readers: Sequence[EpisodeReader], chosen: Sequence[Sequence[int]]) -> FrameArrays:
        read.append(chosen)
        return load_frames(readers, chosen=chosen)

    monkeypatch.setattr(module, "load_frames", load)
    monkeypatch.setattr(module, "EPISODES", 2)
    seen_images(tiny_safety(), [episodes, episodes], 0.2, 0)
    count = 2 * len(whole)
    held_out = held_out_episodes(count, 0.2, 0)
    numbers = [*read[0][0], *(number + len(whole) for number in read[0][1])]
    assert set(held_out) < set(numbers)
    assert len(numbers) == len(held_out) + 2
    fitted = sorted(set(numbers) - set(held_out))
    assert fitted[0] < len(whole) <= fitted[1]


@pytest.fixture(scope="module")
def with_limits(episodes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safety head's directory."""
    model, folder = tiny_safety(), tmp_path_factory.mktemp("limits")
    model.seen = seen_images(model, [episodes], 0.3, 0)
    model.save(folder)
    return folder


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("wrist",), None),
        (("wrist", "limit"), 0.0),
        (("wrist", "limit"), 1e9),
        (("wrist", "limit"), "1"),
        (("wrist", "mean"), [1.0]),
        (("wrist", "whitening"), [[1.0]]),
        (("wrist", "mean"), "many"),
        (("front",), {}),
    ],
)
def test_a_damaged_file_of_limits_is_one_sentence(
    with_limits: Path, tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    shutil.copytree(with_limits, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / FILE).read_text())
    part = content
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=FILE):
        load_safety(tmp_path)
