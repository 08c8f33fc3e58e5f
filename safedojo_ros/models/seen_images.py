"""How far an image is from those that a safety head has seen; beyond a limit it is no witness.

Each image is described by a few dozen numbers: mean and spread of every channel of its latent and
of every colour, and how sharp it is. Their Mahalanobis distance to the images of recorded episodes
tells cameras that are covered, blurred, dark, turned or swapped; the autoencoder's own error does
not (it reconstructs a blurred image better than a sharp one), and takes as long as the head.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safedojo_ros.core.errors import CheckpointError, ObservationRejected
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.strict_json import read_json

FILE = "seen.json"
"""Beside a safety head's weights; without it the head judges by every image."""


@dataclass(frozen=True)
class SeenBy:
    """What one camera has shown. mean: (K,); whitening: (K, K); limit: of `distance`."""

    mean: torch.Tensor
    whitening: torch.Tensor
    limit: float

    def distance(self, descriptions: torch.Tensor) -> torch.Tensor:
        """(N,) of (N, K) `describe`d images: about 1 for what was seen."""
        whitened = (descriptions - self.mean) @ self.whitening
        return whitened.square().mean(1).sqrt()

    @staticmethod
    def fit(descriptions: torch.Tensor) -> "SeenBy":
        """Of (N, K) described images; without a limit yet."""
        rows = descriptions.double()
        covariance = torch.cov(rows.T)
        floor = 1e-4 * covariance.diagonal() + 1e-8
        variances, axes = torch.linalg.eigh(covariance + torch.diag(floor))
        whitening = axes / variances.sqrt()
        return SeenBy(rows.mean(0).float(), whitening.float(), float("inf"))


class SeenImages:
    """The limits of all cameras of a head."""

    def __init__(self, cameras: Mapping[str, SeenBy]) -> None:
        self.cameras = dict(cameras)

    def __str__(self) -> str:
        return ", ".join(f"{name} {seen.limit:.2f}" for name, seen in self.cameras.items())

    def check(self, images: torch.Tensor, latents: torch.Tensor) -> None:
        """Raise `ObservationRejected` that names the camera which shows something else.

        images: (B, cameras, 3, S, S) in [−1, 1]; latents: (B, cameras·C, s, s), of these.
        """
        parts = latents.unflatten(1, (len(self.cameras), -1))
        for number, (name, seen) in enumerate(self.cameras.items()):
            worst = float(seen.distance(describe(images[:, number], parts[:, number])).max())
            if not worst <= seen.limit:
                raise ObservationRejected(
                    f"camera '{name}' shows what the safety head has not seen: distance "
                    f"{worst:.2f}, limit {seen.limit:.2f}; look at its image"
                )

    def save(self, directory: Path) -> None:
        """Write `FILE`."""
        content = {
            name: {
                "limit": seen.limit,
                "mean": seen.mean.tolist(),
                "whitening": seen.whitening.tolist(),
            }
            for name, seen in self.cameras.items()
        }
        write_whole(directory / FILE, json.dumps(content) + "\n")

    @staticmethod
    def load(directory: Path, cameras: tuple[str, ...], channels: int) -> "SeenImages | None":
        """What `save` wrote, None where nothing was; raises `CheckpointError` if it does not fit.

        channels: C, of a latent.
        """
        if not (directory / FILE).exists():
            return None
        content = read_json(directory / FILE)
        if not isinstance(content, dict) or set(content) != set(cameras):
            raise CheckpointError(f"{FILE} is not about the head's cameras {cameras}")
        return SeenImages({name: _read(name, content[name], channels) for name in cameras})


def describe(images: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """(N, K) numbers of images (N, 3, S, S) in [−1, 1] and latents (N, C, s, s); K = 2 C + 11."""
    grey_levels = (images + 1.0) * 127.5
    colours = grey_levels.flatten(2)
    grey = grey_levels.mean(1)
    across = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean((1, 2))
    down = (grey[:, 1:] - grey[:, :-1]).abs().mean((1, 2))
    centre = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    edges = (4.0 * centre - around).abs().flatten(1)
    sharpness = [across, down, edges.mean(1), edges.sqrt().mean(1), edges.square().mean(1).sqrt()]
    cells = latents.flatten(2)
    return torch.cat(
        [
            cells.mean(2),
            (cells.std(2) + 1e-3).log(),
            torch.stack(sharpness, dim=1).log1p(),
            colours.mean(2),
            colours.std(2).log1p(),
        ],
        dim=1,
    )


def _read(camera: str, value: Any, channels: int) -> SeenBy:
    size = 2 * channels + 11
    try:
        limit = value["limit"]
        mean = torch.tensor(value["mean"], dtype=torch.float32)
        whitening = torch.tensor(value["whitening"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        fault = f"{type(error).__name__}: {error!s:.80}"
        raise CheckpointError(f"{FILE}: '{camera}' is unreadable: {fault}") from None
    if mean.shape != (size,) or whitening.shape != (size, size):
        raise CheckpointError(
            f"{FILE}: '{camera}' has {mean.numel()} and {whitening.numel()} numbers, expected "
            f"{size} and {size * size}"
        )
    finite = bool(mean.isfinite().all() and whitening.isfinite().all())
    if not finite or not isinstance(limit, float) or not 0.0 < limit <= 1000.0:
        raise CheckpointError(f"{FILE}: '{camera}' needs finite numbers and a limit up to 1000")
    return SeenBy(mean, whitening, limit)
