"""Serve the embedded world's arm and gripper over the Franka Control Interface, until Ctrl-C.

For clients of server version 10 and an FR3; tried with franky 2.0 and pylibfranka 0.21. Contacts
are physics and stop the arm by reflex as on the robot; Enter presses and releases the user stop.
Not emulated: joint torques, guiding, other tools than the Franka Hand.

  safedojo fci-emulator --address 127.0.0.10
  python -c "import franky; print(franky.Robot('127.0.0.10', \\
      realtime_config=franky.RealtimeConfig.Ignore).current_pose)"
"""

import argparse
import select
import sys
import time

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.pipeline.interruption import stop_on_signal
from safedojo_ros.pipeline.scenes import level_numbers
from safedojo_ros.worlds.tabletop.tasks import TASKS

REPORT_PERIOD = 5.0
"""Seconds between two printed lines about the arm."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--address",
        default="127.0.0.10",
        help="address of this machine; ports 1337 and 1338 are fixed (default: 127.0.0.10)",
    )
    parser.add_argument(
        "--task", choices=TASKS, default=next(iter(TASKS)), help="the objects of this task"
    )
    parser.add_argument(
        "--level", choices=("0", "I", "II"), default="I", help="where the obstacle is; 0: none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scene's layout")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.05,
        help="seconds that a cycle waits for the client's command; 0: exactly 1 kHz, as the robot, "
        "which needs a real-time kernel here, too (default: 0.05)",
    )
    parser.add_argument("--seconds", type=float, help="end after this time (default: never)")


def run(args: argparse.Namespace) -> int:
    """Serve; 0 once it was stopped."""
    from safedojo_ros.robot.fci.emulator import FciEmulator
    from safedojo_ros.worlds.tabletop.robot import TabletopRobot
    from safedojo_ros.worlds.tabletop.world import TabletopWorld

    if not 0.0 <= args.patience <= 1.0:
        raise ConfigError(f"--patience is {args.patience} s, expected within [0, 1]")
    world = TabletopWorld(render_images=False)
    world.reset(seed=args.seed, options={"task": args.task, "level": level_numbers(args.level)[0]})
    robot = TabletopRobot(world)
    emulator = FciEmulator(robot, args.address, args.patience)
    emulator.start()
    print(
        f"serving {args.task} at {args.address}, arm 1337, gripper 1338; Enter: user stop",
        flush=True,
    )
    stop, began = stop_on_signal(), time.monotonic()
    said, cycles = began, 0
    try:
        while not stop() and (args.seconds is None or time.monotonic() - began < args.seconds):
            if pressed():
                emulator.press_user_stop(not emulator.controller.user_stop)
                print("user stop", "pressed" if emulator.controller.user_stop else "released")
            if time.monotonic() - said >= REPORT_PERIOD:
                rate = (emulator.cycles - cycles) / (time.monotonic() - said)
                said, cycles = time.monotonic(), emulator.cycles
                x, y, z = world.position()
                mode = emulator.controller.mode.name.lower()
                print(f"{mode} at {x:.3f} {y:.3f} {z:.3f} m, {rate:.0f} Hz", flush=True)
    finally:
        emulator.close()
    return 0


def pressed() -> bool:
    """Whether a line was entered, within 0.1 s; no terminal, no button."""
    if not sys.stdin or not sys.stdin.isatty():
        time.sleep(0.1)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], 0.1)
    return bool(ready) and bool(sys.stdin.readline())
