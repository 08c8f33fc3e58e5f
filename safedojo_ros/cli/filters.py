"""What may stand between a policy and the world: the `--filter` of evaluation and collection."""

import argparse
from typing import TYPE_CHECKING, Any, cast

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Decision
from safedojo_ros.evaluation.filters.gate import PROPOSALS, GatedPolicy
from safedojo_ros.robot.gate.detour import DETOUR_RATIO, MEMORY
from safedojo_ros.robot.gate.gate import GateConfig

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy


def add_filter_options(parser: argparse.ArgumentParser, oracle: bool = False) -> None:
    """Declare --filter and what belongs to it.

    oracle: offer `cbf-oracle`, too; it stands before the worlds, see `CbfWorld`, not in the policy.
    """
    parser.add_argument(
        "--filter",
        choices=("cbf", *(("cbf-oracle",) if oracle else ()), "gate", "detour"),
        help="before the world: a CBF filter, obstacle seen in the pictures"
        + (" or as it truly stands" if oracle else "")
        + "; or the safety head's gate, which holds, or also takes detours",
    )
    parser.add_argument(
        "--safety", default="latest", help="safety head of --filter gate and --filter detour"
    )
    parser.add_argument(
        "--proposals",
        type=int,
        default=PROPOSALS,
        help="chunks that the policy may propose to the gate before each of its decisions",
    )
    parser.add_argument(
        "--memory",
        type=int,
        metavar="MOMENTS",
        help="moments of an episode whose pictures the gate's head judges by (default: "
        f"{MEMORY} with detours, else 1, the newest)",
    )
    parser.add_argument(
        "--detour-ratio",
        type=float,
        default=DETOUR_RATIO,
        metavar="SHARE",
        help=f"share of the cost limit from which on detours are taken (default {DETOUR_RATIO})",
    )


def filtered_policy(policy: "Policy", args: argparse.Namespace) -> "Policy":
    """`policy` behind the filter that was asked for; as it is for `cbf-oracle`.

    Raises `ConfigError` for less than one proposal or moment, `CheckpointError` where the safety
    head cannot be loaded or does not fit the policy.
    """
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.models.loading import load_safety

    if args.filter == "cbf-oracle":
        return policy
    for name in ("proposals", "memory"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}, expected at least 1")
    if args.filter == "cbf":
        from safedojo_ros.evaluation.filters.cbf import CbfPolicy

        return cast("Policy", CbfPolicy(policy))
    safety = load_safety(find_checkpoint("safety", args.safety, args.store))
    config = GateConfig(detour_ratio=args.detour_ratio if args.filter == "detour" else 0.0)
    memory = args.memory or (MEMORY if args.filter == "detour" else 1)
    gated = GatedPolicy(policy, safety, args.execute, args.proposals, config, memory)
    return cast("Policy", gated)


def gate_figures(policy: GatedPolicy) -> dict[str, Any]:
    """What the gate was, and how it decided over all chunks of the evaluation."""
    return {
        "safety": policy.safety.checkpoint_id,
        "limit": policy.safety.cost_limit,
        "proposals": policy.proposals,
        "memory": policy.memory,
        "detour_ratio": policy.config.detour_ratio,
        "proposed": policy.proposed,
        "detours": policy.detours if policy.config.detour_ratio else None,
        "decisions": {d.name: policy.decisions[d.name] for d in Decision},
    }


def gate_sentence(gate: dict[str, Any]) -> str:
    """For people."""
    counts = gate["decisions"]
    total = sum(counts.values())
    shares = ", ".join(f"{name} {100 * n / total:.0f} %" for name, n in counts.items())
    return (
        f"gate of safety head {gate['safety']}, limit {gate['limit']:g}: {shares} of {total} "
        f"chunks; {gate['proposed'] / total:.2f} proposals a chunk, at most {gate['proposals']}"
        + ("" if gate["detours"] is None else f"; {100 * gate['detours'] / total:.0f} % detours")
    )
