"""The lock has every package that is asked for, in range, with its hash, and names no server."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
SCRIPT = runpy.run_path(str(ROOT / "requirements/lock.py"))
LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_the_lock_pins_within_the_ranges_and_has_a_hash_each(lock: Path) -> None:
    _, *lines = lock.read_text().splitlines()
    pins = {m[1]: m[2] for line in lines if (m := LINE.fullmatch(line))}
    assert len(pins) == len(lines) > 100
    for text in SCRIPT["wanted"]():
        wanted = Requirement(text)
        if not SCRIPT["NOT_LOCKED"].fullmatch(wanted.name):
            assert wanted.specifier.contains(pins[canonical(wanted.name)]), text


def test_both_pythons_have_a_lock() -> None:
    assert [path.stem for path in LOCKS] == ["py3.11-x86_64", "py3.12-x86_64"]


def test_every_dependency_has_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # what LIBERO asks for is bounded by its own pinned version
    listed = [text for name, some in extras.items() if name != "libero" for text in some]
    for text in project["dependencies"] + listed:
        assert any(s.operator in ("<", "==", "<=") for s in Requirement(text).specifier), text
