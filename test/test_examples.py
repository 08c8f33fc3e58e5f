"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RUNS = {
    "practise.py": (["OUT"], "best policy: OUT/store/policy/"),
    "evaluate_behind_the_gate.py": (["--episodes", "1", "--max-steps", "8"], "+gate: TSR"),
}

ELSEWHERE = {"policy_node.py", "serve_lerobot_pi0.py"}
"""Run by test/nodes/test_external_policy.py and test/test_lerobot_pi0.py."""


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
