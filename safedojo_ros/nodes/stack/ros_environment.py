"""What rclpy needs of the process's environment where no ROS installation has been sourced.

Call `prepare_environment` before the first `rclpy.init`; children inherit what it sets. What is set
already and can work is kept, so a sourced ROS installation keeps its own values.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import private_folder
from safedojo_ros.nodes.stack.dds import others_share_memory

PACKAGE = "safedojo_ros"
SOURCE_ROOT = Path(__file__).resolve().parents[3]
MAX_DOMAIN = 232
PROFILE, DISCOVERY = "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"
FAST_DDS = "rmw_fastrtps_cpp"
RECEIVE_BUFFER = 4 * 2**20
"""Bytes: four images of 640x480 pixels, which come in pieces of 64 KB, all at once."""


def share_directory(environment: MutableMapping[str, str] | None = None) -> Path:
    """The folder that holds `config/` and `launch/`: the source tree's, or the installed one.

    Raises `ConfigError` that names the places searched.
    """
    variables = os.environ if environment is None else environment
    candidates = [
        prefix / "share" / PACKAGE for prefix in [*_prefixes(variables), Path(sys.prefix)]
    ]
    for candidate in [SOURCE_ROOT, *candidates]:
        if (candidate / "package.xml").is_file() and (candidate / "config").is_dir():
            return candidate
    places = ", ".join(str(c) for c in [SOURCE_ROOT, *candidates])
    raise ConfigError(f"no {PACKAGE} configuration in {places}; install the package again")


def prepare_environment(
    environment: MutableMapping[str, str] | None = None, only_this_machine: bool = False
) -> None:
    """Set what rclpy, ament and Fast DDS read and lack, in `environment` (os.environ).

    only_this_machine: nodes find only nodes of this machine, unless the user says otherwise.
    Raises `ConfigError` for what the user has set and what cannot work here.
    """
    variables = os.environ if environment is None else environment
    variables.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    _check_middleware(variables)
    domain = _domain(variables)
    if not Path(variables.get(PROFILE, "")).is_file():
        local = only_this_machine and DISCOVERY not in variables
        folder = share_directory(variables) / "config"
        variables[PROFILE] = str(folder / _profile(domain, local))
        if local:  # by the profile: rmw_fastrtps itself would use shared memory for LOCALHOST
            variables[DISCOVERY] = "SUBNET"
    if only_this_machine:
        variables.setdefault(DISCOVERY, "LOCALHOST")
    if not _can_be_written(log_directory(variables)):
        variables["ROS_LOG_DIR"] = str(private_folder("safedojo_ros_log"))


def stay_on_this_machine(environment: MutableMapping[str, str] | None = None) -> None:
    """`prepare_environment` for a simulated arm: whatever the user has set for the network, its
    nodes find no others and are found by none outside this machine."""
    variables = os.environ if environment is None else environment
    variables.pop(PROFILE, None)
    variables.pop(DISCOVERY, None)
    prepare_environment(variables, only_this_machine=True)
    if variables.get("RMW_IMPLEMENTATION", FAST_DDS) not in ("", FAST_DDS):
        variables[DISCOVERY] = "LOCALHOST"  # the profile is Fast DDS's


def log_directory(variables: MutableMapping[str, str]) -> Path | None:
    """Where ROS writes its logs; None where nothing says so."""
    if variables.get("ROS_LOG_DIR"):
        return Path(variables["ROS_LOG_DIR"])
    home = variables.get("ROS_HOME") or (variables.get("HOME") and f"{variables['HOME']}/.ros")
    return Path(home, "log") if home else None


def receive_buffer() -> int:
    """The largest buffer of a socket that the kernel gives, bytes; 0 where it does not say."""
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_bytes())
    except (OSError, ValueError):
        return 0


def _profile(domain: int, only_this_machine: bool) -> str:
    """Shared memory, which no other user's nodes hear, only where UDP would lose images."""
    if only_this_machine:
        return "fastdds_local.xml"
    if receive_buffer() >= RECEIVE_BUFFER or others_share_memory(domain):
        return "fastdds_udp.xml"
    return "fastdds.xml"


def _can_be_written(directory: Path | None) -> bool:
    """Whether files can be made in it, after it has been made where it can be."""
    if directory is None:
        return False
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _prefixes(variables: MutableMapping[str, str]) -> list[Path]:
    return [Path(p) for p in variables.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]


def _check_middleware(variables: MutableMapping[str, str]) -> None:
    wanted = variables.get("RMW_IMPLEMENTATION", "")
    shelves = [p / "share/ament_index/resource_index/rmw_typesupport" for p in _prefixes(variables)]
    found = {path.name for shelf in shelves for path in shelf.glob("rmw_*")}
    installed = sorted(found - {"rmw_implementation"})  # which loads one of the others
    if wanted and installed and wanted not in installed:
        raise ConfigError(
            f"RMW_IMPLEMENTATION is {wanted}, installed here: {', '.join(installed)}; unset it, or "
            "install that middleware"
        )


def _domain(variables: MutableMapping[str, str]) -> int:
    text = variables.get("ROS_DOMAIN_ID") or "0"
    if not (text.isdecimal() and int(text) <= MAX_DOMAIN):
        raise ConfigError(f"ROS_DOMAIN_ID is '{text}', expected a number from 0 to {MAX_DOMAIN}")
    return int(text)
