"""What rclpy needs of the process's environment where no ROS installation has been sourced.

Call `prepare_environment` before the first `rclpy.init`; children inherit what it sets. Nothing
that is set already is changed, so a sourced ROS installation keeps its own values.
"""

import os
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from safedojo_ros.core.errors import ConfigError

PACKAGE = "safedojo_ros"
SOURCE_ROOT = Path(__file__).resolve().parents[3]


def share_directory(environment: MutableMapping[str, str] | None = None) -> Path:
    """The folder that holds `config/` and `launch/`: the source tree's, or the installed one.

    Raises `ConfigError` that names the places searched.
    """
    variables = os.environ if environment is None else environment
    prefixes = [p for p in variables.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [Path(p) / "share" / PACKAGE for p in [*prefixes, sys.prefix]]
    for candidate in [SOURCE_ROOT, *candidates]:
        if (candidate / "package.xml").is_file() and (candidate / "config").is_dir():
            return candidate
    places = ", ".join(str(c) for c in [SOURCE_ROOT, *candidates])
    raise ConfigError(f"no {PACKAGE} configuration in {places}; install the package again")


def prepare_environment(
    environment: MutableMapping[str, str] | None = None, only_this_machine: bool = False
) -> None:
    """Default the variables that rclpy, ament and Fast DDS read, in `environment` (os.environ).

    only_this_machine: nodes find only nodes of this machine, unless the user says otherwise.
    """
    variables = os.environ if environment is None else environment
    variables.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    profile = share_directory(variables) / "config" / "fastdds.xml"
    variables.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    if "HOME" not in variables and "ROS_HOME" not in variables:
        variables.setdefault("ROS_LOG_DIR", str(Path(tempfile.gettempdir(), "safedojo_ros_log")))
    if only_this_machine:
        variables.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
