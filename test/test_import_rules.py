"""The rooms of the package know only the rooms that they may know (design, section 2)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "safedojo_ros"
ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"msg", "srv", "action"}
ROS = {"rclpy", f"{PACKAGE}.msg", f"{PACKAGE}.srv", f"{PACKAGE}.action"}
ROS |= {f"{name}_msgs" for name in ("std", "sensor", "geometry", "visualization", "diagnostic")}
ROS |= {"lifecycle_msgs", "trajectory_msgs", "builtin_interfaces", "std_srvs", "cv_bridge"}
ROS |= {"rosgraph_msgs", "tf2_ros", "tf2_msgs", "launch", "launch_ros", "ament_index_python"}

ROOMS = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")} - GENERATED
FORBIDDEN = {
    "core": {"torch", *(f"{PACKAGE}.{room}" for room in ROOMS - {"core"})},
    "robot": {"torch", f"{PACKAGE}.models", f"{PACKAGE}.learning"},
    "models": {f"{PACKAGE}.worlds", f"{PACKAGE}.learning"},
    "worlds": {f"{PACKAGE}.models"},
    "data": {f"{PACKAGE}.worlds", f"{PACKAGE}.models", f"{PACKAGE}.learning"},
    "evaluation": {f"{PACKAGE}.learning", f"{PACKAGE}.fidelity"},
    "learning": {f"{PACKAGE}.fidelity"},
}
EDGES = {"pipeline": {"nodes", "cli"}, "nodes": {"cli"}, "cli": set()}
"""The upper rooms, each with those that may import it; no other room does."""
for room in ROOMS:
    above = {edge for edge, users in EDGES.items() if room not in users | {edge}}
    FORBIDDEN[room] = FORBIDDEN.get(room, set()) | {f"{PACKAGE}.{edge}" for edge in above}
MAY_USE_ROS = {"nodes"}


def source_files() -> list[Path]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return [file for file in files if file.relative_to(ROOT / PACKAGE).parts[0] not in GENERATED]


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / PACKAGE).parts[0]


def imported_names(source: str, module: str) -> set[str]:
    """Dotted names of everything that `source`, the text of `module`, imports at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            called = getattr(function, "attr", getattr(function, "id", ""))
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def breaches(names: set[str], forbidden: set[str]) -> set[str]:
    return {n for n in names if any(n == bad or n.startswith(f"{bad}.") for bad in forbidden)}


def names_in(file: Path) -> set[str]:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return imported_names(file.read_text(), module)


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_a_room_imports_nothing_that_it_must_not_know(room: str) -> None:
    found = {
        str(file.relative_to(ROOT)): bad
        for file in source_files()
        if room_of(file) == room and (bad := breaches(names_in(file), FORBIDDEN[room]))
    }
    assert not found


def test_only_nodes_import_ros() -> None:
    found = {
        str(file.relative_to(ROOT)): bad
        for file in source_files()
        if room_of(file) not in MAY_USE_ROS and (bad := breaches(names_in(file), ROS))
    }
    # The doctor's trade is to look whether they can be imported.
    found.pop(f"{PACKAGE}/cli/doctor.py", None)
    assert not found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", {"torch.nn"}),
        ("from torch import nn", {"torch"}),
        ("def late():\n    from torch import nn", {"torch"}),
        ("from safedojo_ros import models", {f"{PACKAGE}.models"}),
        ("from safedojo_ros.models.pi0 import x", {f"{PACKAGE}.models"}),
        ("from ..models import pi0", {f"{PACKAGE}.models"}),
        ("from .. import models", {f"{PACKAGE}.models"}),
        ("import importlib\nimportlib.import_module('torch')", {"torch"}),
    ],
)
def test_the_check_sees_every_way_to_import(source: str, expected: set[str]) -> None:
    found = breaches(imported_names(source, f"{PACKAGE}.robot.arm"), {"torch", f"{PACKAGE}.models"})
    assert {name for name in expected if breaches(found, {name})} == expected


def test_a_name_that_only_begins_alike_is_no_breach() -> None:
    source = "import torchmetrics\nimport safedojo_ros.models_of_arms"
    found = imported_names(source, f"{PACKAGE}.robot.arm")
    assert not breaches(found, {"torch", f"{PACKAGE}.models"})


@pytest.mark.parametrize("room", ["core", "robot"])
def test_importing_a_light_room_really_loads_neither_torch_nor_ros(room: str) -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in source_files()
        if room_of(file) == room
    ]
    assert modules
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'rclpy'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
