"""Through the client to the emulated arm: how long calls take, how fast cycles go, how far it lags.

A circle of 0.05 m radius at 0.1 m/s, a new target every control period, each planned to a stop.
Floor: the same two datagrams there and back over the loopback, with nothing behind them.

  python benchmarks/fci.py --seconds 20
"""

import argparse
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from safedojo_ros.core.rotation import quaternion_of
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.robot.fci.client import FrankaArm, FrankaConfig
from safedojo_ros.robot.fci.emulator import FciEmulator
from safedojo_ros.robot.fci.protocol import ROBOT_COMMAND, ROBOT_STATE
from safedojo_ros.robot.playback.target import Target
from safedojo_ros.worlds.tabletop.robot import TabletopRobot
from safedojo_ros.worlds.tabletop.scene import ARM_X
from safedojo_ros.worlds.tabletop.world import TabletopWorld

RADIUS, SPEED = 0.05, 0.1
"""m and m/s."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--address", default="127.0.0.40")
    args = parser.parse_args()

    world = TabletopWorld(render_images=False)
    world.reset(seed=0, options={"task": "can_in_basket", "level": 0})
    emulator = FciEmulator(TabletopRobot(world), args.address, patience=0.5)
    emulator.start()
    arm = FrankaArm(FrankaConfig(args.address, (ARM_X, 0.0, 0.0)))
    first = arm.read()
    if first is None:
        raise SystemExit(arm.fault)
    quaternion, center = quaternion_of(first.axis_angle), first.position + [RADIUS, 0.0, 0.0]
    calls: dict[str, list[float]] = {"read": [], "go": [], "fault": []}
    behind, cycles, began = [], emulator.cycles, time.monotonic()
    for k in range(round(args.seconds / CONTROL_PERIOD)):
        angle = np.pi + k * CONTROL_PERIOD * SPEED / RADIUS
        goal = center + RADIUS * np.array([np.cos(angle), np.sin(angle), 0.0])
        reading = timed(calls["read"], arm.read)
        timed(calls["go"], lambda goal=goal: arm.go(Target(goal, quaternion, -1.0)))
        if timed(calls["fault"], lambda: arm.fault):
            raise SystemExit(arm.fault)
        behind.append(float(np.linalg.norm(goal - reading.position)))
        time.sleep(max(0.0, began + (k + 1) * CONTROL_PERIOD - time.monotonic()))
    rate = (emulator.cycles - cycles) / (time.monotonic() - began)
    for name, seconds in calls.items():
        print(f"{name:6s} {quantiles(np.array(seconds) * 1e3)} ms")
    print(f"cycles {rate:.0f} a second (1000 is real time), {emulator.lost} without an answer")
    step = SPEED * CONTROL_PERIOD
    print(f"lag beside a step of {step * 1e3:.1f}: {quantiles((np.array(behind) - step) * 1e3)} mm")
    print(f"floor: both datagrams over the loopback {quantiles(loopback() * 1e3)} ms")
    arm.close()
    emulator.close()


def timed(seconds: list[float], call: Callable[[], Any]) -> Any:
    """What `call` returns; appends how long it took."""
    began = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - began)
    return result


def quantiles(values: np.ndarray) -> str:
    """Median and p99."""
    median, tail = np.percentile(values, (50, 99))
    return f"median {median:.2f}, p99 {tail:.2f}"


def loopback(rounds: int = 2000) -> np.ndarray:
    """(rounds,) s for a state there and a command back."""
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    one.bind(("127.0.0.1", 0))
    other.bind(("127.0.0.1", 0))
    state, command = bytes(ROBOT_STATE.itemsize), bytes(ROBOT_COMMAND.itemsize)
    seconds = np.zeros(rounds)
    for i in range(rounds):
        began = time.perf_counter()
        one.sendto(state, other.getsockname())
        other.recv(4096)
        other.sendto(command, one.getsockname())
        one.recv(4096)
        seconds[i] = time.perf_counter() - began
    return seconds


if __name__ == "__main__":
    main()
