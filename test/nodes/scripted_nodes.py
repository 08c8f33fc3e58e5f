"""The real policy and safety node around scripted models: `scripted_nodes.py policy_node`.

A scripted model is loaded from a real, verified checkpoint directory whose config.json says how it
behaves; no torch is imported, so the nodes start fast.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Observation
from safedojo_ros.nodes.lifecycle import run_node
from safedojo_ros.nodes.policy_node import PolicyNode
from safedojo_ros.nodes.safety_node import SafetyNode

SCRIPT = "scripted"


def read_script(directory: Path) -> dict:
    """The config.json of a scripted checkpoint."""
    config = json.loads((directory / "config.json").read_text())
    if config.get("architecture") != SCRIPT:
        raise CheckpointError(f"architecture is '{config.get('architecture')}', not '{SCRIPT}'")
    return config


class ScriptedPolicy:
    """Swings the hand from side to side; `nan` makes its actions non-finite."""

    def __init__(self, directory: Path) -> None:
        config = read_script(directory)
        self.checkpoint_id = directory.name
        self.chunk_length = int(config.get("chunk_length", 8))
        self.cameras: tuple[str, ...] = ("agentview", "wrist")
        self.image_size = 64
        self._speed = float(config.get("speed", 0.01))
        self._delay = float(config.get("delay", 0.0))
        self._nan = bool(config.get("nan", False))
        self._side = 1.0

    def act(self, observations: list[Observation]) -> np.ndarray:
        """(B, H, 7)."""
        time.sleep(self._delay)
        actions = np.zeros((len(observations), self.chunk_length, 7))
        sideways = float(observations[0].state[1])
        if abs(sideways) > 0.1:
            self._side = -np.sign(sideways)
        actions[:, :, 1] = self._side * self._speed
        actions[:, :, 6] = -1.0
        return actions * np.nan if self._nan else actions


class ScriptedSafety:
    """Says the same cost of every chunk."""

    def __init__(self, directory: Path) -> None:
        self._cost = float(read_script(directory).get("cost", 0.0))
        self.cost_m, self.cost_limit = 3, 0.5
        self.cameras: tuple[str, ...] = ("agentview", "wrist")
        self.image_size = 64

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, H)."""
        return np.full(actions.shape[:2], self._cost)


def main() -> int:
    """Run the node that the first argument names."""
    node, arguments = sys.argv[1], sys.argv[2:]
    if node == "policy_node":
        return run_node(lambda: PolicyNode(load=ScriptedPolicy), arguments)
    return run_node(lambda: SafetyNode(load=ScriptedSafety), arguments)


if __name__ == "__main__":
    sys.exit(main())
