"""From the experts' demonstrations to a policy that was trained in imagination.

`python examples/practise.py OUT` runs each stage at the preset `smoke`, which takes a minute and
teaches nothing; `--preset tiny` takes hours. `safedojo pipeline` does the same with held-out
episodes, validation and gates, and can be interrupted.
"""

import argparse
from pathlib import Path
from typing import Any

from safedojo_ros.pipeline.collect import Collection, collect
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.practice import PracticeRequest, practice
from safedojo_ros.pipeline.recipe import read_recipe
from safedojo_ros.pipeline.training import (
    TrainPolicy,
    TrainSafety,
    TrainSuccess,
    TrainWorldModel,
    train_policy,
    train_safety,
    train_success,
    train_world_model,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--episodes", type=int, default=8)
    args = parser.parse_args()
    out, recipe = args.out, read_recipe(args.preset)

    episodes = Collection(
        out / "demonstrations",
        episodes=args.episodes,
        levels=(1, 2),
        style="mixed",
        direct_share=0.5,
        linger=8,
        players=Players(1),
    )
    data = (collect(episodes).data,)
    # Each is published in a store of this run, and the next is given its id.
    kept: dict[str, Any] = {"data": data, "publish": True, "store": out / "store"}
    policy = train_policy(recipe, TrainPolicy(out=out / "policy", **kept))
    safety = train_safety(recipe, TrainSafety(out=out / "safety", **kept))
    request = TrainWorldModel(out=out / "world_model", safety=safety.published, **kept)
    world = train_world_model(recipe, request)
    imagined: dict[str, Any] = {"world_model": world.published}
    success = train_success(recipe, TrainSuccess(out=out / "success", **imagined, **kept))
    imagined |= {"success": success.published, "safety": safety.published}
    made = practice(
        recipe,
        PracticeRequest(
            out=out / "practice",
            base=policy.published,
            demonstrations=data,
            **imagined,
            **kept,
        ),
    )
    for row in made.outcome.evaluations:
        rate = row["measured"]["safe_success"]
        print(
            f"after {row['step']} updates: safe success {rate['value']:.0%} "
            f"({rate['low']:.0%} to {rate['high']:.0%}) of {row['episodes']} episodes"
        )
    print(f"best policy: {made.checkpoint}")


if __name__ == "__main__":
    main()
