"""Recordings repeat exactly, are balanced, and go on where they stopped."""

import argparse
import collections
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safedojo_ros.cli import collect as command
from safedojo_ros.core.bounds import MAX_DELTA_POSITION
from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.types import Episode, Observation
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.evaluation.noise import NoiseBursts
from safedojo_ros.evaluation.recording import record_expert, record_policy
from safedojo_ros.evaluation.takeover import record_takeover
from safedojo_ros.pipeline.collect import Collection
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

CAN = Scene(3, "can_in_basket", 0)


def run(out: Path, *options: str, episodes: int = 4) -> EpisodeReader:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    small = ("--image-size", "32", "--max-steps", "40", "--tasks", "can_in_basket,bowl_to_mark")
    given = ("--out", str(out), "--episodes", str(episodes), *small, *options)
    assert command.run(parser.parse_args(given)) == 0
    return EpisodeReader(out)


def files(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def test_one_worker_and_two_record_the_same_bytes(tmp_path: Path) -> None:
    options = ("--style", "mixed", "--direct-share", "0.5", "--noise", "0.02", "--level", "I")
    run(tmp_path / "one", *options, "--workers", "1")
    run(tmp_path / "two", *options, "--workers", "2")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_recording_may_linger_after_success(tmp_path: Path) -> None:
    short = record_expert(TabletopWorld(32, max_steps=150), "safe", CAN)
    long = record_expert(TabletopWorld(32, max_steps=150), "safe", CAN, linger=6)
    assert short.success.tolist() == [False] * (len(short) - 1) + [True]
    assert len(long) == len(short) + 6
    np.testing.assert_array_equal(long.actions[: len(short)], short.actions)
    assert long.success[len(short) - 1]


def test_a_world_lingers_after_success_too() -> None:
    episode = record_expert(TabletopWorld(32, max_steps=150), "safe", CAN)
    actions = np.concatenate([episode.actions, np.repeat(episode.actions[-1:], 20, axis=0)])
    steps = {}
    for linger in (0, 6):
        vector = VectorWorld(32, 150, ("agentview",), linger)
        vector.reset([CAN])
        outcome = vector.step(actions[None])
        steps[linger] = int(outcome.valid.sum())
        assert outcome.done.all()
        assert outcome.success[0, len(episode) - 1]
    assert steps == {0: len(episode), 6: len(episode) + 6}


def test_what_is_recorded_is_what_was_executed(tmp_path: Path) -> None:
    reader = run(tmp_path / "set", "--noise", "0.02", "--level", "I,II", "--workers", "1")
    disturbed = 0
    for episode in reader:
        world = TabletopWorld(32, max_steps=40)
        seen, _ = world.reset(
            seed=episode.seed, options={"task": episode.task, "level": episode.level}
        )
        for step in range(len(episode)):
            np.testing.assert_array_equal(seen["wrist"], episode.images["wrist"][step])
            np.testing.assert_array_equal(seen["state"], episode.state[step])
            seen, *_, info = world.step(episode.actions[step])
            assert np.float32(info["displacement"]) == episode.displacement[step]
            assert info["cost"] == episode.cost[step]
        clean = episode.extra["clean_action"]
        disturbed += int(np.sum(np.any(clean != episode.actions, axis=1)))
        np.testing.assert_array_equal(clean[:, 3:], episode.actions[:, 3:])  # translation only
    assert disturbed > 0


def test_a_recording_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    options = ("--level", "0,I", "--workers", "1")
    whole = run(tmp_path / "whole", *options, episodes=6)
    run(tmp_path / "part", *options, episodes=3)
    with pytest.raises(DatasetError, match="pass --resume"):
        run(tmp_path / "part", *options, episodes=6)
    with pytest.raises(DatasetError, match="not of this plan"):
        run(tmp_path / "part", "--level", "II", "--resume", episodes=6)
    resumed = run(tmp_path / "part", *options, "--resume", episodes=6)
    assert [r.seed for r in resumed.rows] == [r.seed for r in whole.rows]
    np.testing.assert_array_equal(resumed.load_arrays().images, whole.load_arrays().images)


def test_failures_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    options = ("--level", "0", "--workers", "1", "--only-successes")
    reader = run(tmp_path / "set", *options, "--max-steps", "31", episodes=6)
    noted = json.loads((tmp_path / "set/meta/collection.json").read_text())
    assert all(row.success for row in reader.rows)
    assert noted["played"] == 6
    assert noted["kept"] == len(reader)
    assert noted["dropped"] == 6 - len(reader) > 0


def test_episodes_that_touch_something_can_be_dropped(tmp_path: Path) -> None:
    options = ("--level", "I", "--style", "mixed", "--direct-share", "0.5", "--workers", "1")
    limits = ("--max-steps", "150", "--only-safe")
    reader = run(tmp_path / "set", *options, *limits)
    assert [row.source for row in reader.rows] == ["expert:safe"] * 2
    assert not reader.load_arrays().cost.any()
    assert json.loads((tmp_path / "set/meta/collection.json").read_text())["dropped"] == 2


def test_the_plan_is_balanced_and_keeps_the_share_of_styles() -> None:
    plan = Collection(Path("out"), episodes=1200, style="mixed").plan()
    cells = collections.Counter((a.scene.task, a.scene.level) for a in plan)
    assert len(cells) == 12
    assert set(cells.values()) == {100}
    safe = collections.Counter((a.scene.task, a.scene.level) for a in plan if a.style == "safe")
    assert all(9 <= safe[cell] <= 11 for cell in cells)
    assert len({a.scene.seed for a in plan}) == 1200
    with pytest.raises(ConfigError, match="--direct-share is 1.5"):
        Collection(Path("out"), style="mixed", direct_share=1.5)
    with pytest.raises(ConfigError, match="--noise is 0.2"):
        Collection(Path("out"), noise=0.2)


def test_noise_comes_in_bursts_in_most_episodes() -> None:
    noisy, in_burst = 0, []
    for seed in range(200):
        bursts = NoiseBursts(0.02, seed)
        noise = np.array([bursts.draw() for _ in range(60)])
        active = np.any(noise != 0, axis=1)
        noisy += bool(active.any())
        if active.any():
            in_burst.append(active.mean())
    assert 115 <= noisy <= 160
    assert 0.1 < np.mean(in_burst) < 0.5
    disturbed = NoiseBursts(5.0, 3)
    for _ in range(60):
        assert np.all(np.abs(disturbed.disturb(np.zeros(7))[:3]) <= np.float32(MAX_DELTA_POSITION))


def test_only_a_wanted_episode_is_drawn_and_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = TabletopWorld(32, max_steps=6)
    drawn: list[int] = []
    draw = world._draw

    def watched(*words: Any) -> dict[str, np.ndarray]:
        drawn.append(world.steps)
        return draw(*words)

    monkeypatch.setattr(world, "_draw", watched)
    dropped = record_expert(world, "direct", CAN, wants=lambda episode: episode.succeeded)
    assert (drawn, dropped.images) == ([], {})
    kept = record_expert(world, "direct", CAN)
    assert drawn == [6] * 6
    assert len(kept.images["wrist"]) == 6
    assert not np.array_equal(kept.images["wrist"][0], kept.images["wrist"][5])
    np.testing.assert_array_equal(kept.actions, dropped.actions)


def test_without_noise_the_actions_are_the_experts() -> None:
    world = TabletopWorld(32, max_steps=5, render_images=False)
    episode = record_expert(world, "direct", Scene(7, "cube_on_plate", 0))
    np.testing.assert_array_equal(episode.actions, episode.extra["clean_action"])
    assert len(episode) == 5
    assert episode.images == {}


class Wanderer:
    """A policy that moves at random."""

    checkpoint_id = "wanderer"
    chunk_length = 4
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size = 32

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        assert generators is not None
        return np.stack([0.03 * torch.randn(4, 7, generator=g).numpy() for g in generators])


def test_rollouts_of_a_policy_do_not_depend_on_their_neighbours() -> None:
    vector = VectorWorld(32, max_steps=10)
    scenes = [Scene(1, "cube_on_plate", 1), Scene(2, "bowl_to_mark", 2)]
    both = record_policy(Wanderer(), vector, scenes, noise=0.01)
    alone = record_policy(Wanderer(), vector, scenes[1:], noise=0.01)
    assert both[1].source == "policy:wanderer"
    assert len(both[0]) == 10  # the last chunk is cut off at the limit
    np.testing.assert_array_equal(both[1].actions, alone[0].actions)
    np.testing.assert_array_equal(both[1].images["wrist"], alone[0].images["wrist"])
    assert not np.array_equal(both[1].images["wrist"][0], both[1].images["wrist"][9])


def test_an_expert_that_takes_over_finishes_what_the_policy_began() -> None:
    def takeovers(batch: int) -> list[Episode]:
        vector = VectorWorld(max_steps=250)
        episodes: list[Episode] = []
        for first in range(0, 2, batch):
            scenes = [Scene(seed, "cube_on_plate", 0) for seed in range(first, first + batch)]
            episodes += record_takeover(Wanderer(), vector, scenes, ["safe"] * batch, execute=2)
        return episodes

    together = takeovers(2)
    assert len(together) == 2
    assert all(episode.succeeded for episode in together)
    assert all(len(episode.images["wrist"]) == len(episode) for episode in together)
    assert {episode.source for episode in together} == {"takeover:wanderer:safe"}
    fresh = TabletopWorld(render_images=False)
    fresh.reset(seed=0, options={"task": "cube_on_plate", "level": 0})
    assert np.abs(together[0].state[0, :3] - fresh.state()[:3]).max() > 1e-3
    for one, other in zip(together, takeovers(1), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
