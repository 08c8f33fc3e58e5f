"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from safedojo_ros.core.types import empty_scene
from safedojo_ros.models.served.policy import open_served

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUNS = {
    "practise.py": (["OUT"], "best policy: OUT/store/policy/"),
    "add_cost.py": (["OUT"], "behind the gate: fast near the person in "),
    "add_obstacle.py": ([], "with candles among the obstacles: TSR "),
    "add_reward.py": ([], "cube_centred: TSR "),
    "add_task.py": ([], "put the red cube in the basket: TSR 100%"),
    "evaluate_behind_the_gate.py": (["--episodes", "1", "--max-steps", "8"], "+gate: TSR"),
}

ELSEWHERE = {"policy_node.py", "serve_lerobot_pi0.py", "serve_policy.py"}
"""Run by test/nodes/test_external_policy.py, test/test_lerobot_pi0.py and below."""


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS) | ELSEWHERE


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    words, expected = RUNS[name]
    out = str(tmp_path / "out")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *(word.replace("OUT", out) for word in words)],
        env=os.environ | {"SAFEDOJO_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert expected.replace("OUT", out) in done.stdout
    assert not (tmp_path / "store").exists()


def test_the_server_answers_with_its_chunk() -> None:
    command = [sys.executable, str(EXAMPLES / "serve_policy.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            policy = open_served(server.stdout.readline().strip())
            chunk = policy.act([empty_scene(policy.cameras, policy.image_size)])[0]
            assert chunk.shape == (8, 7)
            assert chunk[:, 2] == pytest.approx(0.01)
            policy.close()
        finally:
            server.kill()
