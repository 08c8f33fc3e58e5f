"""Control steps a second of the tabletop world on one core, with and without images.

    python benchmarks/world.py [--steps 2000] [--json out.json]

The floor printed beside it is bare physics: the same MuJoCo steps without our control and checks.
Bars: 400 steps/s with two 64x64 cameras, 800 without.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.worlds.tabletop.experts import Expert
from safedojo_ros.worlds.tabletop.scene import TIMESTEP
from safedojo_ros.worlds.tabletop.world import TabletopWorld

BARS = {"two 64x64 cameras": 400.0, "no images": 800.0}


def step_times(render_images: bool, steps: int) -> np.ndarray:
    """CPU seconds of each control step under the direct expert, all tasks and levels."""
    times: list[float] = []
    seed = 0
    while len(times) < steps:
        world = TabletopWorld(render_images=render_images)
        world.reset(seed=seed)
        expert = Expert(world, "direct")
        seed += 1
        done = truncated = False
        while not (done or truncated):
            action = expert.act()
            start = time.process_time()
            _, _, done, truncated, _ = world.step(action)
            times.append(time.process_time() - start)
    return np.array(times[:steps])


def physics_times(steps: int) -> np.ndarray:
    """CPU seconds of the MuJoCo steps of one control step, arm at rest."""
    import mujoco  # after the world, which chooses how it draws

    world = TabletopWorld(render_images=False)
    world.reset(seed=0, options={"level": 1})
    count = round(CONTROL_PERIOD / TIMESTEP)
    times = []
    for _ in range(steps):
        start = time.process_time()
        mujoco.mj_step(world.model, world.data, count)
        times.append(time.process_time() - start)
    return np.array(times)


def main() -> None:
    """Measure, print, compare with the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = {
        "two 64x64 cameras": step_times(True, args.steps),
        "no images": step_times(False, args.steps),
        "floor: bare mj_step": physics_times(args.steps),
    }
    report = {}
    print(f"{'':22} {'steps/s':>8} {'median ms':>10} {'p99 ms':>8}  bar")
    for name, times in rows.items():
        rate, median, p99 = 1 / times.mean(), *np.percentile(times * 1e3, [50, 99])
        bar = BARS.get(name)
        verdict = "" if bar is None else f"{bar:.0f} {'met' if rate >= bar else 'MISSED'}"
        print(f"{name:22} {rate:8.0f} {median:10.3f} {p99:8.3f}  {verdict}")
        report[name] = {"steps_per_second": rate, "median_ms": median, "p99_ms": p99}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
