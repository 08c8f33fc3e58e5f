"""What meta/info.json says of a data set, checked field by field."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import RESIZE, RESIZES
from safedojo_ros.data.images import MAX_SIDE
from safedojo_ros.data.lerobot import layout

NUMBERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
NUMBERS |= {"float32", "float64", "bool"}
PICTURES = {"image", "video"}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MOST_FEATURES = 200
MOST_COLUMNS = 4096
MOST_FPS = 1000


@dataclass(frozen=True)
class DatasetInfo:
    """fps: control steps a second; features: {name: {"dtype", "shape", ...}} of every column;
    episodes: how many were recorded."""

    fps: int
    features: dict[str, dict[str, Any]]
    episodes: int

    @property
    def cameras(self) -> tuple[str, ...]:
        """In the order of the columns."""
        names = (n for n in self.features if n.startswith(layout.CAMERA_PREFIX))
        return tuple(name.removeprefix(layout.CAMERA_PREFIX) for name in names)

    @property
    def resize(self) -> str:
        """The rule by which images became square; see `core.types.RESIZES`."""
        names = [layout.CAMERA_PREFIX + camera for camera in self.cameras]
        return str(self.features[names[0]].get("resize", RESIZE)) if names else RESIZE

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Names of the columns that come back as `Episode.extra`."""
        known = layout.STEP_FEATURES.keys() | layout.INDEX_FEATURES.keys()
        return tuple(
            n for n in self.features if n not in known and not n.startswith(layout.CAMERA_PREFIX)
        )


def read_info(root: Path) -> DatasetInfo:
    """Read meta/info.json of the data set at `root`; raises `DatasetError` that names the field."""
    path, info = read_head(root)
    return DatasetInfo(info["fps"], _features(path, info["features"]), info["total_episodes"])


def read_head(root: Path) -> tuple[Path, dict[str, Any]]:
    """meta/info.json and what it says, all checked but the features; raises `DatasetError`."""
    path = root / layout.INFO_PATH
    if not path.exists():
        raise DatasetError(
            f"{root} is no dataset: {layout.INFO_PATH} is missing; "
            "give the directory that `safedojo collect --out` wrote"
        )
    info = layout.read_json(layout.contained(root, path))
    version = info.get("codebase_version")
    if not isinstance(version, str) or not version.startswith("v3."):
        raise DatasetError(
            f"{path} has codebase_version {str(version):.40}, expected v3.x; "
            "older sets are converted by LeRobot's convert_dataset_v21_to_v30"
        )
    for key in ("features", "fps", "data_path"):
        if key not in info:
            raise DatasetError(f"{path} lacks or garbles '{key}'; record it again")
    _check_template(path, "data_path", info["data_path"], layout.DATA_PATH)
    if info.get("video_path") is not None:
        _check_template(path, "video_path", info["video_path"], layout.VIDEO_PATH)
    fps, episodes = info["fps"], info.get("total_episodes", 0)
    if isinstance(fps, bool) or fps not in range(1, MOST_FPS + 1):
        raise DatasetError(f"{path} has fps {shown(fps)}, expected a whole number to {MOST_FPS}")
    if not isinstance(episodes, int) or episodes < 0:
        raise DatasetError(f"{path} has total_episodes {shown(episodes)}, expected a count")
    if not isinstance(info["features"], dict) or len(info["features"]) > MOST_FEATURES:
        raise DatasetError(f"{path} has features {shown(info['features'])}, expected an object")
    return path, info | {"fps": int(fps), "total_episodes": episodes}


def _check_template(path: Path, key: str, seen: Any, expected: str) -> None:
    if seen != expected:
        raise DatasetError(f"{path} has {key} {shown(seen)}, expected {expected}")


def _features(path: Path, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for name, expected in (layout.STEP_FEATURES | layout.INDEX_FEATURES).items():
        seen = found.get(name)
        if not isinstance(seen, dict):
            raise DatasetError(
                f"{path} lacks or garbles '{name}'; record it again, or read what another tool "
                "wrote by --contract"
            )
        if seen.get("dtype") != expected["dtype"] or seen.get("shape") != expected["shape"]:
            raise DatasetError(
                f"{path}: feature '{name}' is {shown(seen.get('dtype'))} "
                f"{shown(seen.get('shape'))}, expected {expected['dtype']} {expected['shape']}; "
                "--contract says what the columns of other tools mean"
            )
    rules = set()
    for name, feature in found.items():
        wrong = _wrong(name, feature)
        if wrong:
            raise DatasetError(f"{path}: feature {shown(name)} {wrong}")
        if feature["dtype"] in PICTURES:
            rules.add(feature.get("resize", RESIZE))
    if len(rules) > 1:
        raise DatasetError(f"{path}: images made to fit by {sorted(rules)}, expected one rule")
    return dict(found)


def _wrong(name: str, feature: Any) -> str:
    """What is wrong with a feature, or ""."""
    if not NAME.fullmatch(name) or ".." in name:
        return "has a name that no column has; rename it"
    if not isinstance(feature, dict):
        return f"is {shown(feature)}, expected dtype and shape"
    dtype, shape = feature.get("dtype"), feature.get("shape")
    if not isinstance(dtype, str) or dtype not in NUMBERS | PICTURES:
        return f"is of {shown(dtype)}, expected numbers, bool, image or video"
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
        return f"has shape {shown(shape)}, expected positive numbers"
    if (dtype in PICTURES) != name.startswith(layout.CAMERA_PREFIX):
        return f"is of {dtype}; images are named {layout.CAMERA_PREFIX}<camera>, and only they"
    if dtype in PICTURES and (len(shape) != 3 or shape[2] != 3 or max(shape) > MAX_SIDE):
        return f"has shape {shown(shape)}, expected height, width, 3, sides to {MAX_SIDE}"
    if dtype in PICTURES and feature.get("resize", RESIZE) not in RESIZES:
        return f"has resize {shown(feature['resize'])}, expected {' or '.join(RESIZES)}"
    if dtype not in PICTURES and (len(shape) != 1 or shape[0] > MOST_COLUMNS):
        return f"has shape {shown(shape)}, expected one width to {MOST_COLUMNS}"
    return ""


def shown(value: Any) -> str:
    """What a foreign file says, short enough for one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, deep nesting
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
