"""The setuptools build backend; it asks for the ROS 2 generators only when it builds interfaces."""

import os
import tomllib
from pathlib import Path
from typing import Any

from setuptools.build_meta import *  # noqa: F403


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Return `tool.safedojo.interface-build-requires` of pyproject.toml, or nothing if skipped."""
    if os.environ.get("SAFEDOJO_SKIP_INTERFACES", "0") not in ("", "0"):
        return []
    text = (Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8")
    requirements: list[str] = tomllib.loads(text)["tool"]["safedojo"]["interface-build-requires"]
    return requirements


get_requires_for_build_editable = get_requires_for_build_wheel
