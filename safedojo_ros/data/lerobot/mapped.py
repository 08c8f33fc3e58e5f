"""Sets of other tools, read through a contract: their columns become our steps.

Sizes, rates and conventions are the contract's. Where a set has another rate than the contract,
the rule is `RESAMPLE`: a step is a window of 1 / rate seconds. It has the newest image and the
interpolated state of its begin, the sum of the motion commanded in it, the last target, and the
largest label.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from safedojo_ros.core.config import nearest
from safedojo_ros.core.contract import Contract, Gripper, Numbers
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.rotation import (
    POINTING_DOWN,
    axis_angle_of,
    quaternion_of,
    quaternion_of_euler,
    turn_between,
)
from safedojo_ros.core.types import COLLISION_DISPLACEMENT
from safedojo_ros.data.images import MAX_SIDE, fit_image
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.info import NUMBERS, PICTURES, DatasetInfo, read_head, shown
from safedojo_ros.data.lerobot.rows import EpisodeRow
from safedojo_ros.data.lerobot.steps import StepFiles

TURNED_OVER = 1.0
"""Radians between two states beyond which an axis-angle has changed its sign: not interpolated."""
ROUNDING = 1e-6
"""Of a number of recorded steps."""


class Windows:
    """Which recorded steps, `count` of them at `fps` Hz, belong to each step at `rate` Hz."""

    def __init__(self, count: int, fps: float, rate: float) -> None:
        self.count = int(count * rate / fps + ROUNDING)
        self.begins = np.arange(self.count + 1) * (fps / rate)
        """(M + 1,) where windows begin and end, in recorded steps."""
        self.seen = np.floor(self.begins[:-1] + ROUNDING).astype(np.int64)
        """(M,) the newest recorded step at the begin of each window."""
        self.last = np.ceil(self.begins[1:] - ROUNDING).astype(np.int64) - 1
        """(M,) the last recorded step that begins in it, or that it begins in."""

    def at_begin(self, values: np.ndarray) -> np.ndarray:
        """(M, D) of `values` (T, D), linearly between two steps; held where one jumps."""
        before = np.minimum(self.seen, len(values) - 1)
        after = np.minimum(before + 1, len(values) - 1)
        share = (self.begins[:-1] - self.seen)[:, None]
        change = values[after] - values[before]
        change[np.abs(change).max(axis=1) > TURNED_OVER] = 0.0
        return values[before] + share * change

    def summed(self, steps: np.ndarray) -> np.ndarray:
        """(M, D): how much of the motion of `steps` (T, D) is within each window."""
        whole = np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)])
        places = np.arange(len(whole))
        path = np.stack([np.interp(self.begins, places, c) for c in whole.T], axis=1)
        return np.diff(path, axis=0)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """(M,) of `values` (T,) within each window."""
        pairs = zip(self.seen, self.last, strict=True)
        return np.array([values[a : b + 1].max() for a, b in pairs], dtype=values.dtype)


def mapped_info(root: Path, contract: Contract) -> DatasetInfo:
    """What meta/info.json says of the columns that the contract names, and of no other.

    Raises `DatasetError` where one is missing, or of another size or kind.
    """
    path, info = read_head(root)
    found = info["features"]
    labels = contract.labels
    widths = contract.keys | dict.fromkeys(layout.INDEX_FEATURES, 1)
    widths |= dict.fromkeys(filter(None, (labels.success, labels.cost, labels.displacement)), 1)
    features: dict[str, dict[str, Any]] = {}
    for name, width in widths.items():
        feature = _feature(path, found, name)
        shape = feature.get("shape") or [1]
        if feature.get("dtype") not in NUMBERS or list(shape) != [width]:
            raise DatasetError(
                f"{path}: '{name}' is {shown(feature.get('dtype'))} {shown(shape)}, the contract "
                f"says {width} numbers"
            )
        features[name] = {"dtype": feature["dtype"], "shape": [width]}
    for camera in contract.cameras:
        feature = _feature(path, found, camera.feature)
        shape = _image_shape(feature)
        if feature.get("dtype") not in PICTURES or shape is None:
            raise DatasetError(
                f"{path}: '{camera.feature}' is {shown(feature.get('dtype'))} "
                f"{shown(feature.get('shape'))}, expected images or video of height, width, 3, "
                f"sides to {MAX_SIDE}"
            )
        made = feature.get("resize", contract.resize)
        if made != contract.resize:
            raise DatasetError(
                f"{path}: the images of '{camera.feature}' were made to fit by {shown(made)}, the "
                f"contract says '{contract.resize}'"
            )
        features[camera.feature] = {"dtype": feature["dtype"], "shape": shape}
    return DatasetInfo(info["fps"], features, info["total_episodes"])


def _feature(path: Path, found: dict[str, Any], name: str) -> dict[str, Any]:
    feature = found.get(name)
    if not isinstance(feature, dict):
        raise DatasetError(
            f"{path} has no '{name}', which the contract names{nearest(name, found)}"
        )
    return feature


def _image_shape(feature: dict[str, Any]) -> list[int] | None:
    """[height, width, 3], also where it is written channels first; None for what is no image."""
    shape = feature.get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(n) is not int for n in shape):
        return None
    height, width, colours = (*shape[1:], shape[0]) if shape[0] == 3 != shape[2] else shape
    whole = colours == 3 and min(height, width) > 0 and max(height, width) <= MAX_SIDE
    return [height, width, colours] if whole else None


class MappedSteps:
    """The steps of a set of another tool as a contract wants them; see `StepFiles`.

    features: those that come of it, by our names.
    """

    def __init__(self, root: Path, info: DatasetInfo, contract: Contract) -> None:
        self._files = StepFiles(root, info, foreign=True)
        self._contract, self._fps = contract, info.fps
        self._recorded: dict[int, EpisodeRow] = {}
        self._keys = {layout.CAMERA_PREFIX + c.name: c.feature for c in contract.cameras}
        cameras = layout.camera_features(contract.camera_names, contract.image_size, video=False)
        sizes = {"observation.state": contract.state_size, "action": contract.action_size}
        plain = {
            name: feature | ({"shape": [sizes[name]], "names": None} if name in sizes else {})
            for name, feature in layout.STEP_FEATURES.items()
        }
        self.features: dict[str, dict[str, Any]] = cameras | plain

    def take(self, path: Path, rows: int) -> None:
        """Check a file's footer; see `StepFiles.take`."""
        self._files.take(path, rows)

    def check(self, row: EpisodeRow) -> EpisodeRow:
        """The row as it is read: its length at the contract's rate, and what its labels say."""
        self._files.check(row)
        length = Windows(row.length, self._fps, self._contract.rate).count
        if not length:
            raise DatasetError(f"{row.data_path}: episode {row.number} is shorter than one step")
        self._recorded[row.number] = row
        values = self.values(row, self._files.table(row, ()))
        labels = self._contract.labels
        return replace(
            row,
            length=length,
            success=bool(values["next.success"].any()) if labels.success else row.success,
            contact_steps=int(np.count_nonzero(values["cost"])),
            collided=bool((values["displacement"] > COLLISION_DISPLACEMENT).any()),
            cost_source=labels.cost_source if labels.cost else "",
        )

    def table(self, row: EpisodeRow, images: Collection[str]) -> pa.Table:
        """The episode's recorded rows, with the features `images`, by our names."""
        keys = {self._keys[name] for name in images}
        return self._files.table(self._recorded[row.number], keys)

    def values(self, row: EpisodeRow, table: pa.Table) -> dict[str, np.ndarray]:
        """Every column of numbers, (T,) or (T, width), by our names and at the contract's rate."""
        recorded, contract = self._recorded[row.number], self._contract
        found = self._files.values(recorded, table)
        windows = Windows(recorded.length, self._fps, contract.rate)
        same = contract.rate == self._fps
        state = joined(contract.state, found)
        action = joined(contract.action.parts, found)
        if contract.action.gripper is not None:
            action[:, -1] = closing(action[:, -1], contract.action.gripper)
        now = state if same else windows.at_begin(state)
        if contract.action.kind == "ee_delta" and not same:
            action = np.concatenate(
                [windows.summed(action[:, :6]), action[windows.last, 6:]], axis=1
            )
        elif not same:
            action = action[windows.last]
        if contract.action.kind == "ee_pose":
            action = steps_to(action, now, share=min(1.0, self._fps / contract.rate))
        values = {"observation.state": now, "action": action}
        labels = contract.labels
        for name, key in (
            ("next.success", labels.success),
            ("cost", labels.cost),
            ("displacement", labels.displacement),
        ):
            column = found[key] if key else np.zeros(recorded.length)
            values[name] = column if same else windows.largest(column)
        values["next.success"] = values["next.success"] > 0
        values["cost"] = values["cost"] > 0
        return {n: v.astype(self.features[n]["dtype"]) for n, v in values.items()}

    def pictures_into(
        self, pictures: np.ndarray, row: EpisodeRow, table: pa.Table, name: str
    ) -> None:
        """Fill `pictures` (T, S, S, 3) with the first images of the episode, made to fit."""
        seen = Windows(self._recorded[row.number].length, self._fps, self._contract.rate).seen
        seen, done = seen[: len(pictures)], 0
        for number, image in enumerate(self._files.pictures(row, table, self._keys[name])):
            if number != seen[done]:
                continue
            size = pictures.shape[2], pictures.shape[1]
            small = fit_image(image, *size, self._contract.resize)
            while done < len(seen) and seen[done] == number:
                pictures[done] = small
                done += 1
            if done == len(seen):
                return
        raise DatasetError(f"{row.data_path}: episode {row.number} has {done} images of '{name}'")


def joined(parts: tuple[Numbers, ...], found: dict[str, np.ndarray]) -> np.ndarray:
    """(T, D) float64: the numbers of `parts`, one after the other, in metres and radians."""
    return np.concatenate([converted(part, found[part.key]) for part in parts], axis=1)


def converted(part: Numbers, values: np.ndarray) -> np.ndarray:
    """(T, part.width) of a column (T,) or (T, part.size)."""
    values = values.reshape(len(values), -1).astype(np.float64)
    if part.columns:
        values = values[:, part.columns]
    if part.rotation in ("none", "axis_angle"):
        return values * (part.scale or (1.0,)) + (part.offset or (0.0,))
    if part.rotation == "euler_xyz":
        quaternions = [quaternion_of_euler(row) for row in values]
    else:
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        if np.any(np.abs(lengths - 1.0) > 1e-2):
            raise DatasetError(f"'{part.key}' has quaternions that are not of length 1")
        quaternions = list((values / lengths)[:, [3, 0, 1, 2]])
    return np.array([axis_angle_of(q, near=POINTING_DOWN) for q in quaternions])


def closing(values: np.ndarray, gripper: Gripper) -> np.ndarray:
    """Commands of a gripper, (T,), in [-1 open, +1 closed]."""
    share = (values - gripper.open) / (gripper.closed - gripper.open)
    return np.clip(2.0 * share - 1.0, -1.0, 1.0)


def steps_to(targets: np.ndarray, state: np.ndarray, share: float = 1.0) -> np.ndarray:
    """(T, 7): the `share` of the way from the pose in `state` (T, 6 and more) to `targets` (T, 7),
    metres and radians in the base frame; the gripper as it is."""
    turns = [
        turn_between(quaternion_of(here), quaternion_of(there))
        for here, there in zip(state[:, 3:6], targets[:, 3:6], strict=True)
    ]
    moves = targets[:, :3] - state[:, :3]
    return np.concatenate([share * moves, share * np.array(turns), targets[:, 6:]], axis=1)
