"""The fidelity report as one page: bars, curves, reliability, real and imagined frames.

Every image is inside the page, so that it can be sent, kept and read without a network.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from safedojo_ros.evaluation.plot import Curve, Frame, chart, image_strip, line_chart
from safedojo_ros.fidelity.frame_error import GROUPS, SPACES
from safedojo_ros.fidelity.thresholds import Verdict
from safedojo_ros.fidelity.validation import FilmStrip

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em} h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.8em 0}
td,th{padding:.25em .7em;border-bottom:1px solid #e5e5e5;
text-align:left} td.n{text-align:right;font-variant-numeric:tabular-nums}
.pass{color:#1e7a3c;font-weight:600}.miss{color:#b3261e;font-weight:600}
.charts{display:flex;flex-wrap:wrap;gap:12px} .note{color:#555;font-size:.92em}
img{max-width:100%} figure{margin:1em 0} figcaption{font-size:.92em}
"""


def report_page(
    names: Mapping[str, str],
    sections: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    strips: Sequence[FilmStrip],
    made: str = "",
) -> str:
    """The whole HTML page; names: {kind of checkpoint: id}; made: by what, for the captions."""
    missed = [v for v in verdicts if not v.passed]
    summary = (
        f'<p class="miss">{len(missed)} of {len(verdicts)} bars missed.</p>'
        if missed
        else f'<p class="pass">All {len(verdicts)} bars reached.</p>'
    )
    who = ", ".join(f"{kind} {name or 'unnamed'}" for kind, name in names.items())
    data = sections["data"]
    body = [
        "<h1>Fidelity of world model, success classifier and safety head</h1>",
        f"<p>{_escape(who)}</p><p class='note'>{_escape(made)}</p>",
        f"<p>{data['episodes']} held-out episodes, {data['colliding']} of them colliding; "
        f"{data['frames']} frames, {data['success_frames']} show success; "
        f"{data['contact_steps']} steps with contact. Recorded by {_escape(data['sources'])}. "
        "Replays are open-loop: after its first frames the model sees only its own. Intervals are "
        "95 % bootstrap intervals over episodes.</p>",
        summary,
        _bars(verdicts),
        "<h2>Frames by horizon</h2>",
        *[_errors(sections["by_horizon"], space) for space in SPACES],
        _few_steps(sections["few_steps"]),
        "<h2>State, latents, uncertainty</h2>",
        _states(sections["by_horizon"]),
        _uncertainty(sections["uncertainty"]),
        "<h2>Success classifier</h2>",
        _figures(sections["success"], "on frames, against what the recording shows"),
        "<h2>Safety head</h2>",
        _reliability(sections["safety"]),
        _figures(
            {k: v for k, v in sections["safety"].items() if not k.startswith("lead_time")},
            "matched: the recorded frames that correspond to the imagined ones",
        ),
        _figures(
            {k: v for k, v in sections["safety"].items() if k.startswith("lead_time")},
            "from the first alarm of an episode to its first contact; false alarms: allowed share "
            "of the episodes (or steps) without contact",
        ),
        *_rates(sections),
        "<h2>Real above imagined</h2>",
        *[_film(strip, made) for strip in strips],
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>safedojo fidelity report</title><style>{STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _bars(verdicts: Sequence[Verdict]) -> str:
    rows = [
        f"<tr><td>{_escape(v.description)}</td>"
        f'<td class="n">{"not measured" if v.value is None else f"{v.value:.3g}"}</td>'
        f"<td>{'≥' if v.at_least else '≤'} {v.bar:g}</td>"
        f'<td class="{"pass" if v.passed else "miss"}">{"pass" if v.passed else "miss"}</td></tr>'
        for v in verdicts
    ]
    head = "<tr><th>metric</th><th>value</th><th>bar</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _curve(
    name: str, entries: Sequence[Mapping[str, Any]], *path: str, dashed: bool = False
) -> Curve:
    estimates = []
    for entry in entries:
        value: Any = entry
        for key in path:
            value = value[key]
        estimates.append(value)
    bands = [(e["low"], e["high"]) for e in estimates if "low" in e and "high" in e]
    return Curve(
        name,
        [e["steps"] for e in entries],
        [e["value"] for e in estimates],
        bands if len(bands) == len(estimates) else (),
        dashed,
    )


def _of(entries: Sequence[Mapping[str, Any]], group: str) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if entry["group"] == group]


def _errors(entries: Sequence[Mapping[str, Any]], space: str) -> str:
    against = {
        "camera": "against the camera's images (the autoencoder's own error included)",
        "reconstruction": "against the autoencoder's reconstructions of them",
    }[space]
    charts = []
    for group in GROUPS:
        if not (chosen := _of(entries, group)):
            continue
        curves = [
            _curve("imagined", chosen, space, "mse"),
            _curve("copying", chosen, space, "copying"),
        ]
        curves += [_curve("permuted actions", chosen, space, "permuted")]
        curves += [_curve("zeroed actions", chosen, space, "zeroed")]
        if space == "camera":
            curves.append(_curve("autoencoder alone", chosen, space, "autoencoder", dashed=True))
        title = f"{group} episodes ({chosen[0]['replays']} replays)"
        charts.append(chart(line_chart(title, "control steps", "mean squared error", curves)))
    every = _of(entries, "all")
    for metric, label in (("ssim", "SSIM"), ("psnr", "PSNR, dB")):
        curves = [_curve("imagined", every, space, metric)]
        curves.append(_curve("copying", every, space, f"copying_{metric}"))
        title = f"{label}, all episodes"
        charts.append(chart(line_chart(title, "control steps", label, curves)))
    return f'<p>Errors {against}.</p><div class="charts">{"".join(charts)}</div>'


def _states(entries: Sequence[Mapping[str, Any]]) -> str:
    groups = [(g, _of(entries, g)) for g in GROUPS if _of(entries, g)]
    state = [_curve(g, chosen, "state_cm") for g, chosen in groups if "state_cm" in chosen[0]]
    every = _of(entries, "all")
    latent = [_curve("imagined", every, "latent_distance")]
    latent.append(_curve("copying", every, "latent_copying"))
    title = "own autoencoder's latents"
    charts = [line_chart(title, "control steps", "mean squared distance", latent)]
    if state:
        charts.insert(0, line_chart("end-effector position", "control steps", "error, cm", state))
    return f'<div class="charts">{"".join(map(chart, charts))}</div>'


def _few_steps(entries: Sequence[Mapping[str, Any]]) -> str:
    columns: dict[str, dict[str, Any]] = {}
    for entry in entries:
        column = columns.setdefault(f"{entry['denoising_steps']} denoising steps", {})
        column[f"mse after {entry['steps']} steps"] = entry["mse"]
        column["milliseconds a chunk"] = 1000 * entry["seconds_per_chunk"]
    return _figures(columns, "what fewer denoising steps cost, against the camera's images")


def _uncertainty(section: Mapping[str, Any]) -> str:
    if not section:
        return ""
    named = {f"after {steps} steps": figures for steps, figures in section.items()}
    note = "spearman: spread over noise seeds against error; coverage: of a split conformal bound"
    return _figures(named, note)


def _reliability(section: Mapping[str, Any]) -> str:
    curves = [Curve("calibrated", [0, 1], [0, 1], dashed=True)]
    for name in ("true", "imagined"):
        bins = section.get(name, {}).get("reliability", [])
        if bins:
            forecast, observed = [b["forecast"] for b in bins], [b["observed"] for b in bins]
            curves.append(Curve(f"{name} latents", forecast, observed))
    ends = (0.0, 1.0)
    return chart(line_chart("reliability", "forecast P(contact)", "observed", curves, ends, ends))


def _figures(columns: Mapping[str, Mapping[str, Any]], note: str) -> str:
    names = list(dict.fromkeys(k for figures in columns.values() for k in figures))
    names = [name for name in names if name != "reliability"]
    head = "".join(f"<th>{_escape(name.replace('_', ' '))}</th>" for name in columns)
    rows = [
        f"<tr><td>{_escape(name.replace('_', ' '))}</td>"
        + "".join(f'<td class="n">{_value(f.get(name))}</td>' for f in columns.values())
        + "</tr>"
        for name in names
    ]
    return (
        f'<table><tr><th></th>{head}</tr>{"".join(rows)}</table><p class="note">{_escape(note)}</p>'
    )


def _rates(sections: Mapping[str, Any]) -> list[str]:
    parts = []
    if "rates" in sections:
        parts.append("<h2>Imagined against measured rates</h2>")
        parts.append(_figures(sections["rates"], "the same scenes, imagined and simulated"))
    if "within" in sections:
        within = sections["within"]
        parts.append("<h2>Several futures of one scene</h2>")
        columns = {
            f"{what}, {name}": within[name][what]
            for what in ("violation", "success")
            for name in ("imagined", "reconstructed", "nudged")
        }
        parts.append(
            _figures(
                columns,
                f"{within['futures']} futures of each of {within['scenes']} scenes, against the "
                "simulator. reconstructed: true physics, images through the autoencoder; nudged: "
                "true physics, every thing up to 1 mm aside. r: within a scene; pairs: of two "
                "futures that differ, how often they are ordered alike; mixed: scenes that have "
                "both kinds",
            )
        )
    if "ranking" in sections:
        parts.append("<h2>Ranking of checkpoints</h2>")
        ranking = dict(sections["ranking"])
        policies = {p["policy"]: p for p in ranking.pop("policies")}
        parts.append(_figures(policies, "safe success rate of each checkpoint"))
        parts.append(_figures({"all": ranking}, "imagined against measured safe success rate"))
    return parts


def _film(strip: FilmStrip, made: str) -> str:
    rows = {
        f"{name}, camera {camera + 1}": [
            Frame(image, f"step {step}" if name == "recorded" else "")
            for image, step in zip(film[:, camera], strip.steps, strict=True)
        ]
        for camera in range(strip.real.shape[1])
        for name, film in (("recorded", strip.real), ("imagined", strip.imagined))
    }
    return f"<figure>{chart(image_strip(strip.title, rows, made), strip.title)}</figure>"


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and "value" in value:
        interval = ""
        if "low" in value and "high" in value:
            interval = f" [{_value(value['low'])}, {_value(value['high'])}]"
        return _value(value["value"]) + interval
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value)
    if isinstance(value, (int, float)):
        return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 9 else f"{value:.3g}"
    return _escape(value)


def _escape(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return html.escape(text)
