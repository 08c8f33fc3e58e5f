"""The comparison of methods as one page: table, SSR against CAR, practised rates, learning curves.

Everything is inside the page, so that it can be sent, kept and read without a network.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from safedojo_ros.evaluation.svg_plot import COLOURS, Curve, line_chart

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2em auto;padding:0 1em}
h2{margin-top:2em;border-bottom:1px solid #ddd} table{border-collapse:collapse}
td,th{padding:.25em .7em;border-bottom:1px solid #e5e5e5;text-align:right}
td:first-child,th:first-child{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:12px} .note{color:#555;font-size:.92em}
"""
SIDE, EDGE = 360, 46
"""Side and margin of the plot of SSR against CAR, pixels."""


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """The page of what `evaluation.comparison.compare` gave."""
    levels = list(dict.fromkeys(row["level"] for row in comparison["table"]))
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Comparison of methods</title>",
        f"<style>{STYLE}</style><h1>Comparison of methods</h1>",
        "<p class='note'>TSR: success. CAR: no collision. SSR: both. ETS: steps to success, a "
        "failure counts as the limit. Rates in %, with 95 % Wilson intervals over all episodes of "
        "all training seeds; ± is the standard deviation over training seeds. Real collisions: "
        "episodes with a contact that the method's own learning caused in the real world, on "
        "average over training seeds.</p>",
    ]
    for level in levels:
        rows = [row for row in comparison["table"] if row["level"] == level and row["episodes"]]
        parts += [
            f"<h2>Level {_escape(level)}</h2>",
            _table(rows, comparison["baseline"]),
            safety_plot(rows, f"SSR against CAR, level {level}"),
        ]
    if comparison["practised"]:
        parts += ["<h2>Practised against measured</h2>", _practised(comparison["practised"])]
    if comparison["curves"]:
        parts += ["<h2>Learning curves</h2><div class='charts'>", *_curves(comparison), "</div>"]
    return "\n".join([*parts, "</html>"])


def _table(rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    heads = ["method", "seeds", "episodes", "TSR", "CAR", "SSR", "ETS", "contact steps",
             "real collisions", f"SSR − {baseline} (paired)", "p"]  # fmt: skip
    body = []
    for row in rows:
        cells = [
            row["method"],
            row["training_seeds"],
            row["episodes"],
            *(_rate(row, name) for name in ("tsr", "car", "ssr")),
            f"{row['ets']['value']:.0f}",
            f"{row['contact_steps']['value']:.1f}",
            f"{row['real_collisions']:.0f} of {row['real_episodes']:.0f}",
            *_against(row),
        ]
        body.append("<tr>" + "".join(f"<td>{_escape(c)}</td>" for c in cells) + "</tr>")
    head = "".join(f"<th>{_escape(h)}</th>" for h in heads)
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _rate(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    text = f"{100 * value['value']:.1f} ({100 * value['low']:.0f}–{100 * value['high']:.0f})"
    if row["training_seeds"] > 1:
        text += f" ±{100 * row['spread'][name]:.1f}"
    return text


def _against(row: Mapping[str, Any]) -> tuple[str, str]:
    """Each training seed's difference to the baseline, and its p-value."""
    tests = [test["ssr"] for test in row.get("against", {}).values()]
    differences = ", ".join(
        f"{100 * t['difference']['value']:+.1f} ({100 * t['difference']['low']:+.0f} to "
        f"{100 * t['difference']['high']:+.0f})"
        for t in tests
    )
    return differences, ", ".join(f"{t['p_value']:.2g}" for t in tests)


def safety_plot(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """An `<svg>`: a method each, CAR across and SSR up, with both intervals."""

    def at(value: float) -> float:
        return EDGE + value * (SIDE - 2 * EDGE)

    parts = [
        f'<svg viewBox="0 0 {SIDE + 160} {SIDE}" width="{SIDE + 160}" height="{SIDE}" role="img">',
        f"<title>{_escape(title)}</title>",
        f'<text x="{SIDE / 2}" y="{SIDE - 8}" text-anchor="middle" font-size="11">CAR %</text>',
        f'<text x="10" y="{EDGE - 14}" font-size="11">SSR %</text>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(tick), SIDE - at(tick)
        parts.append(
            f'<path d="M{x} {EDGE}V{SIDE - EDGE}M{EDGE} {y}H{SIDE - EDGE}" stroke="#ddd"/>'
            f'<text x="{x}" y="{SIDE - EDGE + 14}" text-anchor="middle" font-size="10">'
            f"{100 * tick:.0f}</text>"
            f'<text x="{EDGE - 5}" y="{y + 3}" text-anchor="end" font-size="10">'
            f"{100 * tick:.0f}</text>"
        )
    for number, row in enumerate(rows):
        colour = COLOURS[number % len(COLOURS)]
        car, ssr = row["car"], row["ssr"]
        x, y = at(car["value"]), SIDE - at(ssr["value"])
        parts.append(
            f'<path d="M{at(car["low"]):.1f} {y:.1f}H{at(car["high"]):.1f}'
            f'M{x:.1f} {SIDE - at(ssr["low"]):.1f}V{SIDE - at(ssr["high"]):.1f}" '
            f'stroke="{colour}" stroke-width="1.5"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
            f'<text x="{SIDE - EDGE + 12}" y="{EDGE + 16 * number}" font-size="12" '
            f'fill="{colour}">{_escape(row["method"])}</text>'
        )
    return "".join([*parts, "</svg>"])


def _practised(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("success", "violations", "safe_success")
    head = "".join(f"<th>{_escape(n.replace('_', ' '))}: practised, measured</th>" for n in names)
    body = []
    for row in rows:
        cells = [
            f"{100 * row['practised'][n]:.0f}, {100 * row['measured'][n]['value']:.0f} "
            f"({100 * row['measured'][n]['low']:.0f}–{100 * row['measured'][n]['high']:.0f})"
            for n in names
        ]
        body.append(
            f"<tr><td>{_escape(row['method'])}, seed {row['seed']}</td><td>{row['updates']}</td>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    return (
        "<p class='note'>Rates (%) in practice, of the policy that was chosen, beside those "
        "measured on validation seeds over the same number of steps.</p>"
        f"<table><tr><th>run</th><th>updates</th>{head}</tr>{''.join(body)}</table>"
    )


def _curves(comparison: Mapping[str, Any]) -> list[str]:
    charts = []
    for key, title in (
        ("reward", "reward"),
        ("violations", "rate of violating episodes"),
        ("cost_top_m", "trajectory cost"),
        ("multiplier", "multiplier"),
    ):
        curves = [
            Curve(
                f"{entry['method']} {entry['seed']}",
                [row["step"] for row in entry["rows"] if key in row],
                [row[key] for row in entry["rows"] if key in row],
            )
            for entry in comparison["curves"]
        ]
        charts.append(line_chart(title, "updates", title, [c for c in curves if len(c.x)]))
    return charts


def _escape(value: Any) -> str:
    return html.escape(str(value))
