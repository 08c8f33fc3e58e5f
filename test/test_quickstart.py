"""Every shell block of the quickstart runs as it stands, with fewer and shorter episodes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "quickstart.md"
ELSEWHERE = ("./dojo demo",)
"""What test/nodes/test_demo.py runs."""
QUICKER = {
    "--episodes 8": "--episodes 1 --max-steps 6",
    "--episodes 4 --style safe": "--episodes 1 --style safe --tasks cube_on_plate --workers 1",
    "--chunks 2": "--chunks 1",
}


def blocks() -> list[list[str]]:
    """The commands of each block of bash."""
    found = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)
    return [block.replace("\\\n", " ").splitlines() for block in found]


@pytest.mark.parametrize("lines", blocks(), ids=lambda lines: lines[0])
def test_a_block_of_the_quickstart_runs(lines: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"SAFEDOJO_STORE": str(tmp_path / "store")}
    for line in lines:
        assert line.startswith("./dojo ")
        if line.startswith(ELSEWHERE):
            continue
        for slow, quick in QUICKER.items():
            line = line.replace(slow, quick)
        words = [sys.executable, "-m", "safedojo_ros.cli.main", *shlex.split(line)[1:]]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
