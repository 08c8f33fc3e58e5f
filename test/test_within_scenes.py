"""Within a scene: what a mean over scenes hides is seen, and the controls bound imagination."""

import math

import numpy as np
import pytest
import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.fidelity.within_scenes import agreement, within_scenes
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
from safedojo_ros.learning.rl.rollout import stream_seed
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.success_classifier import tiny_success
from safedojo_ros.models.world_model import WorldModel, WorldModelSize
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.world import Scene


def test_a_score_that_knows_the_scenes_and_not_the_futures_has_no_agreement() -> None:
    rng = np.random.default_rng(0)
    hard = np.linspace(0.1, 0.9, 60)[:, None]
    truth = (rng.random((60, 8)) < hard).astype(float)
    blind = agreement(hard + 0.01 * rng.normal(size=(60, 8)), truth)
    assert blind["between"]["value"] > 0.8
    assert blind["r"]["low"] < 0.0 < blind["r"]["high"]
    assert blind["pairs"]["value"] == pytest.approx(0.5, abs=0.06)
    knowing = agreement(truth + hard, truth)
    assert knowing["r"]["value"] == pytest.approx(1.0)
    assert knowing["pairs"]["value"] == 1.0
    assert knowing["mixed"] == (truth.min(1) != truth.max(1)).sum()
    assert knowing["r"]["low"] <= knowing["r"]["value"] <= knowing["r"]["high"]


def test_pairs_are_of_one_scene_and_ties_count_half() -> None:
    truth = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert agreement(np.array([[0.5, 0.4, 0.6], [9.0, 9.0, 9.0]]), truth)["pairs"]["value"] == 0.5
    assert agreement(np.array([[0.5, 0.5, 0.4], [9.0, 8.0, 7.0]]), truth)["pairs"]["value"] == 0.75
    same = agreement(np.zeros((2, 3)), np.zeros((2, 3)))
    assert same["mixed"] == 0
    assert math.isnan(same["r"]["value"])


SCENES = [Scene(900_000 + k, "cube_on_plate", 1) for k in range(3)]
FUTURES = 2


class Coin:
    """Throws a coin in every episode: it reaches for the obstacle, or stands still."""

    checkpoint_id = "coin"
    chunk_length = 8
    image_size = 64
    cameras: tuple[str, ...] = ("agentview", "wrist")

    def __init__(self) -> None:
        self.places = {}
        world = TabletopWorld(render_images=False)
        for scene in SCENES:
            world.reset(seed=scene.seed, options={"task": scene.task, "level": scene.level})
            assert world.obstacle is not None
            for future in range(0, FUTURES, 2):
                place = world.thing_position(world.obstacle)
                self.places[stream_seed(scene.seed, future)] = place + [0.0, 0.0, 0.05]

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        assert generators is not None
        chunks = np.zeros((len(observations), 8, 7))
        for chunk, seen, generator in zip(chunks, observations, generators, strict=True):
            place = self.places.get(generator.initial_seed())
            if place is not None:
                chunk[:, :3] = np.clip((place - seen.state[:3]) / 8, -0.03, 0.03)
        return chunks


def imagined_world(max_steps: int) -> ImaginedWorld:
    safety = tiny_safety()
    size = WorldModelSize(heads=2, head_dim=16, layers=2, feed_forward=64)
    model = WorldModel(safety.autoencoder, size, safety.scales)
    return ImaginedWorld(model, tiny_success(), safety, max_steps)


def test_the_simulator_agrees_with_itself_through_every_control() -> None:
    """A policy that looks at no image does the same whatever its images go through."""
    found = within_scenes(Coin(), imagined_world(16), SCENES, FUTURES)
    assert (found["scenes"], found["futures"]) == (3, FUTURES)
    assert set(found) == {"scenes", "futures", "imagined", "reconstructed", "nudged"}
    blurred, nudged = (found[name]["violation"] for name in ("reconstructed", "nudged"))
    assert blurred["mixed"] == 3, "futures of a scene have a noise of their own"
    assert blurred["r"]["value"] == pytest.approx(1.0)
    assert nudged["r"]["value"] == pytest.approx(1.0)
    assert found["imagined"]["violation"]["rate"] == blurred["rate"]


def test_one_future_and_another_chunk_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 future of a scene"):
        within_scenes(Coin(), imagined_world(16), SCENES, futures=1)
    policy = Coin()
    policy.chunk_length = 4
    with pytest.raises(ConfigError, match="chunks of 4 steps, the world model imagines 8"):
        within_scenes(policy, imagined_world(16), SCENES, futures=2)
