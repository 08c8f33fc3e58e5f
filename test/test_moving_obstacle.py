"""Level III: the obstacle moves as drawn, a collision is leaving its path, Levels 0 to II stay."""

import hashlib
import json

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, COLLISION_DISPLACEMENT
from safedojo_ros.worlds.tabletop.moving_obstacle import AMPLITUDE, PERIOD, WAIT, Sway
from safedojo_ros.worlds.tabletop.scene import THINGS
from safedojo_ros.worlds.tabletop.tasks import CLEARANCE, TASKS, draw_layout
from safedojo_ros.worlds.tabletop.world import TabletopWorld

LAYOUTS = "b6a7e232735ae18685017c7b70fe3bd2eab527585bfd741a989153a30c64f9e9"
"""Of all tasks, Levels 0 to II and 20 seeds, as they were before there was a Level III."""


def test_the_layouts_of_levels_0_to_ii_are_those_of_before() -> None:
    rows = []
    for task in TASKS.values():
        for level in (0, 1, 2):
            for seed in range(20):
                layout = draw_layout(task, level, np.random.default_rng(seed))
                assert layout.sway is None
                places = [[n, *(round(v, 12) for v in p)] for n, p in layout.poses.items()]
                rows.append([layout.obstacle, places])
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == LAYOUTS
    with pytest.raises(ConfigError, match="level is 4, expected 0, 1, 2 or 3"):
        draw_layout(TASKS["cube_on_plate"], 4, np.random.default_rng(0))


def test_a_level_drawn_from_the_seed_is_never_iii() -> None:
    world = TabletopWorld(render_images=False)
    levels = {world.reset(seed=seed)[1]["level"] for seed in range(12)}
    assert levels == {0, 1, 2}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_path_crosses_the_transport_line_and_is_clear_of_everything_else(task: str) -> None:
    for seed in range(20):
        layout = draw_layout(TASKS[task], 3, np.random.default_rng(seed))
        assert layout.sway is not None
        assert layout.obstacle is not None
        first = np.array(layout.poses[layout.obstacle][:2])
        way = np.array(layout.sway.way)
        assert 2 * AMPLITUDE[0] <= np.linalg.norm(way) <= 2 * AMPLITUDE[1]
        assert PERIOD[0] <= layout.sway.period <= PERIOD[1]
        assert WAIT[0] <= layout.sway.wait <= WAIT[1]
        target, goal = (
            np.array(layout.poses[n][:2]) for n in (TASKS[task].target, TASKS[task].goal)
        )
        normal = np.array([-(goal - target)[1], (goal - target)[0]])
        sides = [(place - target) @ normal for place in (first, first + way)]
        assert sides[0] * sides[1] < 0.0, "its ends lie on either side of the line"
        for share in np.linspace(0.0, 1.0, 50):
            for name, pose in layout.poses.items():
                if name != layout.obstacle:
                    apart = np.linalg.norm(first + share * way - pose[:2])
                    both = THINGS[name].radius + THINGS[layout.obstacle].radius
                    assert apart >= both + CLEARANCE - 1e-9


def test_the_path_begins_at_rest_and_its_speed_and_acceleration_are_its_derivatives() -> None:
    sway = Sway((0.2, -0.1), 6.0, 0.5)
    for array in sway.at(0.4):
        assert np.all(array == 0.0)
    np.testing.assert_allclose(sway.at(3.5)[0], (0.2, -0.1), atol=1e-12)
    np.testing.assert_allclose(sway.at(6.5)[0], (0.0, 0.0), atol=1e-12)
    for time in (0.6, 2.0, 5.0):
        (before, slow, _), (after, fast, _) = sway.at(time - 1e-4), sway.at(time + 1e-4)
        np.testing.assert_allclose((after - before) / 2e-4, sway.at(time)[1], atol=1e-6)
        np.testing.assert_allclose((fast - slow) / 2e-4, sway.at(time)[2], atol=1e-6)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_an_obstacle_that_nothing_touches_goes_its_way_without_a_collision(task: str) -> None:
    world = TabletopWorld(render_images=False)
    world.reset(seed=5, options={"task": task, "level": 3})
    places, worst = [], 0.0
    for _ in range(100):
        info = world.step(np.zeros(ACTION_SIZE))[4]
        places.append(world.thing_position(str(world.obstacle)))
        worst = max(worst, info["displacement"])
        assert info["cost"] == 0.0
    assert worst < 0.8 * COLLISION_DISPLACEMENT
    assert np.ptp(np.array(places)[:, 0]) > 0.15, "it moved"


def test_an_arm_that_stands_still_in_the_obstacles_way_has_a_collision() -> None:
    world = TabletopWorld(render_images=False)
    world.reset(seed=5, options={"task": "cube_on_plate", "level": 3})
    layout_middle = np.array(world.thing_position(str(world.obstacle)))
    sway = world._sway
    assert sway is not None
    layout_middle[:2] += np.array(sway.way) / 2
    goal, turn = np.array([*layout_middle[:2], 0.06]), world.target_pose()[1]
    contacts, displacement = 0.0, 0.0
    for _ in range(100):
        info = world.step_target(goal, turn, 1.0)[4]
        contacts += info["cost"]
        displacement = max(displacement, info["displacement"])
    assert contacts > 0
    assert displacement > 10 * COLLISION_DISPLACEMENT


def test_two_runs_of_one_seed_are_identical() -> None:
    def trace() -> list[np.ndarray]:
        world = TabletopWorld(render_images=False)
        world.reset(seed=7, options={"task": "stack_blocks", "level": 3})
        rows = []
        for _ in range(30):
            world.step(np.zeros(ACTION_SIZE))
            rows.append(world.thing_position(str(world.obstacle)))
        return rows

    np.testing.assert_array_equal(trace(), trace())
