"""The bounds of an action: what one control step may ask of the arm (LIBERO's convention)."""

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE

MAX_DELTA_POSITION = 0.05
"""Largest commanded translation per control step and axis, metres."""

MAX_DELTA_ROTATION = 0.5
"""Largest commanded rotation per control step and axis, radians."""

ACTION_BOUND = np.array([MAX_DELTA_POSITION] * 3 + [MAX_DELTA_ROTATION] * 3 + [1.0])
"""(7,): every action lies within minus this and this."""


def checked_action(action: np.ndarray) -> np.ndarray:
    """`action` as (7,) float64; raises `ConfigError` for a wrong shape or a non-finite value."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (ACTION_SIZE,) or not np.all(np.isfinite(action)):
        raise ConfigError(f"action is {action!r}, expected {ACTION_SIZE} finite numbers")
    return action


def within_bounds(actions: np.ndarray) -> np.ndarray:
    """Actions (..., 7) clipped to the bounds, float64; non-finite values stay for a check to find.

    The gate rejects what is beyond them.
    """
    return np.clip(np.asarray(actions, dtype=np.float64), -ACTION_BOUND, ACTION_BOUND)
