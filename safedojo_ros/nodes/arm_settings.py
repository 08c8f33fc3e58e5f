"""The parameters of the arm's node, and what is made of them."""

import ipaddress
from collections.abc import Callable

from safedojo_ros.nodes.lifecycle import DojoNode, Setting
from safedojo_ros.robot.fci.client import LARGEST_SHARE, FrankaConfig
from safedojo_ros.robot.gate.freshness import FreshnessConfig
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.arm_state import ArmState
from safedojo_ros.robot.playback.control_loop import (
    MEASUREMENT,
    SAFETY,
    WATCHDOG,
    ControlLoop,
)
from safedojo_ros.robot.playback.playback import ChunkPlayback, PlaybackConfig
from safedojo_ros.robot.playback.target import TargetPose

SETTINGS = (
    Setting("backend", "sim", "What moves.", choices=("sim", "fci")),
    Setting("fci_address", "", "Backend fci: where the robot's control is, like 172.16.0.2."),
    Setting(
        "robot_base",
        [0.0],
        "Backend fci, which needs it: the arm's foot in the base frame (x, y, z in m).",
    ),
    Setting(
        "velocity",
        FrankaConfig.velocity,
        "Backend fci: share of 1.7 m/s and 2.5 rad/s.",
        0.01,
        LARGEST_SHARE,
    ),
    Setting(
        "acceleration",
        FrankaConfig.acceleration,
        "Backend fci: share of 9 m/s², 17 rad/s².",
        0.01,
        LARGEST_SHARE,
    ),
    Setting(
        "contact_force",
        FrankaConfig.force,
        "Backend fci: at which the arm stops by reflex (N).",
        1.0,
        100,
    ),
    Setting(
        "contact_torque", FrankaConfig.torque, "Backend fci: the same at a joint (Nm).", 1.0, 100.0
    ),
    Setting("grip_force", FrankaConfig.grip, "Backend fci: of the closed gripper (N).", 1.0, 70.0),
    Setting(
        "grip_speed", FrankaConfig.grip_speed, "Backend fci: of the fingers (m/s).", 0.005, 0.1
    ),
    Setting(
        "open_width", FrankaConfig.open_width, "Backend fci: of the open gripper (m).", 0.005, 0.08
    ),
    Setting(
        "grasp_width",
        FrankaConfig.grasp_width,
        "Backend fci: of what is grasped, 5 mm more or less (m); 0: anything.",
        0.0,
        0.075,
    ),
    Setting("workspace_lower", [-0.25, -0.32, 0.012], "Lower corner of the workspace (m)."),
    Setting("workspace_upper", [0.34, 0.32, 0.45], "Upper corner of the workspace (m)."),
    Setting("blend_steps", 1, "Steps in which the arm goes over to a new chunk's path.", 0, 32),
    Setting("actuation_delay", 0.0, "From a target to the first image of it (s).", 0.0, 1.0),
    Setting("max_lead", 0.06, "How far the target may be ahead of the arm (m).", 0.005, 0.2),
    Setting("enable_deadline", 0.3, "Longest silence of robot/enable (s).", 0.05, 5.0),
    Setting("safety_deadline", 0.3, "Longest silence of safety/state (s).", 0.05, 5.0),
    Setting("measurement_deadline", 0.2, "Longest silence of the arm (s).", 0.05, 5.0),
    Setting("watchdog", True, "Whether nothing moves without a recent OK on watchdog/state."),
    Setting("watchdog_deadline", 0.3, "Longest silence of watchdog/state (s).", 0.05, 5.0),
    Setting("realtime_priority", 20, "Of the control tick, if allowed; 0: ordinary.", 0, 99),
    Setting("realtime_factor", 1.0, "Speed of the world; the whole stack needs the same.", 0.05, 4),
)


def control_loop(node: DojoNode, period: float, rest: Callable[[], object]) -> ControlLoop:
    """The control loop of a node with `SETTINGS`; raises `ConfigError`.

    period: s between two ticks; rest: called at once whenever motion ends.
    """
    workspace = Workspace(node.corner("workspace_lower"), node.corner("workspace_upper"))
    playback = PlaybackConfig(
        blend_steps=int(node.setting("blend_steps")),
        actuation_delay=float(node.setting("actuation_delay")),
        max_tick_gap=5 * period,
        freshness=FreshnessConfig(period=period),
    )
    deadlines = {
        MEASUREMENT: float(node.setting("measurement_deadline")),
        SAFETY: float(node.setting("safety_deadline")),
    }
    if node.setting("watchdog"):
        deadlines[WATCHDOG] = float(node.setting("watchdog_deadline"))
    return ControlLoop(
        ChunkPlayback(playback),
        TargetPose(workspace, float(node.setting("max_lead"))),
        ArmState(float(node.setting("enable_deadline")), rest),
        deadlines,
        float(node.setting("realtime_factor")),
    )


def franka_config(node: DojoNode) -> FrankaConfig:
    """Of the robot behind the backend `fci`; raises `ConfigError`."""
    return FrankaConfig(
        node.setting("fci_address"),
        node.corner("robot_base"),
        float(node.setting("velocity")),
        float(node.setting("acceleration")),
        float(node.setting("contact_force")),
        float(node.setting("contact_torque")),
        float(node.setting("grip_force")),
        float(node.setting("grip_speed")),
        float(node.setting("open_width")),
        float(node.setting("grasp_width")),
    )


def is_loopback(address: str) -> bool:
    """Whether `address` is this machine's own, so that what answers there is an emulator."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
