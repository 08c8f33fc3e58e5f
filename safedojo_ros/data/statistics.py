"""Normalisation statistics of state and action; they travel with the checkpoint."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from safedojo_ros.data.lerobot.reader import EpisodeReader

PICTURE_SAMPLES = 64
"""Episodes whose first pictures the statistics of a camera are taken from."""


def column_statistics(values: np.ndarray) -> dict[str, list[float]]:
    """mean, std, min, max, q01 and q99 of each column of `values` (N, D), and count."""
    values = np.asarray(values, dtype=np.float64)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    return {
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "q01": q01.tolist(),
        "q99": q99.tolist(),
        "count": [len(values)],
    }


def dataset_statistics(reader: "EpisodeReader") -> dict[str, Any]:
    """What meta/stats.json holds: by feature; pictures in [0, 1], one value for each channel."""
    arrays = reader.load_arrays(images=False)
    statistics: dict[str, Any] = {
        "observation.state": column_statistics(arrays.state),
        "action": column_statistics(arrays.actions),
    }
    for name, values in arrays.extra.items():
        if values.dtype.kind == "f":
            statistics[name] = column_statistics(values.reshape(len(values), -1))
    chosen = np.unique(np.linspace(0, len(reader) - 1, PICTURE_SAMPLES).astype(int))
    for feature, pictures in reader.first_pictures(chosen.tolist()).items():
        channels = pictures.reshape(-1, 3) / 255.0
        statistics[feature] = {
            "mean": channels.mean(axis=0).reshape(3, 1, 1).tolist(),
            "std": channels.std(axis=0).reshape(3, 1, 1).tolist(),
            "min": channels.min(axis=0).reshape(3, 1, 1).tolist(),
            "max": channels.max(axis=0).reshape(3, 1, 1).tolist(),
            "count": [len(pictures)],
        }
    return statistics
