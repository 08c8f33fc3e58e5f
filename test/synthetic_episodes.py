"""Episodes that tests make of arrays, and data sets of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.writer import EpisodeWriter

CAMERAS = ("agentview", "wrist")


def synthetic(
    images: Mapping[str, np.ndarray],
    state: np.ndarray,
    actions: np.ndarray,
    seed: int,
    **given: Any,
) -> Episode:
    """An episode without success, contact or displacement, but for what is `given`.

    images: (T, 64, 64, 3) of each camera; state: (T, 8); actions: (T, 7).
    """
    length = len(state)
    usual: dict[str, Any] = {
        "success": np.zeros(length, bool),
        "cost": np.zeros(length, np.float32),
        "displacement": np.zeros(length, np.float32),
        "instruction": "go",
        "task": "synthetic",
        "level": 0,
        "source": "expert:direct",
    }
    return Episode(images=dict(images), state=state, actions=actions, seed=seed, **(usual | given))


def written(root: Path, episodes: Iterable[Episode]) -> Path:
    """`root`, where a data set holds these episodes now."""
    with EpisodeWriter(root, 64, CAMERAS) as writer:
        for episode in episodes:
            writer.add(episode)
    return root
