"""What a picture of the live view shows, decided by its pixels: it is one canvas to a browser."""

from collections.abc import Callable

import numpy as np

from safedojo_ros.nodes.rerun_screen import BACKGROUND, BANDS, COST_COLOUR, LIMIT_COLOUR

SIZE = (1280, 800)
"""Pixels across and down, for which the boxes are."""
BOXES = {
    "overview": (0, 66, 512, 380),
    "arm": (769, 66, 1280, 380),
    "cost curve": (160, 414, 638, 558),
    "limit": (160, 414, 638, 558),
    "gate band": (0, 608, 798, 768),
}
"""{what: left, top, right, bottom}; without titles and, of the curve, without its legend."""
BAND_OPACITY = 200 / 255
"""With which bands are drawn on white."""


def missing(picture: np.ndarray) -> list[str]:
    """Which of `BOXES` a picture (800, 1280, 3) of the page does not show."""
    checks: dict[str, Callable[[np.ndarray], bool]] = {
        "overview": _has_a_scene,
        "arm": _has_an_arm,
        "cost curve": lambda part: _columns(part, COST_COLOUR) >= 8,
        "limit": lambda part: _columns(part, LIMIT_COLOUR) >= 8,
        "gate band": _has_a_decision,
    }
    return [what for what, shown in checks.items() if not shown(part_of(picture, what))]


def part_of(picture: np.ndarray, what: str) -> np.ndarray:
    """A view on the pixels of one of `BOXES`."""
    left, top, right, bottom = BOXES[what]
    return picture[top:bottom, left:right]


def _has_a_scene(part: np.ndarray) -> bool:
    """A rendered scene has many shades, an empty view or a line of text a few."""
    shades = part.reshape(-1, 3).astype(np.int64) // 16 @ np.array([256, 16, 1])
    return int((np.bincount(shades) > 300).sum()) >= 12


def _has_an_arm(part: np.ndarray) -> bool:
    """Light and without colour, on the view's dark ground."""
    levels = part.astype(np.int64)
    grey = levels.max(axis=2) - levels.min(axis=2) < 24
    light, dark = levels.min(axis=2) > 110, _near(part, BACKGROUND)
    return int((grey & light).sum()) > 2000 and int(dark.sum()) > 20_000


def _columns(part: np.ndarray, colour: tuple[int, ...]) -> int:
    """In how many columns of pixels a colour is."""
    return int(_near(part, colour, 32).any(axis=0).sum())  # thin, so blended with its ground


def _has_a_decision(part: np.ndarray) -> bool:
    return any(int(_near(part, _drawn(code)).sum()) > 150 for code in BANDS["gate"].values())


def _drawn(code: int) -> tuple[int, ...]:
    """A band's colour (0xRRGGBBAA) as it comes out on white."""
    levels = (code >> shift & 255 for shift in (24, 16, 8))
    return tuple(round(255 - (255 - level) * BAND_OPACITY) for level in levels)


def _near(part: np.ndarray, colour: tuple[int, ...], within: int = 16) -> np.ndarray:
    distance: np.ndarray = np.abs(part.astype(np.int64) - colour).max(axis=2)
    return distance < within
