"""The stack's timing: the old chunk is executed, the new one is joined on its own path."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from proposer import Proposer

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli import evaluate as command
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ActionChunk, Observation
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.timing import TimedPolicy
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.robot.gate.gate import SLOW_FACTOR, GateConfig
from safedojo_ros.robot.playback.committed import CommittedActions
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS, steps_between
from safedojo_ros.worlds.tabletop.tasks import TASKS

MS = 1_000_000


def seen(count: int = 1) -> list[Observation]:
    return [Observation({}, np.zeros(8), "") for _ in range(count)]


class Heedless(Proposer):
    """A policy that has not learned that its chunks come late."""

    longest_delay = 0


class LengthHead:
    """P(contact) of a step is 100 times how far it goes in metres."""

    checkpoint_id, chunk_length, image_size = "length", 8, 64
    cameras = ("agentview", "wrist")
    cost_m, cost_limit = 4, 0.5

    def contexts(self, observations: list[Observation]) -> torch.Tensor:
        return torch.zeros(len(observations), 1)

    def judged(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        return np.clip(100 * actions[..., 0], 0.0, 1.0)


def gated(*script: float) -> GatedPolicy:
    config = GateConfig(release_after=1, detour_ratio=0.0)
    return GatedPolicy(Proposer(*script), LengthHead(), None, 1, config)  # type: ignore[arg-type]


def executed(policy: TimedPolicy, calls: int) -> np.ndarray:
    """(calls, execute, 2), how far each step goes, in cm, and the gripper."""
    episode = torch.Generator()
    chunks = np.stack([policy.act(seen(), [episode])[0] for _ in range(calls)])
    return chunks[..., [0, 6]] * [100, 1]


def test_the_arm_stands_until_the_first_chunk_and_executes_each_until_the_next_comes() -> None:
    proposer = Proposer(0.1, 0.3, 0.4)
    steps = executed(TimedPolicy(proposer, 2, 4), 3)
    np.testing.assert_allclose(
        steps[..., 0], [[0, 0, 0.1, 0.1], [0.1, 0.1, 0.3, 0.3], [0.3, 0.3, 0.4, 0.4]]
    )
    assert steps[0, :, 1].tolist() == [-1.0, -1.0, 1.0, 1.0]
    known = [np.round(100 * first[:, 0], 6).tolist() for first in proposer.committed]
    assert known == [[], [0.1, 0.1], [0.3, 0.3]], "what the arm then executed"


def test_a_chunk_that_begins_otherwise_is_led_back_to_where_it_would_be() -> None:
    heedless = Heedless(0.1, 0.3, 0.3)
    steps = executed(TimedPolicy(heedless, 2, 4), 3)[..., 0]
    assert [len(first) for first in heedless.committed] == [0, 0, 0], "it is told of nothing"
    np.testing.assert_allclose(steps[1], [0.1, 0.1, 0.3 + 2 * 0.2, 0.3])
    np.testing.assert_allclose(steps[2], [0.3] * 4)


def test_a_hold_stops_the_arm_when_it_comes_and_the_next_chunk_begins_with_its_first_action() -> (
    None
):
    policy = gated(0.1, 0.9, 0.2, 0.1)
    steps = executed(TimedPolicy(policy, 2, 4), 4)
    np.testing.assert_allclose(
        steps[..., 0],
        [[0, 0, 0.1, 0.1], [0.1, 0.1, 0, 0], [0, 0, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]],
    )
    assert steps[1:, :, 1].tolist() == [[1.0] * 4] * 3, "the gripper stays closed"
    lengths = [len(first) for first in policy.policy.committed]  # type: ignore[attr-defined]
    assert lengths == [0, 2, 0, 2], "an arm that stands executes nothing"
    assert policy.decisions == {"ALLOW": 3, "HOLD": 1}


def test_a_slowed_chunk_is_executed_as_it_is() -> None:
    steps = executed(TimedPolicy(gated(0.1, 0.4), 2, 4), 2)[..., 0]
    np.testing.assert_allclose(steps[1], [0.1, 0.1, 0.4 * SLOW_FACTOR, 0.4 * SLOW_FACTOR])


def test_a_chunk_that_comes_after_the_next_was_asked_for_is_executed_all_the_same() -> None:
    steps = executed(TimedPolicy(Proposer(0.1, 0.2, 0.3), 5, 3), 3)[..., 0]
    np.testing.assert_allclose(steps, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.1], [0.1, 0.1, 0.2 + 3 * 0.1]])


def test_episodes_do_not_share_what_is_being_executed() -> None:
    late = TimedPolicy(Proposer(0.1, 0.2), 1, 4)
    one, other = torch.Generator(), torch.Generator()
    late.act(seen(), [one])
    both = late.act(seen(2), [one, other])
    assert both[0, 0, 0] == pytest.approx(0.001)
    assert both[1, 0, 0] == 0.0, "its first chunk has not come yet"


@pytest.mark.parametrize("latency", [0, 8])
def test_what_does_not_fit_a_chunk_is_refused(latency: int) -> None:
    with pytest.raises(ConfigError, match="chunk of 8"):
        TimedPolicy(Proposer(), latency)


def test_the_stack_s_schedule_says_when_the_next_chunk_is_asked_for() -> None:
    assert [steps_between(8, latency) for latency in (1, 2, 3, 4)] == [4, 4, 3, 2]
    assert TimedPolicy(Proposer()).chunk_length == steps_between(8)


# ---------------------------------------------------------------- what is committed


def numbered(observed_at: int, sequence: int) -> ActionChunk:
    return ActionChunk(np.repeat(np.arange(8.0)[:, None], 7, 1), 0.05, observed_at, sequence)


def rows(committed: CommittedActions, stamp: int) -> list[int]:
    return [int(action[0]) for action in committed.after(stamp, 3)]


def test_a_moving_arm_goes_on_with_the_newest_chunk_wherever_that_is() -> None:
    committed = CommittedActions(0.05)
    assert committed.latency == LATENCY_STEPS
    committed.forwarded(numbered(1000 * MS, 1), 1070 * MS)
    committed.arm(True, 1095 * MS)
    committed.forwarded(numbered(1200 * MS, 2), 1270 * MS)
    assert committed.latency == 2
    assert rows(committed, 1400 * MS) == [4, 5]
    assert rows(committed, 1398 * MS) == rows(committed, 1402 * MS) == [4, 5], "stamps waver"
    assert rows(committed, 1550 * MS) == [7]
    assert rows(committed, 1600 * MS) == [], "it has come to its end"


def test_an_arm_that_stood_begins_with_the_first_action() -> None:
    committed = CommittedActions(0.05)
    committed.forwarded(numbered(1000 * MS, 1), 1071 * MS)
    assert rows(committed, 1200 * MS) == [2, 3]
    committed.forwarded(numbered(1900 * MS, 2), 1971 * MS)
    assert rows(committed, 2100 * MS) == [2, 3], "the chunk before had run out"


def test_an_arm_that_says_that_it_stands_executes_nothing() -> None:
    committed = CommittedActions(0.05)
    committed.forwarded(numbered(1000 * MS, 1), 1071 * MS)
    committed.arm(False, 1090 * MS)
    assert rows(committed, 1200 * MS) == [2, 3], "said before the chunk had come"
    committed.arm(False, 1140 * MS)
    assert rows(committed, 1200 * MS) == []
    committed.forwarded(numbered(1200 * MS, 2), 1271 * MS)
    assert rows(committed, 1400 * MS) == [2, 3]


def test_no_more_is_told_than_a_policy_knows_of() -> None:
    committed = CommittedActions(0.05)
    for sequence in range(3):
        committed.forwarded(numbered(1000 * MS, sequence), 1240 * MS)
    assert committed.latency == 5
    assert len(rows(committed, 1240 * MS)) == 3


# ---------------------------------------------------------------- the command


def test_the_command_has_the_stack_s_timing_unless_the_world_is_to_wait(tmp_path: Path) -> None:
    policy = tiny_policy(0, [task.instruction for task in TASKS.values()])
    (tmp_path / "policy").mkdir()
    policy.save(tmp_path / "policy")
    CheckpointStore(tmp_path / "store").publish("policy", tmp_path / "policy", spec=policy.spec())
    parser = argparse.ArgumentParser()
    command.configure(parser)

    def figures(name: str, *more: str) -> dict[str, object]:
        out = tmp_path / f"{name}.json"
        common = ["--store", str(tmp_path / "store"), "--checkpoint", "latest"]
        common += ["--level", "0", "--episodes", "2"]
        arguments = [*common, "--max-steps", "16", "--json", str(out), *more]
        assert command.run(parser.parse_args(arguments)) == 0
        read: dict[str, object] = json.loads(out.read_text())
        return read

    late = figures("late")["settings"]
    assert (late["latency"], late["execute"]) == (LATENCY_STEPS, 4)  # type: ignore[index]
    assert figures("two", "--latency", "3") == figures("again", "--latency", "3")
    instant = figures("instant", "--instant", "--execute", "2")["settings"]
    assert (instant["latency"], instant["execute"]) == (0, 2)  # type: ignore[index]
    with pytest.raises(ConfigError, match="--latency is -1"):
        figures("wrong", "--latency", "-1")
    with pytest.raises(ConfigError, match="--latency is not for --instant"):
        figures("wrong", "--latency", "1", "--instant")
