"""Is a camera's image alive: does it change while the arm moves, and does it show anything?

What counts is what an image shows: averaged over blocks, and freed of brightness and contrast. So
a frozen image stays one with flipped bits, with a sensor's noise on it, or under a flickering lamp.
"""

from collections.abc import Iterable

import cv2
import numpy as np

SIDE = 64
"""Images are compared at this size, pixels ..."""
BLOCKS = 16
"""... by the averages of so many blocks a side."""
CHANGE = 2.5
"""Grey levels by which a block that shows something else differs in a channel, at least."""
FEW = 6
"""Blocks that may differ in an image that shows the same: three flipped bits in each of the two."""
ONE_COLOUR = 2.0
"""Grey levels: an image whose blocks spread less shows nothing."""


class ImageWatch:
    """Follows one camera's images from the first of those that show the same.

    count: how many show the same, the newest among them; moved: how far the end-effector has been
    from where it was at the first of them, m; blank: whether the newest image shows one colour.
    """

    def __init__(self) -> None:
        self.count, self.moved, self.blank = 0, 0.0, False
        self._first = np.zeros((SIDE, SIDE, 3), np.float32)
        self._followed = self._seen_at = 0
        self._origin: np.ndarray | None = None

    def see(self, image: np.ndarray, stamp: int, states: Iterable[tuple[int, np.ndarray]]) -> None:
        """Take the next image, (H, W, 3) uint8, of the instant `stamp` (ns).

        states: the newest ones of the arm, (8,), each behind its stamp (ns), in ascending order.
        """
        seen = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        self.blank = float(_blocks(seen).std((0, 1)).max()) < ONE_COLOUR
        if self.count and shows_the_same(self._first, seen):
            self.count += 1
        else:
            self._first, self._origin = seen, None
            self.count, self.moved, self._followed = 1, 0.0, stamp - 1
        self._seen_at = stamp
        self.follow(states)

    def follow(self, states: Iterable[tuple[int, np.ndarray]]) -> None:
        """Take what is known of the arm by now: of the newest image's instant it may come later."""
        for at, state in states:
            if self._followed < at <= self._seen_at:  # later motion cannot be seen yet
                self._followed = at
                self._origin = state[:3] if self._origin is None else self._origin
                self.moved = max(self.moved, float(np.linalg.norm(state[:3] - self._origin)))


def shows_the_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images (64, 64, 3), float32, differ in brightness, contrast and noise alone.

    The brighter one is predicted from the darker one, since what is white there may not be here.
    """
    dark, bright = (one, other) if one.mean() < other.mean() else (other, one)
    usable = (bright < 250.0) & (dark > 5.0)
    contrast, brightness = 1.0, 0.0
    if usable.any():
        x, y = dark[usable], bright[usable]
        mean_x, mean_y = x.mean(), y.mean()
        x -= mean_x
        contrast = float(x @ y) / max(float(x @ x), 1.0)
        brightness = mean_y - contrast * mean_x
    change = _blocks(bright - np.clip(contrast * dark + brightness, 0.0, 255.0))
    return int((np.abs(change) > CHANGE).any(axis=2).sum()) <= FEW


def _blocks(image: np.ndarray) -> np.ndarray:
    """(16, 16, 3) averages."""
    return cv2.resize(image, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
