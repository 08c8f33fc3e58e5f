"""The CBF filter: clear of the obstacle when it can be, unchanged when it need not act."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedojo_ros.core.bounds import MAX_DELTA_POSITION
from safedojo_ros.core.rotation import matrix_of
from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.filters.barrier import (
    GRIPPER,
    CbfConfig,
    Obstacle,
    barrier,
    filtered_chunk,
    nearest_step,
)
from safedojo_ros.evaluation.filters.cbf import (
    CbfPolicy,
    CbfWorld,
    on_plane,
    seen_obstacle,
    true_obstacle,
)
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

BOTTLE = Obstacle(0.1, 0.0, 0.024, 0.15)
DOWN = [np.pi, 0.0, 0.0]


def state(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z, *DOWN, 0.04, 0.04])


def least_barrier(start: np.ndarray, chunk: np.ndarray, obstacle: Obstacle) -> float:
    """The smallest h of any ball of the hand after any step."""
    turn = matrix_of(start[3:6])
    path = start[:3] + np.cumsum(chunk[:, :3], axis=0)
    return min(
        barrier(point + turn @ np.array(centre), obstacle, radius)[0]
        for point in path
        for centre, radius in GRIPPER
    )


def test_a_chunk_that_stays_away_is_left_as_it_is() -> None:
    chunk = np.full((8, 7), 0.002)
    np.testing.assert_array_equal(filtered_chunk(state(-0.2, 0.25, 0.3), chunk, BOTTLE), chunk)


def test_a_chunk_into_the_obstacle_stops_short_of_it() -> None:
    start, chunk = state(-0.1, 0.0, 0.08), np.zeros((8, 7))
    chunk[:, 0], chunk[:, 6] = 0.03, 1.0
    assert least_barrier(start, chunk, BOTTLE) < -0.3
    filtered = filtered_chunk(start, chunk, BOTTLE)
    assert least_barrier(start, filtered, BOTTLE) > 0.0
    np.testing.assert_array_equal(filtered[:, 3:], chunk[:, 3:])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-np.pi, np.pi), st.floats(0.18, 0.3), st.floats(0.02, 0.3),
    st.lists(st.tuples(*[st.floats(-0.04, 0.04)] * 3), min_size=8, max_size=8),
)  # fmt: skip
def test_from_outside_no_chunk_gets_the_hand_into_the_obstacle(
    angle: float, away: float, z: float, steps: list[tuple[float, float, float]]
) -> None:
    start = state(BOTTLE.x + away * np.cos(angle), BOTTLE.y + away * np.sin(angle), z)
    chunk = np.hstack([np.array(steps), np.zeros((8, 4))])
    filtered = filtered_chunk(start, chunk, BOTTLE)
    assert np.isfinite(filtered).all()
    assert np.abs(filtered[:, :3]).max() <= MAX_DELTA_POSITION + 1e-9
    # the barrier is not convex everywhere: a step along its tangent may use up some of the margin
    assert least_barrier(start, filtered, BOTTLE) > -0.05


def test_inside_the_margin_the_hand_is_sent_out() -> None:
    start = state(BOTTLE.x - 0.05, 0.0, 0.08)
    filtered = filtered_chunk(start, np.zeros((8, 7)), BOTTLE)
    assert least_barrier(start, filtered[:1], BOTTLE) > least_barrier(
        start, np.zeros((1, 7)), BOTTLE
    )


def test_the_slope_is_that_of_the_barrier() -> None:
    point = np.array([0.16, 0.03, 0.11])
    value, slope = barrier(point, BOTTLE, 0.04)
    for axis in range(3):
        moved = point + 1e-6 * np.eye(3)[axis]
        change = (barrier(moved, BOTTLE, 0.04)[0] - value) / 1e-6
        assert slope[axis] == pytest.approx(change, rel=1e-3)
    surface = np.array([BOTTLE.x + BOTTLE.radius + 0.04, 0.0, BOTTLE.height / 2])
    assert barrier(surface, BOTTLE, 0.04)[0] == pytest.approx(0.0, abs=1e-9)


def test_the_nearest_step_is_the_solution_of_the_programme() -> None:
    step = nearest_step(
        np.array([0.04, 0.01, 0.0]), np.array([[-1.0, 0.0, 0.0]]), np.array([-0.01]), 1e4
    )
    np.testing.assert_allclose(step, [0.01, 0.01, 0.0], atol=1e-5)


def test_what_is_seen_is_where_the_obstacle_stands() -> None:
    world = TabletopWorld()
    for seed in range(6):
        options = {"task": list(TASKS)[seed % 4], "level": 1 + seed % 2}
        picture = world.reset(seed=seed, options=options)[0]["agentview"]
        true, seen = true_obstacle(world), seen_obstacle(picture)
        assert true is not None
        assert seen is not None
        assert np.hypot(true.x - seen.x, true.y - seen.y) < 0.025
        assert seen.height == true.height
    world.reset(seed=0, options={"task": "stack_blocks", "level": 0})
    assert true_obstacle(world) is None
    assert seen_obstacle(world.images()["agentview"]) is None


def test_the_middle_of_the_picture_looks_at_a_point_before_the_camera() -> None:
    x, y = on_plane(np.array([0.5, 0.5]), 0.0)
    assert y == pytest.approx(0.0, abs=1e-9)
    assert x == pytest.approx(0.62 - 0.60 * 0.686 / 0.728, abs=0.01)


class Forward:
    """Drives straight at wherever x is larger."""

    checkpoint_id, chunk_length, image_size, longest_delay = "forward", 8, 64, 3
    cameras = ("agentview", "wrist")

    def propose(
        self,
        observations: list[Observation],
        generators: object = None,
        count: int = 1,
        committed: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        chunks = np.zeros((len(observations), count, 8, 7))
        chunks[..., 0] = 0.03
        for row, first in enumerate(committed or ()):
            chunks[row, :, : len(first)] = first
        return chunks


def test_policy_and_world_filter_with_seen_and_with_true_obstacles() -> None:
    vector = VectorWorld(max_steps=40)
    seen = vector.reset([Scene(3, "cube_on_plate", 2)])
    policy = CbfPolicy(Forward())  # type: ignore[arg-type]
    assert policy.checkpoint_id == "forward+cbf"
    assert policy.chunk_length == 8
    obstacle = seen_obstacle(seen[0].images["agentview"])
    assert obstacle is not None
    expected = filtered_chunk(seen[0].state, Forward().propose(seen)[0, 0], obstacle, CbfConfig())
    np.testing.assert_allclose(policy.act(seen)[0], expected)
    known = [np.full((2, 7), 0.01)]
    late = policy.propose(seen, count=2, committed=known)[0]
    np.testing.assert_array_equal(late[:, :2], [known[0]] * 2)
    moved = seen[0].state + np.r_[0.02, 0.02, 0.02, np.zeros(5)]
    expected = filtered_chunk(moved, np.array(Forward().propose(seen)[0, 0, 2:]), obstacle)
    np.testing.assert_allclose(late[1, 2:], expected)
    world = CbfWorld(vector)
    assert world.max_steps == 40
    true = true_obstacle(vector.worlds[0])
    assert true is not None
    way = np.array([true.x, true.y]) - vector.worlds[0].state()[:2]
    down, towards = np.zeros((1, 8, 7)), np.zeros((1, 8, 7))
    down[0, :, 2] = -0.02
    towards[0, :, :2] = 0.03 * way / np.linalg.norm(way)
    chunks = [down, towards, towards]
    assert sum(world.step(chunk).cost.sum() for chunk in chunks) == 0.0
    vector.reset([Scene(3, "cube_on_plate", 2)])
    assert sum(vector.step(chunk).cost.sum() for chunk in chunks) > 0.0
