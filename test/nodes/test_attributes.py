"""No node replaces what rclpy keeps in its own attributes: that switches things off in silence."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode

import safedojo_ros.nodes

FILES = sorted(Path(safedojo_ros.nodes.__path__[0]).glob("*.py"))


def assigned(file: Path) -> dict[str, set[str]]:
    """{class: every `self.name` that it assigns to} of the nodes in a file."""
    return {
        made.name: {
            node.attr
            for node in ast.walk(made)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
        for made in ast.walk(ast.parse(file.read_text()))
        if isinstance(made, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id.endswith("Node") for base in made.bases)
    }


NODES = {name: found for file in FILES for name, found in assigned(file).items()}


@pytest.mark.parametrize("name", NODES)
def test_a_node_s_attributes_are_not_rclpy_s(name: str, context: Context) -> None:
    """`self._timers = [...]` in the arm's node took its diagnostics away."""
    node = LifecycleNode("bare", context=context)
    try:
        own = set(vars(node)) | set(dir(LifecycleNode))
    finally:
        node.destroy_node()
    assert NODES[name] & own == set()
