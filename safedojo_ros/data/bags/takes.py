"""From messages in recorded order to takes: what was seen and done between two episodes' edges."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safedojo_ros.core.contract import CameraSource, Topics
from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, quaternion_of_matrix
from safedojo_ros.core.types import ACTION_SIZE, RESIZE
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.bags.said import outcome_of, truth_of, word
from safedojo_ros.data.bags.series import SILENCE, ClockWatch, Finding, Series
from safedojo_ros.data.images import decode_compressed, decode_image, fit_image
from safedojo_ros.robot.kinematics import Kinematics

ENABLE, OUTCOME, TRUTH = "robot/enable", "sim/episode", "sim/truth"
POSE, JOINTS, INSTRUCTION = "ee_pose", "joint_states", "instruction"
TARGET, CHUNK, COST = "arm/target", "safety/action_chunk", "safety/cost"
OUR_TOPICS = Topics()
KINDS = {
    ENABLE: "std_msgs/msg/Bool",
    OUTCOME: "std_msgs/msg/String",
    TRUTH: "std_msgs/msg/String",
    POSE: "geometry_msgs/msg/PoseStamped",
    JOINTS: "sensor_msgs/msg/JointState",
    INSTRUCTION: "std_msgs/msg/String",
    CHUNK: "safedojo_ros/msg/ActionChunk",
    COST: "safedojo_ros/msg/SafetyCost",
}
WRENCH_KIND = "geometry_msgs/msg/WrenchStamped"
TARGET_KIND, IMAGE_KIND = "safedojo_ros/msg/ArmTarget", "sensor_msgs/msg/Image"
COMPRESSED_KIND = "sensor_msgs/msg/CompressedImage"
OTHER_CLOCK = 1.0
"""Seconds between a topic's first stamp and when it was heard, from which its clock is another."""

STRENGTH = 1e4
"""Newtons, newton metres; numbers beyond are no robot's."""
REACH = 100.0
"""Metres, radians; numbers beyond are no robot's."""
MOST_FINDINGS = 20
"""Findings of one topic's unusable messages; further ones are counted."""


@dataclass(frozen=True)
class ArmTarget:
    """position (3,) m, axis_angle (3,) rad in the base frame; gripper in [-1 open, +1 close];
    sequence of the chunk it came from, 0: the arm held."""

    position: np.ndarray
    axis_angle: np.ndarray
    gripper: float
    sequence: int
    checkpoint: str


@dataclass
class Take:
    """Everything heard between two edges; stamps are the messages' own where they have one.

    bag: where it began; ended: ns, when the enable switch was released or the world said so.
    """

    bag: str
    pictures: dict[str, Series]
    poses: Series = field(default_factory=lambda: Series(POSE))
    fingers: Series = field(default_factory=lambda: Series(JOINTS))
    targets: Series = field(default_factory=lambda: Series(TARGET))
    wrenches: Series = field(default_factory=lambda: Series("wrench"))
    truths: Series = field(default_factory=lambda: Series(TRUTH))
    instructions: Series = field(default_factory=lambda: Series(INSTRUCTION))
    observed_at: dict[int, int] = field(default_factory=dict)
    """{sequence of a gated chunk: stamp (ns) of its observation}."""
    expected_cost: dict[int, np.ndarray] = field(default_factory=dict)
    """{sequence: P(contact) of each step}, by the safety head."""
    ended: int | None = None
    outcome: dict[str, Any] | None = None
    followed: bool = False
    """Nobody commanded the arm by `targets`; what it did stands in for what it was to do."""


class TakeSplitter:
    """`feed` it every message; `takes` gathers the finished ones, `findings` what was amiss."""

    def __init__(
        self,
        cameras: tuple[CameraSource, ...],
        image_size: int,
        max_gap: float,
        topics: Topics = OUR_TOPICS,
        namespace: str = "",
        instruction: str = "",
        resize: str = RESIZE,
    ) -> None:
        """image_size: side of the square images, px; max_gap: see `ClockWatch.bound`; namespace:
        of all topics, without slashes around it; instruction: of every take, "": as heard; resize:
        how images become square, see `core.types.RESIZES`."""
        self._cameras, self._side, self._topics = cameras, image_size, topics
        self._resize = resize
        self._watch = ClockWatch(max_gap)
        self._bag, self._pressed = "", False
        self._instruction: str | None = instruction or None
        self.takes: list[Take] = []
        self.findings: list[Finding] = []
        self._take = self._new_take()
        self._kinematics = Kinematics()
        self._offsets: dict[str, int] = {}
        self._readers: dict[str, list[tuple[str, Callable[[Any, int], None]]]] = {}
        listen = self._listen
        listen(ENABLE, KINDS[ENABLE], self._on_enable)
        listen(OUTCOME, KINDS[OUTCOME], self._on_outcome)
        listen(TRUTH, KINDS[TRUTH], self._on_truth)
        listen(topics.pose, KINDS[POSE], self._on_pose)
        listen("" if topics.pose else topics.arm, KINDS[JOINTS], self._on_arm)
        listen(topics.joints, KINDS[JOINTS], self._on_joints)
        listen("" if instruction else topics.instruction, KINDS[INSTRUCTION], self._on_instruction)
        listen(topics.target, TARGET_KIND, self._on_target)
        listen(topics.wrench, WRENCH_KIND, self._on_wrench)
        listen(CHUNK, KINDS[CHUNK], self._on_chunk)
        listen(COST, KINDS[COST], self._on_cost)
        for camera in cameras:
            listen(camera.image_topic, IMAGE_KIND, self._picture_reader(camera.name))
            compressed = self._compressed_reader(camera.name)
            listen(f"{camera.image_topic}/compressed", COMPRESSED_KIND, compressed)
        self._prefix = f"{namespace}/" if namespace else ""
        self._named = {topics.joints.strip("/"): [topics.fingers]}
        if not topics.pose:
            self._named.setdefault(topics.arm.strip("/"), []).append(topics.arm_joints)
        self._unusable: Counter[str] = Counter()
        self.misfits: dict[str, str] = {}
        """{topic: what is wrong with its type}."""

    def _listen(self, topic: str, kind: str, reader: Callable[[Any, int], None]) -> None:
        """Hand messages of a topic to `reader`, beside others of the same kind; "": of none."""
        own = topic.strip("/")
        if own:
            same = [known for known in self._readers.get(own, []) if known[0] == kind]
            self._readers[own] = [*same, (kind, reader)]

    def knows(self, topic: str) -> bool:
        """Whether messages of this topic are read, if they are of the right type."""
        return topic.startswith(self._prefix) and self._own(topic) in self._readers

    def wants(self, topic: str, kind: str) -> bool:
        """Whether messages of this topic have to be decoded; a wrong type is a misfit."""
        if not self.knows(topic):
            return False
        wanted = self._readers[self._own(topic)][0][0]
        if kind == wanted:
            return True
        self.misfits.setdefault(topic, f"{topic} is of type '{kind}', expected {wanted}")
        return False

    def _own(self, topic: str) -> str:
        """Its name within the namespace."""
        return topic.removeprefix(self._prefix)

    def new_bag(self, name: str, first_heard_at: int) -> None:
        """What follows lies in another bag, whose first message was heard at `first_heard_at`."""
        before = self._watch.see("", first_heard_at)
        if before or not self._bag:
            self._finish()
            self._pressed = False
            self._offsets.clear()
        self._bag = name
        self._take.bag = self._take.bag or name

    def feed(self, topic: str, heard_at: int, message: Any) -> None:
        """One decoded message of a wanted topic, in the order of the recording."""
        own = self._own(topic)
        if own in self._named and not any(set(n) <= set(message.name) for n in self._named[own]):
            return  # another publisher's, of other joints
        stamp = self._by_our_clock(topic, heard_at, stamp_of(message))
        fault = self._watch.see(topic, heard_at, stamp)
        idle = self._take.ended is not None or not self._begun()
        if fault and not (idle and fault.startswith(SILENCE)):
            self.findings.append(Finding(topic, heard_at, fault))
            self._finish()
        try:
            for _, reader in self._readers[own]:
                reader(message, heard_at if stamp is None else stamp)
        except (ObservationRejected, ValueError, ArithmeticError, LookupError) as error:
            self.unusable(topic, heard_at, f"cannot be used: {' '.join(str(error).split())[:300]}")

    def _by_our_clock(self, topic: str, heard_at: int, stamp: int | None) -> int | None:
        """A stamp by the recorder's clock, where the topic's first one is of quite another."""
        if stamp is None:
            return None
        if topic not in self._offsets:
            apart = heard_at - stamp
            self._offsets[topic] = apart if abs(apart) > OTHER_CLOCK * SECOND else 0
            if self._offsets[topic]:
                what = f"its clock is {apart / SECOND:.3f} s behind the recorder's; mapped to it"
                self.findings.append(Finding(topic, heard_at, what))
        return stamp + self._offsets[topic]

    def unusable(self, topic: str, heard_at: int, why: str) -> None:
        """Note a message that is passed over; of many of one topic, the first."""
        self._unusable[topic] += 1
        if self._unusable[topic] <= MOST_FINDINGS:
            self.findings.append(Finding(topic, heard_at, why))

    def close(self) -> None:
        """There are no more messages."""
        self._finish()
        for topic, count in self._unusable.items():
            if count > MOST_FINDINGS:
                more = f"{count - MOST_FINDINGS} more messages cannot be used"
                self.findings.append(Finding(topic, 0, more))

    # ---------------------------------------------------------------- edges

    def _new_take(self) -> Take:
        topics = self._topics
        take = Take(
            self._bag,
            {camera.name: Series(camera.image_topic) for camera in self._cameras},
            poses=Series(topics.pose or topics.arm),
            fingers=Series(topics.joints),
            targets=Series(topics.target or topics.pose or topics.arm),
            followed=not topics.target,
            wrenches=Series(topics.wrench),
        )
        if self._instruction is not None:
            take.instructions.add(0, self._instruction)
        return take

    def _begun(self) -> bool:
        """Whether the arm has been commanded, or has been seen where nobody commands it."""
        take = self._take
        return bool(take.poses.stamps if take.followed else take.targets.stamps)

    def _finish(self) -> None:
        if self._begun():
            self.takes.append(self._take)
        self._take = self._new_take()

    def _on_enable(self, message: Any, at: int) -> None:
        pressed = bool(message.data)
        if pressed and not self._pressed:
            self._finish()
        if self._pressed and not pressed and self._take.ended is None:
            self._take.ended = at
        self._pressed = pressed

    def _on_outcome(self, message: Any, at: int) -> None:
        outcome = outcome_of(message.data)
        ended = outcome.get("stamp", self._take.ended or at)
        if self._take.targets.stamps and ended < self._take.targets.stamps[0]:
            return  # of an episode before: a bag that goes on begins with latched messages
        self._take.outcome, self._take.ended = outcome, ended

    # ---------------------------------------------------------------- what was seen and done

    def _compressed_reader(self, camera: str) -> Callable[[Any, int], None]:
        def read(message: Any, stamp: int) -> None:
            picture = decode_compressed(memoryview(message.data))
            small = fit_image(picture, self._side, self._side, self._resize)
            self._take.pictures[camera].add(stamp, small)

        return read

    def _picture_reader(self, camera: str) -> Callable[[Any, int], None]:
        def read(message: Any, stamp: int) -> None:
            picture = decode_image(
                memoryview(message.data), message.height, message.width, message.step,
                message.encoding,
            )  # fmt: skip
            small = fit_image(picture, self._side, self._side, self._resize)
            self._take.pictures[camera].add(stamp, small)

        return read

    def _on_pose(self, message: Any, stamp: int) -> None:
        place, turn = message.pose.position, message.pose.orientation
        position = np.array([place.x, place.y, place.z])
        quaternion = np.array([turn.w, turn.x, turn.y, turn.z])
        norm = float(np.linalg.norm(quaternion))
        if not np.all(np.abs(position) < REACH) or not abs(norm - 1.0) < 1e-3:
            raise ValueError(f"position {position.tolist()}, quaternion of length {norm}")
        axis_angle = axis_angle_of(quaternion, near=POINTING_DOWN)
        self._take.poses.add(stamp, np.concatenate([position, axis_angle]))

    def _on_joints(self, message: Any, stamp: int) -> None:
        fingers = _positions(message, self._topics.fingers)
        if fingers is not None:
            self._take.fingers.add(stamp, fingers)

    def _on_arm(self, message: Any, stamp: int) -> None:
        joints = _positions(message, self._topics.arm_joints)
        if joints is None:
            return
        turn, position, _ = self._kinematics.forward(joints)
        axis_angle = axis_angle_of(quaternion_of_matrix(turn), near=POINTING_DOWN)
        self._take.poses.add(stamp, np.concatenate([position, axis_angle]))

    def _on_instruction(self, message: Any, at: int) -> None:
        self._instruction = word(message.data)
        self._take.instructions.add(at, self._instruction)

    def _on_target(self, message: Any, stamp: int) -> None:
        target = ArmTarget(
            np.array(message.position, dtype=np.float64),
            np.array(message.axis_angle, dtype=np.float64),
            float(message.gripper),
            int(message.sequence),
            word(message.checkpoint),
        )
        numbers = [*target.position, *target.axis_angle, target.gripper]
        if len(numbers) != ACTION_SIZE or not np.all(np.abs(numbers) < REACH):
            raise ValueError(f"the target is {numbers}")
        self._take.targets.add(stamp, target)

    def _on_wrench(self, message: Any, stamp: int) -> None:
        self._take.wrenches.add(stamp, wrench_of(message))

    def _on_chunk(self, message: Any, stamp: int) -> None:
        self._take.observed_at[int(message.sequence)] = nanoseconds(message.observed_at)

    def _on_cost(self, message: Any, stamp: int) -> None:
        costs = np.array(message.step_cost, dtype=np.float64)
        if not np.all(np.isfinite(costs)):
            raise ValueError(f"costs are {costs.tolist()}")
        if len(costs):
            self._take.expected_cost[int(message.sequence)] = costs

    def _on_truth(self, message: Any, at: int) -> None:
        truth, stamp = truth_of(message.data)
        self._take.truths.add(at if stamp is None else stamp, truth)


def wrench_of(message: Any) -> np.ndarray:
    """(6,) force (N) and torque (Nm) of a WrenchStamped; raises `ValueError`."""
    force, torque = message.wrench.force, message.wrench.torque
    found = np.array([force.x, force.y, force.z, torque.x, torque.y, torque.z])
    if not np.all(np.abs(found) < STRENGTH):
        raise ValueError(f"the wrench is {found.tolist()}")
    return found


def _positions(message: Any, names: tuple[str, ...]) -> np.ndarray | None:
    """(N,) of these joints; None where the message is of others; raises `ValueError`."""
    if not set(names) <= set(message.name):
        return None
    positions = dict(zip(message.name, message.position, strict=True))
    found = np.array([positions[name] for name in names], dtype=np.float64)
    if not np.all(np.abs(found) < REACH):
        raise ValueError(f"positions of {', '.join(names)} are {found.tolist()}")
    return found


def nanoseconds(stamp: Any) -> int:
    """A message's Time in nanoseconds."""
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def stamp_of(message: Any) -> int | None:
    """The stamp of the message's header, or None where there is none or it is zero."""
    header = getattr(message, "header", None)
    return (nanoseconds(header.stamp) or None) if header is not None else None
