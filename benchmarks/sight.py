"""How well a policy knows where its target is, and how far beside it the gripper closes.

    python benchmarks/sight.py safe base PATH ...

Two figures of each checkpoint, on validation scenes of the tabletop at Level 0. *Probe*: a ridge
regression from all that the action expert sees to the target's place on the table; distance on
scenes that it was not fitted to. *First close*: how far the target is beside the gripper when the
policy closes it for the first time, in the tasks that grasp; the world waits for the policy.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.play import play
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.worlds.seeds import split_seeds
from safedojo_ros.worlds.tabletop.experts import Expert
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.vector import VectorWorld, observe
from safedojo_ros.worlds.world import Scene

FIRST_SEED = 60_000
FITTED = 0.75
"""Share of the scenes that the probe is fitted to."""
RIDGES = (10.0, 100.0, 1000.0, 10_000.0)
GRASPING = tuple(name for name in TASKS if name != "bowl_to_mark")


def scenes(count: int) -> Iterator[tuple[Observation, np.ndarray]]:
    """Observations on the way to the target, and its place (2,) m."""
    world = TabletopWorld(render_images=False)
    for number, seed in enumerate(split_seeds("validation", FIRST_SEED, count)):
        task = list(TASKS)[number % len(TASKS)]
        world.reset(seed=seed, options={"task": task, "level": 0})
        expert = Expert(world, "direct")
        for _ in range(int(np.random.default_rng(seed).integers(0, 22))):
            world.step(expert.act())
        yield observe(world), world.thing_position(world.task.target)[:2]


def probed(policy: PI0Policy, seen: list[Observation], places: np.ndarray) -> np.ndarray:
    """(N,) m: how far the probe's answers are from the target, in the scenes left out."""
    parts = []
    with torch.no_grad():
        for first in range(0, len(seen), 50):
            images, tokens, _ = policy.inputs(seen[first : first + 50])
            parts.append(policy.prefix(images, tokens).features())
    features, wanted = torch.cat(parts).double(), torch.from_numpy(places)
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    fitted = round(FITTED * len(seen))
    known, middle = features[:fitted], wanted[:fitted].mean(0)
    products = known @ known.T
    errors = []
    for ridge in RIDGES:
        weights = torch.linalg.solve(
            products + ridge * torch.eye(fitted, dtype=torch.double), wanted[:fitted] - middle
        )
        answers = features[fitted:] @ (known.T @ weights) + middle
        errors.append((answers - wanted[fitted:]).norm(dim=1))
    return min(errors, key=lambda each: float(each.square().mean())).numpy()


def first_closes(policy: PI0Policy, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """(E,) m: the target beside the gripper at the first close; (E,) bool: success."""
    vector = VectorWorld(policy.image_size, cameras=policy.cameras)
    misses, done = [], []
    for first in range(0, episodes, 16):
        seeds = split_seeds("validation", FIRST_SEED + first, min(16, episodes - first))
        trials = [Scene(s, GRASPING[i % len(GRASPING)], 0) for i, s in enumerate(seeds)]
        observations = vector.reset(trials)
        beside, success = np.full(len(trials), np.inf), np.zeros(len(trials), bool)
        before = distances(vector)
        for step in play(policy, vector, observations, seeds, each_action=True):
            closes = (step.executed[:, 0, 6] > 0) & np.isinf(beside)
            beside[closes] = before[closes]
            success |= step.outcome.success[:, 0] > 0
            before = distances(vector)
        misses += beside.tolist()
        done += success.tolist()
    return np.array(misses), np.array(done)


def distances(vector: VectorWorld) -> np.ndarray:
    """(B,) m, on the table, of gripper and target."""
    pairs = [(w.position(), w.thing_position(w.task.target)) for w in vector.worlds]  # type: ignore[attr-defined]
    return np.array([np.linalg.norm((one - other)[:2]) for one, other in pairs])


def main() -> None:
    """Print one row for each checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", help="policies: name, id or directory")
    parser.add_argument("--scenes", type=int, default=1600, help="of the probe")
    parser.add_argument("--episodes", type=int, default=96, help="of the first close")
    parser.add_argument("--store", type=Path, default=None, help="root of the checkpoint store")
    asked = parser.parse_args()
    seen, places = zip(*scenes(asked.scenes), strict=True)
    table = Table(title=f"{asked.scenes} scenes, {asked.episodes} episodes, Level 0")
    for name in ("policy", "probe median", "90 %", "first close median", "90 %", "grasp tasks TSR"):
        table.add_column(name)
    for name in asked.checkpoints:
        policy = load_policy(find_checkpoint("policy", name, asked.store))
        error = 1e3 * probed(policy, list(seen), np.array(places))
        misses, done = first_closes(policy, asked.episodes)
        figures = [*np.quantile(error, (0.5, 0.9)), *np.quantile(1e3 * misses, (0.5, 0.9))]
        cells = [f"{value:.1f} mm" for value in figures]
        table.add_row(name, *cells, f"{100 * done.mean():.0f} %")
        Console().print(table)


if __name__ == "__main__":
    main()
