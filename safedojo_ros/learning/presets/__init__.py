"""Presets: one TOML file a size, with what differs from the defaults, a section for each stage."""

from pathlib import Path
from typing import Any

from safedojo_ros.core.config import read_toml
from safedojo_ros.core.errors import ConfigError


def preset_names() -> list[str]:
    """Names that `read_preset` knows."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Contents of a preset, a known name or the path of a TOML file.

    Raises `ConfigError` for an unknown one.
    """
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"unknown preset '{name}'; choose {', '.join(preset_names())} or a file")
    return read_toml(path)
