"""Training scenes of SafeLIBERO are not the evaluation's, and are like them.

The states are made up; where SAFELIBERO_ROOT names the published ones, the last test uses those.
"""

import os
import re
from collections.abc import Iterator

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.safelibero.layouts import (
    APART,
    HALF_REGION,
    OBSTACLE_JITTER,
    PARKED,
    STACKED,
    Parts,
    active_obstacle,
    draw_layout,
    in_workspace,
    places,
    without_obstacle,
)
from safedojo_ros.worlds.safelibero.library import SAFELIBERO_ROOT
from safedojo_ros.worlds.safelibero.world import Suite

COUNT = 300
NAMES = ("bowl", "dish", "plate", "far", "base", "a_obstacle", "b_obstacle")
PARTS = Parts({name: 10 + 7 * n for n, name in enumerate(NAMES)}, "bowl", "plate")
"""A bowl on a dish goes to a plate; one obstacle stands on a pedestal, the other is away."""


def published(level: int) -> np.ndarray:
    """(50, S) states: at Level II the obstacle stands on the path, 4 cm aside."""
    rng = np.random.default_rng(level)
    states = np.zeros((50, 10 + 7 * len(NAMES) + 9))
    states[:, 1:8] = rng.normal(0.0, 0.02, (50, 7)) + [0.0, -0.16, 0.0, -2.4, 0.0, 2.2, 0.8]
    for number, state in enumerate(states):
        here, away = ("a_obstacle", "b_obstacle") if number % 2 else ("b_obstacle", "a_obstacle")
        bowl = np.array([-0.1, 0.2]) + rng.uniform(-0.015, 0.015, 2)
        plate = np.array([0.15, -0.1]) + rng.uniform(-0.015, 0.015, 2)
        middle = (bowl + plate) / 2 + [0.03, 0.03]
        beside = bowl + [0.1, 0.08] if level == 1 else middle
        for name, place in {
            "bowl": [*bowl, 0.95],
            "dish": [*bowl, 0.91],
            "plate": [*plate, 0.91],
            "far": [20.0, 0.0, 0.0],
            "base": [*beside, 0.92],
            here: [*beside, 1.0],
            away: [0.0, 10.0, 0.0],
        }.items():
            at = PARTS.columns[name]
            state[at : at + 7] = [*place, 1.0, 0.0, 0.0, 0.0]
    return states


def layouts(level: int, count: int = COUNT) -> np.ndarray:
    states = published(max(1, level))
    return np.stack(
        [draw_layout(states, PARTS, level, np.random.default_rng([seed])) for seed in range(count)]
    )


def distances(states: np.ndarray) -> np.ndarray:
    """(N,) m, from the obstacle to the target."""
    found = []
    for state in states:
        here = places(state, PARTS)
        found.append(np.linalg.norm((here[active_obstacle(state, PARTS)] - here["bowl"])[:2]))
    return np.array(found)


@pytest.mark.parametrize("level", [1, 2])
def test_no_layout_is_one_of_the_evaluations(level: int) -> None:
    states = published(level)
    there = places(states, PARTS)
    for layout in layouts(level):
        here = places(layout, PARTS)
        apart = np.max([np.abs(there[n] - here[n])[:, :2].max(1) for n in NAMES], axis=0)
        assert apart.min() >= APART


def test_a_layout_that_is_as_good_as_published_is_drawn_again() -> None:
    class Still:
        """A generator that moves nothing twice, then draws."""

        def __init__(self) -> None:
            self.rng, self.calls = np.random.default_rng(3), 0

        def integers(self, count: int) -> int:
            self.calls += 1
            return 0

        def normal(self, *words: object) -> np.ndarray:
            return np.zeros(7)

        def uniform(self, low: float, high: float, size: int) -> np.ndarray:
            return np.zeros(size) if self.calls < 3 else self.rng.uniform(low, high, size)

    states = published(1)
    for state in states[:1]:  # in the middle of its regions, where nothing moves it
        for name in ("bowl", "dish", "plate"):
            at = PARTS.columns[name]
            place = places(states, PARTS)[name][:, :2]
            middle = np.quantile(place, [0.05, 0.95], axis=0).mean(0)
            shift = middle - state[at : at + 2]
            state[at : at + 2] += shift
            if name == "bowl":
                for other in ("base", "b_obstacle"):
                    state[PARTS.columns[other] : PARTS.columns[other] + 2] += shift
    still = Still()
    draw_layout(states, PARTS, 1, still)  # type: ignore[arg-type]
    assert still.calls == 3


@pytest.mark.parametrize("level", [1, 2])
def test_the_obstacle_stands_to_the_target_as_in_the_published_scenes(level: int) -> None:
    theirs, ours = distances(published(level)), distances(layouts(level))
    assert abs(ours.mean() - theirs.mean()) < 0.005
    spread = OBSTACLE_JITTER * np.sqrt(2) + HALF_REGION * (level - 1)
    assert theirs.min() - spread < ours.min() < ours.max() < theirs.max() + spread
    assert ours.std() > theirs.std()


def test_at_level_2_it_stays_on_the_path_when_target_and_goal_move() -> None:
    for layout in layouts(2):
        here = {name: place[:2] for name, place in places(layout, PARTS).items()}
        path = here["plate"] - here["bowl"]
        offset = here[active_obstacle(layout, PARTS)] - here["bowl"]
        assert 0.3 < offset @ path / (path @ path) < 0.75


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_object_has_its_region_and_what_is_stacked_stays_so(level: int) -> None:
    drawn = layouts(level)
    assert len(np.unique(drawn.round(9), axis=0)) == COUNT
    there = places(published(max(1, level)), PARTS)
    for name in ("dish", "plate"):
        place = places(drawn, PARTS)[name]
        middle = np.quantile(there[name], [0.05, 0.95], axis=0).mean(0)
        assert np.all(np.abs(place - middle)[:, :2] <= HALF_REGION + 1e-9)
        assert place[:, :2].std(0).min() > 0.005
    here = places(drawn, PARTS)
    assert np.abs(here["bowl"] - here["dish"])[:, :2].max() < STACKED
    assert np.all(here["far"] == [20.0, 0.0, 0.0])
    assert 0.01 < drawn[:, 1:8].std(0).min() < drawn[:, 1:8].std(0).max() < 0.03
    for layout in drawn[:50]:
        if level:
            beside = places(layout, PARTS)[active_obstacle(layout, PARTS)]
            assert np.abs(places(layout, PARTS)["base"] - beside)[:2].max() < STACKED


def test_one_odd_state_widens_no_region() -> None:
    states = published(1)
    at = PARTS.columns["plate"]
    states[7, at] += 0.2
    drawn = [draw_layout(states, PARTS, 1, np.random.default_rng(seed)) for seed in range(100)]
    assert max(state[at] for state in drawn) < 0.15 + 2 * HALF_REGION


def test_at_level_0_obstacle_and_pedestal_are_put_away() -> None:
    for layout in [*layouts(0, 20), *(without_obstacle(s, PARTS) for s in published(1))]:
        here = places(layout, PARTS)
        standing = {name for name, place in here.items() if in_workspace(place)}
        assert standing == {"bowl", "dish", "plate"}
        assert np.abs(here["base"] - PARKED).max() <= 2.0
        with pytest.raises(ConfigError, match="0 obstacles stand in the workspace, expected one"):
            active_obstacle(layout, PARTS)


def test_both_obstacles_are_drawn_and_a_seed_is_one_layout() -> None:
    drawn = layouts(1, 40)
    assert {active_obstacle(state, PARTS) for state in drawn} == {"a_obstacle", "b_obstacle"}
    np.testing.assert_array_equal(drawn, layouts(1, 40))


def published_cells() -> Iterator[tuple[int, np.ndarray, Parts]]:
    """Level, states and parts of each task of the published suites Spatial and Object."""
    for name in ("spatial", "object"):
        suite = Suite(name)
        for level in (1, 2):
            for task in suite.tasks(level):
                text = re.sub(r";.*", "", suite.problem(task).read_text())
                words = re.search(r"\(:objects([^)]*)\)", text)[1].split()  # type: ignore[index]
                names = [w for n, w in enumerate(words) if "-" not in (w, words[n - 1])]
                goal = re.search(r"\((?:On|In) (\w+?) (\w+?)(_contain_region)?\)\s*\)\s*\)", text)
                assert goal
                columns = {name: 10 + 7 * n for n, name in enumerate(names)}
                yield level, suite.states(task, level), Parts(columns, goal[1], goal[2])


@pytest.mark.skipif(
    not os.environ.get(SAFELIBERO_ROOT), reason=f"{SAFELIBERO_ROOT} names no published scenes"
)
def test_layouts_of_the_published_tasks_are_theirs_in_kind_and_none_of_them() -> None:
    ours: dict[int, list[float]] = {1: [], 2: []}
    theirs: dict[int, list[float]] = {1: [], 2: []}
    for level, states, parts in published_cells():
        there = places(states, parts)
        for seed in range(50):
            layout = draw_layout(states, parts, level, np.random.default_rng(seed))
            here = places(layout, parts)
            apart = np.max([np.abs(there[n] - here[n])[:, :2].max(1) for n in here], axis=0)
            assert apart.min() >= APART
            for found, state in ((ours, layout), (theirs, states[seed])):
                at = places(state, parts)
                offset = at[active_obstacle(state, parts)] - at[parts.target]
                found[level].append(float(np.linalg.norm(offset[:2])))
    for level in (1, 2):
        assert len(ours[level]) == 400
        assert abs(np.mean(ours[level]) - np.mean(theirs[level])) < 0.01
        for share in (0.1, 0.5, 0.9):
            assert abs(np.quantile(ours[level], share) - np.quantile(theirs[level], share)) < 0.02
