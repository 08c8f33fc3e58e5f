"""What models say beside the live view, with those that ship."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint
from safedojo_ros.core.types import CONTROL_PERIOD, Observation
from safedojo_ros.models.loading import load_success, load_world_model
from safedojo_ros.nodes.view_models import Imagined, Success, ViewModels
from safedojo_ros.worlds.registry import open_world

PATIENCE = 60.0


def observation() -> Observation:
    world = open_world("tabletop", 64, ("agentview", "wrist"), 100)
    world.reset(seed=5, options={"task": "cube_on_plate", "level": 2})
    return Observation(world.images(), world.state(), world.instruction, 10**9)


@pytest.fixture(scope="module")
def warned() -> list[str]:
    return []


@pytest.fixture(scope="module")
def models(warned: list[str]) -> Iterator[ViewModels]:
    pytest.importorskip("torch")
    success = load_success(find_checkpoint("success", SHIPPED))
    world = load_world_model(find_checkpoint("world_model", SHIPPED))
    found = ViewModels(success, world, warned.append)
    yield found
    found.close()


def answer(models: ViewModels) -> Success | Imagined:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for found in models.answers():
            return found
        time.sleep(0.01)
    raise AssertionError(f"no answer within {PATIENCE:.0f} s")


def test_a_task_that_has_just_begun_is_not_done(models: ViewModels) -> None:
    seen = observation()
    models.classify(seen)
    said = answer(models)
    assert isinstance(said, Success)
    assert said.stamp == seen.stamp
    assert 0.0 <= said.probability < said.threshold


def test_standing_still_is_imagined_to_change_little_and_for_the_chunk_s_end(
    models: ViewModels,
) -> None:
    seen, world = observation(), models.world
    assert world is not None
    still = np.zeros((world.size.chunk_length, 7))
    still[:, 6] = -1.0
    models.imagine(seen, [seen] * (world.size.context - 1), still, CONTROL_PERIOD)
    said = answer(models)
    assert isinstance(said, Imagined)
    assert said.stamp == seen.stamp + round(world.size.chunk_length * CONTROL_PERIOD * 1e9)
    for camera, image in said.images.items():
        apart = np.abs(image.astype(float) - seen.images[camera]).mean()
        assert apart < 12.0, f"{camera}: {apart:.1f} of 255"
        other = np.abs(image.astype(float) - seen.images[camera][:, ::-1]).mean()
        assert apart < 0.5 * other


def test_what_the_models_do_not_know_is_told_once_and_they_go_on(
    models: ViewModels, warned: list[str]
) -> None:
    seen = observation()
    for _ in range(2):
        models.classify(Observation(seen.images, seen.state, "make tea", seen.stamp))
        models.classify(seen)
        assert isinstance(answer(models), Success)
    assert len([text for text in warned if "make tea" in text]) <= 1
    models.imagine(seen, [seen], np.zeros((3, 7)), CONTROL_PERIOD)
    models.classify(seen)
    assert isinstance(answer(models), Success)
    assert any("3 actions" in text for text in warned)
