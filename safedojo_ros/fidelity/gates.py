"""Which bars the checkpoints of an imagined world miss, according to their manifests."""

from collections.abc import Mapping
from typing import Any

from safedojo_ros.fidelity.thresholds import RATES, FidelityBars, Verdict, judge


def missed_gates(fidelity: Mapping[str, Mapping[str, Any]], heads: Mapping[str, str]) -> list[str]:
    """One sentence for each bar that the checkpoints miss.

    fidelity: {kind of checkpoint: "fidelity" of its manifest}; heads: {"success", "safety": id in
    use}. The bars are those of `safedojo validate`. A world model that was not validated misses one
    for that, and those that its training measured; so does one that was validated without a policy.
    """
    report = fidelity.get("world_model", {})
    if isinstance(report.get("bars"), list):
        judged = report.get("checkpoints", {})
        missed = [
            f"the world model was validated with {kind} {judged.get(kind)}, not {name}"
            for kind, name in heads.items()
            if judged.get(kind) != name
        ]
        verdicts = [Verdict(**({"value": None} | bar)) for bar in report["bars"]]
        if not any(verdict.metric in RATES for verdict in verdicts):
            missed.append(
                "the world model was validated without a policy, so nobody knows whether it tells "
                "apart the futures of a scene; run safedojo validate --policy"
            )
    else:
        missed = ["the world model was not validated; run safedojo validate"]
        known = training_values(fidelity)
        verdicts = [v for v in judge(FidelityBars(), known, rates=False) if v.metric in known]
    return missed + [verdict.sentence for verdict in verdicts if not verdict.passed]


def training_values(fidelity: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """{metric of `fidelity.thresholds`: value} as the training of the checkpoints measured it."""
    values: dict[str, float | None] = {}
    horizons = fidelity.get("world_model", {}).get("by_horizon")
    if isinstance(horizons, list) and horizons:
        ratios = [h["mse"][0] / h["copying"][0] for h in horizons if h["copying"][0] > 0]
        values["mse_over_copying"] = max(ratios, default=None)
    safety = fidelity.get("safety", {})
    if "auroc" in safety:
        values["safety_auroc_true"] = safety["auroc"]
    return values
