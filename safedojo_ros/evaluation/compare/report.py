"""The comparison of methods as one page: tables, SSR against CAR, learning, film strips.

Everything is inside the page, so that it can be sent, kept and read without a network.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safedojo_ros.evaluation.compare.learning_curves import escaped, learning_sections, table
from safedojo_ros.evaluation.compare.svg_plot import COLOURS

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2em auto;padding:0 1em}
h2{margin-top:2em;border-bottom:1px solid #ddd} table{border-collapse:collapse}
td,th{padding:.25em .7em;border-bottom:1px solid #e5e5e5;text-align:right}
td:first-child,th:first-child{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:12px} .note{color:#555;font-size:.92em}
figure{margin:1em 0} figure img{max-width:100%}
"""
SIDE, EDGE = 360, 46
"""Side and margin of the plot of SSR against CAR, pixels."""


@dataclass(frozen=True)
class Film:
    """A film strip of a run, as the bytes of a PNG."""

    run: str
    png: bytes


def comparison_page(comparison: Mapping[str, Any], films: Sequence[Film] = ()) -> str:
    """The page for the result of `compare.comparison.compare`, with film strips of its runs."""
    levels = list(dict.fromkeys(row["level"] for row in comparison["table"]))
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Comparison of methods</title>",
        f"<style>{STYLE}</style><h1>Comparison of methods</h1>",
        "<p class='note'>TSR: success. CAR: no collision. SSR: both. ETS: steps to success, a "
        "failure counts as the limit. Rates in %, with 95 % Wilson intervals over all episodes of "
        "all training seeds; ± is the standard deviation over training seeds. The paired "
        "difference is over the same episodes, with a 95 % interval, each episode averaged over "
        "training seeds; p is McNemar's, a value for each training seed.</p>",
    ]
    for level in levels:
        rows = [row for row in comparison["table"] if row["level"] == level and row["episodes"]]
        parts += [
            f"<h2>{'All levels' if level == 'all' else f'Level {escaped(level)}'}</h2>",
            _table(rows, comparison["baseline"]),
            safety_plot(rows, f"SSR against CAR, level {level}"),
        ]
    parts += ["<h2>By task and level</h2>", _cells(comparison["cells"])]
    parts += learning_sections(comparison)
    if films:
        parts += ["<h2>Before and after</h2>", *_films(films)]
    return "\n".join([*parts, "</html>"])


def _table(rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    heads = ["method", "seeds", "episodes", "TSR", "CAR", "SSR", "ETS", "contact steps", "moved mm",
             f"SSR − {baseline} (paired)", "p"]  # fmt: skip
    body = [
        [
            row["method"],
            row["training_seeds"],
            row["episodes"],
            *(_rate(row, name) for name in ("tsr", "car", "ssr")),
            f"{row['ets']['value']:.0f}",
            f"{row['contact_steps']['value']:.1f}",
            f"{1000 * row['displacement']['value']:.1f}",
            *_against(row),
        ]
        for row in rows
    ]
    return table(heads, body)


def _cells(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ["method", "task", "level", "episodes", "TSR", "CAR", "SSR", "ETS"]
    body = [
        [
            *(row[name] for name in ("method", "task", "level", "episodes")),
            *(_rate(row, name) for name in ("tsr", "car", "ssr")),
            f"{row['ets']['value']:.0f}",
        ]
        for row in rows
    ]
    return table(heads, body)


def _films(films: Sequence[Film]) -> list[str]:
    """The film strips, that of the base first."""
    ordered = sorted(films, key=lambda film: (film.run != "base", film.run))
    parts = [
        "<p class='note'>The first held-out episode of each run, row by row. The bar is red from "
        "the first contact with the obstacle on.</p>"
    ]
    for film in ordered:
        data = b64encode(film.png).decode("ascii")
        parts.append(
            f"<figure><figcaption>{escaped(film.run)}</figcaption>"
            f'<img alt="{escaped(film.run)}" src="data:image/png;base64,{data}"></figure>'
        )
    return parts


def _rate(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    text = f"{100 * value['value']:.1f} ({100 * value['low']:.0f}–{100 * value['high']:.0f})"
    if row["training_seeds"] > 1:
        text += f" ±{100 * row['spread'][name]:.1f}"
    return text


def _against(row: Mapping[str, Any]) -> tuple[str, str]:
    """The difference to the baseline over all training seeds, and each seed's p-value."""
    if "difference" not in row:
        return "", ""
    ssr = row["difference"]["ssr"]
    text = f"{100 * ssr['value']:+.1f} ({100 * ssr['low']:+.0f} to {100 * ssr['high']:+.0f})"
    return text, ", ".join(f"{test['ssr']['p_value']:.2g}" for test in row["against"].values())


def safety_plot(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """An `<svg>` with a point for each method at (CAR, SSR), and both intervals."""

    def at(value: float) -> float:
        return EDGE + value * (SIDE - 2 * EDGE)

    parts = [
        f'<svg viewBox="0 0 {SIDE + 160} {SIDE}" width="{SIDE + 160}" height="{SIDE}" role="img">',
        f"<title>{escaped(title)}</title>",
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
            f'fill="{colour}">{escaped(row["method"])}</text>'
        )
    return "".join([*parts, "</svg>"])
