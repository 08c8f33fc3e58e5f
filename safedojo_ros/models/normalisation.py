"""Affine normalisation of states and actions; its numbers travel with the checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safedojo_ros.core.errors import CheckpointError

LEAST_SCALE = 1e-3
"""Floor of a standard deviation, so that a constant column stays constant."""


@dataclass(frozen=True)
class Affine:
    """x → (x − mean) / scale, column by column."""

    mean: torch.Tensor
    scale: torch.Tensor

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Physical units → unit scale."""
        return (x - self.mean.to(x)) / self.scale.to(x)

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        """Unit scale → physical units."""
        return x * self.scale.to(x) + self.mean.to(x)

    def to_json(self) -> dict[str, list[float]]:
        """Plain numbers for config.json and the manifest."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @staticmethod
    def from_statistics(mean: Sequence[float], std: Sequence[float]) -> "Affine":
        """From a data set's column means and standard deviations."""
        scale = torch.tensor(std, dtype=torch.float32).clamp_min(LEAST_SCALE)
        return Affine(torch.tensor(mean, dtype=torch.float32), scale)

    @staticmethod
    def from_json(value: Mapping[str, Any], size: int, what: str) -> "Affine":
        """Inverse of `to_json`; raises `CheckpointError` for another size or bad numbers."""
        try:
            mean = torch.tensor(value["mean"], dtype=torch.float32)
            scale = torch.tensor(value["scale"], dtype=torch.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"normalisation of {what} is unreadable: {error!r}") from None
        if mean.shape != (size,) or scale.shape != (size,):
            raise CheckpointError(
                f"normalisation of {what} has {mean.numel()} and {scale.numel()} numbers, expected "
                f"{size}: the checkpoint was made for another robot or action space"
            )
        if not (torch.isfinite(mean).all() and torch.isfinite(scale).all() and (scale > 0).all()):
            raise CheckpointError(f"normalisation of {what} is not finite and positive")
        return Affine(mean, scale)
