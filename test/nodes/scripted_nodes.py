"""The real policy and safety node around scripted models: `scripted_nodes.py policy_node`.

A scripted model is loaded from a real, verified checkpoint directory whose config.json says how it
behaves; no torch is imported, so the nodes start fast. Other nodes are run as they are.
"""

import importlib
import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.bounds import MAX_DELTA_ROTATION
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.contact_examples import read_examples
from safedojo_ros.nodes.lifecycle import DojoNode
from safedojo_ros.nodes.policy_node import PolicyNode
from safedojo_ros.nodes.safety_node import SafetyNode
from safedojo_ros.nodes.stack.registry import DEMO
from safedojo_ros.nodes.stack.spinning import run_node, run_together

SCRIPT = "scripted"

STUTTER = "SCRIPTED_STUTTER"
COMPOSED = "composed"
"""In place of a node: all of them in one process, but for the watchdog."""
"""Seconds, in the environment, that a node may take at most before it takes a message."""


def read_script(directory: Path) -> dict:
    """The config.json of a scripted checkpoint."""
    config = json.loads((directory / "config.json").read_text())
    if config.get("architecture") != SCRIPT:
        raise CheckpointError(f"architecture is '{config.get('architecture')}', not '{SCRIPT}'")
    return config


class ScriptedPolicy:
    """Brings the hand before the fixed camera and swings it from side to side.

    `nan`: its actions are not finite; `limits`: it plays at the limits; `late`: it is as bad as
    the other words say only after so many chunks, so that no canary sees it; `sensitive`: another
    bit in what it sees is another action.
    """

    def __init__(self, directory: Path) -> None:
        config = read_script(directory)
        self.checkpoint_id = directory.name
        self.chunk_length = int(config.get("chunk_length", 8))
        self.cameras: tuple[str, ...] = ("agentview", "wrist")
        self.image_size = 64
        self.longest_delay = 3
        self._speed = float(config.get("speed", 0.01))
        self._delay = float(config.get("delay", 0.0))
        self._nan = bool(config.get("nan", False))
        self._limits = bool(config.get("limits", False))
        self._late = int(config.get("late", 0))
        self._late_speed = float(config.get("late_speed", self._speed))
        self._sensitive = bool(config.get("sensitive", False))
        self._side = 1.0

    def propose(
        self, observations: list[Observation], *, count: int, committed: Sequence[np.ndarray]
    ) -> np.ndarray:
        """(B, K, H, 7), the same K times."""
        chunks = self._act(observations)
        for chunk, first in zip(chunks, committed, strict=True):
            chunk[: len(first)] = first
        return np.repeat(chunks[:, None], count, axis=1)

    def _act(self, observations: list[Observation]) -> np.ndarray:
        """(B, H, 7)."""
        self._late -= 1
        bad = self._late < 0
        time.sleep(self._delay if bad else 0.0)
        actions = np.zeros((len(observations), self.chunk_length, 7))
        sideways = float(observations[0].state[1])
        if abs(sideways) > 0.1:
            self._side = -np.sign(sideways)
        actions[:, :, 1] = self._side * (self._late_speed if bad else self._speed)
        if self._limits and bad:
            actions[:, ::2, 5] = MAX_DELTA_ROTATION  # to and fro: one way soon ends at a joint's
            actions[:, 1::2, 5] = -MAX_DELTA_ROTATION
        actions[:, :, 0] = 0.01 if observations[0].state[0] < 0.02 else 0.0
        actions[:, :, 6] = -1.0
        if self._sensitive:
            seen = zlib.crc32(observations[0].state.tobytes())
            for name in self.cameras:
                seen = zlib.crc32(observations[0].images[name].tobytes(), seen)
            actions[:, :, 2] = 2e-3 * (seen / 2**32 - 0.5)
        return actions * np.nan if self._nan and bad else actions


class ScriptedSafety:
    """Says the same cost of every chunk, or `per_speed` times how fast it moves the hand."""

    def __init__(self, directory: Path) -> None:
        config = read_script(directory)
        self._cost, self._factor = float(config.get("cost", 0.0)), float(config.get("per_speed", 0))
        self._nan, self._late = bool(config.get("nan", False)), int(config.get("late", 0))
        self.cost_m, self.cost_limit = int(config.get("cost_m", 3)), float(config.get("limit", 0.5))
        self.cameras: tuple[str, ...] = ("agentview", "wrist")
        self.image_size = 64
        self.examples = read_examples(directory, self.cameras, 64, 8)

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, H), or (B, K, H) of K chunks each."""
        bad = self._nan and self._late <= 0
        self._late -= actions.ndim == 4  # in service, after its exam
        costs = np.clip(self._cost + self._factor * np.abs(actions[..., 1]), 0.0, 1.0)
        return costs * np.nan if bad else costs


def stutter(longest: float) -> None:
    """From now on every node takes each topic's messages late, by another time each."""
    create = DojoNode.create_subscription

    def create_late(
        self: DojoNode, kind: Any, topic: str, take: Any, *others: Any, **options: Any
    ) -> Any:
        late = random.Random(os.getpid())

        def wait() -> None:
            time.sleep(late.uniform(0.0, longest) * (late.random() < 0.3))

        def take_late(message: Any) -> None:
            wait()
            take(message)

        def take_informed(message: Any, info: Any) -> None:
            wait()
            take(message, info)

        informed = getattr(take, "__code__", take_late.__code__).co_argcount > 2
        taking: Any = take_informed if informed else take_late
        return create(self, kind, topic, taking, *others, **options)

    DojoNode.create_subscription = create_late  # type: ignore[assignment,method-assign]


def main() -> int:
    """Run the node that the first argument names, or all but the watchdog in this process."""
    node, arguments = sys.argv[1], sys.argv[2:]
    if STUTTER in os.environ:
        stutter(float(os.environ[STUTTER]))
    if node == COMPOSED:
        return run_together([factory(e.name) for e in DEMO.nodes if not e.alone], arguments)
    return run_node(factory(node), arguments)


def factory(name: str) -> Callable[[], DojoNode]:
    """What makes the node of that name, its models scripted."""
    if name == "policy_node":
        return lambda: PolicyNode(load=ScriptedPolicy, load_head=ScriptedSafety)
    if name == "safety_node":
        return lambda: SafetyNode(load=ScriptedSafety)
    entry = DEMO.node(name)
    made: Callable[[], DojoNode] = getattr(importlib.import_module(entry.module), entry.factory)
    return made


if __name__ == "__main__":
    sys.exit(main())
