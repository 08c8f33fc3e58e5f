"""The embedded world's arm and hand as a robot's controller drives them, every millisecond."""

import threading

import numpy as np

from safedojo_ros.worlds.tabletop.scene import FINGER_CLOSED, FINGER_OPEN, TIMESTEP
from safedojo_ros.worlds.tabletop.world import TabletopWorld

CYCLES = round(TIMESTEP / 0.001)
"""Milliseconds of a physics step."""

TORQUE_FILTER = 0.3
"""Share of a physics step's contact torques that enters the reported ones (about 15 ms)."""


class TabletopRobot:
    """Arm and hand of `world`. Hold `lock` while anything else reads or changes the world."""

    def __init__(self, world: TabletopWorld) -> None:
        self.world, self.lock = world, threading.Lock()
        self._fingers = FINGER_OPEN
        self._cycle = 0
        self._read()
        self.contact_torques = np.zeros(7)
        """(7,) Nm that the surroundings put on the joints, filtered."""

    def follow(self, joints: np.ndarray, velocities: np.ndarray) -> None:
        """One millisecond towards `joints` (7,) rad; the physics moves in every fifth."""
        self._cycle = (self._cycle + 1) % CYCLES
        if self._cycle:
            return
        with self.lock:
            self.world.servo(joints, velocities, self._fingers)
            self._read()
            felt = self.world.contact_torques()
        self.contact_torques = self.contact_torques + TORQUE_FILTER * (felt - self.contact_torques)

    def enter(self, world: TabletopWorld) -> None:
        """Go on in another world, from where its arm is."""
        with self.lock:
            self.world, self._fingers, self._cycle = world, FINGER_OPEN, 0
            self.contact_torques = np.zeros(7)
            self._read()

    def _read(self) -> None:
        self.joints = self.world.joint_positions()
        """(7,) rad, measured."""
        self.velocities = self.world.joint_velocities()
        """(7,) rad/s, measured."""
        self.width = max(0.0, float(self.world.state()[6:].sum()))
        """m between the fingers, measured."""

    def open_to(self, width: float) -> None:
        """Move the fingers `width` m apart."""
        self._fingers = float(np.clip(width / 2, 0.0, FINGER_OPEN))

    def squeeze(self) -> None:
        """Close the fingers with force."""
        self._fingers = FINGER_CLOSED
