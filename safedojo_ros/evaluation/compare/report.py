"""The comparison of methods as one page: tables, CAR and SSR, learning, film strips.

Everything is inside the page, so that it can be sent, kept and read without a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safedojo_ros.evaluation.compare.learning_curves import escaped, learning_sections, table
from safedojo_ros.evaluation.plot import Dot, chart, dot_chart, inline

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2em auto;padding:0 1em}
h2{margin-top:2em;border-bottom:1px solid #ddd} table{border-collapse:collapse}
td,th{padding:.25em .7em;border-bottom:1px solid #e5e5e5;text-align:right}
td:first-child,th:first-child{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:12px} .note{color:#555;font-size:.92em}
figure{margin:1em 0} figure img{max-width:100%}
"""


@dataclass(frozen=True)
class Film:
    """A film strip of a run, as the bytes of a PNG."""

    run: str
    png: bytes


def comparison_page(
    comparison: Mapping[str, Any], films: Sequence[Film] = (), made: str = ""
) -> str:
    """The page for the result of `compare.comparison.compare`, with film strips of its runs.

    made: by what, for the line under the title.
    """
    levels = list(dict.fromkeys(row["level"] for row in comparison["table"]))
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Comparison of methods</title>",
        f"<style>{STYLE}</style><h1>Comparison of methods</h1>",
        f"<p class='note'>{escaped(made)}</p>",
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
            rates_chart(rows, "all levels" if level == "all" else f"level {level}"),
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
        "<p class='note'>The first held-out episode of each run, row by row. Images have a red "
        "frame from the first contact with the obstacle on.</p>"
    ]
    for film in ordered:
        caption = f"<figcaption>{escaped(film.run)}</figcaption>"
        parts.append(f"<figure>{caption}{inline(film.png, film.run)}</figure>")
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


def rates_chart(rows: Sequence[Mapping[str, Any]], level: str) -> str:
    """CAR and SSR of each method with their intervals."""
    dots = {
        row["method"]: [
            Dot(name.upper(), *(100 * row[name][key] for key in ("value", "low", "high")))
            for name in ("car", "ssr")
        ]
        for row in rows
    }
    title = f"No collision (CAR), and success without one (SSR): {level}"
    return chart(dot_chart(title, "% of episodes, 95 % intervals", dots, (0, 108)))
