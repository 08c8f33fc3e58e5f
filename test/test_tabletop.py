"""The tabletop world: seeded, physical, with experts that collide or do not."""

import json

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, COLLISION_DISPLACEMENT
from safedojo_ros.worlds.seeds import EVALUATION, TRAINING, VALIDATION, split_seeds
from safedojo_ros.worlds.tabletop.experts import Expert
from safedojo_ros.worlds.tabletop.tasks import LEVEL_1_DISTANCE, TASKS, draw_layout
from safedojo_ros.worlds.tabletop.world import LEASH, WORKSPACE, TabletopWorld
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene, Style


def play(style: Style, task: str, level: int, seed: int) -> dict[str, float]:
    world = TabletopWorld(render_images=False)
    world.reset(seed=seed, options={"task": task, "level": level})
    expert = Expert(world, style)
    contact, done, truncated = 0.0, False, False
    info: dict[str, float] = {}
    while not (done or truncated):
        _, _, done, truncated, info = world.step(expert.act())
        contact += info["cost"]
    return {"success": float(done), "contact": contact, "displacement": info["displacement"]}


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_safe_expert_succeeds_without_touching_the_obstacle(task: str, level: int) -> None:
    runs = [play("safe", task, level, seed) for seed in range(3)]
    assert all(run["success"] == 1.0 for run in runs)
    assert all(run["displacement"] <= COLLISION_DISPLACEMENT for run in runs)
    assert all(run["contact"] == 0.0 for run in runs)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("level", [1, 2])
def test_the_direct_expert_collides(task: str, level: int) -> None:
    runs = [play("direct", task, level, seed) for seed in range(3)]
    assert sum(run["contact"] > 0 for run in runs) >= 2
    assert sum(run["displacement"] > COLLISION_DISPLACEMENT for run in runs) >= 2


@pytest.mark.parametrize(
    ("task", "target", "goal", "top"),
    [
        ("cube_on_plate", "red_cube", "plate", 0.009),
        ("stack_blocks", "green_block", "yellow_block", 0.04),
    ],
)
@pytest.mark.parametrize("turn", [0.0, np.pi / 2, np.pi])
def test_a_block_is_in_its_place_whichever_side_it_lies_on(
    task: str, target: str, goal: str, top: float, turn: float
) -> None:
    world = TabletopWorld(64, ())
    world.reset(seed=3, options={"task": task, "level": 0})
    place = world.data.body(goal).xpos + [0.0, 0.0, top]
    half = 0.021
    axis = np.array([0.0, -np.sin(turn), np.cos(turn)])  # of the block, turned about x
    joint = world.data.joint(target)
    joint.qpos[:3] = place + [0.0, 0.0, half] - half * axis
    joint.qpos[3:] = [np.cos(turn / 2), np.sin(turn / 2), 0.0, 0.0]
    rest = np.array([0, 0, 0, 0, 0, 0, -1.0])
    done = [world.step(rest)[2] for _ in range(5)]
    assert done[-1]
    joint.qpos[0] += 0.08  # beside it, on the table or falling
    done = [world.step(rest)[2] for _ in range(5)]
    assert not any(done)


def test_two_runs_with_one_seed_are_identical() -> None:
    def trace() -> list[np.ndarray]:
        world = TabletopWorld()
        observation, _ = world.reset(seed=11)
        expert = Expert(world, "direct")
        rows = [observation["agentview"].ravel(), observation["wrist"].ravel()]
        for _ in range(25):
            observation, _, _, _, info = world.step(expert.act())
            rows += [observation["agentview"].ravel(), observation["state"]]
            rows.append(np.array([info["displacement"], info["cost"]]))
        return rows

    for one, other in zip(trace(), trace(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_is_another_layout() -> None:
    world = TabletopWorld(render_images=False)
    places = []
    for seed in (1, 2):
        world.reset(seed=seed, options={"task": "cube_on_plate", "level": 0})
        places.append(world.thing_position("red_cube"))
    assert np.linalg.norm(places[0] - places[1]) > 1e-3


def test_it_is_a_gymnasium_environment() -> None:
    check_env(TabletopWorld(), skip_render_check=True)


def test_a_resting_obstacle_is_not_displaced() -> None:
    world = TabletopWorld(render_images=False)
    for seed in range(6):
        world.reset(seed=seed, options={"level": 1 + seed % 2})
        for _ in range(40):
            _, _, _, _, info = world.step(np.zeros(ACTION_SIZE))
        assert info["displacement"] < 0.3 * COLLISION_DISPLACEMENT
        assert info["cost"] == 0.0


@pytest.mark.parametrize(
    "action", [np.full(7, np.nan), np.zeros(6), np.array([np.inf] + [0.0] * 6), np.zeros((1, 7))]
)
def test_a_malformed_action_is_refused_before_anything_moves(action: np.ndarray) -> None:
    world = TabletopWorld(render_images=False)
    world.reset(seed=0)
    before = world.data.qpos.copy()
    with pytest.raises(ConfigError):
        world.step(action)
    np.testing.assert_array_equal(world.data.qpos, before)


def test_the_target_stays_in_the_workspace_and_on_its_leash() -> None:
    world = TabletopWorld(render_images=False)
    world.reset(seed=0, options={"level": 0})
    rng = np.random.default_rng(0)
    for _ in range(60):
        world.step(np.concatenate([rng.choice([-1.0, 1.0], 3), np.zeros(3), [1.0]]))
        target, _ = world.target_pose()
        assert np.all(target >= WORKSPACE[0] - 1e-9)
        assert np.all(target <= WORKSPACE[1] + 1e-9)
        assert np.linalg.norm(target - world.position()) < 2 * LEASH


def test_the_arm_reaches_its_target() -> None:
    world = TabletopWorld(render_images=False)
    world.reset(seed=0, options={"level": 0})
    goal, turn = world.target_pose()
    goal = goal + np.array([0.05, 0.08, -0.05])
    for _ in range(20):
        world.step_target(goal, turn, -1.0)
    assert np.linalg.norm(world.position() - goal) < 1e-3


def test_obstacles_stand_where_the_levels_say() -> None:
    rng = np.random.default_rng(0)
    for task in TASKS.values():
        for level in (1, 2):
            for _ in range(20):
                layout = draw_layout(task, level, rng)
                assert layout.obstacle is not None
                place = np.array(layout.poses[layout.obstacle][:2])
                target = np.array(layout.poses[task.target][:2])
                goal = np.array(layout.poses[task.goal][:2])
                if level == 1:
                    low, high = LEVEL_1_DISTANCE
                    assert low <= np.linalg.norm(place - target) <= high
                else:
                    along = (place - target) @ (goal - target) / np.sum((goal - target) ** 2)
                    assert 0.4 < along < 0.6
        assert draw_layout(task, 0, rng).obstacle is None


def test_the_splits_never_overlap() -> None:
    assert not set(TRAINING) & set(VALIDATION)
    assert not set(VALIDATION) & set(EVALUATION)
    assert split_seeds("evaluation", 5, 2) == [1_000_005, 1_000_006]
    with pytest.raises(ConfigError, match="leave the validation split"):
        split_seeds("validation", 99_999, 2)
    with pytest.raises(ConfigError, match="unknown split"):
        split_seeds("test", 0, 1)


def test_a_vector_of_worlds_does_what_each_world_does_alone() -> None:
    scenes = list(map(Scene, [3, 4, 5, 6], sorted(TASKS), [0, 1, 2, 1]))
    rng = np.random.default_rng(0)
    chunks = rng.uniform(-0.02, 0.02, (2, 4, 8, ACTION_SIZE))
    vector = VectorWorld(max_steps=12)
    vector.reset(scenes)
    outcomes = [vector.step(chunk) for chunk in chunks]
    for i, scene in enumerate(scenes):
        alone = TabletopWorld(render_images=False, max_steps=12)
        alone.reset(seed=scene.seed, options={"task": scene.task, "level": scene.level})
        costs = []
        for step in range(12):
            _, _, _, _, info = alone.step(chunks[step // 8, i, step % 8])
            costs.append(info["cost"])
        np.testing.assert_array_equal(alone.state(), outcomes[1].observations[i].state)
        got = np.concatenate([outcome.cost[i][outcome.valid[i]] for outcome in outcomes])
        np.testing.assert_array_equal(got, costs)
    assert outcomes[1].done.all()
    assert outcomes[1].valid.sum(axis=1).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("task", TASKS)
def test_what_is_told_of_a_step_is_plain_enough_for_json(task: str) -> None:
    world = TabletopWorld(render_images=False)
    world.reset(seed=1, options={"task": task, "level": 1})
    expert, done, truncated = Expert(world, "safe"), False, False
    while not (done or truncated):
        _, _, done, truncated, info = world.step(expert.act())
        json.dumps(info)
    assert done
    assert type(info["success"]) is bool
