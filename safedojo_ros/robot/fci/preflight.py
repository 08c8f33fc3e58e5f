"""What has to be true before a Franka is moved: its settings, its firmware, this machine's timing.

`robot_fault` refuses, `robot_remarks` and `host_remarks` only say. One line each: what was seen,
what was expected, what to do.
"""

import contextlib
import os
import platform
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.robot.fci.protocol import (
    ARM_HEADER,
    ARM_PORT,
    ARM_VERSION,
    CONNECT_REQUEST,
    CONNECT_RESPONSE,
    Command,
)
from safedojo_ros.robot.kinematics import hand

TOOL_DISTANCE, TOOL_ANGLE = 0.001, 0.01
"""m, rad by which the set tool frame may differ from the Franka Hand's."""

LOAD = 0.001
"""Kilograms of a set payload that are worth a remark."""

ANSWER = 3.0
"""Seconds in which a robot answers a greeting."""

REPORTS = (
    "public reports name systems 5.7.2 to 5.8.2 for communication_constraints_violation on a good "
    "network (franka_ros2 issue 108, libfranka issue 163); the maker advises 5.9.2 "
    "(libfranka issue 225)"
)
"""Firmware that is known to trip, and what is said to be better."""


def robot_fault(state: Any) -> str:
    """Why a robot whose `state` (of franky) is this must not be moved, or ""."""
    seen, expected = np.asarray(state.F_T_EE.matrix), hand()
    apart = float(np.linalg.norm(seen[:3, 3] - expected[:3, 3]))
    turned = float(np.arccos(np.clip((np.trace(seen[:3, :3].T @ expected[:3, :3]) - 1) / 2, -1, 1)))
    if apart < TOOL_DISTANCE and turned < TOOL_ANGLE:
        return ""
    return (
        f"the end effector set in the robot is {apart * 1e3:.0f} mm and {np.degrees(turned):.0f}° "
        f"off the Franka Hand's: F_T_EE puts it at {np.round(seen[:3, 3], 4).tolist()} m of the "
        f"flange, expected {np.round(expected[:3, 3], 4).tolist()} m; choose the Franka Hand as "
        "end effector in Desk"
    )


def robot_remarks(state: Any) -> list[str]:
    """What is unusual about a robot whose `state` (of franky) is this, but may be meant."""
    remarks = []
    if not abs(state.m_load) < LOAD:
        remarks.append(
            f"the robot counts on a load of {state.m_load:.2f} kg; where nothing is fastened to "
            "the gripper set it to 0 in Desk, else forces of contact are misjudged"
        )
    return remarks


def host_remarks(root: Path = Path("/")) -> list[str]:
    """What this machine lacks to answer within a millisecond; root: where sys/ and proc/ are."""
    remarks = []
    if not realtime_kernel(root):
        remarks.append(
            f"the kernel ({platform.release()}) is not a real-time one; 20 late answers in a row "
            "stop the robot (communication_constraints_violation): boot a PREEMPT_RT kernel"
        )
    slow = sorted(set(governors(root)) - {"performance"})
    if slow:
        remarks.append(
            f"the CPU governor is {', '.join(slow)}, expected performance: "
            "sudo cpupower frequency-set -g performance"
        )
    allowed, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
    if os.geteuid() and allowed == 0:
        remarks.append(
            "no right to real-time priority (rtprio 0): add the user to a group with rtprio 99 in "
            "/etc/security/limits.conf"
        )
    return remarks


def realtime_kernel(root: Path = Path("/")) -> bool:
    """Whether the kernel says that it is a PREEMPT_RT one."""
    try:
        return (root / "sys/kernel/realtime").read_text(encoding="utf-8").strip() == "1"
    except OSError:
        return False


def governors(root: Path = Path("/")) -> Iterator[str]:
    """The governor of each CPU that has one."""
    for file in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")):
        try:
            yield file.read_text(encoding="utf-8").strip()
        except OSError:
            continue


def server_version(address: str) -> int:
    """Version of the interface that the control at `address` speaks; takes its place for a moment.

    Raises `ConfigError` where none answers.
    """
    asked = CONNECT_REQUEST.pack(ARM_VERSION, 0)
    size, reply = ARM_HEADER.size + CONNECT_RESPONSE.size, b""
    try:
        line = socket.create_connection((address, ARM_PORT), ANSWER)
        with line, contextlib.suppress(ConnectionError):  # hung up on
            line.sendall(ARM_HEADER.pack(Command.CONNECT, 1, ARM_HEADER.size + len(asked)) + asked)
            while len(reply) < size and (part := line.recv(size - len(reply))):
                reply += part
    except OSError as error:
        raise ConfigError(
            f"no Franka control answers at {address}:{ARM_PORT} ({error}); is the robot on, "
            "unlocked, and FCI activated in Desk?"
        ) from error
    if len(reply) < size:
        raise ConfigError(
            f"the Franka control at {address} hung up on a greeting; another client has it: "
            "end that one first"
        )
    _, version = CONNECT_RESPONSE.unpack(reply[ARM_HEADER.size :])
    return int(version)


def version_fault(version: int) -> str:
    """Why the client cannot speak to a control of this `version`, or ""."""
    if version == ARM_VERSION:
        return ""
    mend = "update franky-control"
    if version < ARM_VERSION:
        mend = f"update the robot to system 5.9.2 or later; {REPORTS}"
    return f"it speaks version {version}, the client version {ARM_VERSION} (system 5.9): {mend}"
