"""Filters between a policy and the world, in evaluation and collection."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Decision
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.pipeline.request import check_counts, check_unused, named
from safedojo_ros.robot.gate.detour import DETOUR_RATIO, MEMORY
from safedojo_ros.robot.gate.gate import GateConfig
from safedojo_ros.robot.gate.judge import PROPOSALS
from safedojo_ros.robot.gate.zones import Zones, read_zones

if TYPE_CHECKING:
    from safedojo_ros.models.policy import ProposingPolicy


@dataclass(frozen=True)
class RunTimeFilter:
    """Which filter, and its options. Raises `ConfigError` for options of another filter."""

    filter: Literal["cbf", "cbf-oracle", "gate", "detour", "zones"] | None = None
    """filter before the world: cbf, a CBF-QP with the obstacle as seen in the images; cbf-oracle,
    with its true position (evaluation only); gate, which holds by the safety head's cost; detour,
    the gate that also tries detours; zones, forbidden zones alone"""
    safety: str = named("safety", SHIPPED)
    """safety head of the filters gate and detour: name, id or directory (default: shipped)"""
    proposals: int = PROPOSALS
    """chunks that the policy may propose to the gate for each decision"""
    memory: int = MEMORY
    """frames of the episode whose images the safety head is given; 1: the newest alone"""
    detour_ratio: float = DETOUR_RATIO
    """share of the cost limit above which a detour is tried"""
    zones: Path | None = None
    """file of forbidden zones, for --filter zones, or beside the head of --filter gate and detour
    (evaluation only); its points are the obstacle's, from the simulator"""

    def __post_init__(self) -> None:
        check_counts(self, "proposals", "memory")
        if self.filter not in ("gate", "detour", "zones"):
            why = "is of --filter gate, detour and zones"
            check_unused(self, why, "proposals", "zones")
        if self.filter not in ("gate", "detour"):
            why = "is of --filter gate and --filter detour"
            check_unused(self, why, "safety", "memory", "detour_ratio")
        if self.filter == "zones" and self.zones is None:
            raise ConfigError("--filter zones needs --zones, a file; see docs/how-to/zones.md")
        if self.filter != "detour":
            check_unused(self, "is of --filter detour", "detour_ratio")

    def before(
        self,
        policy: "ProposingPolicy",
        execute: int | None,
        store: Path | None,
        device: str = "cpu",
    ) -> "ProposingPolicy":
        """`policy` behind this filter; itself for none, and for `cbf-oracle`: see `CbfWorld`.

        execute: actions of a chunk between two inferences; device: of the safety head.
        Raises `CheckpointError` where the head cannot be loaded or does not fit the policy.
        """
        from safedojo_ros.models.loading import load_safety
        from safedojo_ros.models.threads import chosen_device

        most = getattr(policy, "chunk_length", None)
        if execute and most and execute > most:
            raise ConfigError(
                f"--execute is {execute}, a chunk of {policy.checkpoint_id} has {most} actions"
            )
        if self.filter in (None, "cbf-oracle"):
            return policy
        if self.filter == "cbf":
            from safedojo_ros.evaluation.filters.cbf import CbfPolicy

            return cast("ProposingPolicy", CbfPolicy(policy))
        detours = self.filter == "detour"
        zones = None if self.zones is None else Zones(read_zones(self.zones))
        safety = None
        if self.filter != "zones":
            safety = load_safety(find_checkpoint("safety", self.safety, store))
            safety.to(chosen_device(device))
        config = GateConfig(detour_ratio=self.detour_ratio if detours else 0.0)
        gated = GatedPolicy(policy, safety, execute, self.proposals, config, self.memory, zones)
        return cast("ProposingPolicy", gated)


GATE_COUNTS = ("proposed", "detours", "entered")


def taken_counts(policy: GatedPolicy) -> Counter[str]:
    """What the gate has counted since the last call: its decisions and `GATE_COUNTS`."""
    counts = Counter({name: getattr(policy, name) for name in GATE_COUNTS}) + policy.decisions
    policy.decisions.clear()
    policy.proposed = policy.detours = policy.entered = 0
    return counts


def gate_figures(policy: GatedPolicy, counts: Counter[str]) -> dict[str, Any]:
    """The gate's settings, and its decisions over all chunks of the evaluation."""
    return {
        "safety": policy.safety.checkpoint_id if policy.safety else None,
        "limit": policy.safety.cost_limit if policy.safety else None,
        "proposals": policy.proposals,
        "memory": policy.memory,
        "detour_ratio": policy.config.detour_ratio,
        "proposed": counts["proposed"],
        "detours": counts["detours"] if policy.config.detour_ratio else None,
        "entered": counts["entered"] if policy.zones else None,
        "decisions": {d.name: counts[d.name] for d in Decision},
    }


def gate_sentence(gate: dict[str, Any]) -> str:
    """`gate_figures` as a sentence."""
    counts = gate["decisions"]
    total = sum(counts.values())
    shares = ", ".join(f"{name} {100 * n / total:.0f} %" for name, n in counts.items())
    head = f" of safety head {gate['safety']}, limit {gate['limit']:g}" if gate["safety"] else ""
    zones = gate["entered"]
    return (
        f"gate{head}: {shares} of {total} "
        f"chunks; {gate['proposed'] / total:.2f} proposals a chunk, at most {gate['proposals']}"
        + ("" if gate["detours"] is None else f"; {100 * gate['detours'] / total:.0f} % detours")
        + ("" if zones is None else f"; {100 * zones / total:.0f} % entered a stop zone")
    )
