"""Probes beside a data set, `probes.safetensors`: of the scenes of its episodes, see `core.probes`.

Tensors: "state" (N, 8), "actions" (N, H, 7) in metres and radians, "contact" (N, H), and "episode"
(N,), the number of the episode whose scene it is, in rising order.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import replacing
from safedojo_ros.core.probes import Probes
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE

PROBES_PATH = "probes.safetensors"


def write_probes(root: Path, numbers: Sequence[int], probes: Sequence[Probes]) -> None:
    """Write the probes of the episodes `numbers`, in rising order, if there are any."""
    if not numbers:
        return
    episode = np.repeat(np.asarray(numbers, np.int64), [len(p.state) for p in probes])
    tensors = {
        name: np.concatenate([p[i] for p in probes]) for i, name in enumerate(Probes._fields)
    }
    with replacing(root / PROBES_PATH) as partial:
        save_file(tensors | {"episode": episode}, str(partial))


def read_probes(root: Path, episodes: int, length: int) -> tuple[np.ndarray, Probes] | None:
    """Episode numbers (N,) and probes of the data set at `root`, None where it has none.

    Of longer probes the first `length` steps. Raises `DatasetError` where they are shorter, or not
    of a set of `episodes`.
    """
    path = root / PROBES_PATH
    if not path.exists():
        return None
    try:
        found = load_file(str(path))
        episode, probes = found["episode"], Probes(*(found[name] for name in Probes._fields))
        probes = Probes(probes.state, probes.actions[:, :length], probes.contact[:, :length])
        count = len(episode)
    except (OSError, SafetensorError, KeyError, IndexError, TypeError) as error:
        raise DatasetError(f"{path} is no file of probes ({error}); collect again") from None
    shapes = [(count, STATE_SIZE), (count, length, ACTION_SIZE), (count, length)]
    if [part.shape for part in probes] != shapes:
        seen = [part.shape for part in probes]
        raise DatasetError(f"{path} has probes of shapes {seen}, expected {shapes}; collect again")
    rising = np.all(np.diff(episode) >= 0)
    if count and (episode[0] < 0 or episode[-1] >= episodes or not rising):
        raise DatasetError(f"{path} is not about these {episodes} episodes; collect again")
    if not all(np.isfinite(part).all() for part in probes[:2]):
        raise DatasetError(f"{path} holds numbers that are not finite; collect again")
    return episode, probes
