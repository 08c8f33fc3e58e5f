"""A control-barrier-function filter: the nearest actions that stay clear of one obstacle.

In the manner of AEGIS (arXiv 2512.11891): a barrier around the obstacle for some points of the
gripper, and for every step a quadratic programme

    min ½|u − u_wanted|² + ½·w·s²   so that   ∇h(p)·u ≥ −γ·h(p) − s,   |u| ≤ limit,   s ≥ 0

which lets h fall by at most the share γ a step. Only the translation is changed. A baseline, not a
protective device: it knows one obstacle, and the gripper as four balls.
"""

from dataclasses import dataclass

import numpy as np
from qpsolvers import solve_qp

from safedojo_ros.core.bounds import MAX_DELTA_POSITION
from safedojo_ros.core.rotation import matrix_of

GRIPPER = (
    ((0.0, 0.0, 0.0), 0.030),
    ((0.0, 0.0, -0.0734), 0.045),
    ((0.0, 0.075, -0.0734), 0.035),
    ((0.0, -0.075, -0.0734), 0.035),
)
"""Balls that stand for the gripper: centre in the end-effector's frame and radius, metres."""


@dataclass(frozen=True)
class Obstacle:
    """A standing cylinder: centre of its foot (x, y), radius and height, metres, base frame."""

    x: float
    y: float
    radius: float
    height: float


@dataclass(frozen=True)
class CbfConfig:
    """How the filter weighs clearance against the policy's wish."""

    share: float = 0.3
    """γ: share of the barrier's value that one step may use up, within (0, 1]."""
    margin: float = 0.01
    """Clearance that is kept around the obstacle, metres."""
    slack: float = 1e4
    """w: price of a breach of the barrier, beside 1 for a metre off the policy's action."""


def filtered_chunk(
    state: np.ndarray, actions: np.ndarray, obstacle: Obstacle, config: CbfConfig | None = None
) -> np.ndarray:
    """(H, 7) `actions` with translations that respect the barrier.

    state: (8,) at the chunk's start; the gripper is taken to go where it is sent, without turning.
    """
    config = config or CbfConfig()
    turn = matrix_of(np.asarray(state[3:6], dtype=np.float64))
    balls = [(turn @ np.array(centre), radius) for centre, radius in GRIPPER]
    position = np.array(state[:3], dtype=np.float64)
    result = np.array(actions, dtype=np.float64)
    for action in result:
        slopes, least = [], []
        for offset, radius in balls:
            value, slope = barrier(position + offset, obstacle, radius + config.margin)
            slopes.append(slope)
            least.append(-config.share * value)
        action[:3] = nearest_step(action[:3], np.array(slopes), np.array(least), config.slack)
        position += action[:3]
    return result


def barrier(point: np.ndarray, obstacle: Obstacle, radius: float) -> tuple[float, np.ndarray]:
    """h and ∇h (3,) at the centre of a ball: 0 on a rounded cylinder around the obstacle.

    h = (ρ⁴/R⁴ + z⁴/Z⁴)^¼ − 1, with ρ and z from the obstacle's middle, R and Z its half-sizes
    with the ball's radius.
    """
    middle = np.array([obstacle.x, obstacle.y, obstacle.height / 2])
    size = np.array([obstacle.radius + radius] * 2 + [obstacle.height / 2 + radius])
    away = (np.asarray(point) - middle) / size
    flat, up = float(away[0] ** 2 + away[1] ** 2), float(away[2] ** 2)
    norm = max((flat**2 + up**2) ** 0.25, 1e-6)
    weights = np.array([flat, flat, up])
    return norm - 1.0, weights * away / size / norm**3


def nearest_step(
    wanted: np.ndarray, slopes: np.ndarray, least: np.ndarray, slack: float
) -> np.ndarray:
    """(3,) nearest to `wanted` within the limits, with `slopes` (K, 3) · u ≥ `least` (K,).

    Where that cannot be, the breach is as small as can be; where the solver fails, no motion.
    """
    wanted = np.clip(wanted, -MAX_DELTA_POSITION, MAX_DELTA_POSITION)
    if np.all(slopes @ wanted >= least):
        return wanted
    count = len(least)
    solution = solve_qp(
        np.diag([1.0, 1.0, 1.0, slack]),
        np.append(-wanted, 0.0),
        G=np.hstack([-slopes, -np.ones((count, 1))]),
        h=-least,
        lb=np.array([-MAX_DELTA_POSITION] * 3 + [0.0]),
        ub=np.array([MAX_DELTA_POSITION] * 3 + [1e3]),
        solver="proxqp",
    )
    if solution is None or not np.all(np.isfinite(solution)):
        return np.zeros(3)
    return np.clip(solution[:3], -MAX_DELTA_POSITION, MAX_DELTA_POSITION)
