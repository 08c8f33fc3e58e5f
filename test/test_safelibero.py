"""SafeLIBERO by the tabletop's rules: real contacts, settled starts, no pickled code.

The scenes are made here, of boxes; where SAFELIBERO_ROOT names the published ones, it is those.
"""

import importlib.util
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safelibero_scenes import write_scenes

from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import COLLISION_DISPLACEMENT
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.evaluation.protocol import evaluate, state_trials
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.pipeline.collect import Collection, collect
from safedojo_ros.pipeline.players import Players
from safedojo_ros.worlds.registry import OWN, open_world, world_kind
from safedojo_ros.worlds.safelibero.layouts import Parts, in_workspace, places
from safedojo_ros.worlds.safelibero.library import SAFELIBERO_ROOT, read_states, scene_root
from safedojo_ros.worlds.safelibero.world import SafeLiberoWorld, Suite
from safedojo_ros.worlds.seeds import EVALUATION
from safedojo_ros.worlds.vector import VectorWorld

FIRST = 0, 1
"""State and level of the scene that most tests use."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the scenes, named by the environment while the tests of this file run."""
    if os.environ.get(SAFELIBERO_ROOT):
        yield Path(os.environ[SAFELIBERO_ROOT])
        return
    folder = tmp_path_factory.mktemp("safelibero")
    write_scenes(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SAFELIBERO_ROOT, str(folder))
        yield folder


@pytest.fixture(scope="module")
def world(scenes: Path) -> Iterator[SafeLiberoWorld]:
    """A world of the first spatial task: the bowl between plate and ramekin."""
    if importlib.util.find_spec("robosuite") is None or importlib.util.find_spec("libero") is None:
        pytest.skip("LIBERO and robosuite are not installed: ./dojo libero")
    made = SafeLiberoWorld("spatial", image_size=64, render_images=False)
    yield made
    made.close()


def begin(world: SafeLiberoWorld, state: int, level: int) -> dict[str, Any]:
    task = world.suite.tasks(level)[0]
    return world.reset(seed=EVALUATION.start + state, options={"task": task, "level": level})[1]


def write_states(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return path


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch harmed",)


# ---------------------------------------------------------------- without the library


def test_initial_states_are_read_as_they_were_written(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(3, 7))
    path = write_states(tmp_path / "a.pruned_init", pickle.dumps(states, protocol=2))
    np.testing.assert_array_equal(read_states(path), states)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Harmful()), "system, which no array needs"),
        (pickle.dumps([1, 2]), "cannot read"),
        (pickle.dumps(np.arange(3.0), protocol=2), "cannot read"),
        (pickle.dumps(np.ones((2, 3), np.float32), protocol=2), "not a table of float64"),
        (b"", "cannot read"),
    ],
)
def test_a_file_of_states_gives_a_table_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        read_states(write_states(tmp_path / "a.pruned_init", content))
    assert not (tmp_path / "harmed").exists()


def test_a_damaged_file_of_states_is_a_fault_that_is_said(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(6.0).reshape(2, 3), protocol=2)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        try:
            read = read_states(write_states(tmp_path / "a.pruned_init", bytes(damaged)))
        except ConfigError:
            refused += 1
        else:
            assert (read.ndim, read.dtype) == (2, np.float64)
    assert refused > 100


def test_what_is_no_folder_of_scenes_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SAFELIBERO_ROOT, raising=False)
    with pytest.raises(ConfigError, match=SAFELIBERO_ROOT):
        scene_root()
    (tmp_path / "bddl_files").mkdir()
    with pytest.raises(ConfigError, match="lacks assets/obstacle_objects, init_files:"):
        scene_root(tmp_path)


def test_two_hundred_trials_are_every_state_of_every_task() -> None:
    trials = state_trials(range(1_000_000, 1_000_200), {1: list("abcd"), 2: list("abc")})
    counts = Counter((t.level, t.task) for t in trials)
    assert [counts[1, task] for task in "abcd"] == [50] * 4
    assert [counts[2, task] for task in "abc"] == [67, 67, 66]
    assert {t.seed % 50 for t in trials if (t.level, t.task) == (1, "d")} == set(range(50))
    assert len(set(trials)) == len(trials)
    assert [t.task for t in trials[:51]] == ["a"] * 50 + ["b"]


def test_worlds_have_the_published_limits() -> None:
    assert {name: world_kind(name).max_steps for name in OWN} == {
        "tabletop": 150,
        "safelibero-spatial": 300,
        "safelibero-goal": 300,
        "safelibero-object": 300,
        "safelibero-long": 550,
    }
    with pytest.raises(ConfigError, match="unknown world 'kitchen'; choose of tabletop, safe"):
        open_world("kitchen", 64, ("agentview",), 10)


def test_evaluation_says_what_a_suite_lacks(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["evaluate", "--world", "safelibero-goal", "--policy", "expert:safe"]
    assert main([*common, "--level", "III"]) == 2
    assert "safelibero-goal has no Level III; it has I and II" in capsys.readouterr().err
    assert main([*common, "--tasks", "fly"]) == 2
    assert "unknown task 'fly'; choose all or of open_the_top_drawer" in capsys.readouterr().err
    assert main([*common[:3], "--filter", "cbf"]) == 2
    assert "knows the tabletop's obstacles only" in capsys.readouterr().err


def test_a_sentence_is_read_from_the_file_of_the_task(scenes: Path, tmp_path: Path) -> None:
    kind = world_kind("safelibero-object")
    assert len(kind.tasks(2)) == 4
    assert all(said == " ".join(said.lower().split()) for said in kind.tasks(2).values())
    assert kind.tasks(3) == {}


def test_every_suite_has_four_tasks_of_fifty_states_at_each_level(scenes: Path) -> None:
    for name in ("spatial", "goal", "object", "long"):
        suite = Suite(name)
        for level in (1, 2):
            tasks = suite.tasks(level)
            assert len(tasks) == 4
            assert all(suite.problem(task).exists() for task in tasks)
            assert [len(suite.states(task, level)) for task in tasks] == [50] * 4


# ---------------------------------------------------------------- with LIBERO


def test_the_same_seed_gives_the_same_scene_and_it_has_settled(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    first, obstacle = world.state(), world.obstacle
    cabinet = world.object_position("wooden_cabinet_1")
    assert world.steps == 0
    for _ in range(20):
        info = world.step(np.array([0.0] * 6 + [-1.0]))[4]
        assert (info["cost"], info["success"]) == (0.0, False)
        assert info["displacement"] < COLLISION_DISPLACEMENT / 20
    begin(world, 1, 1)
    assert world.obstacle != obstacle or np.abs(world.state() - first).max() > 1e-3
    begin(world, 50, 1)
    assert world.obstacle == obstacle
    np.testing.assert_array_equal(world.state(), first)
    np.testing.assert_array_equal(world.object_position("wooden_cabinet_1"), cabinet)


def test_a_training_seed_lays_out_a_scene_of_its_own(world: SafeLiberoWorld) -> None:
    task = world.suite.tasks(1)[0]

    def lay_out(seed: int, level: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        world.reset(seed=seed, options={"task": task, "level": level})
        parts = Parts(world._columns(), "", "")
        state = world._environment.sim.get_state().flatten()
        return state, places(state, parts)

    state, _ = lay_out(5, 1)
    assert world.instruction == world.suite.instruction(task)
    near = world.obstacle_position()
    for _ in range(5):
        info = world.step(np.array([0.0] * 6 + [-1.0]))[4]
        assert info["displacement"] < COLLISION_DISPLACEMENT / 20
    other, _ = lay_out(6, 1)
    assert np.abs(other - state).max() > 1e-3
    again, _ = lay_out(5, 1)
    np.testing.assert_array_equal(again, state)
    begin(world, 0, 1)
    published = world.obstacle_position()
    assert near is not None
    assert published is not None
    assert 1e-3 < np.abs(near - published)[:2].max() < 0.2
    _, free = lay_out(5, 0)
    assert world.obstacle_position() is None
    assert not [n for n, place in free.items() if "obstacle" in n and in_workspace(place)]
    assert world.step(np.array([0.0, 0.0, -0.05, 0.0, 0.0, 0.0, -1.0]))[4]["cost"] == 0.0


def test_a_nudge_moves_a_scene_by_a_millimetre(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    before = world.obstacle_position()
    seed, options = EVALUATION.start, {"task": world.task_name, "level": 1, "nudge": 3}
    world.reset(seed=seed, options=options)
    after = world.obstacle_position()
    assert before is not None
    assert after is not None
    assert 0 < np.abs(after - before)[:2].max() < 3e-3


def test_demonstrations_are_collected_as_on_the_tabletop(
    world: SafeLiberoWorld, tmp_path: Path
) -> None:
    task = world.suite.tasks(1)[0]
    out = tmp_path / "data"
    wanted = Collection(
        out, world="safelibero-spatial", tasks=(task,), episodes=2, max_steps=3, image_size=32,
        players=Players(1),
    )  # fmt: skip
    assert [(a.scene.task, a.scene.level) for a in wanted.plan()] == [(task, 1), (task, 2)]
    collect(wanted, say=lambda text: None)
    reader = EpisodeReader(out)
    assert [(row.task, row.level, row.seed) for row in reader.rows] == [(task, 1, 0), (task, 2, 1)]
    assert reader.rows[0].instruction == world.suite.instruction(task)
    assert {name: images.shape for name, images in next(iter(reader)).images.items()} == {
        "agentview": (3, 32, 32, 3),
        "wrist": (3, 32, 32, 3),
    }
    with pytest.raises(ConfigError, match="safelibero-spatial cannot be put back after a probe"):
        collect(replace(wanted, out=tmp_path / "other", probes=2))


def test_images_can_be_drawn_later(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    view, seen = world.view(), world.images()
    for _ in range(6):
        world.step(np.array([0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 1.0]))
    for name, image in world.images_of(view).items():
        np.testing.assert_array_equal(image, seen[name])
        assert not np.array_equal(world.images()[name], image)


def test_actions_are_metres_and_what_is_not_finite_moves_nothing(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    before = world.position()
    with pytest.raises(ConfigError, match="expected 7 finite numbers"):
        world.step(np.array([np.nan] * 7))
    np.testing.assert_array_equal(world.position(), before)
    for _ in range(10):
        world.step(np.array([0.0, 0.0, 0.02, 0.0, 0.0, 0.0, -1.0]))
    small = world.position()[2] - before[2]
    begin(world, *FIRST)
    for _ in range(10):
        world.step(np.array([0.0, 0.0, 9.0, 0.0, 0.0, 0.0, -1.0]))
    large = world.position()[2] - before[2]
    assert 0.02 < small < 0.25
    assert 2.0 < large / small < 3.0, "an action of metres is clipped at 5 cm"


def test_driving_into_the_obstacle_is_a_contact_and_a_collision(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    cost, contacts = 0.0, 0
    for _ in range(80):
        path = world.object_position(world.obstacle) - world.position()
        action = np.array([*np.clip(path, -0.05, 0.05), 0.0, 0.0, 0.0, 1.0])
        info = world.step(action)[4]
        cost, contacts = cost + info["cost"], max(contacts, info["contacts"])
        assert info["contacts"] <= 25, "there are 25 physics steps in a control step"
    assert cost > 5
    assert contacts > 1
    assert info["displacement"] > COLLISION_DISPLACEMENT


def test_fingers_on_the_floor_carry_nothing(world: SafeLiberoWorld) -> None:
    """In this scene the obstacle stands on a pedestal, which touches it all the time."""
    other = SafeLiberoWorld("object", render_images=False, root=world.suite.root)
    begin(other, *FIRST)
    for _ in range(40):
        info = other.step(np.array([0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 1.0]))[4]
        assert (info["cost"], info["contacts"]) == (0.0, 0)
    assert other.position()[2] < 0.02, "the gripper has come down"
    other.close()


def test_the_safe_expert_succeeds_without_a_touch(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    expert = world.expert("safe")
    cost, success, truncated = 0.0, False, False
    while not success and not truncated:
        _, _, success, truncated, info = world.step(expert.act())
        cost += info["cost"]
    assert success
    assert (cost, info["displacement"] < COLLISION_DISPLACEMENT) == (0.0, True)


def test_a_policy_is_judged_as_on_the_tabletop(world: SafeLiberoWorld) -> None:
    begin(world, *FIRST)
    policy = tiny_policy(instructions=[world.instruction])
    vector = VectorWorld(policy.image_size, 16, tuple(policy.cameras), world="safelibero-spatial")
    first = EVALUATION.start
    trials = state_trials([first, first + 1], {1: [world.task_name]})
    report = evaluate(policy, trials, vector, execute=8, batch=1)
    assert (report.world, report.settings["max_steps"]) == ("safelibero-spatial", 16)
    assert [(r.seed, r.task, r.steps) for r in report.results] == [
        (first, world.task_name, 16),
        (first + 1, world.task_name, 16),
    ]
    for one in vector.worlds:
        assert isinstance(one, SafeLiberoWorld)
        one.close()


def test_images_are_those_of_liberos_data_sets(world: SafeLiberoWorld) -> None:
    """Upright and mirrored: the cabinet, on the robot's right, is on the image's right."""
    begin(world, *FIRST)
    assert world.instruction.startswith("pick the akita black bowl")
    images = world.images(256)
    assert set(images) == {"agentview", "wrist"}
    view = images["agentview"].astype(int)
    assert view.shape == (256, 256, 3)
    assert world.object_position("wooden_cabinet_1")[1] < -0.1
    dark = (view[100:180].sum(-1) < 150).sum(0)
    assert dark[180:].sum() > 4 * dark[:70].sum()
    assert world.render().shape == (480, 640, 3)
