"""Practice on workers learns what it learns in one process, whoever dies."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_practice import SENTENCES, SMOKE, imagination, report, weights
from test_workers import killing, needs_ray

from safedojo_ros.evaluation.workers.processes import ProcessCrew
from safedojo_ros.evaluation.workers.ray_actors import RayCrew
from safedojo_ros.learning.rl import constrained_grpo
from safedojo_ros.learning.rl.imagined_world import keyframes_of
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.learning.rl.practice import Practice, PracticeConfig, for_method
from safedojo_ros.learning.rl.spread_rollouts import SpreadRollouts
from safedojo_ros.learning.rl.starts import KeyframeStarts
from safedojo_ros.models.flow_sde import StochasticFlow
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.pipeline.players import Players
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.vector import first_observations
from safedojo_ros.worlds.world import Scene

UPDATE = replace(SMOKE.update, dense_reward=True, least_spread=0.0, learning_rate=1e-4)
CONFIG = replace(SMOKE, updates=3, groups=3, group_size=4, evaluate_every=9, update=UPDATE)


def imagined(config: PracticeConfig) -> KeyframeStarts:
    scenes = [Scene(seed, next(iter(TASKS)), 1) for seed in range(4)]
    seen = first_observations("tabletop", scenes, 64, ("agentview", "wrist"))
    world = imagination()
    keyframes = keyframes_of(world.world_model, seen)
    return KeyframeStarts(world, keyframes, config.groups, config.group_size, 0)


class Practised:
    """Three updates; what was learned, and from which advantages."""

    def __init__(
        self,
        directory: Path,
        world: Callable[[PracticeConfig], Any],
        method: str = "safedojo",
        players: Players | None = None,
    ) -> None:
        config = for_method(CONFIG, METHODS[method])
        policy = StochasticFlow(tiny_policy(0, SENTENCES), config.flow)
        before = weights(policy.modules)
        workers = SpreadRollouts(players.hire, players.workers or 1) if players else None
        self.advantages: list[np.ndarray] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constrained_grpo, "group_advantage", self.recorded)
            practice = Practice(
                config,
                METHODS[method],
                policy,
                world(config),
                lambda policy: report(),
                directory,
                workers=workers,
            )
            assert practice.run().completed
        self.multiplier = practice.learner.multiplier.value
        self.metrics = practice.metrics
        self.learned = weights(policy.modules) - before

    def recorded(self, *args: Any) -> np.ndarray:
        self.advantages.append(ADVANTAGE(*args))
        return self.advantages[-1]

    def same(self, other: "Practised") -> None:
        assert len(self.advantages) == len(other.advantages) == 3
        for one, two in zip(self.advantages, other.advantages, strict=True):
            assert np.abs(one).max() > 0.1
            np.testing.assert_allclose(one, two, atol=1e-3)
        assert self.multiplier == pytest.approx(other.multiplier, abs=1e-6)
        rates = [[row["violations"] for row in run.metrics] for run in (self, other)]
        assert rates[0] == rates[1]
        # Adam's first steps have the sign of a gradient, also of one near 0
        assert self.learned.norm() > 0.01
        assert (self.learned - other.learned).norm() < 0.02 * self.learned.norm()


ADVANTAGE = constrained_grpo.group_advantage


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Practised:
    """By two workers, of whom one is killed."""
    with pytest.MonkeyPatch.context() as patch:
        killed = killing(patch, ProcessCrew, lambda self, worker: self.processes[worker].kill())
        made = Practised(tmp_path_factory.mktemp("processes"), imagined, players=Players(2))
    assert len(killed) == 3 * 4 + 1  # one figure before three updates of three groups, one twice
    return made


def test_two_workers_learn_in_imagination_what_one_process_learns_though_one_is_killed(
    tmp_path: Path, processes: Practised
) -> None:
    processes.same(Practised(tmp_path, imagined))


@needs_ray
def test_a_ray_of_two_workers_learns_the_weights_of_two_processes_though_one_is_killed(
    tmp_path: Path, processes: Practised, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    killed = killing(monkeypatch, RayCrew, lambda self, worker: ray.kill(self.actors[worker]))
    actors = Practised(tmp_path, imagined, players=Players(2, "local"))
    assert len(killed) == 3 * 4 + 1
    actors.same(processes)
    for one, two in zip(actors.advantages, processes.advantages, strict=True):
        np.testing.assert_array_equal(one, two)
    assert torch.equal(actors.learned, processes.learned)
    assert not ray.is_initialized()
