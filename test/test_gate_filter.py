"""The gate before the world: what is executed, proposed, held; neighbours have no say."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from proposer import Proposer

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli import collect
from safedojo_ros.cli import evaluate as command
from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN
from safedojo_ros.core.types import Observation
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.filters.zones import SurveyedObservation, SurveyedWorld
from safedojo_ros.evaluation.protocol import evaluate, make_trials
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.robot.gate.detour import MEMORY
from safedojo_ros.robot.gate.gate import SLOW_FACTOR, GateConfig
from safedojo_ros.robot.gate.zones import PointSource, Surroundings, Zones, ZonesConfig
from safedojo_ros.worlds.tabletop.scene import THINGS
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

SENTENCES = tuple(task.instruction for task in TASKS.values())
CAMERAS = ("agentview", "wrist")
LIMIT = 0.5


class FormulaHead:
    """P(contact) of a step is 100 times how far it goes in metres."""

    checkpoint_id, chunk_length, image_size, cameras = "formula", 8, 64, CAMERAS
    cost_m, cost_limit = 4, LIMIT

    def contexts(self, observations: list[Observation]) -> torch.Tensor:
        return torch.zeros(len(observations), 1)

    def judged(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        assert len(contexts) == len(observations) == len(actions)
        return np.clip(100 * actions[..., 0], 0.0, 1.0)


def seen(count: int = 1) -> list[Observation]:
    picture = np.zeros((64, 64, 3), np.uint8)
    return [
        Observation(dict.fromkeys(CAMERAS, picture), np.zeros(8), SENTENCES[0])
        for _ in range(count)
    ]


def gated(*script: float, proposals: int = 1, execute: int | None = None) -> GatedPolicy:
    config = GateConfig(release_after=1, detour_ratio=0.0)
    return GatedPolicy(Proposer(*script), FormulaHead(), execute, proposals, config)  # type: ignore[arg-type]


def moves(policy: GatedPolicy, calls: int) -> list[float]:
    """What each chunk of one episode moves in its first step, in cm."""
    generator = torch.Generator()
    return [round(100 * policy.act(seen(), [generator])[0, 0, 0], 6) for _ in range(calls)]


def test_a_chunk_is_played_slowed_or_held_by_its_cost() -> None:
    policy = gated(0.1, 0.4, 0.6, 0.1, 0.1)
    assert moves(policy, 5) == [0.1, 0.4 * SLOW_FACTOR, 0.0, 0.1, 0.1]
    assert policy.decisions == {"ALLOW": 3, "SLOW": 1, "HOLD": 1}


def test_a_hold_is_kept_until_the_cost_has_stayed_low_as_on_the_robot() -> None:
    config = GateConfig(detour_ratio=0.0)
    policy = GatedPolicy(Proposer(0.6, 0.1, 0.1, 0.1), FormulaHead(), None, 1, config)  # type: ignore[arg-type]
    assert moves(policy, 4) == [0.0, 0.0, 0.0, 0.1]


def test_a_stop_lasts_to_the_end_of_its_episode_and_not_longer() -> None:
    policy = gated(0.99, 0.1, 0.1, 0.1)
    assert moves(policy, 3) == [0.0, 0.0, 0.0]
    assert policy.decisions == {"STOP": 3}
    assert moves(policy, 1) == [0.1]


def test_the_first_proposal_that_passes_is_played() -> None:
    policy = gated(0.9, 0.2, 0.7, 0.1, proposals=3)
    assert moves(policy, 1) == [0.2]
    assert policy.proposed == 2
    assert policy.policy.script == [0.1], "three chunks of one inference"  # type: ignore[attr-defined]


def test_where_none_passes_the_cheapest_is_judged() -> None:
    policy = gated(0.9, 0.4, 0.7, proposals=3)
    assert moves(policy, 1) == [0.4 * SLOW_FACTOR]
    policy = gated(0.9, 0.8, 0.7, proposals=3)
    assert moves(policy, 1) == [0.0]


def test_a_chunk_that_would_not_pass_takes_a_detour_where_there_is_one() -> None:
    config = GateConfig(detour_ratio=0.6)
    policy = GatedPolicy(Proposer(0.6, 0.1), FormulaHead(), None, 1, config)  # type: ignore[arg-type]
    generator = torch.Generator()
    around, straight = (policy.act(seen(), [generator])[0] for _ in range(2))
    assert around[0, 0] < 0.3 * LIMIT / 100 < straight[0, 0] + 0.001
    assert straight[0, 0] == pytest.approx(0.001)
    assert around[0, 6] == 1.0
    assert (policy.decisions, policy.detours) == ({"ALLOW": 2}, 1)
    assert policy.checkpoint_id == "proposer+detour"


def test_while_it_holds_the_gripper_stays_as_it_was_played_last() -> None:
    generator = torch.Generator()
    policy = gated(0.9, 0.1, 0.9, execute=4)
    chunks = [policy.act(seen(), [generator])[0] for _ in range(3)]
    assert [float(chunk[0, 6]) for chunk in chunks] == [-1.0, 1.0, 1.0]
    assert not chunks[2][:, :6].any()


def test_a_head_for_other_chunks_or_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 proposals"):
        gated(proposals=0)
    with pytest.raises(ConfigError, match="a memory of 0 frames"):
        GatedPolicy(Proposer(), FormulaHead(), memory=0)  # type: ignore[arg-type]
    for name, value in (("chunk_length", 4), ("image_size", 32), ("cameras", ("side",))):
        head = FormulaHead()
        setattr(head, name, value)
        with pytest.raises(CheckpointError, match="formula"):
            GatedPolicy(Proposer(), head)  # type: ignore[arg-type]


def test_a_head_may_see_larger_pictures_than_the_policy() -> None:
    safety = tiny_safety(image_size=128)
    policy = GatedPolicy(tiny_policy(0, SENTENCES), safety, 4, 2)
    trials = make_trials([1_000_000], list(TASKS)[:1], [1])
    report = evaluate(policy, trials, VectorWorld(128, max_steps=8), execute=4)
    assert sum(policy.decisions.values()) == 2
    assert len(report.results) == 1


@pytest.mark.parametrize(("ratio", "memory"), [(0.0, 1), (0.6, 1), (0.6, 3)])
def test_neither_neighbours_nor_the_size_of_the_batch_have_a_say(ratio: float, memory: int) -> None:
    trials = make_trials([1_000_000, 1_000_001, 1_000_002], list(TASKS)[:2], [2])
    safety = tiny_safety()
    safety.cost_limit = 0.5
    results, decisions = [], []
    for batch in (1, 3):
        config = GateConfig(detour_ratio=ratio)
        policy = GatedPolicy(tiny_policy(0, SENTENCES), safety, 4, 2, config, memory)
        report = evaluate(policy, trials, VectorWorld(max_steps=12), execute=4, batch=batch)
        results.append(report.results)
        decisions.append(dict(policy.decisions))
    assert results[0] == results[1]
    assert decisions[0] == decisions[1]
    assert sum(decisions[0].values()) == 3 * 3


def frames_seen(policy: GatedPolicy, episode: torch.Generator) -> int:
    remembered = policy._episode(episode).judge._memory
    assert remembered is not None
    return len(remembered[1]._seen)  # type: ignore[attr-defined]


def test_a_memory_is_of_one_episode_and_asked_by_its_earlier_pictures() -> None:
    safety = tiny_safety()
    policy = GatedPolicy(Proposer(*[0.1] * 3), safety, None, 1, memory=4)
    first, other = torch.Generator(), torch.Generator()
    for generator in (first, other, first):
        policy.act(seen(), [generator])
    assert [frames_seen(policy, generator) for generator in (first, other)] == [2, 1]
    policy = GatedPolicy(Proposer(*[0.1] * 2), safety, None, 1, memory=1)
    for _ in range(2):
        policy.act(seen(), [first])
    assert frames_seen(policy, first) == 1, "the newest alone"


def small_store(root: Path) -> Path:
    """A store with a policy and a safety head."""
    for part, model in (("policy", tiny_policy(0, SENTENCES)), ("safety", tiny_safety())):
        (root / part).mkdir()
        model.save(root / part)
        CheckpointStore(root / "store").publish(part, root / part, spec=model.spec())
    return root / "store"


@pytest.mark.parametrize("kind", ["gate", "detour"])
def test_the_command_says_how_the_gate_decided(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    options = [
        "--store", str(small_store(tmp_path)), "--filter", kind, "--level", "I", "--episodes", "2",
        "--checkpoint", "latest", "--safety", "latest",
        "--max-steps", "16", "--proposals", "2", "--json", str(tmp_path / "gate.json"),
    ]  # fmt: skip
    assert command.run(parser.parse_args(options)) == 0
    report = json.loads((tmp_path / "gate.json").read_text())
    assert report["policy"].endswith(f"+{kind}")
    gate = report["settings"]["gate"]
    assert gate["memory"] == MEMORY
    assert sum(gate["decisions"].values()) == 8  # two episodes of four chunks
    assert 8 <= gate["proposed"] <= 16
    assert (gate["detours"] is None) == (kind == "gate")
    said = capsys.readouterr().out
    assert "% of 8 chunks" in said
    assert ("% detours" in said) == (kind == "detour")
    film = [*options[:4], "--filter", "cbf-oracle", "--film", str(tmp_path / "x.png")]
    with pytest.raises(ConfigError, match="without the oracle"):
        command.run(parser.parse_args(film))


@pytest.mark.parametrize(("kind", "take_over"), [("cbf", False), ("detour", False), ("gate", True)])
def test_episodes_behind_a_filter_are_recorded_as_its(
    kind: str, take_over: bool, tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    collect.configure(parser)
    options = [
        "--store", str(small_store(tmp_path)), "--policy", "latest", "--filter", kind,
        "--episodes", "2", "--level", "I", "--execute", "8",
        *(["--safety", "latest"] if kind != "cbf" else []),
        "--max-steps", "96" if take_over else "24",
        *(["--take-over"] if take_over else []),
    ]  # fmt: skip
    assert collect.run(parser.parse_args(["--out", str(tmp_path / "data"), *options])) == 0
    reader = EpisodeReader(tmp_path / "data")
    part = "takeover" if take_over else "policy"
    assert len(reader) == 2
    for row in reader.rows:
        assert row.source.startswith(f"{part}:")
        assert f"+{kind}" in row.source
    assert take_over or [row.length for row in reader.rows] == [24, 24]
    assert not take_over or all(8 < row.length < 96 for row in reader.rows)
    if kind != "cbf":
        odd = [*options, "--proposals", "0"]
        with pytest.raises(ConfigError, match="--proposals is 0"):
            collect.run(parser.parse_args(["--out", str(tmp_path / "odd"), *odd]))


def test_a_filter_stands_before_a_policy_not_before_an_expert(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    collect.configure(parser)
    with pytest.raises(ConfigError, match="--filter needs --policy"):
        collect.run(parser.parse_args(["--out", str(tmp_path / "data"), "--filter", "cbf"]))


# ---------------------------------------------------------------- forbidden zones


def surveyed(*points: tuple[float, float, float]) -> SurveyedObservation:
    plain = seen()[0]
    state = np.array([0.0, 0.0, 0.2, *POINTING_DOWN, 0.04, 0.04])
    around = Surroundings(np.array(points).reshape(-1, 3), 0)
    return SurveyedObservation(plain.images, state, plain.instruction, around=around)


def test_zones_hold_beside_a_head_and_without_one() -> None:
    zones, config = Zones(ZonesConfig(points=PointSource())), GateConfig(detour_ratio=0.0)
    for head in (FormulaHead(), None):
        policy = GatedPolicy(Proposer(*[0.1] * 3), head, None, 1, config, zones=zones)  # type: ignore[arg-type]
        near, far = surveyed((0.07, 0.0, 0.27)), surveyed((0.5, 0.0, 0.27))
        executed = [policy.act([o], [torch.Generator()])[0, 0, 0] for o in (near, far)]
        assert executed == [0.0, pytest.approx(0.001)]
        assert (policy.entered, policy.decisions) == (1, {"HOLD": 1, "ALLOW": 1})
    assert policy.checkpoint_id == "proposer+zones"
    with pytest.raises(ConfigError, match="SurveyedWorld"):
        policy.act(seen(), [torch.Generator()])


def test_the_simulators_points_lie_on_the_obstacle_wherever_it_is() -> None:
    vector = SurveyedWorld(VectorWorld(64, 10, ()))
    first = vector.reset([Scene(5, "cube_on_plate", 3), Scene(5, "cube_on_plate", 0)])
    later = vector.step(np.zeros((2, 10, 7))).observations
    for observation in (first[0], later[0]):
        assert isinstance(observation, SurveyedObservation)
        assert observation.around.points is not None
        low, high = observation.around.points.min(0), observation.around.points.max(0)
        thing = THINGS[vector.worlds[0].obstacle]
        expected = (2 * thing.radius, 2 * thing.radius, thing.height)
        np.testing.assert_allclose(high - low, expected, atol=2e-3)
    world = vector.worlds[0]
    np.testing.assert_allclose(
        (low + high)[:2] / 2, world.thing_position(world.obstacle)[:2], atol=2e-3
    )
    assert isinstance(later[1], SurveyedObservation)
    assert later[1].around.points is not None
    assert len(later[1].around.points) == 0, "Level 0 has no obstacle"


def test_the_zones_of_a_file_are_evaluated_with_the_gates_own_figures(tmp_path: Path) -> None:
    store = str(small_store(tmp_path))
    file = tmp_path / "zones.toml"
    file.write_text("[points]\nstop = 0.3\nslow = 0.3\n")
    out = tmp_path / "figures.json"
    parser = argparse.ArgumentParser()
    command.configure(parser)
    options = ["--level", "III", "--episodes", "1", "--max-steps", "16", "--filter", "zones"]
    options += ["--zones", str(file), "--store", store, "--json", str(out)]
    assert command.run(parser.parse_args(options)) == 0
    report = json.loads(out.read_text())
    assert [e["level"] for e in report["episodes"]] == [3]
    assert report["settings"]["gate"]["entered"] == report["settings"]["gate"]["decisions"]["HOLD"]
    assert report["settings"]["gate"]["entered"] > 0
    with pytest.raises(ConfigError, match="--filter zones needs --zones"):
        command.run(parser.parse_args(["--filter", "zones"]))
    with pytest.raises(ConfigError, match="--zones is of --filter gate, detour and zones"):
        command.run(parser.parse_args(["--zones", str(file)]))
    with pytest.raises(ConfigError, match="the tabletop's obstacles only"):
        command.run(parser.parse_args([*options, "--world", "safelibero-spatial"]))
