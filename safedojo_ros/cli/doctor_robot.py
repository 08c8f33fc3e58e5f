"""What `doctor --robot ADDRESS` says of a Franka and of the machine before it; nothing moves."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from safedojo_ros.cli.findings import Finding, Status
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.robot.fci.client import import_franky
from safedojo_ros.robot.fci.hand_thread import connected
from safedojo_ros.robot.fci.preflight import (
    REPORTS,
    host_remarks,
    robot_fault,
    robot_remarks,
    server_version,
    version_fault,
)

SETTLE = 0.3
"""Seconds that a control takes to see that a client has gone."""

WATCH = 1.0
"""Seconds for which states are counted."""

MOST_MISSING = 0.02
"""Share of states that may be missing."""


def examine_robot(address: str) -> Iterator[Finding]:
    """One finding a subject; after one that makes the next impossible there is none."""
    for remark in host_remarks():
        what, _, mend = remark.rpartition(": ")
        yield Finding("this machine", Status.WRONG, what, mend, needed=False)
    try:
        version = server_version(address)
    except ConfigError as error:
        yield Finding("robot", Status.MISSING, str(error), "see what is said there")
        return
    fault = version_fault(version)
    if fault:
        yield Finding("robot", Status.WRONG, fault, "see what is said there")
        return
    detail = f"interface version {version}, system 5.9 or later; {REPORTS}"
    yield Finding("robot", Status.PRESENT, detail)
    time.sleep(SETTLE)
    try:
        franky = import_franky()
        robot = franky.Robot(address, realtime_config=franky.RealtimeConfig.Ignore)
        yield from _state(robot.state)
        yield _stream(robot)
    except Exception as error:  # franky's exceptions have no common base
        yield Finding("robot's state", Status.WRONG, str(error), "look in Desk")
        return
    try:
        gripper = connected(franky, address)
    except ConfigError as error:
        yield Finding("gripper", Status.WRONG, str(error), "see what is said there")
        return
    state = gripper.state
    yield Finding("gripper", Status.PRESENT, f"{state.width:.3f} of {state.max_width:.3f} m open")


def _state(state: Any) -> Iterator[Finding]:
    fault = robot_fault(state)
    if fault:
        yield Finding("end effector", Status.WRONG, fault, "choose the Franka Hand in Desk")
    else:
        yield Finding("end effector", Status.PRESENT, "the Franka Hand")
    for remark in robot_remarks(state):
        yield Finding("load", Status.WRONG, remark, "set it to 0 in Desk", needed=False)
    mode = state.robot_mode.name
    if mode == "Idle":
        yield Finding("robot's mode", Status.PRESENT, mode)
    else:
        mend = "release the user stop, leave guiding, and clear errors in Desk"
        yield Finding("robot's mode", Status.WRONG, f"{mode}, expected Idle", mend)


def _stream(robot: Any) -> Finding:
    """Whether the states of a second come, one a millisecond of the robot's time."""
    times, until = [], time.monotonic() + WATCH
    while time.monotonic() < until:
        times.append(robot.state.time.to_msec())
    steps = np.diff(times)
    missing = float(np.maximum(steps - 1, 0).sum() / max(1, times[-1] - times[0]))
    detail = (
        f"{len(times)} states in {WATCH:g} s, {missing:.1%} missing, longest gap {steps.max()} ms"
    )
    if missing <= MOST_MISSING:
        return Finding("robot's states", Status.PRESENT, detail)
    mend = "a cable straight from this machine to the control, no switch, and an idle machine"
    return Finding("robot's states", Status.WRONG, detail, mend, needed=False)
