"""Tests of running nodes are run once more when they fail, with everything made anew."""

import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
from pathlib import Path
import pytest

MADE = Path(__file__).with_name("made")

@pytest.fixture(scope="module")
def stack():
    with MADE.open("a") as file:
        file.write("made ")
    yield {}
    with MADE.open("a") as file:
        file.write("ended ")

def test_first(stack):
    pass

def test_poisoned(stack):
    late = MADE.read_text().count("made") == 1
    stack["poison"] = True
    assert not late, "too late this time"

def test_after(stack):
    assert "poison" in stack, "the stack of the second run is used on"
"""


def run(folder: Path, tests: str, room: str = "nodes") -> tuple[str, int]:
    """What pytest says of `tests` in a folder of that name beside the conftest of all tests."""
    shutil.copy(CONFTEST, folder)
    (folder / room).mkdir()
    (folder / room / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", room]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return result.stdout, result.returncode


def test_a_failed_test_is_run_again_with_its_module_s_fixtures_made_anew(tmp_path: Path) -> None:
    output, code = run(tmp_path, TESTS)
    assert code == 0, output
    assert (tmp_path / "nodes/made").read_text() == "made ended made ended "
    assert "3 passed, 1 rerun" in output
    assert "run again: nodes/test_it.py::test_poisoned" in output
    assert "too late this time" in output


def test_what_fails_twice_fails(tmp_path: Path) -> None:
    output, code = run(tmp_path, "def test_wrong():\n    assert False\n")
    assert code == 1
    assert "1 failed, 1 rerun" in output


def test_a_test_without_nodes_is_run_once(tmp_path: Path) -> None:
    output, code = run(tmp_path, "def test_wrong():\n    assert False\n", "others")
    assert code == 1
    assert "rerun" not in output


def test_what_the_fixtures_leave_behind_counts_and_is_tried_again(tmp_path: Path) -> None:
    fixture = "import pytest\n@pytest.fixture(scope='module')\ndef stack():\n    yield\n"
    fixture += "    assert False, 'left behind'\n"
    output, code = run(tmp_path, fixture + "def test_it(stack):\n    pass\n")
    assert code == 1
    assert "left behind" in output
    assert "1 passed, 1 error, 1 rerun" in output


def test_a_run_in_which_much_fails_is_not_run_again_for_ever(tmp_path: Path) -> None:
    tests = "import pytest\n@pytest.mark.parametrize('n', range(9))\n"
    output, code = run(tmp_path, tests + "def test_wrong(n):\n    assert False\n")
    assert code == 1
    assert "9 failed, 3 rerun" in output
