"""Affine normalisation of states and actions; its numbers travel with the checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE

LEAST_SCALE = 1e-3
"""Floor of a standard deviation, so that a constant column stays constant."""
LEAST, MOST = 1e-6, 100.0
"""What a checkpoint's numbers may be, metres and radians: no arm needs others."""


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
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            fault = f"{type(error).__name__}: {error!s:.80}"
            raise CheckpointError(f"normalisation of {what} is unreadable: {fault}") from None
        if mean.shape != (size,) or scale.shape != (size,):
            raise CheckpointError(
                f"normalisation of {what} has {mean.numel()} and {scale.numel()} numbers, expected "
                f"{size}: the checkpoint was made for another robot or action space"
            )
        if not (torch.isfinite(mean).all() and torch.isfinite(scale).all() and (scale > 0).all()):
            raise CheckpointError(f"normalisation of {what} is not finite and positive")
        if mean.abs().max() > MOST or scale.max() > MOST or scale.min() < LEAST:
            raise CheckpointError(
                f"normalisation of {what}: expected means within {MOST:g} and scales within "
                f"[{LEAST:g}, {MOST:g}] metres and radians"
            )
        return Affine(mean, scale)


@dataclass(frozen=True)
class RobotScales:
    """How states (8) and actions (7) of the robot are normalised."""

    state: Affine
    action: Affine

    def to_json(self) -> dict[str, Any]:
        """For config.json and the manifest."""
        return {"state": self.state.to_json(), "action": self.action.to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any] | None) -> "RobotScales":
        """Inverse of `to_json`; raises `CheckpointError` for another robot or action space."""
        parts = value if isinstance(value, Mapping) else {}
        return RobotScales(
            Affine.from_json(parts.get("state", {}), STATE_SIZE, "state"),
            Affine.from_json(parts.get("action", {}), ACTION_SIZE, "action"),
        )

    @staticmethod
    def from_data(state: np.ndarray, actions: np.ndarray) -> "RobotScales":
        """From all recorded states (N, 8) and actions (N, 7)."""

        def scale(rows: np.ndarray) -> Affine:
            rows = np.asarray(rows, dtype=np.float64)
            return Affine.from_statistics(rows.mean(0).tolist(), rows.std(0).tolist())

        return RobotScales(scale(state), scale(actions))


def unit_scales() -> RobotScales:
    """States as they are, actions of about a centimetre: for models with random weights."""
    step = torch.tensor([0.01] * 6 + [1.0])
    return RobotScales(
        Affine(torch.zeros(STATE_SIZE), torch.ones(STATE_SIZE)),
        Affine(torch.zeros(ACTION_SIZE), step),
    )
