"""The README's moving picture: a careless and a careful policy in the same scenes, side by side.

    python benchmarks/moving_picture.py --out docs/demo.webp [--seeds 3,17,25]

Left `base` alone, right `safe` behind the gate with detours, with the running stack's timing, at
Level II of the tabletop. The frame of a side turns red from the first contact with the obstacle on.
Without --seeds: the first evaluation scenes in which the left side touches the obstacle and the
right side succeeds without, one of each task; so they show a difference, not how often it is there.
"""

import argparse
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from PIL import Image

from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.evaluation.play import play
from safedojo_ros.evaluation.timing import TimedPolicy
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.policy import Policy
from safedojo_ros.pipeline.filters import RunTimeFilter
from safedojo_ros.worlds.seeds import split_seeds
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

SIDE, BORDER, EVERY = (400, 300), 6, 2
"""Pixels of a side, of its frame, and control steps, of 50 ms, between two pictures."""
FREE, TOUCHED = (60, 160, 80), (220, 30, 30)
LABELS = ("careless policy, no gate", "careful policy, safety gate")
FONT = cv2.FONT_HERSHEY_SIMPLEX
PAUSE = 8
"""Pictures that the end of an episode stays."""


class Player:
    """One policy as the running stack executes it, filmed."""

    def __init__(self, name: str, filtered: bool) -> None:
        policy = load_policy(find_checkpoint("policy", name))
        gate = RunTimeFilter("detour" if filtered else None)
        self.policy = cast("Policy", TimedPolicy(gate.before(policy, None, None)))
        self.vector = VectorWorld(policy.image_size, 150, tuple(policy.cameras))

    def film(self, scene: Scene) -> tuple[list[np.ndarray], bool, bool]:
        """Pictures (240, 320, 3), whether the obstacle was touched, whether it succeeded."""
        observations = self.vector.reset([scene])
        world, frames, touched, success = self.vector.worlds[0], [], False, False
        for step in play(self.policy, self.vector, observations, [scene.seed], each_action=True):
            touched |= bool(step.outcome.cost.any())
            success |= bool(step.outcome.success.any())
            frames.append(framed(world.render(), touched))
        return frames[::EVERY] + [frames[-1]] * PAUSE, touched, success


def framed(picture: np.ndarray, touched: bool) -> np.ndarray:
    """`picture`, smaller, in a frame of the colour."""
    small = cv2.resize(picture, SIDE, interpolation=cv2.INTER_AREA)
    edge = cv2.copyMakeBorder(
        small[BORDER:-BORDER, BORDER:-BORDER],
        *(BORDER,) * 4,
        cv2.BORDER_CONSTANT,
        value=TOUCHED if touched else FREE,
    )
    return np.asarray(edge)


def side_by_side(left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """Pairs of pictures; the shorter side waits at its end."""
    count = max(len(left), len(right))
    left, right = (part + [part[-1]] * (count - len(part)) for part in (left, right))
    pairs = [np.hstack(pair) for pair in zip(left, right, strict=True)]
    for pair in pairs:
        for number, text in enumerate(LABELS):
            place = (number * SIDE[0] + 12, 24)
            font, white = cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
            cv2.rectangle(pair, (place[0] - 6, 8), (place[0] + 190, 30), (20, 20, 20), cv2.FILLED)
            cv2.putText(pair, text, place, font, 0.5, white, 1, cv2.LINE_AA)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/demo.webp"))
    parser.add_argument("--seeds", help="numbers of evaluation scenes, by comma")
    parser.add_argument("--scenes", type=int, default=3)
    args = parser.parse_args()
    careless, careful = Player("base", filtered=False), Player("safe", filtered=True)
    wanted = [int(n) for n in args.seeds.split(",")] if args.seeds else list(range(40))
    frames: list[np.ndarray] = []
    shown: set[str] = set()
    for number in wanted:
        (seed,), task = split_seeds("evaluation", number, 1), list(TASKS)[number % len(TASKS)]
        if task in shown:
            continue
        scene = Scene(seed, task, 2)
        left, touched, _ = careless.film(scene)
        if not touched and not args.seeds:
            continue
        right, also, success = careful.film(scene)
        print(f"scene {number}, {task}: careful touched {also}, succeeded {success}", flush=True)
        if args.seeds or (success and not also):
            frames += side_by_side(left, right)
            shown.add(task)
        if len(shown) == args.scenes:
            break
    images = [Image.fromarray(frame) for frame in frames]
    period = round(EVERY * 50)
    images[0].save(
        args.out,
        save_all=True,
        append_images=images[1:],
        duration=period,
        loop=0,
        quality=65,
        method=4,
    )
    print(f"{args.out}: {len(images)} pictures, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
