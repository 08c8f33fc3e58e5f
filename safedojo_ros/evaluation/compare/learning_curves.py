"""Learning curves, and the real episodes that learning took, for the page that compares methods."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from safedojo_ros.evaluation.plot import Curve, Dot, chart, dot_chart, line_chart

CURVES = {
    "reward": "reward",
    "success": "rate of success in practice",
    "violations": "rate of violating episodes",
    "cost_top_m": "trajectory cost",
    "multiplier": "multiplier",
}
"""{metric of practice: what it is}."""


def learning_sections(comparison: Mapping[str, Any]) -> list[str]:
    """Real episodes, ablations, limits, rates in practice against measured ones, curves."""
    parts = ["<h2>What learning cost in the real world</h2>", _cost(comparison["table"])]
    if len(comparison["ablations"]) > 1:
        parts += ["<h2>Ablations</h2>", _ablations(comparison)]
    if comparison["limits"]:
        parts += ["<h2>Is the limit held?</h2>", _limits(comparison["limits"])]
    if comparison["in_practice"]:
        parts += ["<h2>Rates in practice and measured</h2>", _rates(comparison["in_practice"])]
    if comparison["curves"]:
        parts += ["<h2>Learning curves</h2><div class='charts'>", *_curves(comparison), "</div>"]
    return parts


def _cost(rows: Sequence[Mapping[str, Any]]) -> str:
    each = {row["method"]: row["learning"] for row in rows}
    heads = ["method", "recorded for imagination", "rollouts of practice", "together"]
    body = []
    for method, spent in each.items():
        data, played = spent["data"], spent["played"]
        both = {name: data[name] + played[name] for name in ("episodes", "collisions")}
        body.append([method, *(_count(part) for part in (data, played, both, spent["measured"]))])
    return (
        "<p class='note'>Episodes in the real (simulated) world, and those of them that touched or "
        "moved the obstacle, averaged over training seeds. Measured: evaluations during practice, "
        "which choose its policy; every method has them. The demonstrations of the base policy are "
        "not counted, unless imagination starts from them, too.</p>"
        + table([*heads, "measured"], body)
    )


def _count(spent: Mapping[str, float]) -> str:
    return f"{spent['episodes']:.0f} ({spent['collisions']:.0f} collisions)"


def _ablations(comparison: Mapping[str, Any]) -> str:
    levels = list(dict.fromkeys(row["level"] for row in comparison["table"]))
    rates = {
        (row["method"], row["level"]): " / ".join(
            f"{100 * row[name]['value']:.1f}" for name in ("tsr", "car", "ssr")
        )
        for row in comparison["table"]
        if row["episodes"]
    }
    body = [
        [entry["ablation"], entry["method"]]
        + [rates.get((entry["method"], level), "") for level in levels]
        for entry in comparison["ablations"]
    ]
    return (
        "<p class='note'>TSR / CAR / SSR in %. Without the safety head there is no cost, without "
        "the constraint cost is not used: both are the update of wmpo.</p>"
        + table(["SafeDojo", "method", *(f"level {level}" for level in levels)], body)
    )


def _limits(rows: Sequence[Mapping[str, Any]]) -> str:
    body = [
        [
            f"{row['method']}, seed {row['seed']}",
            f"{row['limit']:g}",
            f"{row['violations']:.3f}",
            f"{row['multiplier']:.3f}",
            "yes" if row["held"] else "no",
        ]
        for row in rows
    ]
    heads = ["run", "limit", "violations at the end", "multiplier at the end", "held"]
    ends = dot_chart(
        "violations at the end of practice",
        "rate of violating episodes",
        {
            f"{row['method']}, seed {row['seed']}": [
                Dot("at the end", row["violations"]),
                Dot("the limit", row["limit"]),
            ]
            for row in rows
        },
    )
    return (
        "<p class='note'>Rate of violating episodes in practice, mean of the last updates. Held: "
        "within 0.05 of the limit, or below it with a multiplier of zero.</p>"
        + table(heads, body)
        + chart(ends)
    )


def _rates(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("success", "violations", "safe_success")
    heads = ["run", "updates", *(f"{n.replace('_', ' ')}: practice, measured" for n in names)]
    body = [
        [
            f"{row['method']}, seed {row['seed']}, {row['moment']}",
            row["updates"],
            *(_beside(row["in_practice"][n], row["measured"][n]) for n in names),
        ]
        for row in rows
    ]
    return (
        "<p class='note'>Rates (%) in practice, before it and of the chosen policy, beside those "
        "measured on validation seeds over the same number of steps. For practice in imagination, "
        "the rates before it are predictions for the base policy. Filters and gates at run time "
        "are not part of practice.</p>" + table(heads, body)
    )


def _beside(rate: float, measured: Mapping[str, float]) -> str:
    value, low, high = (100 * measured[name] for name in ("value", "low", "high"))
    return f"{100 * rate:.0f}, {value:.0f} ({low:.0f}–{high:.0f})"


def _curves(comparison: Mapping[str, Any]) -> list[str]:
    charts = []
    for key, title in CURVES.items():
        curves = [
            Curve(
                f"{entry['method']} {entry['seed']}",
                [row["step"] for row in entry["rows"] if key in row],
                [row[key] for row in entry["rows"] if key in row],
            )
            for entry in comparison["curves"]
        ]
        if known := [curve for curve in curves if len(curve.x)]:
            charts.append(chart(line_chart(title, "updates", title, known)))
    return charts


def table(heads: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A `<table>` of texts and numbers, escaped."""
    head = "".join(f"<th>{escaped(h)}</th>" for h in heads)
    body = ("".join(f"<td>{escaped(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def escaped(value: Any) -> str:
    """`value` as text, escaped for HTML."""
    return html.escape(str(value))
