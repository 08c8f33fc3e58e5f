"""Which episodes are never trained on."""

import numpy as np


def held_out_episodes(count: int, share: float, seed: int, least: int = 2) -> np.ndarray:
    """Random numbers below `count`: the `share` of episodes that is held out, at least `least`."""
    order = np.random.default_rng(seed).permutation(count)
    return np.asarray(order[: max(least, round(share * count))])
