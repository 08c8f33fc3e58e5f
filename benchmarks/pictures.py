"""How exactly images show where a thing is, and how long they take, by samples a pixel.

    python benchmarks/pictures.py [--images 2000] [--updates 1200]

The world draws each pixel as the mean of `samples` x `samples` points (`worlds.rendering.SAMPLES`).
For 1, 2, 3 and 4 a small convolutional network learns, from as many images of the same scenes of
the tabletop, where the red cube is; the error is on scenes that it has not seen. Beside it the time
of an image, and how many control steps a second the world makes on one core with two cameras.
"""

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import safedojo_ros.worlds.tabletop.world as tabletop
from safedojo_ros.models.images import to_unit
from safedojo_ros.worlds.seeds import split_seeds

CANDIDATES = (1, 2, 3, 4)
SIDE = 64
HELD_OUT = 0.2


def scenes(count: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """{samples: (N, S, S, 3) uint8} of the agentview camera, and the cube's place (N, 2) m."""
    world = tabletop.TabletopWorld(SIDE, render_images=False)
    seen: dict[int, list[np.ndarray]] = {samples: [] for samples in CANDIDATES}
    places = []
    for seed in track(split_seeds("training", 90_000, count), "drawing"):
        world.reset(seed=seed, options={"task": "cube_on_plate", "level": 0})
        for samples, images in seen.items():
            tabletop.SAMPLES = samples
            images.append(world.images()["agentview"])
        places.append(world.thing_position("red_cube")[:2])
    return {samples: np.stack(images) for samples, images in seen.items()}, np.stack(places)


def error(images: np.ndarray, places: np.ndarray, updates: int) -> np.ndarray:
    """(N,) m: the network's distance from the cube in the scenes left out."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        *(
            layer
            for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 64))
            for layer in (
                torch.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                torch.nn.GroupNorm(4, outputs),
                torch.nn.SiLU(),
            )
        ),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * (SIDE // 16) ** 2, 2),
    )
    pixels, wanted = to_unit(torch.from_numpy(images)), torch.from_numpy(places).float() * 100
    known = round((1 - HELD_OUT) * len(pixels))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        rows = torch.randint(known, (64,))
        loss = torch.nn.functional.smooth_l1_loss(network(pixels[rows]), wanted[rows], beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return (network(pixels[known:]) - wanted[known:]).norm(dim=1).numpy() / 100


def speed(samples: int, steps: int = 300) -> tuple[float, float]:
    """Seconds an image, and control steps a second with both cameras, by processor time."""
    tabletop.SAMPLES = samples
    world = tabletop.TabletopWorld(SIDE)
    world.reset(seed=1, options={"task": "cube_on_plate", "level": 0})
    action = np.zeros(7)
    for _ in range(10):
        world.step(action)
    began = time.process_time()
    for _ in range(steps):
        world.step(action)
    whole, began = time.process_time() - began, time.process_time()
    for _ in range(steps):
        world.images()
    return (time.process_time() - began) / (2 * steps), steps / whole


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=2000, help="scenes, of which a fifth is left out"
    )
    parser.add_argument("--updates", type=int, default=1200, help="of the network")
    asked = parser.parse_args()
    drawn, places = scenes(asked.images)
    table = Table(
        title=f"{asked.images} images of {SIDE} pixels, {asked.updates} updates, one core"
    )
    for name in ("samples a side", "RMSE", "median", "90 %", "an image", "steps a second"):
        table.add_column(name, justify="right")
    for samples, images in drawn.items():
        apart = 1e3 * error(images, places, asked.updates)
        figures = [np.sqrt(np.mean(apart**2)), *np.quantile(apart, (0.5, 0.9))]
        image, steps = speed(samples)
        cells = [f"{value:.2f} mm" for value in figures]
        table.add_row(str(samples), *cells, f"{1e3 * image:.2f} ms", f"{steps:.0f}")
    Console().print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
