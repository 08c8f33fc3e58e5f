"""What a demonstration of SafeLIBERO costs: physics, and images by size, beside LIBERO's own.

    SAFELIBERO_ROOT=... python benchmarks/demonstrations.py [--suite object] [--episodes 4]

Records episodes of the scripted expert as `collect` does, states first and images at the end, and
draws some of their frames again: as here, averaged from 3 x 3 samples a pixel, and as LIBERO's own
environment does. All times are those of one processor core, not of the clock on the wall.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from safedojo_ros.evaluation.recording import record_rest
from safedojo_ros.worlds.safelibero.world import CAMERAS, SafeLiberoWorld
from safedojo_ros.worlds.seeds import split_seeds

SIZES = (64, 128, 256)
DEMONSTRATIONS = 400


def seconds(do: Callable[[], object], times: int) -> float:
    """Seconds of a core that one call takes, after a first one."""
    do()
    before = time.process_time()
    for _ in range(times):
        do()
    return (time.process_time() - before) / times


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", default="object")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    world = SafeLiberoWorld(options.suite, 64, render_images=False)
    task, console = world.suite.tasks(1)[0], Console()
    views: list[np.ndarray] = []
    lay_out = act = steps = kept = 0.0
    for number, seed in enumerate(split_seeds("training", 0, options.episodes)):
        scene = {"task": task, "level": 1 + number % 2}
        if number == 0:
            world.reset(seed=seed, options=scene)  # builds the scene
        before = time.process_time()
        world.reset(seed=seed, options=scene)
        between = time.process_time()
        views = []
        episode = record_rest(world, "safe", seed, 0.015, "expert:safe", views=views)
        lay_out, act = lay_out + between - before, act + time.process_time() - between
        steps, kept = steps + len(episode), kept + episode.succeeded
    count = options.episodes
    console.print(
        f"{task}: {count} episodes, {kept:.0f} succeed, {steps / count:.0f} steps each; "
        f"layout {lay_out / count:.1f} s, physics {1000 * act / steps:.1f} ms a step"
    )
    table = Table("images, two cameras", "ms a frame", f"min for {DEMONSTRATIONS} on two cores")
    rest = (lay_out + act) / count
    for size in SIZES:
        world.image_size = size
        drawn = seconds(lambda: world.images_of(views[len(views) // 2]), options.draws)
        whole = DEMONSTRATIONS * (rest + drawn * steps / count) / 120
        table.add_row(f"{size} px, averaged", f"{1000 * drawn:.0f}", f"{whole:.0f}")
    from robosuite.utils.binding_utils import MjRenderContextOffscreen

    simulation = world._environment.sim
    context = MjRenderContextOffscreen(simulation, device_id=-1)
    simulation.add_render_context(context)
    for size in SIZES:

        def draw(size: int = size) -> None:
            for camera in CAMERAS.values():
                simulation.render(camera_name=camera, width=size, height=size)

        drawn = seconds(draw, options.draws)
        whole = DEMONSTRATIONS * (rest + drawn * steps / count) / 120
        table.add_row(f"{size} px, LIBERO's own", f"{1000 * drawn:.0f}", f"{whole:.0f}")
    console.print(table)
    context.gl_ctx.free()  # before the display is closed


if __name__ == "__main__":
    main()
