"""A task or thing of one's own is one registration, and is refused where it cannot be."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.tabletop import scene, tasks
from safedojo_ros.worlds.tabletop.scene import OBSTACLES, SCENES, THINGS, Thing, add_thing
from safedojo_ros.worlds.tabletop.tasks import ANCHORS, TASKS, Task, add_task
from safedojo_ros.worlds.tabletop.world import TabletopWorld

BALL = '<geom type="sphere" size="0.02" pos="0 0 0.02" class="thing" mass="0.05"/>'


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    tables = [scene.THINGS, scene.SCENES, tasks.TASKS, tasks.ANCHORS]
    kept, obstacles = [dict(table) for table in tables], list(OBSTACLES)  # type: ignore[call-overload]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()  # type: ignore[attr-defined]
        table.update(before)  # type: ignore[attr-defined]
    OBSTACLES[:] = obstacles


def never(task: Task, data: object, held: bool) -> bool:
    return False


def test_a_new_task_is_done_by_its_own_rule_and_by_no_other() -> None:
    add_thing(Thing("ball", 0.02, 0.04, BALL))
    words = "put the ball on the plate"
    task = Task("ball_on_plate", words, "desk", "ball", "plate", never)
    add_task(task, things=("ball", "plate"), places={"ball": (0.0, -0.1)})
    here = TabletopWorld(render_images=False)
    here.reset(seed=0, options={"task": "ball_on_plate", "level": 1})
    assert here.instruction == words
    assert np.hypot(*(here.thing_position("ball")[:2] - (0.0, -0.1))) < 0.05
    assert here.obstacle in OBSTACLES
    x, y, z = here.thing_position("plate")
    here._place_thing("ball", x, y, 0.0)
    here.data.joint("ball").qpos[2] = z + 0.02
    outcome = here.step(np.zeros(7))
    assert outcome[1] == 0.0, "not what another task would count"
    TASKS["ball_on_plate"] = replace(task, done=lambda task, data, held: True)
    here.reset(seed=0, options={"task": "ball_on_plate", "level": 1})
    assert here.step(np.zeros(7))[1] == 1.0


def test_the_new_obstacle_is_met_at_the_levels_with_one() -> None:
    add_thing(Thing("ball", 0.02, 0.04, BALL), obstacle=True)
    here, met = TabletopWorld(render_images=False), set()
    for seed in range(30):
        here.reset(seed=seed, options={"task": "cube_on_plate", "level": 1})
        met.add(here.obstacle)
    assert met == set(OBSTACLES)


@pytest.mark.parametrize(
    ("task", "places", "why"),
    [
        (TASKS["cube_on_plate"], {}, "there is a task 'cube_on_plate' already"),
        (Task("a", "go", "groceries", "bowl", "plate", never), {}, "'bowl' is not in scene"),
        (Task("a", "go", "desk", "vase", "plate", never), {}, "there is no thing 'vase'"),
        (Task("a", "go", "desk", "ball", "plate", never), {}, "there is no place for 'ball'"),
    ],
)
def test_a_task_that_cannot_be_laid_out_is_refused(
    task: Task, places: dict[str, tuple[float, float]], why: str
) -> None:
    add_thing(Thing("ball", 0.02, 0.04, BALL))
    before = dict(TASKS), dict(SCENES), dict(ANCHORS)
    with pytest.raises(ConfigError, match=why):
        add_task(task, things=(task.target, "plate"), places=places)
    assert before == (TASKS, SCENES, ANCHORS)


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (Thing("plate", 0.02, 0.04, BALL), "there is a thing 'plate' already"),
        (Thing("ball", 0.02, 0.04, "<gem/>"), "thing 'ball' is no body"),
    ],
)
def test_a_thing_that_is_none_is_refused_in_one_line(thing: Thing, why: str) -> None:
    before = dict(THINGS)
    with pytest.raises(ConfigError, match=why) as seen:
        add_thing(thing, obstacle=True)
    assert "\n" not in str(seen.value)
    assert before == THINGS
