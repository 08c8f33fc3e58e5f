"""The interfaces are built by plain paths alone; other projects' CMake settings decide nothing."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ODD = "Öl (a&b) [1]"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py of a checkout with an odd path, whose Python and ROS lie in it."""
    specification = importlib.util.spec_from_file_location("builder", ROOT / "setup.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    checkout = tmp_path / ODD
    for name in module.SOURCES:
        source = ROOT / name
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).symlink_to(source)
    (checkout / "safedojo_ros/nodes").mkdir(parents=True)
    (checkout / "safedojo_ros/nodes/camera_node.py").touch()
    package = checkout / ".venv/lib/python3.11/site-packages/ament_package/__init__.py"
    monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.setattr(sys, "executable", str(checkout / ".venv/bin/python3.11"))
    monkeypatch.setitem(sys.modules, "ament_package", SimpleNamespace(__file__=str(package)))
    return module


def test_cmake_and_the_generators_see_plain_paths_alone(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    seen: dict[str, str] = {}

    def run(command: list[str], check: bool, env: Mapping[str, str]) -> None:
        assert check
        commands.append(command)
        seen.update(env)

    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / ODD / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ODD / "temporary"))
    with builder.plain_folder() as work:
        builder.run_cmake(work)
        arguments = [word.partition("=")[2] or word for words in commands for word in words]
        assert all(builder.PLAIN.fullmatch(word) for word in arguments if "/" in word)
        prefix = Path(seen["AMENT_PREFIX_PATH"])
        assert builder.PLAIN.fullmatch(str(prefix))
        assert prefix.resolve() == tmp_path / ODD / ".venv"
        source = Path(commands[0][commands[0].index("-S") + 1])
        assert {path.name for path in source.iterdir()} == {*builder.SOURCES, "safedojo_ros"}
        assert [p.name for p in source.glob("safedojo_ros/nodes/*")] == ["camera_node.py"]
        assert (source / "msg/ActionChunk.msg").is_file()


def test_plain_paths_stay_as_they_are(builder: ModuleType, tmp_path: Path) -> None:
    assert builder.plainly(Path("/opt/ros"), tmp_path / "link") == Path("/opt/ros")
    assert not (tmp_path / "link").exists()


def test_other_projects_cmake_settings_are_left_out(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "CMAKE_TOOLCHAIN_FILE": "/of/another.cmake",
        "CMAKE_PREFIX_PATH": "/opt/conda",
        "DESTDIR": "/elsewhere",
    }
    for name, value in settings.items() | {("CMAKE_BUILD_PARALLEL_LEVEL", "1"), ("CC", "clang")}:
        monkeypatch.setenv(name, value)
    environment = builder.cmake_environment(Path("/ros"), Path("/programs"))
    assert {"CMAKE_TOOLCHAIN_FILE", "DESTDIR"}.isdisjoint(environment)
    assert environment["CMAKE_PREFIX_PATH"] == "/ros"
    assert environment["PATH"].startswith("/programs:")
    assert (environment["CMAKE_BUILD_PARALLEL_LEVEL"], environment["CC"]) == ("1", "clang")
