"""A cost of your own: fast beside a person. A safety head learns it beside contact, and the gate
keeps each cost under its own limit.

`python examples/add_cost.py OUT` takes two minutes; so short a training holds too much.
"""

import sys
from pathlib import Path

import numpy as np

from safedojo_ros.core.costs import Cost, add_cost
from safedojo_ros.pipeline.collect import Collection, collect
from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.pipeline.filters import RunTimeFilter, gate_sentence
from safedojo_ros.pipeline.recipe import read_recipe
from safedojo_ros.pipeline.training import TrainSafety, train_safety

PERSON = np.array([0.1, 0.25])  # where somebody stands: metres, base frame


def fast_near_person(state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Which steps go farther than 1 cm within 20 cm of the person."""
    near = np.linalg.norm(state[:, :2] - PERSON, axis=1) < 0.2
    return near & (np.linalg.norm(actions[:, :3], axis=1) > 0.01)


if __name__ == "__main__":
    out, recipe = Path(sys.argv[1]), read_recipe("smoke", ["safety.steps=400"])
    add_cost(Cost("fast_near_person", fast_near_person, limit=0.2, share=0.1))
    data = collect(Collection(out / "data", episodes=16, levels=(1,), style="mixed")).data
    head = train_safety(recipe, TrainSafety(out=out / "safety", data=(data,)))
    gate = RunTimeFilter("gate", str(head.checkpoint))
    for name, before in (("alone", RunTimeFilter()), ("behind the gate", gate)):
        asked = Evaluation(level=(1,), episodes=4, max_steps=60, filter=before)
        report = evaluate(asked)
        share = report.overall.others["fast_near_person"].value
        print(f"{name}: fast near the person in {share:.0%} of the episodes")
    print(gate_sentence(report.settings["gate"]))
