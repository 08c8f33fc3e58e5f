"""What a safety head has seen: fitted to recorded images, its limits set on episodes held out.

The images are also shown a little brighter, darker and noisier, as lamps and sensors make them: the
head need not refuse what does not change its answer.
"""

from collections.abc import Sequence

import numpy as np
import torch

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.data.splits import held_out_episodes
from safedojo_ros.models.images import to_unit
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.seen_images import SeenBy, SeenImages, describe

EPISODES = 500
"""At most, of those that are fitted: to read all of a large data set takes minutes and memory."""
FRAMES = 3000
"""Of the episodes that are fitted, and as many of those held out: more tell nothing new."""
BRIGHTNESS = 0.05
"""Share by which a lamp may change an image."""
NOISE = 2.0
"""Grey levels, sigma of the noise that a sensor may add."""
QUANTILE = 0.98
"""Share of the episodes held out whose images all lie within the limits, without their margin. In
the others, an object all but touches a camera: they would make a limit that nothing exceeds."""
MARGIN = 1.2
"""Of the limits over that."""
BATCH = 128


def seen_images(
    model: SafetyModel,
    sources: Sequence[Source],
    held_out: float,
    seed: int,
    device: str = "cpu",
) -> SeenImages:
    """The limits for `model`; held_out: share of the episodes that set them, (0, 1].

    Raises `DatasetError` where there are too few episodes, or other cameras than the head's.
    """
    readers = open_all(sources)
    count = sum(len(reader) for reader in readers)
    if count < 3:
        raise DatasetError("fewer than 3 episodes; two are held out, so collect more")
    apart = np.isin(np.arange(count), held_out_episodes(count, held_out, seed))
    read = np.sort(np.concatenate([np.flatnonzero(apart), _some(~apart, EPISODES)]))
    frames = load_frames(readers, chosen=_by_set(read, readers))
    found, wanted = (
        (tuple(frames.cameras), frames.images.shape[2]),
        (
            model.cameras,
            model.image_size,
        ),
    )
    if found != wanted:
        raise DatasetError(f"the data show {found} pixels, the head's cameras are {wanted}")
    fresh_frames = apart[read][frames.episode]
    known, fresh = _some(~fresh_frames, FRAMES), _some(fresh_frames, FRAMES)
    fitted = descriptions(model, frames.images[known], seed, device).flatten(0, 1)
    judged = descriptions(model, frames.images[fresh], seed + 1, device)
    cameras = {}
    for number, name in enumerate(model.cameras):
        seen = SeenBy.fit(fitted[:, number])
        distances = [seen.distance(shown[:, number]).numpy() for shown in judged]
        farthest = np.zeros(len(frames.rows))
        for distance in distances:
            np.maximum.at(farthest, frames.episode[fresh], distance)
        far = float(np.quantile(farthest[np.unique(frames.episode[fresh])], QUANTILE))
        cameras[name] = SeenBy(seen.mean, seen.whitening, MARGIN * far)
    return SeenImages(cameras)


@torch.no_grad()
def descriptions(
    model: SafetyModel, images: np.ndarray, seed: int, device: str = "cpu"
) -> torch.Tensor:
    """(2, N, cameras, K) of images (N, cameras, H, W, 3) uint8: as they are, and disturbed."""
    model.network.to(device).eval()
    rng = np.random.default_rng(seed)
    parts: tuple[list[torch.Tensor], ...] = ([], [])
    for start in range(0, len(images), BATCH):
        taken = images[start : start + BATCH]
        for part, shown in zip(parts, (taken, disturbed(taken, rng)), strict=True):
            unit = to_unit(torch.from_numpy(shown)).to(device)
            latents = model.autoencoder.encode(unit.flatten(0, 1))
            described = describe(unit.flatten(0, 1), latents)
            part.append(described.unflatten(0, unit.shape[:2]).cpu())
    return torch.stack([torch.cat(part) for part in parts])


def disturbed(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images (N, ..., H, W, 3) uint8 under other light, by a noisier sensor."""
    shape = (len(images),) + (1,) * (images.ndim - 1)
    light = rng.uniform(1.0 - BRIGHTNESS, 1.0 + BRIGHTNESS, shape)
    noise = rng.normal(size=images.shape) * rng.uniform(0.0, NOISE, shape)
    return np.clip(np.rint(images * light + noise), 0, 255).astype(np.uint8)


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows (N,) bool, evenly spread; their numbers."""
    numbers = np.flatnonzero(rows)
    return numbers[np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)]


def _by_set(numbers: np.ndarray, readers: Sequence[EpisodeReader]) -> list[list[int]]:
    """Numbers of episodes of all data sets, in order, as each set counts its own."""
    starts = np.cumsum([0, *(len(reader) for reader in readers)])
    parts = np.split(numbers, np.searchsorted(numbers, starts[1:-1]))
    return [(part - start).tolist() for part, start in zip(parts, starts[:-1], strict=True)]
