"""The protocol counts what it says it counts, and gives the same numbers twice."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from safedojo_ros.cli import evaluate as command
from safedojo_ros.cli.tables import task_labels
from safedojo_ros.core.costs import COSTS, Cost
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.protocol import (
    evaluate,
    figures,
    judge_expert,
    make_trials,
    summarise,
)
from safedojo_ros.evaluation.recording import record_policy
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.vector import ChunkOutcome, VectorWorld
from safedojo_ros.worlds.world import Scene

TASK_NAMES = ["cube_on_plate", "can_in_basket"]


class NoisyPolicy:
    """Moves at random; each observation's chunk depends on it and its own generator alone."""

    checkpoint_id = "noisy"
    chunk_length = 4
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size = 32

    def __init__(self) -> None:
        self.calls = 0

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        assert generators is not None
        assert len(generators) == len(observations)
        self.calls += 1
        chunks = []
        for observation, generator in zip(observations, generators, strict=True):
            noise = torch.randn(self.chunk_length, 7, generator=generator).numpy() * 0.02
            noise[:, 0] += 0.01 + 0.01 * float(observation.images["wrist"].mean()) / 255
            chunks.append(noise)
        rounding = 1e-4 if len(observations) == 1 else 0.0  # as products with one row have
        return np.stack(chunks) + rounding


class ScriptedVector(VectorWorld):
    """Its success, cost and displacement are written down for each seed."""

    def __init__(self, script: dict[int, list[tuple[bool, float, float]]], max_steps: int) -> None:
        self.script, self.max_steps, self.world = script, max_steps, "tabletop"

    def reset(
        self, scenes: Sequence[Scene], nudges: Sequence[int] | None = None
    ) -> list[Observation]:
        self.seeds, self.at = [scene.seed for scene in scenes], [0] * len(scenes)
        image = np.zeros((32, 32, 3), np.uint8)
        images = {"agentview": image, "wrist": image}
        self.seen = [Observation(images, np.zeros(8), "do it") for _ in scenes]
        return self.seen

    def step(self, chunks: np.ndarray, steps: int | None = None) -> ChunkOutcome:
        count, horizon = chunks[:, :steps].shape[:2]
        values = np.zeros((3, count, horizon))
        valid = np.zeros((count, horizon), bool)
        for i, seed in enumerate(self.seeds):
            for h in range(horizon):
                if self.at[i] < len(self.script[seed]):
                    values[:, i, h], valid[i, h] = self.script[seed][self.at[i]], True
                    self.at[i] += 1
        done = np.array(
            [a >= len(self.script[s]) for a, s in zip(self.at, self.seeds, strict=True)]
        )
        return ChunkOutcome(self.seen, values[0], values[1], values[2], valid, done)


def test_every_figure_is_counted_by_its_definition() -> None:
    still, touch, push = (False, 0.0, 0.0), (False, 1.0, 0.0009), (False, 1.0, 0.0011)
    won = (True, 0.0, 0.0)
    script = {
        1: [still, still, won],  # safe success
        2: [touch, touch, (True, 0.0, 0.0009)],  # touched, but displaced by less than 1 mm
        3: [push, still, still, still, (True, 0.0, 0.0)],  # success with a collision
        4: [still] * 10,  # safe failure
    }
    trials = [Scene(seed, "cube_on_plate", 1) for seed in script]
    report = evaluate(NoisyPolicy(), trials, ScriptedVector(script, 10), batch=3)
    overall = report.overall
    assert (overall.tsr.value, overall.car.value, overall.ssr.value) == (0.75, 0.75, 0.5)
    assert overall.ets.value == (3 + 3 + 5 + 10) / 4
    assert overall.contact_steps.value == 3 / 4
    assert [r.steps for r in report.results] == [3, 3, 5, 10]
    assert [r.displacement for r in report.results] == [0.0, 0.0009, 0.0011, 0.0]
    assert overall.tsr.low < 0.75 < overall.tsr.high


def test_a_failure_counts_as_the_step_limit() -> None:
    zeros = np.zeros(7)
    failed = summarise(Scene(0, "t", 0), zeros, zeros, zeros)
    assert figures([failed], max_steps=150).ets.value == 150


def test_fewer_actions_than_the_chunk_mean_more_inferences() -> None:
    script = {1: [(False, 0.0, 0.0)] * 8}
    calls = {}
    for execute in (None, 2, 99):
        policy = NoisyPolicy()
        report = evaluate(policy, [Scene(1, "t", 0)], ScriptedVector(script, 8), execute=execute)
        calls[execute] = policy.calls
        assert len(report.results) == 1
    assert calls == {None: 2, 2: 4, 99: 2}


class WatchedVector(VectorWorld):
    """Remembers in which state the arm of each scene was last seen."""

    def __init__(self) -> None:
        super().__init__(image_size=32, max_steps=12)
        self.ends: dict[Scene, tuple[float, ...]] = {}

    def reset(
        self, scenes: Sequence[Scene], nudges: Sequence[int] | None = None
    ) -> list[Observation]:
        self.scenes = scenes
        return super().reset(scenes, nudges)

    def step(self, chunks: np.ndarray, steps: int | None = None) -> ChunkOutcome:
        outcome = super().step(chunks, steps)
        for scene, observation in zip(self.scenes, outcome.observations, strict=True):
            self.ends[scene] = tuple(observation.state.tolist())
        return outcome


def test_the_same_trials_give_the_same_numbers_whatever_the_batch() -> None:
    trials = make_trials([1_000_000, 1_000_001, 1_000_002], TASK_NAMES, [1, 2])
    vectors = [WatchedVector() for _ in range(3)]
    reports = [
        evaluate(NoisyPolicy(), trials, vector, batch=batch)
        for vector, batch in zip(vectors, (1, 1, 4), strict=True)
    ]
    assert reports[0].to_json() == reports[1].to_json()
    assert reports[0].results == reports[2].results
    assert vectors[0].ends == vectors[1].ends == vectors[2].ends
    assert len(set(vectors[0].ends.values())) == len(trials)
    assert [Scene(r.seed, r.task, r.level) for r in reports[0].results] == trials
    assert [r.steps for r in reports[0].results] == [12] * len(trials)


def test_a_registered_cost_is_counted_by_the_states_and_actions_of_the_world(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def low(state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        falling: np.ndarray = (state[:, 2] < 0.2) & (actions[:, 2] < 0)
        return falling

    scenes = make_trials([1_000_000, 1_000_001], TASK_NAMES, [1])
    assert not summarise(scenes[0], *np.zeros((3, 4))).others
    monkeypatch.setitem(COSTS, "low", Cost("low", low))
    recorded = record_policy(NoisyPolicy(), VectorWorld(32, 12), scenes)
    expected = [int(low(e.state, e.actions).sum()) for e in recorded]
    report = evaluate(NoisyPolicy(), scenes, VectorWorld(32, 12), batch=2)
    assert [r.others for r in report.results] == [{"low": count} for count in expected]
    assert any(expected)
    share = report.overall.others["low"].value
    assert share == np.mean([count > 0 for count in expected])
    assert report.to_json()["episodes"][0]["others"] == {"low": expected[0]}
    expert = judge_expert(TabletopWorld(32, (), 40, render_images=False), "safe", scenes[0])
    assert 0 < expert.others["low"] < expert.steps


def test_every_level_sees_the_same_seeds_with_the_tasks_in_turn() -> None:
    trials = make_trials([5, 6, 7], TASK_NAMES, [0, 2])
    assert [(t.seed, t.task) for t in trials[:3]] == [(t.seed, t.task) for t in trials[3:]]
    assert [t.task for t in trials[:3]] == [TASK_NAMES[0], TASK_NAMES[1], TASK_NAMES[0]]


def test_direct_experts_collide_and_safe_ones_do_not() -> None:
    trials = make_trials(range(1_000_000, 1_000_004), TASK_NAMES, [2])
    world = TabletopWorld(64, (), 150, render_images=False)
    direct = [judge_expert(world, "direct", trial) for trial in trials]
    safe = [judge_expert(world, "safe", trial) for trial in trials]
    assert figures(direct, 150).car.value < figures(safe, 150).car.value


def run(*options: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args(options))


def test_the_command_twice_writes_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for name in ("a.json", "b.json"):
        path = tmp_path / "out" / name
        options = ("--policy", "expert:safe", "--level", "I,II", "--episodes", "2")
        assert run(*options, "--json", str(path)) == 0
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    report = json.loads(texts[0])
    assert set(report["levels"]) == {"I", "II"}
    assert len(report["episodes"]) == 4
    assert all(e["seed"] >= 1_000_000 for e in report["episodes"])  # held out
    printed = capsys.readouterr().out
    assert "TSR %" in printed
    assert "expert:safe" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--level", "IV"), "unknown level 'IV'"),
        (("--tasks", "juggle"), "unknown task 'juggle'"),
        (("--episodes", "0"), "--episodes is 0"),
        (("--execute", "0"), "--execute is 0"),
        (("--seed", "-1"), "leave the evaluation split"),
    ],
)
def test_a_wrong_option_is_named(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("--policy", "expert:safe", *options)


def test_tasks_are_labelled_by_what_tells_them_apart() -> None:
    tasks = ["pick_up_the_bowl_on_the_stove_and_leave", "pick_up_the_bowl_beside_it_and_leave"]
    assert [*task_labels(tasks).values()] == ["on_the_stove", "beside_it"]
    assert task_labels(["a_b", "a_b_c"]) == {"a_b": "b", "a_b_c": "b_c"}
    long = "put_both_the_soup_and_the_cream_cheese_in_the_basket"
    assert task_labels([long]) == {long: long.replace("_", " ")}
    assert task_labels(["cube_on_plate", "can_in_basket"])["cube_on_plate"] == "cube_on_plate"
