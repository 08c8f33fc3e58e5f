"""The goal of a training request, checked before anything starts."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.data.lerobot.layout import INFO_PATH
from safedojo_ros.learning.presets import preset_names

DEFAULT_PRESET = "tiny"


@dataclass(frozen=True)
class TrainingGoal:
    """preset: a known name; data: absolute folders of episodes; base: "" or a checkpoint's name."""

    preset: str = DEFAULT_PRESET
    data: tuple[str, ...] = ()
    base: str = ""
    publish: bool = False

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TrainingGoal":
        """Raises `ConfigError` for anything but what `as_json` wrote."""
        try:
            said: Mapping[str, Any] = json.loads(text)
            return cls(
                str(said["preset"]),
                tuple(str(folder) for folder in said["data"]),
                str(said["base"]),
                bool(said["publish"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"not a training's goal: {error!r}") from None


def checked_goal(
    preset: str,
    data: list[str],
    base: str,
    publish: bool,
    data_root: Path,
    store: Path,
    find: Callable[..., object] = find_checkpoint,
) -> TrainingGoal:
    """The goal of a message; raises a `SafeDojoError` that names what is unknown or not allowed.

    data: relative to `data_root`, or absolute inside it; no path may leave it, not by a link
    either. base: a name in the store, never a path.
    """
    preset = preset or DEFAULT_PRESET
    if preset not in preset_names():
        raise ConfigError(f"unknown preset '{preset}'; choose {', '.join(preset_names())}")
    root = data_root.resolve()
    folders = []
    for name in data:
        try:
            folder = (root / name).resolve()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name!r} is no folder: {error}") from None
        if folder != root and root not in folder.parents:
            raise ConfigError(f"'{name}' is outside the data root {root}; record or copy it there")
        if not (folder / INFO_PATH).is_file():
            raise DatasetError(
                f"'{name}' is no data set: {folder / INFO_PATH} is missing; "
                "make one with 'safedojo bag-to-dataset'"
            )
        folders.append(str(folder))
    if "/" in base or "\\" in base or base.startswith("."):
        raise ConfigError(f"base is '{base}', expected safe, base, latest or an id, not a path")
    if base:
        find("policy", base, store)
    return TrainingGoal(preset, tuple(folders), base, publish)
