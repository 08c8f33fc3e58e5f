"""Pictures of reports can be read: nothing overlaps, everything has a name, in grey, too."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from safedojo_ros.evaluation.plot import Curve, Dot, Frame, dot_chart, image_strip, line_chart, png

NAMES = ["imagined", "copying", "permuted actions", "zeroed actions", "autoencoder alone"]


def chart_of_lines(count: int = 5) -> Figure:
    x = list(range(4, 44, 4))
    curves = [
        Curve(name, x, [(k + 1) * each for each in x]) for k, name in enumerate((NAMES * 6)[:count])
    ]
    return line_chart("colliding episodes (24 replays)", "control steps", "error", curves)


def chart_of_dots() -> Figure:
    rows = {
        name: [Dot("CAR", 40 + k, 30 + k, 50 + k), Dot("SSR", 41 + k, 31 + k, 51 + k)]
        for k, name in enumerate(["base", "safedojo-limit0.1-detour", "wmpo"])
    }
    return dot_chart("No collision, and success without one", "% of episodes", rows, (0, 108))


def strip() -> Figure:
    frame = Frame(np.zeros((48, 64, 3), np.uint8), "step 40, no success, obstacle touched")
    words = "safedojo evaluate --film a.png --json " + "a-long-name/" * 8 + "b.json; commit 0123"
    return image_strip("cube_on_plate, level II: did not succeed", {"first half": [frame] * 3,
                       "second half": [frame] * 3}, words)  # fmt: skip


def hidden_ticks(figure: Figure) -> list[Tick]:
    """Those beyond the ends of their axis, which are not drawn."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    return [
        tick
        for axis in axes
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]


@pytest.mark.parametrize("figure", [chart_of_lines(), chart_of_dots(), strip()])
def test_no_text_lies_on_another_or_outside(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = {text for text in figure.findobj(Text) if text.get_visible() and text.get_text()}
    found -= {tick.label1 for tick in hidden_ticks(figure)}
    shown = {text: text.get_window_extent(renderer) for text in found}
    for one, other in combinations(shown, 2):
        apart = not shown[one].shrunk(0.98, 0.9).overlaps(shown[other].shrunk(0.98, 0.9))
        assert apart, (one, other)
    whole = figure.bbox
    for text, box in shown.items():
        assert box.x0 >= whole.x0 - 1, text
        assert box.x1 <= whole.x1 + 1, text


def test_curves_differ_in_more_than_colour() -> None:
    lines = chart_of_lines(28).axes[0].get_lines()
    looks = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == 28


def test_every_dot_has_its_number_and_every_row_its_name() -> None:
    axes = chart_of_dots().axes[0]
    assert [text.get_text() for text in axes.texts] == ["40", "41", "42", "41", "42", "43"]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["base", "safedojo-limit0.1-detour", "wmpo"]


def test_a_picture_is_a_png() -> None:
    assert png(chart_of_dots()).startswith(b"\x89PNG")
