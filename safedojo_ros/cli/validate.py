"""`safedojo validate`: how far a world model and its two readers can be believed.

Replays held-out episodes in imagination, compares each figure with its bar, and writes
fidelity.json, fidelity.html and details.json (for `safedojo checkpoint publish world_model
DIRECTORY --details`). A missed bar is one sentence on stderr, and exit code 3.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safedojo_ros.fidelity.thresholds import ValidationConfig
    from safedojo_ros.learning.rl.imagined_world import ImaginedWorld

MISSED = 3
"""Exit code where a bar is missed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        nargs="+",
        help="held-out episodes of a policy, collisions included (collect --split validation)",
    )
    name = "name, id or directory (default: latest)"
    parser.add_argument("--world-model", default="latest", metavar="CHECKPOINT", help=name)
    parser.add_argument("--success", default="latest", metavar="CHECKPOINT", help=name)
    parser.add_argument("--safety", default="latest", metavar="CHECKPOINT", help=name)
    parser.add_argument(
        "--policy", metavar="CHECKPOINT", help="the base policy: its rates, imagined and measured"
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="policies (five or more) whose imagined and measured ranks are compared",
    )
    parser.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        default=[],
        metavar="JSON",
        help="what `safedojo evaluate --json` wrote of these policies; others are measured here, "
        "on validation seeds",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the report")
    parser.add_argument(
        "--preset", default="tiny", help="smoke, tiny, small or a TOML file (default: tiny)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the preset, for instance validation.replays=256",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's own")
    parser.add_argument("--store", type=Path, help="root of the store (default: the user's)")


def run(args: argparse.Namespace) -> int:
    """Make the report; returns 0, or 3 where a bar is missed."""
    import torch

    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.fidelity.held_out import read_held_out
    from safedojo_ros.fidelity.report import report_page
    from safedojo_ros.fidelity.thresholds import judge
    from safedojo_ros.fidelity.validation import bar_values, finite, validate
    from safedojo_ros.learning.rl.imagined_world import ImaginedWorld
    from safedojo_ros.models.loading import load_safety, load_success, load_world_model
    from safedojo_ros.models.threads import use_processor
    from safedojo_ros.pipeline.recipe import read_recipe

    use_processor(args.threads)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    config = read_recipe(args.preset, args.set, ("validation",)).validation
    world = load_world_model(find_checkpoint("world_model", args.world_model, args.store))
    success = load_success(find_checkpoint("success", args.success, args.store))
    safety = load_safety(find_checkpoint("safety", args.safety, args.store))
    world.parts.to(args.device)
    success.network.to(args.device)
    held = read_held_out(args.data, world, config.episodes, args.device)
    sections, strips = validate(config, world, success, safety, held, print)
    if args.policy or args.policies:
        imagined = ImaginedWorld(world, success, safety, config.max_steps)
        sections |= policy_sections(args, config, imagined)
    names = {
        "world_model": world.checkpoint_id,
        "success": success.checkpoint_id,
        "safety": safety.checkpoint_id,
    }
    values = bar_values(sections)
    verdicts = judge(config.bars, values, rates="rates" in sections)
    report: dict[str, Any] = {
        "schema": 1,
        "checkpoints": names,
        "config": asdict(config),
        "bars": [asdict(v) for v in verdicts],
        **sections,
    }
    report = finite(report)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fidelity.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    (args.out / "fidelity.html").write_text(report_page(names, report, verdicts, strips))
    details = {
        "spec": world.spec(),
        "normalisation": world.scales.to_json(),
        "fidelity": {key: value for key, value in report.items() if key != "config"},
    }
    (args.out / "details.json").write_text(json.dumps(details, indent=1, allow_nan=False) + "\n")
    for verdict in verdicts:
        print(f"{'pass' if verdict.passed else 'MISS'}  {verdict.sentence}")
    print(f"report in {args.out / 'fidelity.html'}")
    missed = [verdict for verdict in verdicts if not verdict.passed]
    for verdict in missed:
        print(f"safedojo validate: bar missed: {verdict.sentence}", file=sys.stderr)
    return MISSED if missed else 0


def policy_sections(
    args: argparse.Namespace, config: "ValidationConfig", world: "ImaginedWorld"
) -> dict[str, Any]:
    """What --policy and --policies ask for: sections "rates" and "ranking"."""
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.evaluation.protocol import LEVEL_NAMES, make_trials
    from safedojo_ros.fidelity import imagined_rates
    from safedojo_ros.models.loading import load_policy
    from safedojo_ros.worlds.seeds import split_seeds
    from safedojo_ros.worlds.tabletop.tasks import TASKS

    known = {}
    for path in args.measured:
        policy_id, trials, outcomes = imagined_rates.read_measured(path, config.max_steps)
        known[policy_id] = (trials, outcomes)
    seeds = split_seeds("validation", 0, config.rate_episodes)
    instructions = world.success.instructions
    tasks = [name for name, task in TASKS.items() if task.instruction in instructions]
    fresh = make_trials(seeds, tasks, list(LEVEL_NAMES))
    played: dict[str, tuple[imagined_rates.Outcomes, imagined_rates.Outcomes]] = {}

    def play(name: str) -> str:
        policy = load_policy(find_checkpoint("policy", name, args.store))
        key = policy.checkpoint_id
        if key not in played:
            print(f"policy {key}: imagined and measured")
            if key in known:
                trials, real = known[key]
            else:
                side = world.image_size
                real = imagined_rates.measure(policy, fresh, config.max_steps, side)
                trials = fresh
            played[key] = (imagined_rates.imagine_trials(policy, world, trials), real)
        return key

    sections: dict[str, Any] = {}
    if args.policy:
        key = play(args.policy)
        sections["policy"] = key
        sections["rates"] = imagined_rates.rates_apart(*played[key], config.seed)
    if args.policies:
        names = list(dict.fromkeys(play(name) for name in args.policies))
        dreamt, real = ([played[name][side] for name in names] for side in (0, 1))
        sections["ranking"] = imagined_rates.ranking(names, dreamt, real, config.seed)
    return sections
