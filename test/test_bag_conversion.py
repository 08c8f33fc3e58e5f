"""From bags to episodes: on disk is what was seen and done, and what is missing is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bag_messages
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from safedojo_ros.cli.main import main
from safedojo_ros.core.rotation import quaternion_of
from safedojo_ros.core.types import Episode
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.bags.conversion import ConversionReport, all_findings, convert
from safedojo_ros.data.bags.episodes import ConversionConfig, executed_action
from safedojo_ros.data.bags.takes import ArmTarget
from safedojo_ros.data.bags.writer import BagWriter, Topic
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.worlds.tabletop.experts import Expert
from safedojo_ros.worlds.tabletop.world import TabletopWorld

MS = 1_000_000
PERIOD = 50 * MS
START = 1_700_000_000 * SECOND
SIDE = 16
CAMERAS = ("agentview", "wrist")
CONFIG = ConversionConfig(CAMERAS, SIDE)

Write = Callable[[Topic, int, bytes], None]
TOPICS = {
    name: bag_messages.topic(f"/{name}", kind, latched)
    for name, kind, latched in (
        ("robot/enable", "std_msgs/msg/Bool", False),
        ("instruction", "std_msgs/msg/String", True),
        ("sim/truth", "std_msgs/msg/String", False),
        ("sim/episode", "std_msgs/msg/String", False),
        ("arm/target", "safedojo_ros/msg/ArmTarget", False),
        ("ee_pose", "geometry_msgs/msg/PoseStamped", False),
        ("joint_states", "sensor_msgs/msg/JointState", False),
        ("camera/agentview/image_raw", "sensor_msgs/msg/Image", False),
        ("camera/wrist/image_raw", "sensor_msgs/msg/Image", False),
        ("safety/state", "std_msgs/msg/String", False),
    )
}


# ---------------------------------------------------------------- a recorded episode of the world


class Played:
    """An expert's episode in the world, told on the topics of the stack at 20 Hz."""

    def __init__(self, seed: int = 3, steps: int = 30) -> None:
        self.messages: list[tuple[str, int, bytes]] = []
        self.truth: dict[str, list[Any]] = {k: [] for k in ("images", "state", "action")}
        self.outcomes: list[tuple[float, float, bool]] = []
        world = TabletopWorld(SIDE, CAMERAS, max_steps=10_000)
        world.reset(seed=seed, options={"level": 1, "task": "cube_on_plate"})
        self.task, self.instruction = world.task.name, world.instruction
        expert = Expert(world, "direct")
        say = self._say
        say("instruction", START, bag_messages.word(self.instruction))
        say("robot/enable", START + MS, bag_messages.switch(True))
        observation, contacts, worst, gripper = world.observation(), 0, 0.0, -1.0
        hold = (*world.target_pose(), gripper)
        say("arm/target", START + 20 * MS, self._target(START + 20 * MS, hold, 0))
        now = START
        for step in range(steps):
            now += PERIOD
            self._observe(now, observation)
            if step:
                self._tell(now)
            action = np.asarray(expert.act(), dtype=np.float64)
            position, axis_angle = world.target_pose()
            before = ArmTarget(position, axis_angle, gripper, 1, "p")
            goal = (position + action[:3], axis_angle, float(action[6]))
            said = self._target(now + 20 * MS, goal, 1 + step // 8)
            say("arm/target", now + 21 * MS, said)
            self.truth["images"].append({n: observation[n].copy() for n in CAMERAS})
            self.truth["state"].append(observation["state"].copy())
            after = ArmTarget(goal[0], goal[1], goal[2], 1, "p")
            self.truth["action"].append(executed_action(before, after))
            observation, _, success, _, info = world.step_target(*goal)
            gripper = goal[2]
            contacts += int(info["cost"] > 0)
            worst = max(worst, float(info["displacement"]))
            self.outcomes.append((float(info["cost"]), float(info["displacement"]), bool(success)))
            if success:
                break
        now += PERIOD
        self._tell(now)
        now += 3 * MS
        say("robot/enable", now, bag_messages.switch(False))
        outcome = {"stamp": now, "number": 0, "task": self.task, "level": 1, "seed": seed}
        outcome |= {"success": self.outcomes[-1][2], "contact_steps": contacts}
        outcome |= {"displacement": worst, "steps": len(self.outcomes)}
        say("sim/episode", now + MS, bag_messages.word(json.dumps(outcome)))

    def _tell(self, now: int) -> None:
        cost, displacement, success = self.outcomes[-1]
        truth = {"stamp": now, "phase": "running", "task": self.task, "level": 1}
        truth |= {"cost": cost, "displacement": displacement, "success": success}
        self._say("sim/truth", now + 2 * MS, bag_messages.word(json.dumps(truth)))

    def _say(self, topic: str, heard_at: int, data: bytes) -> None:
        self.messages.append((topic, heard_at, data))

    def _target(self, stamp: int, goal: tuple[Any, Any, float], sequence: int) -> bytes:
        checkpoint = "base" if sequence else ""
        return bag_messages.target(stamp, goal[0], goal[1], goal[2], sequence, checkpoint)

    def _observe(self, now: int, observation: dict[str, np.ndarray]) -> None:
        state = observation["state"].astype(np.float64)
        quaternion = quaternion_of(state[3:6])
        self._say("joint_states", now + MS, bag_messages.joints(now, state[6:]))
        self._say("ee_pose", now + MS, bag_messages.pose(now, state[:3], quaternion))
        for name in CAMERAS:
            picture = bag_messages.image(now, observation[name])
            self._say(f"camera/{name}/image_raw", now + 3 * MS, picture)

    def bag(self, folder: Path, messages: list[tuple[str, int, bytes]] | None = None) -> Path:
        writer = BagWriter(folder)
        for topic, heard_at, data in self.messages if messages is None else messages:
            writer.write(TOPICS[topic], heard_at, data)
        writer.close()
        return folder


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


def converted(bags: list[Path], out: Path) -> tuple[ConversionReport, list[Episode]]:
    with EpisodeWriter(out, SIDE, CAMERAS) as writer:
        report = convert(bags, writer, CONFIG)
    if not report.episodes:
        return report, []
    reader = EpisodeReader(out)
    return report, [reader[number] for number in range(len(reader))]


def test_a_bag_becomes_exactly_the_episode_that_was_played(played: Played, tmp_path: Path) -> None:
    report, (episode,) = converted([played.bag(tmp_path / "bag")], tmp_path / "out")
    assert list(all_findings(report)) == []
    assert report.broken == {}
    assert len(episode) == len(played.outcomes)
    for name in CAMERAS:
        truth = np.stack([images[name] for images in played.truth["images"]])
        assert np.array_equal(episode.images[name], truth)
    np.testing.assert_allclose(episode.state, played.truth["state"], atol=1e-6)
    np.testing.assert_allclose(episode.actions, played.truth["action"], atol=1e-6)
    cost, displacement, success = zip(*played.outcomes, strict=True)
    assert episode.cost.tolist() == list(cost)
    assert sum(cost) > 0, "the episode has to touch something, or this test shows little"
    np.testing.assert_allclose(episode.displacement, displacement, atol=1e-6)
    assert episode.success.tolist() == list(success)
    assert (episode.task, episode.level, episode.seed) == (played.task, 1, 3)
    assert (episode.instruction, episode.source) == (played.instruction, "policy:base")


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
def test_a_bag_of_another_writer_gives_the_same_episode(
    played: Played, tmp_path: Path, plugin: StoragePlugin
) -> None:
    with Writer(tmp_path / "theirs", version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for topic, heard_at, data in played.messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    f"/{topic}", TOPICS[topic].schema.name, typestore=bag_messages.types()
                )
            writer.write(connections[topic], heard_at, data)
    _, (mine,) = converted([played.bag(tmp_path / "mine")], tmp_path / "out_mine")
    _, (theirs,) = converted([tmp_path / "theirs"], tmp_path / "out_theirs")
    assert np.array_equal(mine.actions, theirs.actions)
    assert np.array_equal(mine.images["wrist"], theirs.images["wrist"])
    assert np.array_equal(mine.cost, theirs.cost)


def in_namespace(name: str, played: Played) -> list[tuple[Topic, int, bytes]]:
    return [
        (replace(TOPICS[topic], name=f"/{name}/{topic}"), heard_at, data)
        for topic, heard_at, data in played.messages
    ]


def test_a_robot_in_a_namespace_gives_the_same_episode(played: Played, tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag")
    for topic, heard_at, data in in_namespace("cell/left", played):
        writer.write(topic, heard_at, data)
    writer.close()
    _, (mine,) = converted([played.bag(tmp_path / "plain")], tmp_path / "out_plain")
    report, (episode,) = converted([tmp_path / "bag"], tmp_path / "out")
    assert report.namespace == "cell/left"
    np.testing.assert_array_equal(episode.actions, mine.actions)
    np.testing.assert_array_equal(episode.images["wrist"], mine.images["wrist"])


def test_of_two_robots_in_one_bag_each_can_be_had_and_the_other_is_named(
    played: Played, tmp_path: Path
) -> None:
    writer = BagWriter(tmp_path / "bag")
    both = in_namespace("left", played) + in_namespace("right", played)
    for topic, heard_at, data in sorted(both, key=lambda message: message[1]):
        writer.write(topic, heard_at, data)
    writer.close()
    report, (left,) = converted([tmp_path / "bag"], tmp_path / "out")
    assert (report.namespace, report.other_targets) == ("left", ["right/arm/target"])
    out = str(tmp_path / "out_right")
    cameras = ["--image-size", str(SIDE), "--namespace", "/right"]
    assert main(["bag-to-dataset", str(tmp_path / "bag"), "--out", out, *cameras]) == 0
    (right,) = EpisodeReader(Path(out))
    np.testing.assert_array_equal(right.actions, left.actions)
    assert not list(all_findings(report))


def test_the_outcome_of_an_episode_before_does_not_end_the_one_that_goes_on(
    played: Played, tmp_path: Path
) -> None:
    middle = len(played.messages) // 2
    before = json.dumps({"stamp": START - 60 * SECOND, "success": True, "task": "another"})
    latched = ("sim/episode", played.messages[middle][1], bag_messages.word(before))
    first = played.bag(tmp_path / "a", played.messages[:middle])
    cut = [m for m in played.messages[middle:] if m[0] not in ("robot/enable", "sim/episode")]
    second = played.bag(tmp_path / "b", [latched, *cut])
    _, (episode,) = converted([first, second], tmp_path / "out")
    assert len(episode) >= len(played.outcomes) - 1
    assert episode.task == played.task


def test_what_is_outside_of_the_robot_s_namespace_is_another_s(
    played: Played, tmp_path: Path
) -> None:
    writer = BagWriter(tmp_path / "bag")
    for topic, heard_at, data in in_namespace("left", played):
        writer.write(topic, heard_at, data)
        if topic.name.endswith("ee_pose"):
            elsewhere = bag_messages.pose(heard_at, np.full(3, 9.0), np.array([1.0, 0.0, 0.0, 0.0]))
            writer.write(TOPICS["ee_pose"], heard_at, elsewhere)
    writer.close()
    _, (episode,) = converted([tmp_path / "bag"], tmp_path / "out")
    assert np.abs(episode.state[:, :3]).max() < 1.0


def test_an_episode_in_two_bags_is_one_episode(played: Played, tmp_path: Path) -> None:
    half = len(played.messages) // 2
    parts = [played.messages[:half], played.messages[half:]]
    bags = [played.bag(tmp_path / f"bag{i}", part) for i, part in enumerate(parts)]
    _, (episode,) = converted(bags, tmp_path / "out")
    assert len(episode) == len(played.outcomes)


@pytest.mark.parametrize(
    "topic", ["camera/wrist/image_raw", "ee_pose", "joint_states", "sim/truth", "arm/target"]
)
def test_a_topic_that_falls_silent_splits_the_episode_and_is_named_with_its_time(
    played: Played, tmp_path: Path, topic: str
) -> None:
    begin, end = START + 14 * PERIOD, START + 19 * PERIOD
    messages = [m for m in played.messages if m[0] != topic or not begin <= m[1] < end]
    report, episodes = converted([played.bag(tmp_path / "bag", messages)], tmp_path / "out")
    assert len(episodes) == 2
    assert sum(map(len, episodes)) < len(played.outcomes) - 1
    (finding,) = all_findings(report)
    assert finding.topic == topic
    assert begin - 2 * PERIOD <= finding.at <= begin
    assert not episodes[0].succeeded


def test_a_success_is_kept_where_the_last_step_s_truth_was_not_heard(
    played: Played, tmp_path: Path
) -> None:
    *before, (topic, heard_at, data) = played.messages
    said = json.loads(bag_messages.types().deserialize_cdr(data, "std_msgs/msg/String").data)
    last_truth = max(i for i, m in enumerate(before) if m[0] == "sim/truth")
    messages = [m for i, m in enumerate(before) if i != last_truth]
    messages.append((topic, heard_at, bag_messages.word(json.dumps(said | {"success": True}))))
    report, (episode,) = converted([played.bag(tmp_path / "bag", messages)], tmp_path / "out")
    assert len(episode) == len(played.outcomes) - 1
    assert episode.success.tolist() == [False] * (len(episode) - 1) + [True]
    assert "last step's outcome was not heard" in " ".join(map(str, all_findings(report)))


@pytest.mark.parametrize("jump", [-5.0, -0.2, 0.4, 3600.0])
def test_a_clock_that_is_set_splits_the_episode_and_is_named(
    played: Played, tmp_path: Path, jump: float
) -> None:
    """The whole machine's clock: stamps and the recorder's times together."""
    at, shift = START + 15 * PERIOD + 10 * MS, int(jump * SECOND)
    later = Shifted(played, shift)
    messages = [m for m in played.messages if m[1] < at]
    messages += [(t, h + shift, d) for t, h, d in later.messages if h >= at]
    report, episodes = converted([played.bag(tmp_path / "bag", messages)], tmp_path / "out")
    assert len(episodes) == 2
    assert 0 <= len(played.outcomes) - sum(map(len, episodes)) <= 4
    text = " ".join(str(f) for f in all_findings(report))
    assert ("went back" if jump < 0 else "set forward") in text


class Shifted:
    """The same episode by a clock that is `shift` ns off; heard at the same times."""

    def __init__(self, played: Played, shift: int) -> None:
        self.messages = []
        for topic, heard_at, data in played.messages:
            kind = TOPICS[topic].schema.name
            message = bag_messages.types().deserialize_cdr(data, kind)
            if hasattr(message, "header"):
                stamp = message.header.stamp
                total = stamp.sec * SECOND + stamp.nanosec + shift
                stamp.sec, stamp.nanosec = total // SECOND, total % SECOND
            elif topic in ("sim/truth", "sim/episode"):
                said = json.loads(message.data)
                message.data = json.dumps(said | {"stamp": said["stamp"] + shift})
            self.messages.append((topic, heard_at, bag_messages.wire(message)))


def test_one_camera_s_clock_that_jumps_is_named_alone(played: Played, tmp_path: Path) -> None:
    at, camera = START + 15 * PERIOD, "camera/agentview/image_raw"
    ahead = Shifted(played, 2 * SECOND).messages
    messages = [
        late if m[0] == camera and m[1] >= at else m
        for m, late in zip(played.messages, ahead, strict=True)
    ]
    report, _ = converted([played.bag(tmp_path / "bag", messages)], tmp_path / "out")
    named = {f.topic for f in all_findings(report)}
    assert named == {camera}
    assert any("went forward by 2.0" in f.what for f in all_findings(report))


def test_a_bag_that_was_cut_gives_what_came_before_the_cut_and_is_named(
    played: Played, tmp_path: Path
) -> None:
    writer = BagWriter(tmp_path / "bag")
    for topic, heard_at, data in played.messages[: len(played.messages) // 2]:
        writer.write(TOPICS[topic], heard_at, data)
    writer.flush()
    writer.abandon()
    report, (episode,) = converted([tmp_path / "bag"], tmp_path / "out")
    assert "breaks off" in report.broken["bag"]
    assert 5 < len(episode) < len(played.outcomes)
    assert not episode.succeeded


def test_the_command_writes_a_report_and_refuses_when_nothing_came_of_it(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played.bag(tmp_path / "bags/one")
    out = tmp_path / "out"
    options = ["--out", str(out), "--image-size", str(SIDE)]
    assert main(["bag-to-dataset", str(tmp_path / "bags"), *options]) == 0
    assert f"1 episodes, {len(played.outcomes)} steps" in capsys.readouterr().out
    report = json.loads((out / "bag_to_dataset.json").read_text())
    assert report["episodes"] == 1
    assert len(EpisodeReader(out)) == 1
    assert main(["bag-to-dataset", str(tmp_path / "bags"), *options]) == 2
    assert "not empty" in capsys.readouterr().err
    still = [m for m in played.messages if m[0] != "arm/target"]
    played.bag(tmp_path / "still", still)
    command = ["bag-to-dataset", str(tmp_path / "still"), "--out", str(tmp_path / "none")]
    assert main(command) == 2
    assert "no targets on 'arm/target'" in capsys.readouterr().err
