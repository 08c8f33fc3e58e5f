"""Imagined control steps a second: policy, world model, decoding, success classifier, safety head.

    python benchmarks/imagination.py [--batch 32] [--chunks 6] [--denoising-steps 1,2,4]

Weights are random and of the preset's sizes: the time does not depend on them. The same run prints
the share of each part, and the tabletop's steps a second under the same policy, images included,
with as many worlds side by side; and SafeLIBERO's physics (no images, one world), where it is
installed (./dojo libero) and SAFELIBERO_ROOT names its scenes. Bar: 100 imagined steps a second at
batch 32 on two cores.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld, keyframes_of
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.success_classifier import SuccessModel
from safedojo_ros.models.threads import use_processor
from safedojo_ros.models.world_model import WorldModel
from safedojo_ros.pipeline.recipe import read_recipe
from safedojo_ros.worlds.safelibero.world import SafeLiberoWorld
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

BAR = 100.0


def main() -> None:
    """Measure, print, compare with the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--denoising-steps", default="1,2,4")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_processor(args.threads)
    torch.manual_seed(0)
    policy, world_model, success, safety = models(args.preset)
    policy.to(args.device)
    world_model.parts.to(args.device)
    vector = VectorWorld(world_model.autoencoder.size.image_size, max_steps=10_000)
    scenes = [Scene(i, list(TASKS)[i % len(TASKS)], 1) for i in range(args.batch)]
    result: dict[str, Any] = {"batch": args.batch, "threads": args.threads, "imagined": {}}

    seen = vector.reset(scenes)
    rate, _ = measure(policy, vector.step, seen, args.chunks, args.batch, {})
    result["tabletop"] = rate
    for steps in (int(text) for text in args.denoising_steps.split(",")):
        world = ImaginedWorld(world_model, success, safety, 10_000, steps)
        start = world.reset(keyframes_of(world_model, seen))
        parts: dict[str, float] = {}
        timed(world_model, "imagine", parts, "world model")
        timed(world_model, "decode", parts, "decoding")
        timed(success, "probability", parts, "success classifier")
        timed(safety.head, "forward", parts, "safety head")
        rate, shares = measure(policy, world.step, start, args.chunks, args.batch, parts)
        for owner in (world_model, success, safety.head):
            for name in ("imagine", "decode", "probability", "forward"):
                vars(owner).pop(name, None)
        result["imagined"][steps] = {"rate": rate, "shares": shares}
        spent = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        verdict = "ok" if rate >= BAR else f"under the bar of {BAR:.0f}"
        print(
            f"imagined, {steps} denoising steps: {rate:6.1f} control steps/s ({verdict}); {spent}"
        )
    print(f"tabletop, the same policy and batch: {result['tabletop']:6.1f} control steps/s")
    result["libero"] = libero_rate(40)
    if result["libero"] is None:
        print(
            "SafeLIBERO: not measured; ./dojo libero installs it, SAFELIBERO_ROOT names its scenes"
        )
    else:
        print(
            f"SafeLIBERO spatial, physics only, one world: {result['libero']:6.1f} control steps/s"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def models(preset: str) -> tuple[PI0Policy, WorldModel, SuccessModel, SafetyModel]:
    """Random weights at the preset's sizes; the success threshold is never reached."""
    sentences = [task.instruction for task in TASKS.values()]
    settings = read_recipe(preset)
    policy = PI0Policy(settings.policy.size, train_tokenizer(sentences), unit_scales(), sentences)
    eyes = FrameAutoencoder(settings.autoencoder.size)
    safety = SafetyModel(eyes, settings.safety.size, unit_scales())
    world_model = WorldModel(eyes, settings.world_model.size, unit_scales())
    success = SuccessModel(settings.success.size, tuple(sentences), threshold=1 - 1e-9)
    return policy, world_model, success, safety


def measure(
    policy: PI0Policy,
    step: Callable[[np.ndarray], Any],
    observations: list[Any],
    chunks: int,
    batch: int,
    parts: dict[str, float],
) -> tuple[float, dict[str, float]]:
    """(control steps a second, share of the time by part); the first chunk warms up."""
    acting = 0.0
    started = time.perf_counter()
    for number in range(chunks + 1):
        if number == 1:
            acting, started = 0.0, time.perf_counter()
            parts.update(dict.fromkeys(parts, 0.0))
        begun = time.perf_counter()
        actions = policy.act(observations)
        acting += time.perf_counter() - begun
        observations = step(actions).observations
    seconds = time.perf_counter() - started
    shares = {name: spent / seconds for name, spent in {"policy": acting, **parts}.items()}
    shares["rest"] = 1.0 - sum(shares.values())
    return batch * policy.chunk_length * chunks / seconds, shares


def libero_rate(steps: int) -> float | None:
    """Control steps a second of SafeLIBERO's first spatial scene; None where it is not there."""
    try:
        world = SafeLiberoWorld("spatial", render_images=False)
        world.reset(seed=0, options={"task": world.suite.tasks(1)[0], "level": 1})
    except ConfigError:
        return None
    begun = time.perf_counter()
    for _ in range(steps):
        world.step(np.zeros(7))
    rate = steps / (time.perf_counter() - begun)
    world.close()
    return rate


def timed(owner: Any, name: str, parts: dict[str, float], part: str) -> None:
    """Make `owner.name` add its time to parts[part]."""
    plain = getattr(owner, name)
    parts[part] = 0.0

    def call(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return plain(*args, **options)
        finally:
            parts[part] += time.perf_counter() - begun

    vars(owner)[name] = call


if __name__ == "__main__":
    main()
