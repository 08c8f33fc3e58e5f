"""Affine normalisation of states and actions, and what these mean; both travel with the
checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.contract import Contract
from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import ACTION_SIZE, RESIZE, STATE_SIZE

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
    """How states and actions of the robot are normalised.

    contract: what they are, and how often; None: those of this package, see `STATE_SIZE` and
    `ACTION_SIZE`. resize: how the images beside them became square; see `core.types.RESIZES`.
    """

    state: Affine
    action: Affine
    contract: Contract | None = None
    resize: str = RESIZE

    @property
    def state_size(self) -> int:
        """Numbers of a state."""
        return len(self.state.mean)

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return len(self.action.mean)

    @property
    def moves_gripper(self) -> bool:
        """Whether an action is a step of the end-effector, and a state begins with its pose."""
        return self.contract is None or self.contract.learned_kind == "ee_delta"

    def bounded(self, actions: np.ndarray) -> np.ndarray:
        """Physical actions (..., A) within what one step may ask of an arm, if they are steps."""
        return within_bounds(actions) if self.moves_gripper else np.asarray(actions, np.float64)

    def resting(self, chunk: torch.Tensor) -> torch.Tensor:
        """A normalised chunk (B, H, A) without motion: steps of nothing, or the first action held;
        the gripper stays as in the first."""
        if not self.moves_gripper:
            return chunk[:, :1].expand_as(chunk)
        rest = self.action.normalise(torch.zeros(chunk.shape[-1]))
        quiet = chunk.clone()
        quiet[..., :6] = rest[:6]
        quiet[..., 6] = chunk[:, :1, 6]
        return quiet

    def to_config(self) -> dict[str, Any]:
        """The sections of config.json."""
        contract = {"contract": self.contract.to_json()} if self.contract else {}
        return {"normalisation": self.to_json(), "resize": self.resize} | contract

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "RobotScales":
        """Inverse of `to_config`; raises `CheckpointError` for numbers that fit no robot."""
        value = config.get("contract")
        resize = str(config.get("resize", RESIZE))
        if value is None:
            return replace(RobotScales.from_json(config.get("normalisation")), resize=resize)
        if not isinstance(value, Mapping):
            raise CheckpointError(f"config.json has contract {value!r:.40}, expected a section")
        try:
            contract = from_mapping(Contract, value, "contract.")
        except ConfigError as error:
            raise CheckpointError(f"config.json does not fit: {error!s:.200}") from None
        if contract.resize != resize:
            raise CheckpointError(
                f"config.json has resize '{resize}', its contract says '{contract.resize}'"
            )
        return replace(RobotScales.from_json(config.get("normalisation"), contract), resize=resize)

    def to_json(self) -> dict[str, Any]:
        """The statistics, for config.json and the manifest."""
        return {"state": self.state.to_json(), "action": self.action.to_json()}

    @staticmethod
    def from_json(
        value: Mapping[str, Any] | None, contract: Contract | None = None
    ) -> "RobotScales":
        """Inverse of `to_json`; raises `CheckpointError` for another robot or action space."""
        parts = value if isinstance(value, Mapping) else {}
        sizes = (
            (contract.state_size, contract.action_size) if contract else (STATE_SIZE, ACTION_SIZE)
        )
        return RobotScales(
            Affine.from_json(parts.get("state", {}), sizes[0], "state"),
            Affine.from_json(parts.get("action", {}), sizes[1], "action"),
            contract,
        )

    @staticmethod
    def from_data(
        state: np.ndarray,
        actions: np.ndarray,
        contract: Contract | None = None,
        resize: str = RESIZE,
    ) -> "RobotScales":
        """From all recorded states (N, S) and actions (N, A)."""

        def scale(rows: np.ndarray) -> Affine:
            rows = np.asarray(rows, dtype=np.float64)
            return Affine.from_statistics(rows.mean(0).tolist(), rows.std(0).tolist())

        return RobotScales(scale(state), scale(actions), contract, resize)


def unit_scales() -> RobotScales:
    """States as they are, actions of about a centimetre: for models with random weights."""
    step = torch.tensor([0.01] * 6 + [1.0])
    return RobotScales(
        Affine(torch.zeros(STATE_SIZE), torch.ones(STATE_SIZE)),
        Affine(torch.zeros(ACTION_SIZE), step),
    )
