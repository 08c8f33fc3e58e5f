"""Every reason that `safety/state` and `franka/state` can give, read from the code that gives them.

A reason is a piece of text in one of `SOURCES` that is neither a docstring, nor said to who
configures (`ConfigError`, `ValueError`), nor a node's setting or log line.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "safedojo_ros"

SOURCES = {
    "safety": (
        "core/types.py",
        "robot/gate/freshness.py",
        "robot/gate/gate.py",
        "robot/gate/judge.py",
        "robot/gate/zones.py",
        "robot/limits.py",
        "robot/observation_window.py",
        "models/seen_images.py",
        "nodes/conversion.py",
        "nodes/forbidden_zones.py",
        "nodes/safety_node.py",
    ),
    "franka": (
        "nodes/arm_publishers.py",
        "nodes/franka_node.py",
        "robot/arm_watchdog.py",
        "robot/fci/hand_thread.py",
        "robot/fci/robot_thread.py",
        "robot/playback/arm_state.py",
        "robot/playback/control_loop.py",
        "robot/playback/playback.py",
        "robot/playback/target.py",
        "robot/publishers.py",
        "robot/watchdog.py",
    ),
}
"""Rooms that make the reasons of each topic; `franka/state` also repeats those of the gate."""

SAID_TO_OTHERS = {
    *("ConfigError", "ValueError", "Setting", "check_ranges"),
    *("get_logger", "info", "warning", "error", "say", "_log"),
    *("DeclareLaunchArgument", "Thread", "create_publisher", "create_subscription"),
}
"""Calls whose text is no reason."""

LEFT_OUT = {
    "JointLimits",  # the robot's controller and the emulator say it
    "Observation",  # what a camera or a model gets wrong is found by the window before
    "Episode",
    "load",  # a checkpoint that does not fit is refused before anything is judged
    "_read",
}
"""Classes and functions that no reason comes from."""

HOLE = "…"
"""Stands for what differs from one time to the next."""


def reasons(topic: str, phrases: bool = True) -> set[str]:
    """The texts of a topic's reasons; `HOLE` where a value goes. phrases: no single words."""
    found: set[str] = set()
    for name in SOURCES[topic]:
        found |= set(_texts(ast.parse((PACKAGE / name).read_text())))
    return {text for text in found if _words(text) or not phrases}


def _words(text: str) -> bool:
    """Whether `text` is a phrase: two words at least."""
    return len([w for w in text.replace(HOLE, " ").split() if w.isalpha()]) > 1


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
        return
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else HOLE for p in node.values]
        yield "".join(map(str, parts))
        for part in node.values:  # a word that is chosen inside
            if isinstance(part, ast.FormattedValue):
                yield from _texts(part.value)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call) and _name(node.func) in SAID_TO_OTHERS:
        return
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in LEFT_OUT:
        return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _name(node: ast.AST) -> str:
    return getattr(node, "attr", "") or getattr(node, "id", "")
