"""What has to be true before a Franka is moved: its settings, its firmware, this machine's timing.

`robot_fault` refuses, `robot_remarks` and `host_remarks` only say. One line each: what was seen,
what was expected, what to do.
"""

import os
import platform
import resource
import socket
import struct
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

SYSTEMS = {
    5: "system 4 of a Panda, or of an FR3 before 5.2; franky has no wheel for it on PyPI",
    6: "system 5.2 to 5.4 of an FR3",
    7: "system 5.5 and 5.6 of an FR3",
    8: "system 5.7.0 and 5.7.1 of an FR3",
    9: "system 5.7.2 to 5.8 of an FR3",
}
"""Server versions of the interface that the client cannot speak to, and whose they are."""


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
        return (root / "sys/kernel/realtime").read_text("utf-8").strip() == "1"
    except OSError:
        return False


def governors(root: Path = Path("/")) -> Iterator[str]:
    """The governor of each CPU that has one."""
    for file in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")):
        try:
            yield file.read_text("utf-8").strip()
        except OSError:
            continue


def server_version(address: str) -> int:
    """Version of the interface that the control at `address` speaks; takes its place for a moment.

    Raises `ConfigError` where none answers.
    """
    asked = CONNECT_REQUEST.pack(ARM_VERSION, 0)
    size = ARM_HEADER.size + CONNECT_RESPONSE.size
    try:
        with socket.create_connection((address, ARM_PORT), ANSWER) as line:
            line.sendall(ARM_HEADER.pack(Command.CONNECT, 1, ARM_HEADER.size + len(asked)) + asked)
            reply = b""
            while len(reply) < size:
                part = line.recv(size - len(reply))
                if not part:
                    raise ConfigError(
                        f"the Franka control at {address} hung up on a greeting; "
                        "another client has it: end that one first"
                    )
                reply += part
        _, version = CONNECT_RESPONSE.unpack(reply[ARM_HEADER.size :])
    except (OSError, struct.error) as error:
        raise ConfigError(
            f"no Franka control answers at {address}:{ARM_PORT} ({error}); is the robot on, "
            "unlocked, and FCI activated in Desk?"
        ) from error
    return int(version)


def version_fault(version: int) -> str:
    """Why the client cannot speak to a control of this `version`, or ""."""
    if version == ARM_VERSION:
        return ""
    whose = SYSTEMS.get(version, "a newer system" if version > ARM_VERSION else "an old system")
    mend = "update franky-control" if version > ARM_VERSION else "update the robot to 5.9 or later"
    return f"it speaks version {version} ({whose}), the client version {ARM_VERSION}: {mend}"
