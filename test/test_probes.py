"""Probes: nothing of one is left for the next, and the head is asked about its own scene's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.probes import Probes
from safedojo_ros.data.lerobot.probes import PROBES_PATH, read_probes, write_probes
from safedojo_ros.learning.data.contacts import SceneProbes
from safedojo_ros.pipeline.collect import Collection, collect
from safedojo_ros.worlds.probes import MOVED, probe_scene
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.world import Scene

SCENE = Scene(5, "cube_on_plate", 1)


@pytest.fixture
def world() -> TabletopWorld:
    return TabletopWorld(render_images=False)


def test_every_probe_begins_with_the_obstacle_where_it_was(
    world: TabletopWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a probe touched is put back before the next."""
    began: list[float] = []
    state = world.state

    def watched() -> np.ndarray:
        began.append(world.displacement)
        return state()

    monkeypatch.setattr(world, "state", watched)
    monkeypatch.setattr(world, "observation", dict)  # it reads the state, too
    probes = probe_scene(world, SCENE, 30, 8)
    assert len(began) == 30
    assert max(began) <= MOVED
    assert 5 < probes.contact.any(1).sum() < 25, "some touch it, some do not"
    again = probe_scene(world, SCENE, 12, 8)
    for one, other in zip(probes, again, strict=True):
        np.testing.assert_array_equal(one[:12], other)


def test_a_snapshot_brings_everything_back(world: TabletopWorld) -> None:
    world.reset(seed=5, options={"task": "cube_on_plate", "level": 1})
    kept = world.snapshot()
    push = np.array([0.03, 0.01, -0.02, 0, 0, 0, 1.0])
    first = [world.step(push)[0]["state"] for _ in range(12)]
    world.restore(kept)
    assert world.steps == 0
    second = [world.step(push)[0]["state"] for _ in range(12)]
    np.testing.assert_array_equal(first, second)


def test_there_is_nothing_to_probe_at_level_0(world: TabletopWorld) -> None:
    with pytest.raises(ConfigError, match="level 0 has no obstacle to probe"):
        probe_scene(world, Scene(5, "cube_on_plate", 0), 3, 8)


def test_probes_lie_beside_the_recording_and_are_checked(tmp_path: Path) -> None:
    out = tmp_path / "data"
    collect(Collection(out, episodes=3, max_steps=2, image_size=32, probes=4))
    found = read_probes(out, 3, 8)
    assert found is not None
    episode, probes = found
    assert episode.tolist() == [1] * 4 + [2] * 4, "episode 0 is of Level 0"
    shorter = read_probes(out, 3, 5)
    assert shorter is not None
    np.testing.assert_array_equal(shorter[1].contact, probes.contact[:, :5])
    with pytest.raises(DatasetError, match="collect again"):
        read_probes(out, 3, 9)
    with pytest.raises(DatasetError, match="not about these 2 episodes"):
        read_probes(out, 2, 8)
    flat = {name: np.zeros(3) for name in (*Probes._fields, "episode")}
    save_file(flat, str(out / PROBES_PATH))
    with pytest.raises(DatasetError, match="no file of probes"):
        read_probes(out, 3, 8)
    (out / PROBES_PATH).write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match="no file of probes"):
        read_probes(out, 3, 8)
    (out / PROBES_PATH).unlink()
    assert read_probes(out, 3, 8) is None


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = np.full((2, 8), np.nan, np.float32)
    probes = Probes(state, np.zeros((2, 8, 7), np.float32), np.zeros((2, 8), bool))
    write_probes(tmp_path, [0], [probes])
    with pytest.raises(DatasetError, match="not finite"):
        read_probes(tmp_path, 1, 8)


def test_an_image_is_given_probes_of_its_own_scene_alone() -> None:
    contact = torch.arange(5.0)[:, None].expand(5, 8)  # two of episode 0, none of 1, three of 2
    probes = SceneProbes(
        torch.zeros(5, 8),
        torch.zeros(5, 8, 7),
        contact,
        torch.tensor([0, 2, 2]),
        torch.tensor([2, 0, 3]),
    )
    drawn = probes.drawn(torch.tensor([0, 1, 2]), 50, torch.Generator().manual_seed(0))
    _, _, which, exists = drawn
    assert set(which[0].unique().tolist()) == {0.0, 1.0}
    assert set(which[2].unique().tolist()) == {2.0, 3.0, 4.0}
    assert exists[[0, 2]].all()
    assert not exists[1].any()
