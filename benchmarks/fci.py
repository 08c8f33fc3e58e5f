"""Through the client to the emulated arm: how smoothly it goes, how far behind, and at what cost.

The actions of a scripted expert there and back, a target every control period, at several shares of
velocity and acceleration: motions planned to a stop at each target, and the reference that ships.
lag: the delay (ms) that brings the measured path nearest to the targets' and the distance (mm)
without it; jerk: rms of the commanded motion; jumps: milliseconds in which the commanded
acceleration changes by more than 1 m/s². The emulator runs in lockstep, so times are the robot's.

  python benchmarks/fci.py
"""

import argparse
import time
from typing import Any

import numpy as np

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.robot.fci.client import NO_FILTER, FrankaArm, FrankaConfig
from safedojo_ros.robot.fci.emulator import FciEmulator
from safedojo_ros.robot.fci.protocol import CYCLE
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.target import Target, TargetPose
from safedojo_ros.worlds.tabletop.experts import Expert
from safedojo_ros.worlds.tabletop.robot import TabletopRobot
from safedojo_ros.worlds.tabletop.scene import ARM_X
from safedojo_ros.worlds.tabletop.world import TabletopWorld

SHARES = (0.1, 0.25, 0.57)
TASK: dict[str, Any] = {"task": "can_in_basket", "level": 1}
SEED = 3
PERIOD = round(CONTROL_PERIOD / CYCLE)
"""Cycles of the robot."""

LIFT = np.array([0.0, 0.0, 0.02, 0.0, 0.0, 0.0, -1.0])
"""First actions, so that the path touches nothing."""

JUMP = 1.0
"""m/s² in a millisecond; the robot refuses 4.5."""

BOX = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))


class PlannedToStop(FrankaArm):
    """Each motion is planned to a stop at its target, from whatever motion is under way."""

    def _go(self, target: Target) -> None:
        franky, config = self._franky, self.config
        w, x, y, z = target.quaternion
        pose = franky.Affine((target.position - self.base).reshape(3, 1), np.array([x, y, z, w]))
        shares = franky.RelativeDynamicsFactor(
            config.velocity, config.acceleration, config.acceleration
        )
        motion = franky.CartesianMotion(pose, franky.ReferenceType.Absolute, shares)
        self._robot.move(motion, asynchronous=True, cutoff_frequency=NO_FILTER)


def main() -> None:
    """Print the table, or the durations of calls."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--address", default="127.0.0.40")
    args = parser.parse_args()
    actions = recorded()
    print("| share | motion | lag ms | lag mm | jerk m/s³ | jumps | cycles missed | go ms |")
    print("|---|---|---|---|---|---|---|---|")
    for share in SHARES:
        for kind, name in ((PlannedToStop, "planned to a stop"), (FrankaArm, "reference")):
            row = measured(kind, share, actions, args.address)
            print(f"| {share} | {name} | {row} |", flush=True)


def recorded() -> np.ndarray:
    """(n, 7) of an expert's episode, there and back, lifted, with the gripper open."""
    world = TabletopWorld(render_images=False)
    world.reset(seed=SEED, options=TASK)
    expert, actions, done = Expert(world), [], False
    while not done:
        actions.append(expert.act())
        _, _, success, over, _ = world.step(actions[-1])
        done = success or over
    there = np.array(actions)
    both = np.concatenate([np.tile(LIFT, (5, 1)), there, -there[::-1]])
    both[:, 6] = -1.0
    return both


def measured(kind: type[FrankaArm], share: float, actions: np.ndarray, address: str) -> str:
    """One row's figures."""
    world = TabletopWorld(render_images=False)
    world.reset(seed=SEED, options=TASK)
    emulator = FciEmulator(TabletopRobot(world), address, patience=0.5)
    controller, told, was = emulator.controller, [], []
    cycle = controller.cycle

    def noted(command: np.void | None) -> np.ndarray:
        state = cycle(command)
        told.append(np.concatenate([[controller.robot_time], controller._motion.bend]))
        was.append(state["O_T_EE"][12:15].astype(float))
        return state

    controller.cycle = noted  # type: ignore[method-assign]
    emulator.start()
    config = FrankaConfig(address, (ARM_X, 0.0, 0.0), share, share, force=100.0, torque=100.0)
    arm = kind(config, 5.0)
    pose, goals, calls = TargetPose(BOX), [], []
    began = controller.robot_time
    for k, action in enumerate(actions):
        while controller.robot_time < began + k * PERIOD:
            time.sleep(CYCLE / 2)
        reading = arm.read()
        if arm.fault or reading is None:
            print(f"stopped after {k} of {len(actions)} actions: {arm.fault or 'silence'}")
            break
        following = actions[k + 1] if k + 1 < len(actions) else None
        if k == 0:
            pose.reset(reading.position, reading.axis_angle, -1.0)
        target = pose.step(action, reading.position, reading.axis_angle, following)
        goals.append(np.concatenate([[controller.robot_time], target.position - arm.base]))
        at = time.perf_counter()
        arm.go(target)
        calls.append(time.perf_counter() - at)
    arm.close()
    emulator.close()
    return figures(np.array(told), np.array(was), np.array(goals), np.array(calls), emulator.lost)


def figures(
    told: np.ndarray, was: np.ndarray, goals: np.ndarray, calls: np.ndarray, lost: int
) -> str:
    """told (n, 7): ms and acceleration; was (n, 3) m; goals (k, 4): ms and m; calls (k,) s."""
    during = (told[:, 0] >= goals[0, 0]) & (told[:, 0] <= goals[-1, 0])
    times, bends, was = told[during, 0], told[during, 1:4], was[during]
    change = np.linalg.norm(np.diff(bends, axis=0), axis=1)
    # a target of now is to be reached a period later
    path = np.stack([np.interp(times, goals[:, 0] + PERIOD, goals[:, i]) for i in (1, 2, 3)], 1)

    def apart(delay: int) -> float:
        return float(np.square(path[: len(path) - delay] - was[delay:]).sum(1).mean())

    delay = min(range(0, 400, 2), key=apart)
    away = np.median(np.linalg.norm(path - was, axis=1)) * 1e3
    jerk = np.sqrt(np.square(change / CYCLE).mean())
    jumps = int((change > JUMP).sum())
    return f"{delay} | {away:.0f} | {jerk:.0f} | {jumps} | {lost} | {np.median(calls) * 1e3:.2f}"


if __name__ == "__main__":
    main()
