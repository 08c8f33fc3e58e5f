"""A late policy: the old chunk is executed, the new one is joined on its own path."""

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
from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.latency import LatePolicy
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.worlds.tabletop.tasks import TASKS


def seen(count: int = 1) -> list[Observation]:
    return [Observation({}, np.zeros(8), "") for _ in range(count)]


def test_the_arm_stands_until_the_first_chunk_and_plays_each_to_the_next() -> None:
    late = LatePolicy(Proposer(0.1, 0.3, 0.3), latency=2, execute=4)  # type: ignore[arg-type]
    episode = [torch.Generator()]
    first = late.act(seen(), episode)[0]
    assert first[:4, 0] == pytest.approx([0.0, 0.0, 0.001, 0.001])
    assert first[:4, 6].tolist() == [-1.0, -1.0, 1.0, 1.0]
    second = late.act(seen(), episode)[0]
    assert second[:4, 0] == pytest.approx([0.001, 0.001, 0.003 + 2 * 0.002, 0.003])
    assert second[:4, 0].sum() == pytest.approx(4 * 0.003), "it ends where the chunk would have"
    assert late.act(seen(), episode)[0][:4, 0] == pytest.approx([0.003] * 4)


def test_episodes_do_not_share_what_is_being_played() -> None:
    late = LatePolicy(Proposer(0.1, 0.2), latency=1, execute=4)  # type: ignore[arg-type]
    one, other = torch.Generator(), torch.Generator()
    late.act(seen(), [one])
    both = late.act(seen(2), [one, other])
    assert both[0, 0, 0] == pytest.approx(0.001)
    assert both[1, 0, 0] == 0.0, "its first chunk has not come yet"


@pytest.mark.parametrize(("latency", "execute"), [(0, 4), (4, 4), (3, 6), (8, None)])
def test_what_does_not_fit_a_chunk_is_refused(latency: int, execute: int | None) -> None:
    with pytest.raises(ConfigError, match="chunk of 8"):
        LatePolicy(Proposer(), latency, execute)  # type: ignore[arg-type]


def test_the_command_plays_late_and_says_so(tmp_path: Path) -> None:
    policy = tiny_policy(0, [task.instruction for task in TASKS.values()])
    (tmp_path / "policy").mkdir()
    policy.save(tmp_path / "policy")
    CheckpointStore(tmp_path / "store").publish("policy", tmp_path / "policy", spec=policy.spec())
    parser = argparse.ArgumentParser()
    command.configure(parser)

    def figures(name: str, *more: str) -> dict[str, object]:
        out = tmp_path / f"{name}.json"
        common = [
            "--store",
            str(tmp_path / "store"),
            "--checkpoint",
            "latest",
            "--level",
            "0",
            "--episodes",
            "2",
        ]
        arguments = [*common, "--max-steps", "16", "--json", str(out), *more]
        assert command.run(parser.parse_args(arguments)) == 0
        read: dict[str, object] = json.loads(out.read_text())
        return read

    late = figures("late", "--latency", "2", "--execute", "4")
    assert late["settings"]["latency"] == 2  # type: ignore[index]
    assert late == figures("again", "--latency", "2", "--execute", "4")
    with pytest.raises(ConfigError, match="--latency is -1"):
        figures("wrong", "--latency", "-1")
