"""Film strips: one episode of a policy as a row of images, for people."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from safedojo_ros.evaluation.play import play
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy

CONTACT_COLOUR = (220, 30, 30)
FREE_COLOUR = (40, 150, 60)
BAR = 10
"""Height of the bar under each image, pixels: red from the first contact with the obstacle on."""
FRAMES, COLUMNS = 6, 3


def film_strip(
    policy: "Policy",
    scene: Scene,
    vector: VectorWorld,
    execute: int | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8: evenly spaced frames of one episode in `vector`, in rows of `COLUMNS`."""
    observations = vector.reset([scene])
    world, touched = vector.worlds[0], False
    frames = [(world.render(), False)]
    for step in play(policy, vector, observations, [scene.seed], execute, each_action=True):
        touched |= bool(step.outcome.cost.any())
        frames.append((world.render(), touched))
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    cells = [_with_bar(*frames[i]) for i in chosen]
    rows = [np.hstack(cells[r : r + COLUMNS]) for r in range(0, FRAMES, COLUMNS)]
    return np.vstack(rows)


def write_image(path: str, image: np.ndarray) -> None:
    """Write (H, W, 3) RGB as PNG or JPEG; raises `OSError` where that is impossible."""
    if not cv2.imwrite(path, cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write an image to {path}")


def _with_bar(image: np.ndarray, touched: bool) -> np.ndarray:
    small = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    small[-BAR:] = CONTACT_COLOUR if touched else FREE_COLOUR
    return np.asarray(small)
