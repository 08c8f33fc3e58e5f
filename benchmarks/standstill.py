"""From a fault to standstill: how long the emulated arm goes on moving, with both cores busy.

Three processes: the emulator, a client that leads the arm to and fro as the node does (a target
every 50 ms, a reading every 25 ms, rest on a fault), and this one, which breaks something. Times
are those of this machine's clock, and of the robot's (in lockstep its milliseconds are longer).
A robot that is silent cannot be watched: there the time until the client knows is measured.

  python benchmarks/standstill.py --times 50
  python benchmarks/standstill.py --times 50 --faults blocked,killed
"""

import argparse
import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from safedojo_ros.core.types import CONTROL_PERIOD

ADDRESS = "127.0.0.41"
PATIENCE = 0.01
"""Seconds that the emulator waits for each command: 20 missing ones in a row stop the arm."""

STILL = 0.01
"""rad/s below which no joint moves."""

SPEED = 0.15
"""rad/s that some joint has to have when something is broken."""

READING = CONTROL_PERIOD / 2
WATCHED = 0.9
"""Seconds, also of the robot's time, for which the arm is watched."""

ANSWER = 60.0
"""Seconds in which a process has to answer; else the benchmark ends and says which did not."""

THERE = 0.005
"""Metres from the middle of its way at which a client that was started again begins."""

BLOCKED = 0.8
"""Seconds for which the client's interpreter is held."""

FAULTS = {
    "cease": "targets cease",
    "rest": "the node rests (HOLD, stop)",
    "blocked": "client blocked (interpreter held)",
    "stopped": "client stopped (SIGSTOP)",
    "killed": "client killed (SIGKILL)",
    "gripper": "gripper fault",
    "reflex": "reflex of the robot",
    "user": "user stop",
    "silent": "robot silent (until the client knows)",
}
SPAWN = multiprocessing.get_context("spawn")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of them, by commas")
    args = parser.parse_args()
    print("| fault | median ms | p99 ms | robot's ms, median | p99 | resumed by itself |")
    print("|---|---|---|---|---|---|")
    with busy_cores(), Bench() as bench:
        for name in args.faults.split(","):
            found = [bench.trial(name) for _ in range(args.times)]
            here, robots = (np.array([f[i] for f in found]) for i in (0, 1))
            cells = [f"{np.percentile(v, q):.0f}" for v in (here, robots) for q in (50, 99)]
            resumed = sum(f[2] for f in found)
            print(
                f"| {FAULTS[name]} | {' | '.join(cells)} | {resumed} of {len(found)} |", flush=True
            )


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """As many processes that only compute as there are cores."""
    burners = [SPAWN.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()


def burn() -> None:
    """Compute for ever, giving way to whoever else needs a core."""
    os.nice(10)
    while True:
        sum(range(10_000))


class Bench:
    """The emulator and a client of it, each a process that is told what to do over a pipe."""

    def __enter__(self) -> "Bench":
        self.robot, self.robot_process = started(serve)
        heard(self.robot, "the emulator to start")
        self.client, self.client_process = started(drive, None)
        self.home = heard(self.client, "the client to start")
        return self

    def __exit__(self, *reason: object) -> None:
        for process in (self.client_process, self.robot_process):
            process.kill()
            process.join()

    def trial(self, name: str) -> tuple[float, float, bool]:
        """ms of this machine and of the robot from the fault to standstill; whether it resumed."""
        self.client.send("go")
        self.robot.send("moving")
        heard(self.robot, "the arm to move")
        broken = time.monotonic()
        if name == "silent":
            return self._silenced(broken)
        if name in ("cease", "rest", "blocked"):
            self.client.send(name)
        elif name == "stopped":
            os.kill(self.client_process.pid, signal.SIGSTOP)
        elif name == "killed":
            os.kill(self.client_process.pid, signal.SIGKILL)
        else:
            self.robot.send(name)
        time.sleep(WATCHED)
        if name == "stopped":
            os.kill(self.client_process.pid, signal.SIGCONT)
            time.sleep(0.4)
        self.robot.send(("still", broken))
        result: tuple[float, float, bool] = heard(self.robot, "the emulator's record")
        if name == "killed":
            self._start_again()
        else:
            self.client.send("home")
            heard(self.client, "the client to recover")
        return result

    def _silenced(self, broken: float) -> tuple[float, float, bool]:
        os.kill(self.robot_process.pid, signal.SIGSTOP)
        self.client.send("known")
        known = heard(self.client, "the client to know that the robot is silent") - broken
        os.kill(self.robot_process.pid, signal.SIGCONT)
        time.sleep(0.2)
        self.client_process.kill()
        self._start_again()
        return known * 1e3, known * 1e3, False

    def _start_again(self) -> None:
        """Another client in place of one that was killed; it first goes where the first began."""
        self.client_process.join()
        time.sleep(0.2)
        self.client, self.client_process = started(drive, self.home)
        heard(self.client, "the client to start again")


def started(role: Any, *arguments: Any) -> tuple[Connection, Any]:
    """Our end of the pipe to a process that has this role."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=role, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()  # so that the pipe ends with the process
    return ours, process


def heard(line: Connection, what: str) -> Any:
    """What a process says next; ends the benchmark where it is silent, or cannot go on and why."""
    try:
        word = line.recv() if line.poll(ANSWER) else f"nothing was said for {ANSWER:g} s"
    except EOFError:
        word = "the process has ended"
    if isinstance(word, str):
        raise SystemExit(f"waited for {what}: {word}")
    return word


def serve(orders: Connection) -> None:
    """The robot: notes how fast its joints are, and breaks when told to."""
    from safedojo_ros.robot.fci.emulator import FciEmulator
    from safedojo_ros.robot.fci.protocol import CYCLE, Error
    from safedojo_ros.worlds.tabletop.robot import TabletopRobot
    from safedojo_ros.worlds.tabletop.world import TabletopWorld

    world = TabletopWorld(render_images=False)
    world.reset(seed=0, options={"task": "can_in_basket", "level": 0})
    emulator = FciEmulator(TabletopRobot(world), ADDRESS, patience=PATIENCE)
    controller, seen = emulator.controller, []
    cycle = controller.cycle

    def noted(command: np.void | None) -> np.ndarray:
        state = cycle(command)
        seen.append((time.monotonic(), float(np.abs(controller.arm.velocities).max())))
        return state

    controller.cycle = noted  # type: ignore[method-assign]
    emulator.start()
    orders.send(True)
    while True:
        order = orders.recv()
        if order == "moving":
            seen.clear()
            until = time.monotonic() + ANSWER / 2
            while not (moves := len(seen) > 200 and seen[-1][1] > SPEED):
                if time.monotonic() > until:
                    break
                time.sleep(0.002)
            orders.send(moves or f"the robot is {controller.mode.name} at {world.position()}")
        elif order == "gripper":
            emulator.gripper.max_width = 0.0
        elif order == "reflex":
            emulator.between_cycles(lambda: controller._reflex(Error.CARTESIAN_REFLEX))
        elif order == "user":
            emulator.press_user_stop()
        else:
            until = time.monotonic() + ANSWER / 2
            while len(rows := [s for s in seen if s[0] >= order[1]]) < WATCHED / CYCLE:
                if time.monotonic() > until:
                    orders.send(f"the robot made {len(rows)} steps in {ANSWER / 2:g} s")
                time.sleep(0.02)
            after = np.array(rows)
            fast = np.flatnonzero(after[:, 1] > STILL)
            first = int(np.argmax(after[:, 1] <= STILL))
            last = int(fast[-1]) + 1 if len(fast) else 0
            resumed = bool(after[first + 300 :, 1].max(initial=0.0) > SPEED)
            emulator.gripper.max_width = 0.08
            emulator.press_user_stop(False)
            if last == len(after):
                orders.send("the robot does not stand still")
            orders.send(((after[last, 0] - order[1]) * 1e3, float(last), resumed))


def drive(orders: Connection, home: np.ndarray | None) -> None:
    """The client: as franka_node does, a target every 50 ms while nothing is wrong.

    home: (7,) position and quaternion about which it moves; None: where the arm is.
    """
    from safedojo_ros.core.rotation import quaternion_of
    from safedojo_ros.robot.fci.client import FrankaArm, FrankaConfig
    from safedojo_ros.robot.playback.target import Target

    arm = FrankaArm(FrankaConfig(ADDRESS, velocity=0.25, force=100.0, torque=100.0), 20.0)
    while (first := arm.read()) is None or (arm.fault and arm.recover()):
        time.sleep(0.01)
    if home is None:
        home = np.concatenate([first.position, quaternion_of(first.axis_angle)])
    middle, quaternion = home[:3], home[3:]
    while (there := arm.read()) is None or np.linalg.norm(there.position - middle) > THERE:
        if arm.fault:
            orders.send(arm.fault)
        arm.go(Target(middle, quaternion, -1.0))
        time.sleep(READING)
    going, ceased, asked, tick, due = False, False, False, 0, time.monotonic()
    orders.send(home)
    while True:
        if orders.poll():
            order = orders.recv()
            if order == "blocked":
                ctypes.PyDLL(None).usleep(round(BLOCKED * 1e6))  # the interpreter's lock is kept
                going = False  # a node's tick that was late by so much holds
            elif order == "known":
                asked = True
            elif order == "home":
                while arm.recover():
                    time.sleep(0.05)
                orders.send(True)
            going, ceased = order in ("go", "known"), order == "cease"
        reading, fault = arm.read(), arm.fault
        if asked and (reading is None or fault):
            orders.send(time.monotonic())
            asked = False
        if tick % 2 == 0:
            swing = np.array([0.0, 0.12 * np.sin(2.5 * tick * READING), 0.0])
            if going and not fault:
                arm.go(Target(middle + swing, quaternion, -1.0))
            elif not ceased:
                arm.rest()
        tick += 1
        due = max(due + READING, time.monotonic() - CONTROL_PERIOD)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
