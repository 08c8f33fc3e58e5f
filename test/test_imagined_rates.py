"""Imagined against measured rates: the same scenes, honest gaps, ranks as they are defined."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.types import Episode, Observation
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.fidelity.imagined_rates import (
    Outcomes,
    imagine_trials,
    mean_maximum_rank_violation,
    ranking,
    rates_apart,
    read_measured,
    read_played,
    success_scores,
)
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
from safedojo_ros.learning.success import match_rate
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.success_classifier import tiny_success
from safedojo_ros.models.world_model import WorldModel, WorldModelSize
from safedojo_ros.worlds.world import Scene

TRIALS = [Scene(900_000 + k, "cube_on_plate", k % 3) for k in range(3)]


class Still:
    """Never moves; knows what it was asked."""

    checkpoint_id = "still"
    chunk_length = 8
    image_size = 64
    cameras: tuple[str, ...] = ("agentview", "wrist")

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        self.seen += observations
        return np.zeros((len(observations), self.chunk_length, 7))


def episode(seed: int, source: str, success: bool) -> Episode:
    return Episode(
        images={"agentview": np.zeros((3, 64, 64, 3), np.uint8)},
        state=np.zeros((3, 8), np.float32),
        actions=np.zeros((3, 7), np.float32),
        success=np.array([False, False, success]),
        cost=np.zeros(3, np.float32),
        displacement=np.zeros(3, np.float32),
        instruction="put the red cube on the plate",
        task="cube_on_plate",
        level=1,
        seed=seed,
        source=source,
    )


def outcomes(success: str, collided: str) -> Outcomes:
    return Outcomes(*(np.array([c == "1" for c in text]) for text in (success, collided)))


def world(contact_threshold: float, success_threshold: float) -> ImaginedWorld:
    safety, success = tiny_safety(), tiny_success()
    size = WorldModelSize(2, 16, 2, feed_forward=64, stride=2, denoising_steps=1)
    success.threshold = success_threshold
    safety.contact_threshold = contact_threshold
    model = WorldModel(safety.autoencoder, size, safety.scales)
    return ImaginedWorld(model, success, safety, max_steps=16)


def test_rates_are_counted_as_in_the_protocol() -> None:
    mixed = outcomes("1100", "0101")
    assert mixed.rate("tsr").tolist() == [1, 1, 0, 0]
    assert mixed.rate("ssr").tolist() == [1, 0, 0, 0]
    assert mixed.rate("car").tolist() == [1, 0, 1, 0]


def test_rates_that_differ_are_apart_by_their_difference() -> None:
    imagined, measured = outcomes("1" * 20, "0" * 20), outcomes("1" * 15 + "0" * 5, "0" * 20)
    gaps = rates_apart(imagined, measured)
    assert gaps["tsr"]["apart"]["value"] == pytest.approx(0.25)
    assert gaps["tsr"]["difference"]["value"] == pytest.approx(0.25)
    assert gaps["tsr"]["apart"]["low"] > 0
    assert gaps["car"]["apart"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_mmrv_is_the_measured_gap_of_swapped_ranks() -> None:
    measured = np.array([0.1, 0.4, 0.8])
    assert mean_maximum_rank_violation(np.array([0.2, 0.3, 0.9]), measured) == 0.0
    swapped = mean_maximum_rank_violation(np.array([0.3, 0.2, 0.9]), measured)
    assert swapped == pytest.approx((0.3 + 0.3 + 0.0) / 3)


def test_checkpoints_are_ranked_and_two_are_needed() -> None:
    rates = [2, 6, 11, 14, 19]
    measured = [outcomes("1" * k + "0" * (20 - k), "0" * 20) for k in rates]
    agreeing = ranking(list("abcde"), measured, measured)
    assert agreeing["spearman"]["value"] == pytest.approx(1.0)
    assert agreeing["pearson"]["value"] == pytest.approx(1.0)
    assert agreeing["mmrv"]["value"] == 0.0
    turned = ranking(list("abcde"), measured[::-1], measured)
    assert turned["spearman"]["value"] == pytest.approx(-1.0)
    assert turned["mmrv"]["value"] > 0.4
    assert "spearman" not in ranking(["a", "b"], measured[:1] * 2, measured[:2])
    with pytest.raises(ConfigError, match="give at least two"):
        ranking(["a"], measured[:1], measured[:1])


def test_measured_trials_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    episode = {"seed": 7, "task": "cube_on_plate", "level": 2, "success": True, "collided": False}
    report = {"policy": "p1", "settings": {"max_steps": 150}, "episodes": [episode]}
    path.write_text(json.dumps(report))
    policy, trials, result = read_measured(path, 150)
    assert (policy, trials) == ("p1", [Scene(7, "cube_on_plate", 2)])
    assert result.rate("ssr").tolist() == [1.0]
    with pytest.raises(ConfigError, match="validation.max_steps=150"):
        read_measured(path, 100)
    path.write_text("{}")
    with pytest.raises(DatasetError, match="measured.json is not what"):
        read_measured(path, 150)


def test_a_future_begins_at_its_trials_first_frame_and_is_judged_by_both_heads() -> None:
    policy: Any = Still()
    everything = imagine_trials(policy, world(1e-6, 1e-6), TRIALS)
    assert everything.success.all()
    assert everything.collided.all()
    nothing = imagine_trials(policy, world(1 - 1e-6, 1 - 1e-6), TRIALS)
    assert not nothing.success.any()
    assert not nothing.collided.any()
    assert {o.instruction for o in policy.seen} == {"put the red cube on the plate"}
    first = policy.seen[:3]
    assert len({o.state.tobytes() for o in first}) == 3
    assert len({o.images["agentview"].tobytes() for o in first}) == 3


def test_as_many_futures_succeed_as_trials_did() -> None:
    policy: Any = Still()
    imagined = world(0.5, 0.5)
    for wanted in ([True, False, False], [True, True, False]):
        scores = success_scores(policy, imagined, TRIALS)
        match_rate(imagined.success, scores, np.array(wanted), policy.checkpoint_id)
        assert imagine_trials(policy, imagined, TRIALS).success.sum() == sum(wanted)
        chosen = imagined.success.imagined_threshold
        assert imagined.success.validation["imagined_threshold"] == chosen
        assert imagined.success.validation["matched"]["success"] == pytest.approx(np.mean(wanted))
    assert imagined.success.threshold == 0.5  # that of recorded frames


def test_trials_of_a_policy_are_read_from_what_it_played(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "data", 64, ("agentview",)) as writer:
        for seed, source in enumerate(("policy:a", "expert:safe", "policy:b", "policy:a")):
            writer.add(episode(seed, source, success=seed == 3))
    trials, success = read_played(tmp_path / "data", "a")
    assert [trial.seed for trial in trials] == [0, 3]
    assert success.tolist() == [False, True]
    with pytest.raises(DatasetError, match="has no episode of policy c"):
        read_played(tmp_path / "data", "c")


def test_chunks_of_another_length_are_refused() -> None:
    policy: Any = Still()
    policy.chunk_length = 4
    with pytest.raises(ConfigError, match="chunks of 4 steps, the world model imagines 8"):
        imagine_trials(policy, world(0.5, 0.5), TRIALS)
