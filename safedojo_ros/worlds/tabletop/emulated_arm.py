"""The embedded world's arm behind the Franka Control Interface, as the simulator node serves it."""

from typing import Any

import numpy as np

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.robot.fci.emulator import FciEmulator
from safedojo_ros.robot.fci.protocol import CYCLE
from safedojo_ros.worlds.tabletop.robot import TabletopRobot
from safedojo_ros.worlds.tabletop.world import TabletopWorld


class EmulatedArm:
    """Serves at `address`, or with an empty one nothing. period: s of a control step."""

    def __init__(self, address: str, period: float) -> None:
        self._address, self._pace = address, CYCLE * period / CONTROL_PERIOD
        self._robot: TabletopRobot | None = None
        self._emulator: FciEmulator | None = None

    @property
    def serving(self) -> bool:
        """Whether the arm is moved by a client, not by targets."""
        return bool(self._address)

    @property
    def moving(self) -> bool:
        """Whether a client moves the arm just now."""
        return self._emulator is not None and self._emulator.moving

    def enter(self, world: TabletopWorld) -> None:
        """The arm is in `world` from now on; the first time the interface is opened."""
        if not self.serving:
            return
        if self._emulator is None or self._robot is None:
            self._robot = TabletopRobot(world)
            self._emulator = FciEmulator(self._robot, self._address, pace=self._pace)
            self._emulator.start()
            return
        robot, controller = self._robot, self._emulator.controller

        def change() -> None:
            robot.enter(world)
            controller.place()

        self._emulator.between_cycles(change)

    def control_step(
        self, world: TabletopWorld
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """What `TabletopWorld.step` returns, of what the arm did since the last time."""
        assert self._robot is not None
        with self._robot.lock:
            return world.control_step()

    def close(self) -> None:
        """Hang up."""
        if self._emulator is not None:
            self._emulator.close()
        self._emulator = self._robot = None
