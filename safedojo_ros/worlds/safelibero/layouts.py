"""Scenes of our own for SafeLIBERO's tasks: alike the published ones, and none of them.

The published states belong to the evaluation. A layout is drawn from a seed, task and level by what
they have in common: which objects stand where, to within a region each; which obstacles there are;
and, at Level I, how the obstacle stands to the target, at Level II to the path from target to goal.
Only numbers here; `SafeLiberoWorld` lets a layout settle and rejects what falls or touches.
"""

from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.errors import ConfigError

TRIES = 30
"""Most layouts that are drawn for a seed until one settles."""

STACKED = 0.005
"""Objects that stand within that distance (m) of each other, from above, are moved together."""

HALF_REGION = 0.015
"""Least half side of the square that an object is placed in, metres; LIBERO's own."""

OBSTACLE_JITTER = 0.02
"""Half side of the square that an obstacle is placed in, around where it stands to target or path
in a published state, metres."""

ARM_NOISE = 0.02
"""Standard deviation of the arm's first joint angles, rad; robosuite's."""

APART = 0.002
"""In each published state some object stands at least so far (m) from its place in a layout."""

REACH = 0.5
"""What stands within that distance (m) of the middle, on each axis, is in the workspace."""

PARKED = np.array([15.0, 15.0, 0.0])
"""Where the obstacle is put at Level 0, metres; the benchmark puts those it does not use 10 to 20 m
away, too."""

JOINTS = slice(1, 8)
"""The arm's joints in a state, whose first value is the time."""

STREAM = 35


@dataclass(frozen=True)
class Parts:
    """Where objects are in a state. columns: {object: column of its x}; target: what is to be
    moved; goal: where to: an object, or (2,) m of a place that does not move."""

    columns: dict[str, int]
    target: str
    goal: str | np.ndarray


def places(states: np.ndarray, parts: Parts) -> dict[str, np.ndarray]:
    """{object: (..., 3) m} of states (..., S)."""
    return {name: states[..., at : at + 3] for name, at in parts.columns.items()}


def in_workspace(place: np.ndarray) -> np.ndarray:
    """Whether places (..., 3) m are in the workspace."""
    return (place[..., 2] > -0.05) & np.all(np.abs(place[..., :2]) < REACH, axis=-1)


def active_obstacle(state: np.ndarray, parts: Parts) -> str:
    """The obstacle that stands in the workspace; raises `ConfigError` unless there is one."""
    found = [
        name
        for name, place in places(state, parts).items()
        if "obstacle" in name and place[2] > 0 and in_workspace(place)
    ]
    if len(found) != 1:
        raise ConfigError(f"{len(found)} obstacles stand in the workspace, expected one")
    return found[0]


def draw_layout(
    states: np.ndarray, parts: Parts, level: int, rng: np.random.Generator
) -> np.ndarray:
    """(S,) a state that is none of `states` (N, S), the published ones of a task and level; of
    Level I for Level 0, where the obstacle is put away."""
    while True:
        first = states[rng.integers(len(states))]
        state = first.copy()
        state[JOINTS] = states[:, JOINTS].mean(0) + rng.normal(0.0, ARM_NOISE, 7)
        obstacle = active_obstacle(first, parts)
        stacks = _stacks(first, parts)
        for stack in stacks:
            if obstacle not in stack:
                middle, half = _region(states, parts, stack[0])
                _move(state, parts, stack, middle + half * rng.uniform(-1, 1, 2))
        beside = next(stack for stack in stacks if obstacle in stack)
        place = _relative(first, state, parts, obstacle, level)
        place += OBSTACLE_JITTER * rng.uniform(-1, 1, 2)
        _move(state, parts, beside, place)
        if _nearest(state, states, parts) < APART:
            continue
        return without_obstacle(state, parts) if level == 0 else state


def without_obstacle(state: np.ndarray, parts: Parts) -> np.ndarray:
    """(S,) the same state with its obstacle put away, and what it stands on."""
    state, obstacle = state.copy(), active_obstacle(state, parts)
    stack = next(stack for stack in _stacks(state, parts) if obstacle in stack)
    for number, name in enumerate(stack):
        at = parts.columns[name]
        state[at : at + 3] = PARKED + [2.0 * number, 0.0, 0.0]
    return state


def _stacks(state: np.ndarray, parts: Parts) -> list[list[str]]:
    """The objects of the workspace, those above each other together, from the lowest up."""
    stacks: list[list[str]] = []
    here = {n: p for n, p in places(state, parts).items() if in_workspace(p)}
    for name, place in sorted(here.items(), key=lambda item: item[1][2]):
        for stack in stacks:
            if np.abs(here[stack[0]][:2] - place[:2]).max() < STACKED:
                stack.append(name)
                break
        else:
            stacks.append([name])
    return stacks


def _region(states: np.ndarray, parts: Parts, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half side (2,) m of the square in which nine of ten states have an object."""
    place = places(states, parts)[name]
    place = place[in_workspace(place), :2]
    low, high = np.quantile(place, [0.05, 0.95], axis=0)
    return (low + high) / 2, np.maximum((high - low) / 2, HALF_REGION)


def _relative(
    first: np.ndarray, state: np.ndarray, parts: Parts, obstacle: str, level: int
) -> np.ndarray:
    """(2,) m, where the obstacle stands to target (Level I) or path (Level II) as in `first`."""
    before, after = places(first, parts), places(state, parts)
    target, moved = before[parts.target][:2], after[parts.target][:2]
    offset = before[obstacle][:2] - target
    if level < 2:
        return moved + offset
    goals = [
        here[parts.goal][:2] if isinstance(parts.goal, str) else parts.goal
        for here in (before, after)
    ]
    path, new = goals[0] - target, goals[1] - moved
    length = float(np.linalg.norm(path))
    along, aside = offset @ path / length**2, offset @ _across(path) / length
    return np.asarray(moved + along * new + aside * _across(new) / np.linalg.norm(new))


def _across(path: np.ndarray) -> np.ndarray:
    return np.array([-path[1], path[0]])


def _move(state: np.ndarray, parts: Parts, stack: list[str], place: np.ndarray) -> None:
    """Put a stack's lowest object over `place` (2,) m, and the others with it."""
    at = parts.columns[stack[0]]
    shift = place - state[at : at + 2]
    for name in stack:
        state[parts.columns[name] : parts.columns[name] + 2] += shift


def _nearest(state: np.ndarray, states: np.ndarray, parts: Parts) -> float:
    """m, how far the object that differs most stands from its place in the most alike state."""
    here, there = places(state, parts), places(states, parts)
    apart = np.stack([np.abs(there[n] - p)[:, :2].max(1) for n, p in here.items()])
    return float(apart.max(0).min())
