"""The embedded world behind the arm's and the cameras' topics, stepped in real time, or with
`use_sim_time` in its own: see `world_clock`, and `stack.turn_order` for what the nodes say to it.

Publishes `sim/<camera>/image`, `sim/overview/image/compressed` (for people, where one looks),
`sim/joint_states`, `sim/ee_pose`, `instruction` (latched),
`robot/enable` (heartbeat), `sim/episode` (one JSON object a finished episode) and `sim/truth`
(JSON, every step; `stamp` in ns is that of the step's images). Follows `arm/target`, absolute
targets; or with `fci_address` whoever moves the arm over the Franka Control Interface, and then
`arm/target` only says that a policy's chunk is being executed.

Between two episodes the enable switch is released first, nothing is published while it is, then
the world is laid out anew and the switch pressed again. Targets from before that are ignored. In
the world's own time the first episode begins when every node is there, and each with an armed arm.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import COLLISION_DISPLACEMENT, CONTROL_PERIOD
from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ArmTarget
from safedojo_ros.nodes.conversion import (
    image_from_array,
    joint_state,
    jpeg_from_array,
    pose_message,
    to_nanoseconds,
)
from safedojo_ros.nodes.lifecycle import (
    BEAT,
    IMAGES,
    IN_ORDER,
    LATCHED,
    NEWEST,
    OK,
    RECORD,
    WARN,
    DojoNode,
    Setting,
)
from safedojo_ros.nodes.stack.episode_schedule import EpisodePlan, EpisodeSchedule, Phase
from safedojo_ros.nodes.stack.registry import OVERVIEW
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.turn_order import PATIENCE, Turn, TurnOrder, members
from safedojo_ros.nodes.world_clock import WorldClock
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS
from safedojo_ros.robot.tick_statistics import TickStatistics
from safedojo_ros.worlds.seeds import SPLITS
from safedojo_ros.worlds.tabletop.emulated_arm import EmulatedArm
from safedojo_ros.worlds.tabletop.world import TabletopWorld

ENABLE_PERIOD = 0.1
"""Seconds between two beats of `robot/enable`."""

RELEASE_TIME = 0.05
"""Seconds between releasing the switch and laying the world out anew."""

RELEASE_STEPS = LATENCY_STEPS + 1
"""The same in the world's own time: a chunk on its way is judged by what was seen before."""

STOP_TIME = 2.0
"""Seconds that an arm under a client's control may take to come to rest before the new layout."""

OVERVIEW_EVERY = 2
"""Steps between two images for people."""

TARGET_AGE = 0.2
"""Seconds without a target after which the arm stays where it is."""

SETTINGS = (
    Setting("level", 1, "Where the obstacle is: 0 none, 1 beside the target, 2 on the way.", 0, 2),
    Setting("task", "", "Name of the task; empty: the four take turns."),
    Setting("seed", 0, "Offset into the seeds of `split`.", 0, 899_999),
    Setting("split", "evaluation", "Which seeds.", choices=tuple(SPLITS)),
    Setting("episodes", 0, "How many episodes; 0: without end.", 0, 1_000_000),
    Setting("first_episode", 0, "Number of the first episode; to go on after a restart.", 0),
    Setting("max_steps", 150, "Control steps after which an episode ends.", 1, 10_000),
    Setting(
        "patience",
        15.0,
        "The clock starts with the first motion, or so long after the arm "
        "was armed (s): a gate that holds everything fails the episode.",
        0.0,
        3600.0,
    ),
    Setting("image_size", 64, "Side of the square images (px).", 16, 1024),
    Setting("cameras", ["agentview", "wrist"], "Cameras of the world to publish."),
    Setting(
        "sensor_noise",
        True,
        "Flip some lowest bits, as every real camera does by itself; "
        "without it a still scene looks like a frozen camera.",
    ),
    Setting(
        "fci_address", "", "Serve the arm over FCI at this address of this machine, 127.0.0.x."
    ),
    Setting("realtime_factor", 1.0, "Speed of the world; the whole stack needs the same.", 0.05, 4),
    Setting(
        "members",
        members(),
        "With use_sim_time: nodes for which the world's time waits.",
    ),
)


class SimNode(DojoNode):
    """Steps a `TabletopWorld` with a wall timer."""

    def __init__(self, **options: Any) -> None:
        super().__init__("sim_node", SETTINGS, **options)
        self._clocks: list[Any] = []
        self._ours: list[Any] = []
        self._emulated = EmulatedArm("", CONTROL_PERIOD)
        self._phase = Phase.FINISHED
        self._posed_at = self._seen = self._target_at = self._laid_out_at = 0
        self._plan: EpisodePlan | None = None
        self._target: ArmTarget | None = None
        self._faulty_targets = 0
        self._gripper = -1.0
        self._armed_since = 0.0
        self._world_clock: WorldClock | None = None
        self._begun = False

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Build the world and lay out the first episode once, so that faults show now."""
        self._schedule = EpisodeSchedule(
            self.setting("level"),
            self.setting("seed"),
            self.setting("task"),
            self.setting("episodes"),
            self.setting("split"),
        )
        self._number = int(self.setting("first_episode"))
        self._max_steps = int(self.setting("max_steps"))
        self._cameras: tuple[str, ...] = self.setting("cameras")
        self._period = CONTROL_PERIOD / float(self.setting("realtime_factor"))
        self._noise = np.random.default_rng(0) if self.setting("sensor_noise") else None
        self._world = self._new_world()
        if self.simulated and (self.setting("fci_address") or self._period != CONTROL_PERIOD):
            raise ConfigError(
                "use_sim_time is true: an arm behind fci_address runs in real time, and the world "
                "finds its own speed; set use_sim_time to false in every node"
            )
        self._emulated = EmulatedArm(self.setting("fci_address"), self._period)
        plan = self._schedule.plan(self._number)
        if plan is not None:
            self._lay_out(plan)
        self._images = {
            name: self.create_publisher(Image, f"sim/{name}/image", IMAGES)
            for name in self._cameras
        }
        self._joints = self.create_publisher(JointState, "sim/joint_states", NEWEST)
        self._pose = self.create_publisher(PoseStamped, "sim/ee_pose", NEWEST)
        self._instruction = self.create_publisher(String, "instruction", LATCHED)
        self._enable = self.create_publisher(Bool, "robot/enable", BEAT)
        self._episode = self.create_publisher(String, "sim/episode", RECORD)
        self._truth = self.create_publisher(String, "sim/truth", NEWEST)
        self._overview = self.create_publisher(CompressedImage, OVERVIEW, IN_ORDER)
        self._ours = [*self._images.values(), self._joints, self._pose, self._instruction]
        self._ours += [self._enable, self._episode, self._truth, self._overview]
        self._commands = self.create_subscription(ArmTarget, "arm/target", self._on_target, NEWEST)

    def activate(self) -> None:
        """Start the clock of the world."""
        self._ticks = TickStatistics(self._period)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._phase, self._released_at = Phase.RELEASED, 0
        self._clocks = [self.create_timer(ENABLE_PERIOD, self._repeat, clock=steady)]
        if self.simulated:
            self._begun = False
            self._world_clock = WorldClock(
                self, self._period, self.setting("members"), self._turn, self._goes_on
            )
        else:
            self._clocks.append(self.create_timer(self._period, self._tick, clock=steady))

    def deactivate(self) -> None:
        """Stop the world and release the enable switch."""
        for timer in self._clocks:
            self.destroy_timer(timer)
        self._clocks = []
        if self._world_clock is not None:
            self._world_clock.close()
            self._world_clock = None
        self._phase = Phase.FINISHED
        if self._ours and self.context.ok():
            self._beat()

    def cleanup(self) -> None:
        """Forget the world."""
        self._emulated.close()
        for publisher in self._ours:
            self.destroy_publisher(publisher)
        if self._ours:
            self.destroy_subscription(self._commands)
        self._ours = []

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Phase, episode and how evenly the world is stepped."""
        ticks = self._ticks.summary()
        missing = self._world_clock.missing if self._world_clock is not None else ""
        if missing:
            return WARN, f"no answer of {missing}", {}
        return OK, f"episode {self._number} {self._phase.value}", {
            "ticks": ticks.ticks,
            "missed_ticks": ticks.missed,
            "jitter_p99_ms": round(ticks.jitter_p99 * 1e3, 3),
            "faulty_targets": self._faulty_targets,
        }  # fmt: skip

    # ---------------------------------------------------------------- callbacks

    def _on_target(self, target: ArmTarget) -> None:
        self._target_at = to_nanoseconds(target.header.stamp)
        self._take_target(target)
        if self._world_clock is not None:
            self._world_clock.look()

    def _take_target(self, target: ArmTarget) -> None:
        values = [*target.position, *target.axis_angle, target.gripper]
        if not np.all(np.isfinite(values)):
            self._faulty_targets += 1
            self.get_logger().warning(
                f"target is not finite: {values}; the arm stays", throttle_duration_sec=1.0
            )
            return
        if self._phase not in (Phase.WAITING, Phase.RUNNING):
            return
        if to_nanoseconds(target.header.stamp) <= self._laid_out_at:
            return
        if self._phase == Phase.WAITING:
            if target.sequence == 0 and not self._waited_long():
                return
            self._phase, self._steps, self._contacts, self._worst = Phase.RUNNING, 0, 0, 0.0
        self._target = target

    def _waited_long(self) -> bool:
        """Whether the arm is armed, but has been held for so long that this counts as its try."""
        now = self.now() / SECOND if self.simulated else time.monotonic()
        self._armed_since = self._armed_since or now
        return now - self._armed_since > float(self.setting("patience"))

    @property
    def _pressed(self) -> bool:
        return self._phase in (Phase.WAITING, Phase.RUNNING)

    def _repeat(self) -> None:
        self._beat()
        if self._world_clock is not None and self._phase == Phase.WAITING:
            self._send_pose()  # for those who have just come

    def _beat(self) -> None:
        self._enable.publish(Bool(data=self._pressed))

    # ---------------------------------------------------------------- simulated time

    def now(self) -> int:
        """The world's own time, or the node's clock, ns."""
        return self._world_clock.now if self._world_clock is not None else super().now()

    def _turn(self) -> Turn | None:
        """One step of the world's time; returns what the other nodes must know of it."""
        self._beat()
        seen = self._seen
        if self._phase == Phase.RELEASED and not self._begun and self._plan is not None:
            self._publish(self._world.observation(), self._info)  # so that all find each other
        else:
            self._tick()
        if self._phase == Phase.FINISHED:
            return None
        return {
            "pose": self._posed_at == self.now(),
            "images": self._seen > seen,
            "enabled": self._pressed,
            "scene": self._laid_out_at,
            "instruction": self._world.instruction if self._laid_out_at else "",
        }

    def _goes_on(self, turns: TurnOrder) -> bool:
        """Whether the arm's target has come, and before the first motion whether it is armed.

        That is waited for in vain where nobody arms, so time goes on after a while.
        """
        if not self._begun:
            watchdog = turns.answers.get("watchdog_node", {"fine": True})
            self._begun = not turns.missing and watchdog.get("fine", False)
            return True
        arm = turns.answers.get("franka_node")
        if arm is None:
            return True
        if arm.get("sent", False) and self._target_at < self.now():
            return False
        if self._phase != Phase.WAITING or arm.get("armed", False):
            return True
        return time.monotonic() - self._waiting_since > PATIENCE

    def _tick(self) -> None:
        self._ticks.tick(self.now() if self.simulated else time.monotonic_ns())
        if self._phase == Phase.FINISHED:
            return
        if self._phase == Phase.RELEASED:
            now = self.now() if self.simulated else time.monotonic_ns()
            if now - self._released_at >= self._release_time:
                self._begin()
            return
        position, axis_angle = self._world.target_pose()
        gripper = self._gripper
        target = self._target
        if target is not None:
            age = (self.now() - to_nanoseconds(target.header.stamp)) / SECOND
            if age <= TARGET_AGE:
                position, axis_angle = np.array(target.position), np.array(target.axis_angle)
            gripper = self._gripper = float(target.gripper)
        if self._emulated.serving:
            observation, _, done, _, info = self._emulated.control_step(self._world)
        else:
            observation, _, done, _, info = self._world.step_target(position, axis_angle, gripper)
        if self._phase == Phase.RUNNING:
            self._steps += 1
            self._contacts += int(info["cost"] > 0)
            self._worst = max(self._worst, float(info["displacement"]))
            if done or self._steps >= self._max_steps:
                self._publish_truth(self.now(), info)
                self._end(bool(done))
                return
        self._publish(observation, info)

    @property
    def _release_time(self) -> int:
        """Nanoseconds that pass before the world is laid out anew."""
        seconds = STOP_TIME if self._emulated.moving else RELEASE_TIME
        return round((RELEASE_STEPS * self._period if self.simulated else seconds) * SECOND)

    # ---------------------------------------------------------------- episodes

    def _begin(self) -> None:
        plan = self._schedule.plan(self._number)
        if plan is None:
            self._phase = Phase.FINISHED
            self._beat()
            self.get_logger().info("all episodes are done")
            return
        self._lay_out(plan)
        self._laid_out_at, self._waiting_since = self.now(), time.monotonic()
        self._phase, self._target, self._gripper = Phase.WAITING, None, -1.0
        self._armed_since = 0.0
        self._instruction.publish(String(data=self._world.instruction))
        self._beat()  # before the first pose and images, which count only while it is pressed
        self._publish_pose(self._world.state(), self.now())  # and the arm may be armed before these

    def _new_world(self) -> TabletopWorld:
        size = int(self.setting("image_size"))
        return TabletopWorld(size, self._cameras, max_steps=sys.maxsize)

    def _lay_out(self, plan: EpisodePlan) -> None:
        self._plan = plan
        if self._emulated.serving:  # beside the world that the emulated arm still is in
            self._world = self._new_world()
        options = {"task": plan.task, "level": plan.level}
        _, self._info = self._world.reset(seed=plan.seed, options=options)
        if self._noise is not None:
            self._noise = np.random.default_rng(plan.seed)
        self._emulated.enter(self._world)

    def _end(self, success: bool) -> None:
        now = self.now() if self.simulated else time.monotonic_ns()
        self._phase, self._released_at = Phase.RELEASED, now
        self._beat()
        assert self._plan is not None
        outcome = {
            "stamp": self.now(),
            "number": self._plan.number,
            "task": self._plan.task,
            "level": self._plan.level,
            "seed": self._plan.seed,
            "success": success,
            "contact": self._contacts > 0,
            "contact_steps": self._contacts,
            "displacement": round(self._worst, 6),
            "collision": self._worst > COLLISION_DISPLACEMENT,
            "steps": self._steps,
        }
        self._number += 1
        self._episode.publish(String(data=json.dumps(outcome)))

    def _publish(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> None:
        stamp = self.now()
        self._publish_pose(observation["state"], stamp)
        self._seen += 1
        for name, publisher in self._images.items():
            image = self._sensed(observation[name])
            publisher.publish(image_from_array(image, stamp, f"camera_{name}"))
        self._publish_truth(stamp, info)
        if self._seen % OVERVIEW_EVERY == 0 and self._overview.get_subscription_count():
            self._overview.publish(jpeg_from_array(self._world.render(), stamp, "camera_overview"))

    def _publish_pose(self, state: np.ndarray, stamp: int) -> None:
        world, self._posed_at = self._world, stamp
        self._posed = (
            joint_state(world.joint_positions(), world.joint_velocities(), state[6:], stamp),
            pose_message(state[:3], state[3:6], stamp),
        )
        self._send_pose()

    def _send_pose(self) -> None:
        joints, pose = self._posed
        self._joints.publish(joints)
        self._pose.publish(pose)

    def _publish_truth(self, stamp: int, info: dict[str, Any]) -> None:
        truth = {"stamp": stamp, "episode": self._number, "phase": self._phase.value} | {
            key: info[key] for key in ("task", "level", "cost", "displacement", "success")
        }
        self._truth.publish(String(data=json.dumps(truth)))

    def _sensed(self, image: np.ndarray) -> np.ndarray:
        if self._noise is None:
            return image
        some = image[::8, ::8]
        some ^= self._noise.integers(0, 2, some.shape, dtype=np.uint8)
        return image


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(SimNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
