"""A camera that no longer shows the world, told from one before which nothing happens."""

from collections.abc import Callable

import numpy as np
import pytest

from safedojo_ros.core.types import Episode
from safedojo_ros.evaluation.recording import record_expert
from safedojo_ros.robot.image_watch import ImageWatch, shows_the_same
from safedojo_ros.robot.observation_window import ObservationWindow, WindowConfig
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.world import Scene

CAMERAS = ("agentview", "wrist")

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def flipped_bits(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed = image.copy()
    changed.reshape(-1)[rng.integers(0, image.size, 3)] ^= 128
    return changed


DISGUISES: dict[str, Change] = {
    "as it is": lambda image, rng: image,
    "three flipped bits": flipped_bits,
    "noise": lambda image, rng: clipped(image + rng.integers(-2, 3, image.shape)),
    "brightness": lambda image, rng: clipped(image + rng.uniform(-20.0, 20.0)),
    "contrast": lambda image, rng: clipped(image * rng.uniform(0.8, 1.2)),
    "all of it": lambda image, rng: clipped(
        flipped_bits(image, rng) * rng.uniform(0.9, 1.1) + rng.integers(-2, 3, image.shape)
    ),
}


@pytest.fixture(scope="module")
def world() -> TabletopWorld:
    return TabletopWorld(64, CAMERAS, 10_000)


@pytest.fixture(scope="module")
def episodes(world: TabletopWorld) -> list[Episode]:
    """Of the expert, one of each task, one of them after the other at Levels 0, I and II."""
    return [
        record_expert(world, "safe", Scene(900_000 + number, task, number % 3))
        for number, task in enumerate(TASKS)
    ]


def watched(images: np.ndarray, places: np.ndarray) -> list[tuple[int, float]]:
    """(count, moved) after each of the images (T, H, W, 3), with the arm at `places` (T, 3)."""
    watch, known = ImageWatch(), []
    for stamp, (image, place) in enumerate(zip(images, places, strict=True), 1):
        watch.see(image, stamp, [(stamp, np.array([*place, 0, 0, 0, 0, 0]))])
        assert not watch.blank
        known.append((watch.count, watch.moved))
    return known


def frozen(known: list[tuple[int, float]]) -> bool:
    limits = WindowConfig(CAMERAS, 64)
    return any(n >= limits.frozen_frames and way > limits.frozen_motion for n, way in known)


@pytest.mark.parametrize("camera", CAMERAS)
def test_no_camera_of_the_tabletop_looks_frozen_while_it_is_not(
    episodes: list[Episode], camera: str
) -> None:
    for episode in episodes:
        assert not frozen(watched(episode.images[camera], episode.state[:, :3]))


def test_nor_where_the_arm_moves_at_a_quarter_of_its_speed(
    world: TabletopWorld, episodes: list[Episode]
) -> None:
    episode = episodes[1]
    options = {"task": episode.task, "level": episode.level}
    seen = [world.reset(seed=episode.seed, options=options)[0]]
    for action in np.repeat(episode.actions, 4, axis=0):
        action[:6] /= 4.0
        seen.append(world.step(action)[0])
    places = np.array([observation["state"][:3] for observation in seen])
    for camera in CAMERAS:
        images = np.array([observation[camera] for observation in seen])
        assert not frozen(watched(images, places))


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_frozen_camera_is_found_in_every_disguise(
    episodes: list[Episode], camera: str, disguise: str
) -> None:
    rng = np.random.default_rng(0)
    for episode in episodes:
        last = episode.images[camera][5]
        images = np.array([DISGUISES[disguise](last, rng) for _ in episode.state[5:]])
        assert frozen(watched(images, episode.state[5:, :3]))


def test_an_image_in_one_place_of_which_something_else_is_shown_is_another_one() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (64, 64, 3)).astype(np.float32)
    changed = image.copy()
    changed[20:32, 20:32] = 220.0
    assert shows_the_same(image, image)
    assert not shows_the_same(image, changed)
    assert not shows_the_same(changed, image)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (90, 160, 30)])
def test_an_image_of_one_colour_shows_nothing_even_with_noise_on_it(
    colour: tuple[int, int, int],
) -> None:
    watch, rng = ImageWatch(), np.random.default_rng(0)
    watch.see(clipped(np.array(colour) + rng.normal(0.0, 3.0, (64, 64, 3))), 1, [])
    assert watch.blank


def test_images_of_every_size_can_be_watched() -> None:
    rng = np.random.default_rng(0)
    for side in (16, 100, 256):
        watch = ImageWatch()
        image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for stamp in (1, 2):
            watch.see(image, stamp, [])
        assert watch.count == 2


def test_how_far_the_arm_moved_does_not_depend_on_which_message_is_faster() -> None:
    frozen, places = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), [0.0] * 8
    places[3:] = [0.11] * 5
    moved = []
    for pose_first in (True, False):
        window = ObservationWindow(WindowConfig(("front",), 64))
        window.set_instruction("go")
        seen = []
        for number, place in enumerate(places, 1):
            stamp, state = number * 50_000_000, np.array([place] + [0.0] * 7)
            if pose_first:
                window.add_state(state, stamp)
            window.add_image("front", frozen, stamp, stamp)
            window.add_state(state, stamp)
            seen.append(window.fault(stamp))
        moved.append(seen)
    assert moved[0] == moved[1]
    assert "frozen" in moved[0][-1]
