"""Every shell block of the quickstart and the tutorial runs, in the page's order, in one folder.

A block after `<!-- not run by the tests: REASON -->` is left out. The tutorial trains at the
preset `smoke` as it stands; `QUICKER` shortens what is long without it, and nothing else does.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from safedojo_ros.cli.main import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(?:<!-- not run by the tests: (.*?) -->\n+)?```bash\n(.*?)```", re.S)
QUICKER = {
    "--episodes 8 --json": "--episodes 1 --max-steps 6 --json",
    "--episodes 4 --style safe": "--episodes 1 --style safe --tasks cube_on_plate --workers 1",
    "--chunks 2": "--chunks 1",
    "--episodes 12 --style mixed": "--episodes 6 --workers 1 --style mixed",
    "--episodes 8 --linger": "--episodes 3 --linger",
    "--episodes 6 --linger": "--episodes 2 --linger",
    "--episodes 4 --max-steps": "--episodes 1 --max-steps",
}
MISSES_BARS = ("./dojo validate",)
"""Commands that the page says end with exit code 3 at `smoke`."""


def blocks(page: str) -> list[tuple[str, list[str]]]:
    """(why it is not run, its commands) of each block of bash."""
    found = BLOCK.findall((DOCS / page).read_text())
    return [(why, block.replace("\\\n", " ").splitlines()) for why, block in found]


@pytest.mark.parametrize("page", ["quickstart.md", "tutorial.md"])
def test_every_block_of_a_page_runs_as_it_stands(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEDOJO_STORE", str(tmp_path / "store"))
    commands = [line for why, lines in blocks(page) if not why for line in lines]
    assert len(commands) >= 5
    for command in commands:
        line = command
        for slow, quick in QUICKER.items():
            line = line.replace(slow, quick)
        if "policies/N" in line:  # the page tells the reader to put the number of the best policy
            best = json.loads(Path("runs/practice/practice.json").read_text())["policy"]
            line = line.replace("policies/N", best)
        program, *words = shlex.split(line)
        assert program == "./dojo"
        code = main(words)
        expected = 3 if command.startswith(MISSES_BARS) else 0
        assert code == expected, f"{line}\n{capsys.readouterr()}"


def test_a_block_is_left_out_only_where_it_opens_a_browser() -> None:
    """test/nodes/test_demo.py runs the demonstration, without one."""
    left_out = [(why, lines) for page in ("quickstart.md", "tutorial.md")
                for why, lines in blocks(page) if why]  # fmt: skip
    assert left_out == [("it opens a browser", ["./dojo demo --episodes 2"])]


def test_every_shortening_is_of_a_command_that_is_there() -> None:
    text = "\n".join(
        line for page in ("quickstart.md", "tutorial.md") for _, b in blocks(page) for line in b
    )
    assert not [slow for slow in QUICKER if slow not in text]
