"""A world of another package, as docs/how-to/own-world.md shows it: registered, used by name."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.worlds.registry import open_world, world_kind, world_names

PAGE = (Path(__file__).resolve().parents[1] / "docs/how-to/own-world.md").read_text()
QUICKER = {"--episodes 40": "--episodes 3", "--preset tiny": "--preset smoke",
           "--episodes 20": "--episodes 2 --max-steps 8"}  # fmt: skip


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert found
    return found[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's package, where Python finds installed ones."""
    (tmp_path / "my_worlds.py").write_text(block("python"))
    made = tmp_path / "my_worlds-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: my-worlds\nVersion: 1.0\n")
    table = block("toml").replace('[project.entry-points."safedojo_ros.worlds"]', "").strip()
    broken = 'none = "my_worlds:Reach"\nlost = "no_such_module:A"'
    points = f"{table}\n{broken}".replace('"', "")
    (made / "entry_points.txt").write_text(f"[safedojo_ros.worlds]\n{points}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEDOJO_STORE", str(tmp_path / "store"))
    world_kind.cache_clear()
    yield tmp_path
    world_kind.cache_clear()
    sys.modules.pop("my_worlds", None)


def test_the_commands_of_the_page_run_on_it(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in block("bash").splitlines():
        line = command
        for slow, quick in QUICKER.items():
            line = line.replace(slow, quick)
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr()}"
    reader = EpisodeReader(Path("runs/reach"))
    assert [row.task for row in reader.rows] == ["reach"] * 3
    assert all(row.success for row in reader.rows)
    assert reader.cameras == ("front",)
    assert reader.rows[0].instruction == "go to the red disc"


def test_its_images_have_the_size_that_is_asked_for(installed: Path) -> None:
    world = open_world("reach", 32, ("front",), 5)
    first, _ = world.reset(seed=3)
    assert first["front"].shape == (32, 32, 3)
    again, _ = world.reset(seed=3)
    np.testing.assert_array_equal(first["front"], again["front"])
    for number in range(5):
        truncated = world.step(np.array([0.0] * 6 + [1.0]))[3]
        assert truncated == (number == 4)
    with pytest.raises(ConfigError, match="no camera"):
        open_world("reach", 32, ("wrist",), 5)


def test_what_is_registered_but_is_no_world_is_said(installed: Path) -> None:
    assert {"reach", "none", "lost"} < set(world_names())
    with pytest.raises(ConfigError, match="'none' .* is a type, expected a WorldKind"):
        world_kind("none")
    with pytest.raises(ConfigError, match="'lost' .* cannot be loaded: No module named"):
        world_kind("lost")
    with pytest.raises(ConfigError, match="'kitchen'; choose of tabletop, safe.*reach"):
        world_kind("kitchen")


def test_another_package_is_not_imported_before_its_world_is_asked_for(installed: Path) -> None:
    assert "reach" in world_names()
    assert "my_worlds" not in sys.modules
    world_kind("reach")
    assert "my_worlds" in sys.modules
