"""Presets: one TOML file a size, a section for each stage."""

from pathlib import Path
from typing import Any, TypeVar

from safedojo_ros.core.config import from_mapping, read_toml, with_overrides
from safedojo_ros.core.errors import ConfigError

T = TypeVar("T")


def preset_names() -> list[str]:
    """Names that `read_preset` knows."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def preset_values(name: str, overrides: list[str]) -> dict[str, Any]:
    """{section: its values} of a preset, a known name or the path of a TOML file.

    overrides: "section.key=value" strings. Raises `ConfigError` for an unknown preset.
    """
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"unknown preset '{name}'; choose {', '.join(preset_names())} or a file")
    return with_overrides(read_toml(path), overrides)


def read_preset(name: str, section: str, cls: type[T], overrides: list[str]) -> T:
    """The `section` of a preset as the dataclass `cls`; raises `ConfigError`."""
    return from_mapping(cls, preset_values(name, overrides).get(section, {}), f"{section}.")
