"""What short motions near an obstacle touched; see `worlds.probes`."""

from typing import NamedTuple

import numpy as np


class Probes(NamedTuple):
    """P motions of H control steps, each from a scene's untouched things.

    state: (P, 8) float32 before each; actions: (P, H, 7) float32; contact: (P, H) bool, of each
    step.
    """

    state: np.ndarray
    actions: np.ndarray
    contact: np.ndarray
