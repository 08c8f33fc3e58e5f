"""Small charts as SVG text."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 44
COLOURS = (
    "#1f5fa8", "#c0392b", "#2e8b57", "#8e5ea2", "#b9770e",
    "#17a2b8", "#d6336c", "#6b7a1f", "#444444", "#a0522d", "#5e35b1", "#e0a800",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A named curve; bands: (low, high) at each x, or empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    bands: Sequence[tuple[float, float]] = field(default_factory=tuple)
    dashed: bool = False


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    curves: Sequence[Curve],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """An `<svg>` element; without a `y_range` the axis begins at zero."""
    xs = [v for curve in curves for v in curve.x]
    ys = [v for curve in curves for v in curve.y]
    ys += [high for curve in curves for _, high in curve.bands]
    if not xs:
        return ""
    x0, x1 = x_range or (min(xs), max(xs))
    y0, y1 = y_range or (0.0, 1.05 * max(ys))
    x1, y1 = (x1 if x1 > x0 else x0 + 1.0), (y1 if y1 > y0 else y0 + 1.0)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{html.escape(title)}</title>",
        _text(WIDTH / 2, 16, title, "middle", bold=True),
        _text(WIDTH / 2, HEIGHT - 6, x_label, "middle"),
        f'<g transform="translate(12,{HEIGHT / 2}) rotate(-90)">',
        _text(0, 0, y_label, "middle") + "</g>",
    ]
    for k in range(5):
        y = y0 + k / 4 * (y1 - y0)
        left, down = place(x0, y).split(",")
        right = place(x1, y).split(",")[0]
        parts.append(f'<line x1="{left}" x2="{right}" y1="{down}" y2="{down}" stroke="#ddd"/>')
        parts.append(_text(float(left) - 5, float(down) + 4, f"{y:.3g}", "end"))
    for x in sorted(set(xs)) if len(set(xs)) <= 8 else [x0 + k / 4 * (x1 - x0) for k in range(5)]:
        parts.append(
            _text(float(place(x, y0).split(",")[0]), HEIGHT - BOTTOM + 15, f"{x:g}", "middle")
        )
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        if curve.bands:
            over = [place(x, high) for x, (_, high) in zip(curve.x, curve.bands, strict=True)]
            under = [place(x, low) for x, (low, _) in zip(curve.x, curve.bands, strict=True)]
            outline = " ".join(over + under[::-1])
            parts.append(f'<polygon points="{outline}" fill="{colour}" opacity="0.15"/>')
        points = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
        dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
            f'stroke-width="2"{dash}/>'
        )
        for point in [] if curve.dashed else points:
            across, down = point.split(",")
            parts.append(f'<circle cx="{across}" cy="{down}" r="2.5" fill="{colour}"/>')
        parts.append(_text(LEFT + 8, TOP + 12 + 14 * number, curve.name, "start", colour))
    return "".join([*parts, "</svg>"])


def _text(
    x: float, y: float, text: str, anchor: str, colour: str = "#333", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" '
        f'fill="{colour}"{weight}>{html.escape(text)}</text>'
    )
