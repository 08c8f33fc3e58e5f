"""How well the external wrench tells contact: precision and recall against the physics.

    python benchmarks/wrench.py --free 20 --episodes 40

The scripted expert plays the embedded world without images. Each 5 ms the torques of all contacts
are taken as a Franka reports them, filtered, and as a wrench at its hand, as the emulated interface
does. Free motion is the task without an obstacle: it grasps and puts down, too.
"""

import argparse

import numpy as np

from safedojo_ros.data.bags.free_motion import FreeMotion
from safedojo_ros.robot.kinematics import Kinematics
from safedojo_ros.worlds.tabletop.experts import Expert
from safedojo_ros.worlds.tabletop.robot import TORQUE_FILTER
from safedojo_ros.worlds.tabletop.world import TabletopWorld

NOISE = np.array([0.5] * 3 + [0.05] * 3)
"""N and Nm: of the estimate on a real arm, by eye of the recordings that Franka shows."""


class FeelingWorld(TabletopWorld):
    """Keeps the wrench after every physics step."""

    def __init__(self, seed: int) -> None:
        super().__init__(16, ("agentview",), max_steps=150)
        self.render_images = False
        self.felt: list[np.ndarray] = []
        self._torques, self._kinematics = np.zeros(7), Kinematics()
        self._noise = np.random.default_rng(seed)

    def _physics_step(self) -> None:
        super()._physics_step()
        self._torques = self._torques + TORQUE_FILTER * (self.contact_torques() - self._torques)
        jacobian = self._kinematics.forward(self.joint_positions())[2]
        wrench = np.linalg.lstsq(jacobian.T, -self._torques, rcond=1e-2)[0]
        self.felt.append(wrench + NOISE * self._noise.normal(size=6))


def played(seed: int, level: int) -> tuple[list[np.ndarray], np.ndarray]:
    """(wrenches (K, 6) within each step; (T,) bool, true contact in it) of one episode."""
    world = FeelingWorld(seed)
    world.reset(seed=seed, options={"level": level})
    world.felt.clear()
    expert, wrenches, truth = Expert(world, "direct"), [], []
    over = False
    while not over:
        *_, done, truncated, info = world.step(np.asarray(expert.act(), dtype=np.float64))
        wrenches.append(np.array(world.felt))
        world.felt.clear()
        truth.append(info["cost"] > 0)
        over = done or truncated
    return wrenches, np.array(truth)


def main() -> None:
    """Print what the labels are worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--free", type=int, default=20, help="episodes without an obstacle")
    parser.add_argument("--episodes", type=int, default=40, help="episodes that are labelled")
    args = parser.parse_args()
    free = FreeMotion.of(np.concatenate([w for s in range(args.free) for w in played(s, 0)[0]]))
    print(free)
    labels, truths = [], []
    for number in range(args.episodes):
        wrenches, truth = played(10_000 + number, number % 3)  # a third without an obstacle
        labels.append(np.array([free.contact(some).any() for some in wrenches]))
        truths.append(truth)
    for what, said, true in (
        ("steps", np.concatenate(labels), np.concatenate(truths)),
        ("episodes", np.array([s.any() for s in labels]), np.array([t.any() for t in truths])),
    ):
        right = int((said & true).sum())
        print(
            f"{what}: precision {right / max(1, said.sum()):.2f} ({right}/{said.sum()}), "
            f"recall {right / max(1, true.sum()):.2f} ({right}/{true.sum()}), of {len(true)}"
        )


if __name__ == "__main__":
    main()
