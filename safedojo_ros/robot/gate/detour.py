"""Detours: the same chunk moved a little in every step, where it passes the gate and the chunk not.

An unsafe chunk need not be held. All steps of it are shifted alike, sideways or up, by a few
distances; the safety head judges these in one batch, and the nearest that passes is executed. What
the policy wanted is kept otherwise: the order of its motions, rotations, the gripper. No detour
leads downwards: the head predicts contact with obstacles, not with the table. One that takes the
motion back is the last choice: it passes, for what stands still touches nothing, and the arm would
stand before the obstacle for ever.
"""

from itertools import product

import numpy as np

from safedojo_ros.core.bounds import MAX_DELTA_POSITION

SHIFTS = (0.005, 0.01, 0.02, 0.03)
"""Distances by which each step of a chunk may be shifted, metres."""

LEAST_PROGRESS = 0.5
"""Share of the chunk's path, in its own direction, that a detour should go at least."""

DETOUR_RATIO = 0.2
"""Share of the cost limit from which on a detour is sought: chosen on validation seeds, among 0.1
to 0.4, for policies that make up to four proposals and execute four steps of a chunk."""

MEMORY = 8
"""Frames of a scene by which the safety head judges: chosen with `DETOUR_RATIO`."""


def _offsets() -> np.ndarray:
    """(K, 3) m, shortest first: 17 directions, none of them downwards, by every distance."""
    cube = np.array([d for d in product((-1.0, 0.0, 1.0), repeat=3) if d[2] >= 0.0 and any(d)])
    directions = cube / np.linalg.norm(cube, axis=1, keepdims=True)
    return np.concatenate([distance * directions for distance in SHIFTS])


OFFSETS = _offsets()
LENGTHS = np.linalg.norm(OFFSETS, axis=1)


def detours(actions: np.ndarray, committed: int = 0) -> np.ndarray:
    """(K, H, 7): `actions` (H, 7) shifted by each of the `OFFSETS`, within the limits.

    The first `committed` actions stay: the arm executes them anyway.
    """
    shifted = np.repeat(np.asarray(actions, dtype=np.float64)[None], len(OFFSETS), axis=0)
    moved = shifted[:, committed:, :3] + OFFSETS[:, None]
    shifted[:, committed:, :3] = np.clip(moved, -MAX_DELTA_POSITION, MAX_DELTA_POSITION)
    return shifted


def progress(actions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(K,) share of the path of `actions` (H, 7) that `candidates` (K, H, 7) go in its direction.

    Of the first half of the steps, since what comes later is mostly replaced before it is executed;
    1 for a chunk that goes nowhere.
    """
    half = (len(actions) + 1) // 2
    wanted = np.asarray(actions, dtype=np.float64)[:half, :3].sum(0)
    square = float(wanted @ wanted)
    if square < 1e-12:
        return np.ones(len(candidates))
    return np.asarray(candidates[:, :half, :3].sum(1) @ wanted / square)


def chosen_detour(costs: np.ndarray, cost: float, passing: float, onward: np.ndarray) -> int | None:
    """Which of the K detours to take, None to stay with the chunk itself.

    costs: (K,) chunk costs of the detours; cost: of the chunk; onward: (K,) their `progress`. Of
    those below `passing` the nearest that makes enough of it, or the nearest where none does, and
    of the nearest the cheapest; where none passes, the cheapest of all, provided that it costs less
    than the chunk.
    """
    passes = costs < passing
    if np.any(passes):
        enough = passes & (onward >= LEAST_PROGRESS)
        eligible = enough if np.any(enough) else passes
        nearest = np.round(np.where(eligible, LENGTHS, np.inf), 9)
        return int(np.lexsort((costs, nearest))[0])
    best = int(np.argmin(costs))
    return best if costs[best] < cost else None
