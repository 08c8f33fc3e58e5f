"""How a server's policy is asked, and what its actions mean: one table for each convention.

A server says neither, so the person who names it chooses. See docs/how-to/own-policy.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.errors import PolicyUnavailable
from safedojo_ros.core.types import ACTION_SIZE, Observation
from safedojo_ros.models.served.joint_keys import DroidKeys


class Keys(Protocol):
    """A convention."""

    @property
    def images(self) -> tuple[str, ...]:
        """The keys of the images, in the order of an address's cameras."""
        ...

    def question(self, observation: Observation, cameras: tuple[str, ...]) -> dict[str, Any]:
        """What the server is sent; cameras: whose images go under `images`."""
        ...

    def actions(self, given: np.ndarray, observation: Observation) -> np.ndarray:
        """(H, 7), metres and radians, of the server's actions (N, A), which answer `observation`.

        Raises `PolicyUnavailable` for another A.
        """
        ...


@dataclass(frozen=True)
class EndEffectorKeys:
    """State (8,) as an `Observation` has it, actions (H, 7) that are steps of the end-effector.

    unit: (7,), what 1 of an action is, in metres and radians; seen_as: state (8,) → what the
    server is sent.
    """

    images: tuple[str, ...]
    state: str
    prompt: str
    unit: np.ndarray
    seen_as: Callable[[np.ndarray], np.ndarray] = np.asarray

    def question(self, observation: Observation, cameras: tuple[str, ...]) -> dict[str, Any]:
        """See `Keys.question`."""
        asked: dict[str, Any] = {
            key: np.ascontiguousarray(observation.images[name])
            for key, name in zip(self.images, cameras, strict=True)
        }
        state = self.seen_as(np.asarray(observation.state, np.float32))
        return asked | {self.state: state, self.prompt: observation.instruction}

    def actions(self, given: np.ndarray, observation: Observation) -> np.ndarray:
        """See `Keys.actions`."""
        if given.shape[1] != ACTION_SIZE:
            raise PolicyUnavailable(
                f"it gives actions of {given.shape[1]} numbers, these keys expect {ACTION_SIZE}"
            )
        return given * self.unit


def _opposite_fingers(state: np.ndarray) -> np.ndarray:
    """LIBERO's second finger counts downwards."""
    seen = state.copy()
    seen[6:] = np.abs(state[6]), -np.abs(state[7])
    return seen


IMAGES = ("observation/image", "observation/wrist_image")
KEYS: dict[str, Keys] = {
    "libero": EndEffectorKeys(
        IMAGES, "observation/state", "prompt", ACTION_BOUND, _opposite_fingers
    ),
    "tabletop": EndEffectorKeys(IMAGES, "observation/state", "prompt", np.ones(ACTION_SIZE)),
    "droid": DroidKeys(),
}
"""libero: of openpi's `pi0_libero` and `pi05_libero`, whose actions are shares of 5 cm and 0.5 rad;
tabletop: the same keys, for a policy that was trained on this package's data sets, whose actions
are metres and radians; droid: of openpi's `pi0_droid`, `pi0_fast_droid` and `pi05_droid`, which
steer the joints."""
