"""How long the check of forbidden zones takes, beside a dense sampling of the same path.

`python benchmarks/zones.py` checks random 8-step chunks against 20 boxes and 5,000 points, with the
arm's links, on one core, and prints median and 99th percentile of its processor time: for points
spread over the table, and for points that all lie 5 to 8 cm from the robot.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from safedojo_ros.robot.gate.capsules import Sweep, point_distances, swept
from safedojo_ros.robot.gate.zones import PointSource, Surroundings, Zone, Zones, ZonesConfig
from safedojo_ros.robot.kinematics import Kinematics

BOXES, POINTS, STEPS = 20, 5_000, 8
FOOT = (-0.45, 0.0, 0.0)
JOINTS = np.array([0.0, -0.565, 0.0, -2.690, 0.0, 2.125, 0.785])
ALONG = 12
"""Points on each capsule's axis in the dense sampling."""


def dense(sweep: Sweep, low: np.ndarray, high: np.ndarray, points: np.ndarray) -> float:
    """The least clearance (m) of the path, from `ALONG` points on each capsule at each sample."""
    share = np.linspace(0.0, 1.0, ALONG)[:, None]
    least = np.inf
    for starts, ends in zip(sweep.start, sweep.end, strict=True):
        for a, b, radius in zip(starts, ends, sweep.radius, strict=True):
            axis = a + share * (b - a)
            to_boxes = axis[:, None] - np.clip(axis[:, None], low, high)
            to_points = axis[:, None] - points
            near = min(
                np.linalg.norm(to_boxes, axis=-1).min(), np.linalg.norm(to_points, axis=-1).min()
            )
            least = min(least, float(near - radius))
    return least


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of this thread on its core."""
    started = time.thread_time()
    run()
    return 1000 * (time.thread_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=300)
    chunks = parser.parse_args().chunks
    rng = np.random.default_rng(0)
    low = rng.uniform([-0.4, -0.5, -0.3], [0.4, 0.5, -0.1], (BOXES, 3))
    high = low + rng.uniform(0.05, 0.1, (BOXES, 3))
    boxes = tuple(
        Zone(f"box {i}", tuple(a.tolist()), tuple(b.tolist()))
        for i, (a, b) in enumerate(zip(low, high, strict=True))
    )
    zones = Zones(ZonesConfig(boxes, PointSource(), foot=FOOT))
    position = Kinematics().forward(JOINTS)[1] + FOOT
    state = np.concatenate([position, [np.pi, 0.0, 0.0], [0.02, 0.02]])
    table = rng.uniform([-0.3, -0.5, -0.05], [0.6, 0.5, 0.02], (POINTS, 3))
    still = swept(state, np.zeros((1, 7)), (0.06, 0.04), JOINTS, np.array(FOOT))
    about = position + rng.uniform(-0.25, 0.25, (40 * POINTS, 3))
    apart = np.min(
        [
            point_distances(a[None], b[None], about)[0] - radius
            for a, b, radius in zip(still.start[0], still.end[0], still.radius, strict=True)
        ],
        axis=0,
    )
    shell = about[(apart > 0.055) & (apart < 0.085)][:POINTS]
    assert len(shell) == POINTS
    print(f"{BOXES} boxes, {POINTS} points, {STEPS} steps, with links: ms, median and p99")
    for name, points in (("spread over the table", table), ("all near the robot", shell)):
        for speed in (0.005, 0.02):
            times = []
            for _ in range(chunks):
                actions = np.zeros((STEPS, 7))
                actions[:, :3] = rng.uniform(-speed, speed, 3)
                actions[:, 3:6] = rng.uniform(-0.02, 0.02, 3)
                actions[:, 6] = 1.0
                seen = Surroundings(points, 0, JOINTS)
                times.append(timed(lambda a=actions, s=seen: zones.check(a, state, s, 0)))  # type: ignore[misc]
            middle, most = np.percentile(times, [50, 99])
            print(f"  {name}, to {100 * speed:.1f} cm a step: {middle:.2f}, {most:.2f}")
    sweep = swept(state, actions, (0.06, 0.04), JOINTS, np.array(FOOT))
    floor = [timed(lambda: dense(sweep, low, high, table)) for _ in range(3)]
    print(f"  dense sampling of the same path, {ALONG} points on each axis: {min(floor):.0f}")


if __name__ == "__main__":
    main()
