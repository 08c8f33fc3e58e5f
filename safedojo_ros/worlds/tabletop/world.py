"""The embedded world: a Panda-shaped arm, four tasks, obstacles that must not be touched.

A gymnasium environment on bare MuJoCo physics. Contacts come from the physics, never from
geometry tests. Everything is drawn from the seed given to `reset`, so runs repeat exactly.
"""

from copy import deepcopy
from functools import partial, reduce
from operator import or_
from typing import Any

import gymnasium
import mujoco
import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND, checked_action
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, quaternion_of
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, STATE_SIZE
from safedojo_ros.worlds.rendering import SAMPLES, data_of_view, tabletop_renderer, view_of
from safedojo_ros.worlds.tabletop.arm_control import ArmReference
from safedojo_ros.worlds.tabletop.moving_obstacle import drive
from safedojo_ros.worlds.tabletop.scene import (
    FINGER_CLOSED,
    FINGER_OPEN,
    HOME_JOINTS,
    SCENES,
    SERVO_DAMPING,
    SERVO_STIFFNESS,
    THINGS,
    TIMESTEP,
    compile_scene,
)
from safedojo_ros.worlds.tabletop.tasks import TASKS, Task, draw_layout
from safedojo_ros.worlds.world import Expert, Style

HOME_POSITION = np.array([-0.10, 0.0, 0.24])
WORKSPACE = (np.array([-0.25, -0.32, 0.012]), np.array([0.34, 0.32, 0.45]))
"""Corners (m) between which the end-effector target stays."""

STEP_LIMIT = 150
"""Control steps after which an episode has failed."""

LEASH = 0.06
"""Farthest that the target may run ahead of the measured end-effector, metres."""

SETTLE_SECONDS = 0.5
NUDGE = 0.001
"""How far a nudge moves a thing along x and along y at most, metres."""

CARRIED_STEPS = 5
"""The target counts as carried (or pushed) so many control steps after a finger's last touch."""

KEPT = ("steps", "displacement", "_moved_at", "_cost", "_contacts", "_success", "_last_joints")
"""What a snapshot keeps beside the physics and the arm's reference."""

ROBOT_ON_OBSTACLE, TARGET_ON_OBSTACLE, LEFT_ON_TARGET, RIGHT_ON_TARGET = 1, 2, 4, 8


class TabletopWorld(gymnasium.Env):
    """One world. Observation: {camera: (S, S, 3) uint8, "state": (8,) float32}; action: (7,).

    `reset(seed=..., options={"task": name, "level": 0|1|2|3})`; without a task or level one is
    drawn from the seed (never 3, where the obstacle moves). With the option "nudge", a number, all
    things stand up to `NUDGE` aside. `info` holds instruction, task, level, cost (1.0 when robot or
    carried thing touched the obstacle in this step), contacts (how many physics steps),
    displacement (m, L1, of the obstacle from its settled start, or from its path where it moves)
    and success.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        image_size: int = 64,
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        max_steps: int = STEP_LIMIT,
        render_images: bool = True,
    ) -> None:
        self.image_size, self.cameras, self.max_steps = image_size, cameras, max_steps
        self.render_images = render_images
        self.render_mode = "rgb_array"
        picture = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        spaces: dict[str, gymnasium.Space] = dict.fromkeys(cameras, picture)
        spaces["state"] = gymnasium.spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        bound = ACTION_BOUND.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(-bound, bound, (ACTION_SIZE,), np.float32)
        self._bound = bound.astype(np.float64)
        self.task: Task = next(iter(TASKS.values()))
        self.level = 0

    # ---------------------------------------------------------------- gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Lay the scene out, let it settle, take the displacement reference."""
        super().reset(seed=seed)
        options = options or {}
        rng = self.np_random
        drawn_task, drawn_level = str(rng.choice(list(TASKS))), int(rng.integers(0, 3))
        name = options.get("task") or drawn_task
        if name not in TASKS:
            raise ConfigError(f"unknown task '{name}'; choose one of {', '.join(TASKS)}")
        self.task = TASKS[name]
        level = options.get("level")
        self.level = drawn_level if level is None else int(level)
        layout = draw_layout(self.task, self.level, rng)
        self.obstacle, self._sway = layout.obstacle, layout.sway
        self.model = compile_scene(self.task.scene, layout.obstacle)
        self.data = mujoco.MjData(self.model)
        self._index_bodies()
        start = HOME_POSITION + rng.uniform(-1, 1, 3) * np.array([0.02, 0.03, 0.02])
        self._place_arm(start)
        nudge = options.get("nudge")
        aside = NUDGE * (nudge is not None)
        nudges = np.random.default_rng(nudge).uniform(-aside, aside, (len(layout.poses), 2))
        for (thing, (x, y, yaw)), (dx, dy) in zip(layout.poses.items(), nudges, strict=True):
            self._place_thing(thing, x + dx, y + dy, yaw)
        mujoco.mj_forward(self.model, self.data)
        for _ in range(round(SETTLE_SECONDS / TIMESTEP)):
            mujoco.mj_step(self.model, self.data)
        self._settled_at = float(self.data.time)
        self._obstacle_reference = self._obstacle_position()
        self.steps, self.displacement, self._moved_at = 0, 0.0, -CARRIED_STEPS - 1
        self._cost, self._contacts = 0.0, 0
        self._success = False
        return self.observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Move the target by `action` (7,), clipped to the action space, for 0.05 s.

        Raises `ConfigError` for a wrong shape or a non-finite value, before anything moves.
        """
        action = checked_action(action)
        action = np.clip(action, -self._bound, self._bound)
        turned = np.zeros(4)
        mujoco.mju_mulQuat(turned, quaternion_of(action[3:6]), self._reference.quaternion)
        self._follow(self._reference.position + action[:3], turned, float(action[6]))
        return self._outcome()

    def servo(self, joints: np.ndarray, velocities: np.ndarray, fingers: float) -> None:
        """One physics step (`TIMESTEP`) under joint control, for a robot's own controller.

        joints (7,) rad, to be passed at `velocities` (7,) rad/s; fingers: m from the middle to
        each. Call `control_step` every 0.05 s of them.
        """
        self.data.ctrl[:7] = joints + SERVO_DAMPING / SERVO_STIFFNESS * velocities
        self.data.ctrl[7:9] = fingers
        self._physics_step()

    def control_step(self) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """What `step` returns, of the physics steps since the last one that `servo` made."""
        self._account()
        result = self._outcome()
        self._contacts = 0
        return result

    def step_target(
        self, position: np.ndarray, axis_angle: np.ndarray, gripper: float
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Like `step`, for an absolute target pose in the base frame (m, rad)."""
        delta = np.zeros(ACTION_SIZE)
        delta[:3] = np.asarray(position, dtype=np.float64) - self._reference.position
        inverse, turn = np.zeros(4), np.zeros(4)
        mujoco.mju_negQuat(inverse, self._reference.quaternion)
        mujoco.mju_mulQuat(turn, quaternion_of(np.asarray(axis_angle)), inverse)
        delta[3:6] = axis_angle_of(turn)
        delta[6] = gripper
        return self.step(delta)

    def render(self) -> np.ndarray:
        """(480, 640, 3) uint8 image of the whole scene, with shadows, for people."""
        renderer = tabletop_renderer()
        return renderer.render(self.model, self.data, "overview", 640, 480, shadows=True)

    # ---------------------------------------------------------------- going back

    def snapshot(self) -> dict[str, Any]:
        """All that changes after `reset`, for `restore`."""
        kept = {name: deepcopy(getattr(self, name)) for name in KEPT}
        data = mujoco.MjData(self.model)
        mujoco.mj_copyData(data, self.model, self.data)
        return kept | {"data": data, "reference": self._reference.copy()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Put everything back to where it was at the `snapshot` of this scene."""
        for name in KEPT:
            setattr(self, name, deepcopy(snapshot[name]))
        mujoco.mj_copyData(self.data, self.model, snapshot["data"])
        self._reference = snapshot["reference"].copy()

    def expert(self, style: Style) -> Expert:
        """The scripted expert, for one episode."""
        from safedojo_ros.worlds.tabletop import experts

        return experts.Expert(self, style)

    def disturbed(self, metres: float) -> bool:
        """Whether the last step touched the obstacle, or it is not where it was to `metres`."""
        return self._cost > 0 or self.displacement > metres

    # ---------------------------------------------------------------- readings

    def images(self, size: int | None = None) -> dict[str, np.ndarray]:
        """{camera: (size, size, 3) uint8}, what the policy's cameras see now."""
        return self._draw(self.data, size or self.image_size)

    def view(self) -> np.ndarray:
        """(N,) all that the images show now."""
        return view_of(self.data)

    def images_of(self, view: np.ndarray) -> dict[str, np.ndarray]:
        """The same images as at the time of that view of this episode."""
        return self._draw(data_of_view(self.model, view), self.image_size)

    def _draw(self, data: mujoco.MjData, size: int) -> dict[str, np.ndarray]:
        draw = partial(tabletop_renderer().render, self.model, data, samples=SAMPLES)
        return {name: draw(name, size, size) for name in self.cameras}

    def state(self) -> np.ndarray:
        """(8,) float32: measured end-effector position, axis-angle, finger positions."""
        result = np.empty(STATE_SIZE, dtype=np.float32)
        result[:3] = self.position()
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, self.data.site_xmat[self._tcp])
        result[3:6] = axis_angle_of(quaternion, near=POINTING_DOWN)
        result[6:] = self.data.qpos[7:9]
        return result

    def position(self) -> np.ndarray:
        """(3,) m, measured end-effector position."""
        return self.data.site_xpos[self._tcp].copy()

    def joint_positions(self) -> np.ndarray:
        """(7,) rad."""
        return self.data.qpos[:7].copy()

    def joint_velocities(self) -> np.ndarray:
        """(7,) rad/s."""
        return self.data.qvel[:7].copy()

    def target_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """The pose that the arm is going to: position (3,) m, axis-angle (3,) rad."""
        turn = axis_angle_of(self._reference.quaternion, near=POINTING_DOWN)
        return self._reference.position.copy(), turn

    def contact_torques(self) -> np.ndarray:
        """(7,) Nm that everything touched puts on the joints (and their own stops)."""
        return self.data.qfrc_constraint[:7].copy()

    def thing_position(self, name: str) -> np.ndarray:
        """(3,) m, position of a thing's foot. For experts and ground truth only."""
        return self.data.body(name).xpos.copy()

    def obstacle_position(self) -> np.ndarray | None:
        """(3,) m, position of the obstacle's foot, None where there is none. For ground truth
        only."""
        return self.thing_position(self.obstacle) if self.obstacle else None

    def held(self) -> bool:
        """Whether both fingers touch the task's target."""
        both = LEFT_ON_TARGET | RIGHT_ON_TARGET
        return self._touching() & both == both

    @property
    def task_name(self) -> str:
        """Which of the tasks this is."""
        return self.task.name

    @property
    def instruction(self) -> str:
        """The sentence of the task."""
        return self.task.instruction

    # ---------------------------------------------------------------- inside

    def _index_bodies(self) -> None:
        model = self.model
        self._tcp = model.site("tcp").id
        self._reference = ArmReference(model)
        names = [model.body(int(body)).name for body in model.geom_bodyid]
        things = {*SCENES[self.task.scene], self.obstacle, "world"}
        robot = np.array([name not in things for name in names])
        target = np.array([name == self.task.target for name in names])
        obstacle = np.array([name == self.obstacle for name in names])
        left = np.array([name == "finger_left" for name in names])
        right = np.array([name == "finger_right" for name in names])
        flags = np.zeros((model.ngeom, model.ngeom), dtype=np.uint8)
        for one, other, flag in (
            (robot, obstacle, ROBOT_ON_OBSTACLE),
            (target, obstacle, TARGET_ON_OBSTACLE),
            (left, target, LEFT_ON_TARGET),
            (right, target, RIGHT_ON_TARGET),
        ):
            flags |= flag * (np.outer(one, other) | np.outer(other, one)).astype(np.uint8)
        self._pair_flags = flags
        self._obstacle_body = model.body(self.obstacle).id if self.obstacle else -1

    def _place_arm(self, start: np.ndarray) -> None:
        self._reference.place(HOME_JOINTS)
        self._reference.quaternion = quaternion_of(POINTING_DOWN)
        self._reference.position = start
        self._reference.solve(iterations=20)
        self.data.qpos[:7] = self._reference.joints
        self.data.ctrl[:7] = self._reference.joints
        self.data.qpos[7:9] = self.data.ctrl[7:9] = FINGER_OPEN
        self._last_joints = self._reference.joints.copy()

    def _place_thing(self, name: str, x: float, y: float, yaw: float) -> None:
        quaternion = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        if THINGS[name].movable:
            joint = self.data.joint(name)
            joint.qpos[:] = np.concatenate([[x, y, 0.001], quaternion])
        else:
            mocap = self.model.body(name).mocapid[0]
            self.data.mocap_pos[mocap] = (x, y, 0.0)
            self.data.mocap_quat[mocap] = quaternion

    def _follow(self, position: np.ndarray, quaternion: np.ndarray, gripper: float) -> None:
        """One control step: physics towards the target, watching for contacts all the way."""
        measured = self.position()
        ahead = position - measured
        distance = float(np.linalg.norm(ahead))
        if distance > LEASH:
            position = measured + ahead * (LEASH / distance)
        self._reference.position = np.clip(position, *WORKSPACE)
        self._reference.quaternion = quaternion / np.linalg.norm(quaternion)
        self._reference.solve(iterations=2)
        goal, data = self._reference.joints, self.data
        count = round(CONTROL_PERIOD / TIMESTEP)
        speed = (goal - self._last_joints) / CONTROL_PERIOD
        lead = SERVO_DAMPING / SERVO_STIFFNESS * speed
        data.ctrl[7:9] = FINGER_CLOSED if gripper > 0 else FINGER_OPEN
        self._contacts = 0
        for i in range(count):
            data.ctrl[:7] = self._last_joints + speed * ((i + 1) * TIMESTEP) + lead
            self._physics_step()
        self._last_joints = goal.copy()
        self._account()

    def _outcome(self) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self._success = self.task.done(self.task, self.data, self.held())
        truncated = self.steps >= self.max_steps
        return self.observation(), float(self._success), self._success, truncated, self._info()

    def _physics_step(self) -> None:
        """`TIMESTEP` seconds of physics, watching for contacts."""
        if self._sway:
            first, time = self._obstacle_reference, self.data.time - self._settled_at
            drive(self.model, self.data, self._obstacle_body, first, self._sway, time)
        mujoco.mj_step(self.model, self.data)
        touching = self._touching()
        if touching & (LEFT_ON_TARGET | RIGHT_ON_TARGET):
            self._moved_at = self.steps
        carried = self.steps - self._moved_at <= CARRIED_STEPS
        if touching & ROBOT_ON_OBSTACLE or (touching & TARGET_ON_OBSTACLE and carried):
            self._contacts += 1

    def _account(self) -> None:
        """Cost and displacement of the control step that ends."""
        self._cost = float(self._contacts > 0)
        if self.obstacle:
            wanted = self._obstacle_reference.copy()
            if self._sway:
                # positions are those before the last physics step
                wanted[:2] += self._sway.at(self.data.time - self._settled_at - TIMESTEP)[0]
            self.displacement = float(np.abs(self._obstacle_position() - wanted).sum())

    def _touching(self) -> int:
        """The flags (`ROBOT_ON_OBSTACLE` ...) of all contacts of this physics step."""
        pairs = self.data.contact.geom
        flags: list[int] = self._pair_flags[pairs[:, 0], pairs[:, 1]].tolist()
        return reduce(or_, flags, 0)

    def _obstacle_position(self) -> np.ndarray:
        if self._obstacle_body < 0:
            return np.zeros(3)
        return self.data.xpos[self._obstacle_body].copy()

    def observation(self) -> dict[str, np.ndarray]:
        """What `step` returned last; pictures only where `render_images`."""
        observation = self.images() if self.render_images else {}
        observation["state"] = self.state()
        return observation

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": self.task.instruction,
            "task": self.task.name,
            "level": self.level,
            "cost": self._cost,
            "contacts": self._contacts,
            "displacement": self.displacement,
            "success": self._success,
        }
