"""Level III: an obstacle that goes to and fro across the transport line, whoever is in its way.

A weak drive (at most `STRENGTH` newtons) keeps it on a smooth path drawn from the seed. Where
nothing touches it, it is at most 0.7 mm off that path. Its displacement is how far
(L1) it is from where the path has it, so a collision is a collision whoever ran into whom: an arm
that stands still in the obstacle's way has one too.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

AMPLITUDE = (0.10, 0.13)
"""Metres from the transport line to either end of the path."""
PERIOD = (5.0, 8.0)
"""Seconds to and fro: at most 0.16 m/s, on the line."""
WAIT = (0.0, 1.5)
"""Seconds before it begins to move."""
TURN = 0.2
"""Radians, either way, by which its path is turned from square to the transport line."""

STRENGTH = 2.0
"""Newtons that the drive pushes with at most."""
STIFFNESS, DAMPING = 3600.0, 120.0
"""1/s² and 1/s: critically damped, 60 rad/s."""
SLIDING = 0.15 * 9.81
"""m/s²: what friction takes from a sliding obstacle."""


@dataclass(frozen=True)
class Sway:
    """Where the obstacle is to be: `wait` s at one end, then to the other one and back.

    way: (2,) m in x and y from the first end to the other; period: s, to and fro.
    """

    way: tuple[float, float]
    period: float
    wait: float

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(2,) m from the first end, (2,) m/s and (2,) m/s² after `time` seconds."""
        way, rate = np.array(self.way), 2 * np.pi / self.period
        phase = rate * max(0.0, time - self.wait)
        moving = float(time >= self.wait)
        return (
            way * (1.0 - np.cos(phase)) / 2,
            way * np.sin(phase) * rate / 2,
            way * np.cos(phase) * rate**2 / 2 * moving,
        )


def draw_sway(
    target: np.ndarray, goal: np.ndarray, middle: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, Sway]:
    """First end (2,) m, and the path across the line from `target` to `goal` through `middle`."""
    along = (goal - target) / np.linalg.norm(goal - target)
    turn = rng.uniform(-TURN, TURN) + rng.choice((-1, 1)) * np.pi / 2
    across = np.array(
        [
            np.cos(turn) * along[0] - np.sin(turn) * along[1],
            np.sin(turn) * along[0] + np.cos(turn) * along[1],
        ]
    )
    half = rng.uniform(*AMPLITUDE) * across
    x, y = (2 * half).tolist()
    return middle - half, Sway((x, y), float(rng.uniform(*PERIOD)), float(rng.uniform(*WAIT)))


def drive(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    body: int,
    first: np.ndarray,
    sway: Sway,
    time: float,
) -> None:
    """Push obstacle `body` to where it is to be `time` seconds after it was at `first` (3,) m."""
    place, velocity, acceleration = sway.at(time)
    joint = model.body_jntadr[body]
    here, moving = model.jnt_qposadr[joint], model.jnt_dofadr[joint]
    wanted = STIFFNESS * (first[:2] + place - data.qpos[here : here + 2])
    wanted = wanted + DAMPING * (velocity - data.qvel[moving : moving + 2])
    speed = float(np.linalg.norm(velocity))
    if speed > 0.0:
        wanted = wanted + velocity * (SLIDING / max(speed, 0.002))
    force = model.body_mass[body] * (wanted + acceleration)
    norm = float(np.linalg.norm(force))
    data.xfrc_applied[body, :2] = force * min(1.0, STRENGTH / max(norm, 1e-9))
