"""Gripper, carried object and arm as capsules, and how near they come to boxes and points.

A capsule is a segment with a radius. All places are metres in the base frame; N segments are two
arrays (N, 3) of their ends.
"""

from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.rotation import matrix_of
from safedojo_ros.robot.kinematics import DH_A, DH_ALPHA, DH_D, Kinematics

HAND = ((0.0, -0.07, -0.0734), (0.0, 0.07, -0.0734), 0.05)
"""The Franka Hand's housing in the end-effector's frame: two ends and the radius."""

FINGER = (-0.045, 0.0, 0.0145)
"""A finger: from and to which height (z) in the end-effector's frame it reaches, and its radius."""

FINGER_HALF = 0.006
"""Metres from a finger's gripping face to its middle."""

FINGER_OPEN = 0.04
"""Metres from the middle to the gripping face of an open finger."""

HOLDING = (0.004, 0.076)
"""Width (m) between the fingers within which a gripper that is told to close has something."""

LINKS = (
    ("shoulder", 2, (0.0, 0.0, -0.06), (0.0, 0.0, 0.06), 0.07),
    ("upper arm", 3, (0.0, 0.0, -0.316), (0.0, 0.0, -0.05), 0.07),
    ("elbow", 4, (0.0, 0.0, -0.06), (0.0, 0.0, 0.06), 0.07),
    ("elbow", 4, (0.0, 0.0, 0.0), (-0.0825, 0.0, 0.0), 0.07),
    ("forearm", 5, (0.0, 0.0, -0.31), (0.0, 0.04, -0.10), 0.065),
    ("forearm", 5, (0.0, 0.075, -0.20), (0.0, 0.04, -0.02), 0.06),
    ("wrist", 6, (0.0, 0.0, -0.07), (0.0, 0.0, 0.01), 0.05),
    ("wrist", 6, (0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.05),
    ("wrist", 7, (0.0, 0.0, -0.06), (0.0, 0.0, 0.08), 0.045),
)
"""The arm above its first joint: name, the joint whose frame it lies in, two ends, radius. Outlines
of FR3 and Panda, a little generous."""

SPACING = 0.008
"""Metres that no part of a capsule on the hand moves farther between two samples of a path."""

MAX_SAMPLES = 600
"""Samples of a path, about: one that would take more has larger gaps, and a larger slack."""

DAMPING = 0.02
"""Of the inverse kinematics: joints that move much for little, near a singularity, are left."""

_LINK_JOINT = np.array([joint - 1 for _, joint, *_ in LINKS])
_LINK_ENDS = np.array([[a, b] for _, _, a, b, _ in LINKS])


@dataclass(frozen=True, eq=False)
class Sweep:
    """C capsules at S samples of a path; the first sample is where the robot stands.

    start, end: (S, C, 3) m; radius: (C,) m; names: of the C; step: (S,) number of the action, from
    1, that leads to a sample, 0 for the first; slack: m by which a part of the robot may be nearer
    to something between two samples than at both.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    names: tuple[str, ...]
    step: np.ndarray
    slack: float


def swept(
    state: np.ndarray,
    actions: np.ndarray,
    carried: tuple[float, float],
    joints: np.ndarray | None = None,
    foot: np.ndarray | None = None,
) -> Sweep:
    """What the robot passes through when it goes through `actions` (H, 7) from `state` (8,).

    The deltas are integrated as the arm's target integrates them, from the measured pose. carried:
    length (m) below the fingertips and radius of an object in the closed gripper. joints: (7,) rad,
    None: no links; foot: (3,) m, where the arm stands.

    How the links follow is an estimate: the smallest joint motion that moves the end-effector
    along. Between the fingers there is nothing, for there is what is to be gripped.
    """
    state, actions = np.asarray(state, np.float64), np.asarray(actions, np.float64)
    ends, radius, names = _on_hand(state[6:8], actions[:, 6], carried)
    moves, turns = actions[:, :3], actions[:, 3:6]
    reach = float(np.linalg.norm(ends, axis=-1).max())
    longest = np.linalg.norm(moves, axis=1) + reach * np.linalg.norm(turns, axis=1)
    parts = max(1, int(np.ceil(float(longest.max()) / SPACING)))
    parts = min(parts, max(1, MAX_SAMPLES // len(actions)))
    share = np.arange(1, parts + 1) / parts
    corners = state[:3] + np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])
    places = (corners[:-1, None] + share[:, None] * moves[:, None]).reshape(-1, 3)
    rotations = [matrix_of(state[3:6])]
    for turn in turns:
        rotations.append(matrix_of(turn) @ rotations[-1])
    partly = matrices_of((share[:, None] * turns[:, None]).reshape(-1, 3))
    turned = partly.reshape(len(turns), parts, 3, 3) @ np.array(rotations[:-1])[:, None]
    places = np.concatenate([state[None, :3], places])
    turned = np.concatenate([rotations[:1], turned.reshape(-1, 3, 3)])
    # (S, C, 2, 3)
    swept_ends = places[:, None, None] + np.einsum("sij,cej->scei", turned, ends)
    if joints is not None and foot is not None:
        path = _joint_path(joints, corners, np.array(rotations))
        between = path[:-1, None] + share[:, None] * np.diff(path, axis=0)[:, None]
        links = link_ends(np.concatenate([path[:1], between.reshape(-1, 7)])) + foot
        swept_ends = np.concatenate([swept_ends, links], axis=1)
        radius = np.concatenate([radius, [link[4] for link in LINKS]])
        names = (*names, *(link[0] for link in LINKS))
    apart = np.linalg.norm(np.diff(swept_ends, axis=0), axis=-1)
    return Sweep(
        swept_ends[:, :, 0],
        swept_ends[:, :, 1],
        radius,
        names,
        np.concatenate([[0], np.repeat(np.arange(len(actions)) + 1, parts)]),
        float(apart.max(initial=0.0)) / 2 + 3e-4,  # paths between samples are slightly bent
    )


def _on_hand(
    fingers: np.ndarray, gripper: np.ndarray, carried: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Ends (C, 2, 3) in the end-effector's frame, radii (C,) and names of what moves with it."""
    low, high, thick = FINGER
    opening = np.full(2, FINGER_OPEN) if np.any(gripper < 0.0) else np.asarray(fingers)
    ends = [[HAND[0], HAND[1]]]
    radius, names = [HAND[2]], ["hand"]
    for side, finger in ((1.0, opening[0]), (-1.0, opening[1])):
        y = side * (float(finger) + FINGER_HALF)
        ends.append([(0.0, y, low), (0.0, y, high)])
        radius.append(thick)
        names.append("finger")
    closed = np.any(gripper > 0.0) or not len(gripper)
    if closed and HOLDING[0] < float(np.sum(fingers)) < HOLDING[1]:
        length, thick = carried
        ends.append([(0.0, 0.0, 0.0), (0.0, 0.0, max(0.0, length - thick))])
        radius.append(thick)
        names.append("carried object")
    return np.array(ends), np.array(radius), tuple(names)


def matrices_of(turns: np.ndarray) -> np.ndarray:
    """(N, 3) rad → (N, 3, 3), as `core.rotation.matrix_of` for each."""
    angle = np.linalg.norm(turns, axis=1)
    tiny = angle < 1e-9
    x, y, z = (turns / np.where(tiny, 1.0, angle)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    sine, versine = np.sin(angle)[:, None, None], (1.0 - np.cos(angle))[:, None, None]
    result: np.ndarray = np.eye(3) + sine * cross + versine * (cross @ cross)
    return result


# ---------------------------------------------------------------- the arm's links


def link_ends(joints: np.ndarray) -> np.ndarray:
    """(N, 7) rad → (N, L, 2, 3) m, the ends of `LINKS` in the frame of the arm's foot."""
    here = np.zeros((len(joints), 4, 4))
    here[:] = np.eye(4)
    frames = np.empty((7, len(joints), 4, 4))
    c, s = np.cos(joints), np.sin(joints)
    for i in range(7):
        ca, sa = np.cos(DH_ALPHA[i]), np.sin(DH_ALPHA[i])
        link = np.zeros((len(joints), 4, 4))
        link[:, 0, 0], link[:, 0, 1], link[:, 0, 3] = c[:, i], -s[:, i], DH_A[i]
        link[:, 1, 0], link[:, 1, 1] = s[:, i] * ca, c[:, i] * ca
        link[:, 2, 0], link[:, 2, 1] = s[:, i] * sa, c[:, i] * sa
        link[:, 1, 2], link[:, 1, 3] = -sa, -sa * DH_D[i]
        link[:, 2, 2], link[:, 2, 3], link[:, 3, 3] = ca, ca * DH_D[i], 1.0
        here = here @ link
        frames[i] = here
    used = frames[_LINK_JOINT].transpose(1, 0, 2, 3)
    turned = np.einsum("nlij,lej->nlei", used[..., :3, :3], _LINK_ENDS)
    return turned + used[:, :, None, :3, 3]


def _joint_path(joints: np.ndarray, places: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """(H + 1, 7) rad from `joints` on: damped least squares, one step of it for each action.

    places: (H + 1, 3) m and rotations: (H + 1, 3, 3) of the end-effector. The path begins where the
    joints are, so that an error of where the arm stands does not move it.
    """
    arm, here = Kinematics(), np.array(joints, dtype=np.float64)
    turn, place, jacobian = arm.forward(here)
    offset, twist = place - places[0], rotations[0].T @ turn
    path = [here]
    for k in range(1, len(places)):
        wanted = rotations[k] @ twist @ turn.T
        sine = np.array([wanted[2, 1] - wanted[1, 2], wanted[0, 2] - wanted[2, 0],
                         wanted[1, 0] - wanted[0, 1]]) / 2  # fmt: skip
        error = np.concatenate([places[k] + offset - place, sine])
        square = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
        here = here + jacobian.T @ np.linalg.solve(square, error)
        path.append(here)
        turn, place, jacobian = arm.forward(here)
    return np.array(path)


# ---------------------------------------------------------------- distances


def point_distances(start: np.ndarray, end: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, P) m from each of N segments to each of `points` (P, 3)."""
    along = end - start
    square = np.einsum("ni,ni->n", along, along)[:, None]
    scaled = along / np.where(square > 1e-18, square, 1.0)
    columns = np.ascontiguousarray(points.T)
    unbound = scaled @ columns  # (N, P), where along the segment's line a point lies
    unbound -= np.einsum("ni,ni->n", scaled, start)[:, None]
    share = np.clip(unbound, 0.0, 1.0)
    unbound *= -2.0
    unbound += share
    unbound *= share
    unbound *= square
    result = (-2.0 * start) @ columns
    result += np.einsum("ni,ni->n", start, start)[:, None]
    result += np.einsum("pi,pi->p", points, points)
    result += unbound
    return np.sqrt(np.maximum(result, 0.0, out=result), out=result)


def box_distances(
    start: np.ndarray, end: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """(N,) m from each of N segments to the box of the same number, corners (N, 3); 0 inside.

    The squared distance along a segment is convex and, between the places where the segment crosses
    the planes of the box's sides, a parabola: its slope is 0 in one such piece.
    """
    along = end - start
    still = np.abs(along) < 1e-12
    safe = np.where(still, 1.0, along)
    crossings = np.concatenate([(low - start) / safe, (high - start) / safe], axis=1)
    crossings = np.where(np.concatenate([still, still], axis=1), 0.0, crossings)
    ends = np.broadcast_to([0.0, 1.0], (len(start), 2))
    places = np.sort(np.clip(np.concatenate([crossings, ends], axis=1), 0.0, 1.0), axis=1)
    at = start[:, None] + places[:, :, None] * along[:, None]
    beyond = at - np.clip(at, low[:, None], high[:, None])
    slope = np.einsum("nki,ni->nk", beyond, along)
    # the last place at which the distance still falls, and the next one
    row, column = np.arange(len(start)), np.count_nonzero(slope < 0.0, axis=1)
    left, right = np.maximum(column - 1, 0), np.minimum(column, places.shape[1] - 1)
    rise = slope[row, right] - slope[row, left]
    part = np.where(rise > 1e-18, -slope[row, left] / np.where(rise > 1e-18, rise, 1.0), 0.0)
    width = places[row, right] - places[row, left]
    best = places[row, left] + np.clip(part, 0.0, 1.0) * width
    nearest = start + best[:, None] * along
    return np.linalg.norm(nearest - np.clip(nearest, low, high), axis=1)


def box_gaps(start: np.ndarray, end: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N, B) m: at most the distance from N segments to B boxes, and quickly known."""
    least, most = np.minimum(start, end)[:, None], np.maximum(start, end)[:, None]
    gap = np.maximum(np.maximum(low - most, least - high), 0.0)
    return np.sqrt(np.einsum("nbi,nbi->nb", gap, gap))
