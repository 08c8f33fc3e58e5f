"""The pictures of reports, by matplotlib: told apart in grey too, with a name at every point."""

import html
import io
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # takes a second to import, which few commands need
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#c0392b", "#2c6fbb", "#b9770e", "#6b3fa0", "#2e8b57", "#777777")
MARKERS, LINES = "osD^vP*", ("-", "--", "-.", ":")
FREE, TOUCHED, SUCCESS = "#999999", "#c0392b", "#1e7a3c"
"""Frames of film strips: nothing has happened yet, the obstacle was touched, success without."""
DPI = 110


@dataclass(frozen=True)
class Curve:
    """A named curve; bands: (low, high) at each x, or empty; dashed: without points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    bands: Sequence[tuple[float, float]] = field(default_factory=tuple)
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A value of a series, with its interval where it has one."""

    series: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Frame:
    """An image (H, W, 3) uint8 of a strip, the words over it and the colour around it."""

    image: np.ndarray
    words: str = ""
    colour: str = FREE


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    curves: Sequence[Curve],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> "Figure":
    """Curves over a common axis, named below; without a `y_range` the axis holds zero."""
    figure, axes = _figure(4.4, 2.9 + 0.17 * ((len(curves) + 1) // 2))
    for curve, style in zip(curves, _styles(), strict=False):
        if curve.dashed:
            style |= {"color": "#777777", "linestyle": (0, (1, 1)), "marker": ""}
        elif len(curve.x) > 20:
            style["markevery"] = len(curve.x) // 10
        axes.plot(curve.x, curve.y, label=curve.name, markersize=4, linewidth=1.4, **style)
        if curve.bands:
            low, high = np.transpose(curve.bands)
            axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(color="#dddddd", linewidth=0.6)
    if x_range:
        axes.set_xlim(*x_range)
    axes.set_ylim(*(y_range or (min(0.0, axes.get_ylim()[0]), None)))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def dot_chart(
    title: str,
    x_label: str,
    rows: Mapping[str, Sequence[Dot]],
    x_range: tuple[float, float] | None = None,
) -> "Figure":
    """A row for each name, in it a marker with interval and number for each series."""
    names = list(dict.fromkeys(dot.series for dots in rows.values() for dot in dots))
    step = 0.7 / max(1, len(names))
    figure, axes = _figure(6.4, 0.9 + len(rows) * (0.14 + 0.2 * len(names)))
    for number, (series, style) in enumerate(zip(names, _styles(), strict=False)):
        style = {k: v for k, v in style.items() if k != "linestyle"} | {"linestyle": "none"}
        for place, dots in enumerate(rows.values()):
            height = place + step * (number - (len(names) - 1) / 2)
            for dot in (dot for dot in dots if dot.series == series):
                low, high = dot.low, dot.high
                ends = (dot.value if low is None else low, dot.value if high is None else high)
                axes.plot(ends, (height, height), color=style["color"], linewidth=1.4)
                axes.plot(dot.value, height, markersize=5, **style)
                axes.annotate(
                    f"{dot.value:.3g}", (ends[1], height), (5, 0), textcoords="offset points",
                    va="center", fontsize=8, color=style["color"],
                )  # fmt: skip
        axes.plot([], [], label=series, markersize=5, **style)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(title=title, xlabel=x_label)
    if x_range:
        axes.set_xlim(*x_range)
    else:
        axes.margins(x=0.12)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    return figure


def image_strip(title: str, rows: Mapping[str, Sequence[Frame]], caption: str = "") -> "Figure":
    """Rows of images of one size, each row with its name at the left; wrapped words below."""
    count = max(map(len, rows.values()))
    height, width = next(iter(rows.values()))[0].image.shape[:2]
    cell = min(2.6, 11.0 / count)
    figure, _ = _figure(cell * count, (cell * height / width + 0.28) * len(rows) + 0.6)
    figure.clear()
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, frames) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for axes, frame in zip(line, frames, strict=True):
            axes.imshow(frame.image, interpolation="nearest")
            axes.set_title(frame.words, fontsize=8, pad=3)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=frame.colour, linewidth=2.5)
    figure.suptitle(title, fontsize=10)
    if caption:
        figure.supxlabel(caption, fontsize=7, wrap=True)
    return figure


def png(figure: "Figure") -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def inline(content: bytes, text: str) -> str:
    """`<img>` with a PNG inside; text: for those who do not see it."""
    data = b64encode(content).decode("ascii")
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'


def chart(figure: "Figure", text: str = "") -> str:
    """`<img>` with a chart; text: for those who do not see it (default: its title)."""
    return inline(png(figure), text or figure.axes[0].get_title())


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """An empty figure of this size, inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _styles() -> Iterator[dict[str, Any]]:
    """Colour, line and marker, no two alike within 28 curves."""
    for colour, marker, line in zip(cycle(COLOURS), cycle(MARKERS), cycle(LINES), strict=False):
        yield {"color": colour, "marker": marker, "linestyle": line}
