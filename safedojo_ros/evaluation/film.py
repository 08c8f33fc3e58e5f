"""Film strips: one episode of a policy as a few images that say what happened, for people."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from safedojo_ros.evaluation.play import play
from safedojo_ros.evaluation.plot import FREE, SUCCESS, TOUCHED, Frame, image_strip
from safedojo_ros.evaluation.protocol import LEVEL_NAMES
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from safedojo_ros.models.policy import Policy

SIZE = (320, 240)
"""Width and height of an image, pixels."""
FRAMES, COLUMNS = 6, 3


def film_strip(
    policy: "Policy", scene: Scene, vector: VectorWorld, execute: int | None = None, made: str = ""
) -> "Figure":
    """Evenly spaced images of one episode in `vector`; made: how, for the caption."""
    observations = vector.reset([scene])
    world, touched, succeeded = vector.worlds[0], list[bool](), False
    images = [world.render()]
    for step in play(policy, vector, observations, [scene.seed], execute, each_action=True):
        touched.append(bool(step.outcome.cost.any()) or (touched[-1] if touched else False))
        succeeded |= bool(step.outcome.success.any())
        images.append(world.render())
    touched = [False, *touched]
    frames = []
    for step in np.linspace(0, len(images) - 1, FRAMES).round().astype(int):
        small = cv2.resize(images[step], SIZE, interpolation=cv2.INTER_AREA)
        end = succeeded if step == len(images) - 1 else None
        frames.append(Frame(small, *said(step, touched[step], end)))
    first = f"touched the obstacle first at step {touched.index(True)}" if any(touched) else (
        "did not touch the obstacle")  # fmt: skip
    outcome = "succeeded" if succeeded else "did not succeed"
    title = f"{scene.task}, level {LEVEL_NAMES[scene.level]}, seed {scene.seed}: {outcome}, {first}"
    rows = {"first half": frames[:COLUMNS], "second half": frames[COLUMNS:]}
    return image_strip(title, rows, f"policy {policy.checkpoint_id}, {made}".rstrip(", "))


def said(step: int, touched: bool, succeeded: bool | None) -> tuple[str, str]:
    """The words over an image and the colour around it; succeeded: None before the end."""
    words = f"step {step}" + {None: "", True: ", success", False: ", no success"}[succeeded]
    if touched:
        return f"{words}, obstacle touched", TOUCHED
    return words, SUCCESS if succeeded else FREE
