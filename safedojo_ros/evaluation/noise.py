"""Exploration noise for recordings: it drives the arm off its path, the labels lead back."""

import numpy as np

from safedojo_ros.core.bounds import MAX_DELTA_POSITION

NOISY_SHARE = 0.7
"""Share of the episodes that have noise, where noise is asked for."""

BURST_CHANCE = 0.07
"""Chance that a burst of noise begins in a step of a noisy episode."""

BURST_STEPS = (1, 8)
"""Shortest and longest burst, control steps: some millimetres off the path to some centimetres."""

NOISE_STREAM = 0xDA27


class NoiseBursts:
    """Translation noise in bursts, similar to DART (arXiv 1703.09327).

    sigma: metres a step. A burst pushes in one direction drawn from N(0, sigma^2), with
    N(0, (sigma / 2)^2) more in each step. Drawn from the episode's seed alone.
    """

    def __init__(self, sigma: float, seed: int) -> None:
        self._rng = np.random.default_rng([NOISE_STREAM, seed])
        self._sigma = sigma if self._rng.random() < NOISY_SHARE else 0.0
        self._left = 0
        self._push = np.zeros(3)

    def draw(self) -> np.ndarray:
        """(3,) m, the noise of this step; zeros between bursts."""
        if self._sigma == 0.0:
            return np.zeros(3)
        if self._left == 0 and self._rng.random() < BURST_CHANCE:
            self._left = int(self._rng.integers(BURST_STEPS[0], BURST_STEPS[1] + 1))
            self._push = self._rng.normal(0.0, self._sigma, 3)
        if self._left == 0:
            return np.zeros(3)
        self._left -= 1
        return self._push + self._rng.normal(0.0, self._sigma / 2, 3)

    def disturb(self, action: np.ndarray) -> np.ndarray:
        """`action` (7,) with this step's noise, within the limit of one control step."""
        noisy = np.array(action, dtype=np.float32)
        noisy[:3] = np.clip(noisy[:3] + self.draw(), -MAX_DELTA_POSITION, MAX_DELTA_POSITION)
        return noisy
