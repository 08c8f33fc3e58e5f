"""What the nodes need of a policy and of a safety head, and how they load them."""

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np

from safedojo_ros.checkpoints.manifest import Manifest
from safedojo_ros.core.config import device_name
from safedojo_ros.core.types import Observation
from safedojo_ros.nodes.lifecycle import DojoNode, Setting
from safedojo_ros.nodes.stack.scheduling import change_niceness
from safedojo_ros.robot.gate.judge import Head, Memory

T = TypeVar("T")

LOADING_NICENESS = 5
"""Added to the niceness of the thread that loads and tries a model: that of the policy's worker,
by default, so that their computing times can be compared."""


class PolicyLike(Protocol):
    """What this node needs of a policy; see `models.policy.Policy`."""

    checkpoint_id: str
    chunk_length: int
    cameras: tuple[str, ...]
    image_size: int
    longest_delay: int

    def propose(
        self,
        observations: list[Observation],
        *,
        count: int,
        committed: Sequence[np.ndarray],
    ) -> np.ndarray:
        """(B, K, H, 7) actions, metres and radians: `count` chunks of one inference, or fewer, each
        of which begins with the `committed` (d, 7) of its observation."""
        ...


def load_policy_directory(path: Path) -> PolicyLike:
    """Load a verified checkpoint directory; torch is imported here and not earlier."""
    from safedojo_ros.models.loading import load_policy

    return load_policy(path)


def open_served_policy(name: str, resize: str) -> tuple[PolicyLike, Manifest]:
    """The policy that a server computes, and a manifest without files; asks nothing yet.

    resize: of this cell's contract, for a name that says none.
    """
    from safedojo_ros.models.served.policy import open_served

    policy = open_served(name, resize)
    return policy, Manifest("policy", policy.checkpoint_id, {}, policy.spec())


class SafetyLike(Protocol):
    """What this node needs of a safety head; see `models.safety_head.SafetyModel`."""

    cost_m: int
    cost_limit: float

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, H) P(contact) of each step of the chunks (B, H, 7); of K each, (B, K, H)."""
        ...


def load_safety_directory(path: Path) -> SafetyLike:
    """Load a verified checkpoint directory; torch is imported here and not earlier."""
    from safedojo_ros.models.loading import load_safety

    return load_safety(path)


def scene_memory(model: Head, frames: int) -> Memory:
    """A memory for a head that this package trained."""
    from safedojo_ros.models.safety_head import SafetyModel
    from safedojo_ros.models.scene_memory import SceneMemory

    return SceneMemory(cast(SafetyModel, model), frames)


DEVICE = Setting(
    "device", "auto", "Where its networks compute: auto (a GPU where there is one), cpu, cuda:N."
)


def limited(node: DojoNode, load: Callable[[Path], T]) -> Callable[[Path], T]:
    """`load`, after which the model is on the node's `device` and torch keeps to its `threads`.
    Raises `ConfigError` for a device that is none.

    Two busy processes slow each other manyfold. A hot swap's thread stands back for the others.
    """

    device = device_name(node.setting(DEVICE.name), "parameter 'device'")

    def loaded(path: Path) -> T:
        if threading.current_thread().name == "hot-swap":
            change_niceness(LOADING_NICENESS, node.get_logger().warning)
        model = load(path)
        if hasattr(model, "to"):
            from safedojo_ros.models.threads import chosen_device

            model.to(chosen_device(device))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(node.setting("threads")))
        return model

    return loaded
