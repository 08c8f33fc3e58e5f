"""The gripper's side of the Franka Control Interface, a state machine without sockets or clock."""

import struct
from typing import Protocol

from safedojo_ros.robot.fci.protocol import GRIPPER_STATE, GripperCommand, GripperStatus

MAX_WIDTH = 0.08
"""Metres between the fingers of the open Franka Hand."""

TOLERANCE = 0.002
"""How near to the asked width a movement has to end, m."""

STILL_SPEED = 2e-5
"""Metres a cycle below which the fingers stand."""

STILL_CYCLES = 40
START_CYCLES = 60
"""Cycles for which the fingers have to stand, and in which they may begin to move."""

TEMPERATURE = 30

_MOVE = struct.Struct("<2d")
_GRASP = struct.Struct("<5d")


class Gripper(Protocol):
    """What is opened and closed."""

    @property
    def width(self) -> float:
        """Metres between the fingers, measured."""

    def open_to(self, width: float) -> None:
        """Move the fingers `width` m apart."""

    def squeeze(self) -> None:
        """Close the fingers with force."""


class GripperController:
    """`request` begins, `cycle` (1 ms) says what has ended; its own speed and force."""

    def __init__(self, gripper: Gripper) -> None:
        self.gripper = gripper
        self.grasped = False
        self.max_width = MAX_WIDTH
        """m, as homing has found it; 0 before."""
        self._running: tuple[GripperCommand, int, float, float, float] | None = None
        self._cycles = self._still = self._message = 0
        self._last = gripper.width

    def request(
        self, command: GripperCommand, number: int, payload: bytes
    ) -> list[tuple[GripperCommand, int, GripperStatus]]:
        """(command, number, status) of all that this ends at once."""
        if command == GripperCommand.STOP:
            self.gripper.open_to(self.gripper.width)
            return [*self._abort(), (command, number, GripperStatus.SUCCESS)]
        width, narrower, wider = MAX_WIDTH, 0.0, 0.0
        try:
            if command == GripperCommand.MOVE:
                width, _ = _MOVE.unpack(payload)
            elif command == GripperCommand.GRASP:
                width, narrower, wider, _, _ = _GRASP.unpack(payload)
        except struct.error:
            return [(command, number, GripperStatus.FAIL)]
        if not 0.0 <= width <= MAX_WIDTH + TOLERANCE:  # a NaN is not between
            return [(command, number, GripperStatus.FAIL)]
        ended = self._abort()
        self.grasped = False
        self._running = command, number, width, narrower, wider
        self._cycles = self._still = 0
        if command == GripperCommand.GRASP:
            self.gripper.squeeze()
        else:
            self.gripper.open_to(width)
        return ended

    def cycle(self) -> list[tuple[GripperCommand, int, GripperStatus]]:
        """One millisecond later; what has ended by now."""
        width = self.gripper.width
        self._still = self._still + 1 if abs(width - self._last) < STILL_SPEED else 0
        self._last = width
        self._cycles += 1
        if self._running is None or self._still < STILL_CYCLES or self._cycles < START_CYCLES:
            return []
        command, number, asked, narrower, wider = self._running
        self._running = None
        if command == GripperCommand.GRASP:
            self.grasped = asked - narrower < width < asked + wider
            done = self.grasped
        else:
            done = abs(width - asked) < TOLERANCE
        return [(command, number, GripperStatus.SUCCESS if done else GripperStatus.UNSUCCESSFUL)]

    def state(self) -> bytes:
        """What the gripper sends by UDP."""
        self._message += 1
        return GRIPPER_STATE.pack(
            self._message, self.gripper.width, self.max_width, self.grasped, TEMPERATURE
        )

    def _abort(self) -> list[tuple[GripperCommand, int, GripperStatus]]:
        if self._running is None:
            return []
        command, number, *_ = self._running
        self._running = None
        return [(command, number, GripperStatus.ABORTED)]
