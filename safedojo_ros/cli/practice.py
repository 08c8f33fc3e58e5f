"""`safedojo practice`: constrained GRPO of a policy in imagination, and every baseline of it.

Methods: safedojo (imagination, constrained), wmpo (imagination, unconstrained), safevla (simulator,
constrained PPO), grpo and ppo (simulator, unconstrained), and two ablations of safedojo, no-task
(cost alone drives) and fixed-multiplier. Exit code 0: done; 3: a check or gate
failed, or imagination and measurement parted, and what was said tells which.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.pipeline.interruption import stop_on_signal
from safedojo_ros.pipeline.scenes import chosen_tasks, tasks_of

if TYPE_CHECKING:
    from safedojo_ros.evaluation.protocol import EvaluationReport
    from safedojo_ros.learning.rl.anchor import Anchor
    from safedojo_ros.learning.rl.practice import PracticeConfig, PracticeOutcome
    from safedojo_ros.learning.rl.starts import KeyframeStarts, PracticeWorld
    from safedojo_ros.models.pi0_policy import PI0Policy
    from safedojo_ros.models.policy import Policy, StoredPolicy

DONE, NOT_PASSED = 0, 3
RESULT_FILE = "practice.json"
NO_DATA = {"episodes": 0, "collisions": 0}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--method", choices=list(METHODS), default="safedojo", help="what is trained, see above"
    )
    parser.add_argument("--base", default="latest", help="policy checkpoint to begin from")
    parser.add_argument("--out", type=Path, required=True, help="directory of this run")
    parser.add_argument("--data", type=Path, nargs="+", help="episodes whose starts are imagined")
    parser.add_argument(
        "--demonstrations",
        type=Path,
        nargs="+",
        help="episodes that the policy goes on imitating meanwhile (practice.anchor)",
    )
    parser.add_argument("--world-model", default="latest", help="checkpoint to imagine with")
    parser.add_argument("--success", default="latest", help="success classifier")
    parser.add_argument("--safety", default="latest", help="safety head")
    parser.add_argument("--preset", default="tiny", help="smoke, tiny, small or a TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="practice.KEY=VALUE",
        help="change one value, for instance practice.multiplier.limit=0.1",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last save")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own")
    parser.add_argument("--publish", action="store_true", help="put the result into the store")
    parser.add_argument("--store", type=Path, help="root of the store (default: the user's)")


def run(args: argparse.Namespace) -> int:
    """Practise; the outcome lies in OUT/practice.json, the best policy in OUT/policies."""
    from safedojo_ros.learning.rl.practice import PracticeRefused, for_method
    from safedojo_ros.models.threads import use_processor
    from safedojo_ros.pipeline.recipe import read_recipe

    use_processor(args.threads)
    recipe = read_recipe(args.preset, args.set, ("practice",))
    config = for_method(recipe.practice, METHODS[args.method])
    try:
        outcome = practise(args, config, stop_on_signal())
    except PracticeRefused as refused:
        print(f"not practised: {refused}", file=sys.stderr)
        return NOT_PASSED
    for sentence in outcome.unenforced:
        print(f"not enforced: {sentence}")
    print(
        f"{outcome.stopped or 'done'}; best measured after {outcome.best} updates: {outcome.policy}"
    )
    published = None
    if args.publish and outcome.completed:
        published = publish(args, config, outcome)
        print(f"published policy {published}")
    write_result(args, config, outcome, published)
    return DONE if outcome.completed else NOT_PASSED


def practise(
    args: argparse.Namespace,
    config: "PracticeConfig",
    stop: Callable[[], bool],
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> "PracticeOutcome":
    """Load what is needed and run; see `learning.rl.practice.Practice`."""
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.learning.rl.practice import Practice
    from safedojo_ros.models.flow_sde import StochasticFlow
    from safedojo_ros.models.loading import load_policy

    base = load_policy(find_checkpoint("policy", args.base, args.store)).to(args.device)
    world: PracticeWorld
    missed: list[str] = []
    if METHODS[args.method].world == "imagination":
        world, missed = imagined(args, config, base)
    else:
        world = simulated(config, base)
    anchor = anchored(args, config, base)
    return Practice(
        config,
        METHODS[args.method],
        StochasticFlow(base, config.flow),
        world,
        lambda policy: measured(policy, config),
        args.out,
        args.resume,
        missed,
        stop,
        progress,
        anchor,
    ).run()


def anchored(
    args: argparse.Namespace, config: "PracticeConfig", base: "PI0Policy"
) -> "Anchor | None":
    """What the policy goes on imitating: the demonstrations of `args`, where there are any."""
    from safedojo_ros.learning.imitation import Demonstrations
    from safedojo_ros.learning.rl.anchor import Anchor

    if not args.demonstrations or not config.anchor.weight:
        return None
    data = Demonstrations.read(args.demonstrations, config.anchor.only_safe)
    return Anchor(config.anchor, base, data)


def simulated(config: "PracticeConfig", base: "StoredPolicy") -> "PracticeWorld":
    """The tabletop, as many at once as there are trajectories in an update."""
    from safedojo_ros.learning.rl.starts import SimulatorStarts
    from safedojo_ros.worlds.vector import VectorWorld

    vector = VectorWorld(base.image_size, steps_of(config, base), tuple(base.cameras))
    return SimulatorStarts(
        vector,
        practice_tasks(config, base),
        config.levels,
        config.groups,
        config.group_size,
        config.seed,
    )


def imagined(
    args: argparse.Namespace, config: "PracticeConfig", base: "StoredPolicy"
) -> "tuple[KeyframeStarts, list[str]]":
    """The imagined world over recorded keyframes, and the gates that its models missed."""
    from safedojo_ros.checkpoints.manifest import read_manifest
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.fidelity.gates import missed_gates
    from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
    from safedojo_ros.learning.rl.starts import KeyframeStarts, recorded_keyframes
    from safedojo_ros.models.loading import load_safety, load_success, load_world_model

    if not args.data:
        raise ConfigError("practice in imagination begins at recorded keyframes; give --data")
    kinds = ("world_model", "success", "safety")
    directories = {kind: find_checkpoint(kind, getattr(args, kind), args.store) for kind in kinds}
    fidelity = {kind: read_manifest(path).fidelity for kind, path in directories.items()}
    model = load_world_model(directories["world_model"])
    model.parts.to(args.device)
    max_steps = config.max_chunks * model.size.chunk_length
    world = ImaginedWorld(
        model,
        load_success(directories["success"]),
        load_safety(directories["safety"]),
        max_steps,
    )
    world.whole_strides(config.execute)  # refused here, before anything is measured
    tasks = practice_tasks(config, base)
    keyframes = recorded_keyframes(model, args.data, config.levels, tasks)
    starts = KeyframeStarts(world, keyframes, config.groups, config.group_size, config.seed)
    readers = {kind: directories[kind].name for kind in ("success", "safety")}
    return starts, missed_gates(fidelity, readers)


def measured(policy: "StoredPolicy", config: "PracticeConfig") -> "EvaluationReport":
    """The protocol on validation seeds, over as many steps as practice has."""
    from safedojo_ros.evaluation.protocol import evaluate, make_trials
    from safedojo_ros.worlds.seeds import split_seeds
    from safedojo_ros.worlds.vector import VectorWorld

    seeds = split_seeds("validation", 0, config.evaluation_episodes)
    trials = make_trials(seeds, practice_tasks(config, policy), list(config.levels))
    vector = VectorWorld(policy.image_size, steps_of(config, policy), tuple(policy.cameras))
    settings = {"split": "validation", "first_seed": 0, "episodes": config.evaluation_episodes}
    execute = config.execute or None
    return evaluate(policy, trials, vector, execute=execute, batch=32, settings=settings)


def steps_of(config: "PracticeConfig", policy: "Policy") -> int:
    """Longest trajectory, control steps."""
    return config.max_chunks * policy.chunk_length


def practice_tasks(config: "PracticeConfig", policy: "StoredPolicy") -> list[str]:
    """The tasks of the starts; raises `ConfigError` for an unknown one."""
    return chosen_tasks(config.tasks) if config.tasks else tasks_of(policy)


def publish(args: argparse.Namespace, config: "PracticeConfig", outcome: "PracticeOutcome") -> str:
    """Put the best policy into the store; returns its id."""
    from safedojo_ros.checkpoints.names import find_checkpoint, user_store
    from safedojo_ros.checkpoints.store.store import CheckpointStore
    from safedojo_ros.models.loading import load_policy

    store = CheckpointStore(args.store) if args.store else user_store()
    row = next(row for row in outcome.evaluations if row["step"] == outcome.best)
    policy = load_policy(outcome.policy)
    manifest = store.publish(
        "policy",
        outcome.policy,
        spec=policy.spec(),
        normalisation=json.loads((outcome.policy / "config.json").read_text())["normalisation"],
        parent=find_checkpoint("policy", args.base, args.store).name,
        evaluation={"validation": row["report"]},
        fidelity={
            "practice": {
                "method": args.method,
                "updates": outcome.best,
                "practised": row["practised"],
                "measured": row["measured"],
                "real_episodes": outcome.real_episodes,
                "real_collisions": outcome.real_collisions,
                "seed": config.seed,
            }
        },
    )
    return manifest.id


def write_result(
    args: argparse.Namespace,
    config: "PracticeConfig",
    outcome: "PracticeOutcome",
    published: str | None,
) -> None:
    """OUT/practice.json, which `safedojo report` reads."""
    method = METHODS[args.method]
    moves = method.constrained and not method.fixed_multiplier
    values: dict[str, Any] = asdict(outcome) | {
        "policy": outcome.policy.relative_to(args.out).as_posix(),
        "method": args.method,
        "base": args.base,
        "published": published,
        "config": asdict(config),
        "limit": config.multiplier.limit if moves else None,
        "demonstrations": [str(path) for path in args.demonstrations or []],
        "data": data_cost(args.data) if method.world == "imagination" else NO_DATA,
    }
    (args.out / RESULT_FILE).write_text(json.dumps(values, indent=1) + "\n")


def data_cost(directories: Sequence[Path]) -> dict[str, int]:
    """Real episodes behind data sets and how many touched the obstacle.

    Episodes that were played and dropped count, too; whether they touched it is not recorded.
    """
    from safedojo_ros.data.lerobot.reader import EpisodeReader
    from safedojo_ros.pipeline.collect import COLLECTION_PATH

    episodes = collisions = 0
    for directory in directories:
        rows = EpisodeReader(directory).rows
        collection = directory / COLLECTION_PATH
        played = json.loads(collection.read_text())["played"] if collection.exists() else 0
        episodes += max(len(rows), played)
        collisions += sum(row.touched for row in rows)
    return {"episodes": episodes, "collisions": collisions}
