"""What surrounds a node decides only what it may: ROS's variables, the home folder, other users."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack import ros_environment
from safedojo_ros.nodes.stack.ros_environment import (
    prepare_environment,
    share_directory,
    stay_on_this_machine,
)


def test_the_environment_of_a_sourced_ros_installation_is_kept(tmp_path: Path) -> None:
    profile = tmp_path / "own.xml"
    profile.touch()
    sourced = {
        "HOME": str(tmp_path),
        "AMENT_PREFIX_PATH": "/opt/ros/jazzy",
        "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
    }
    prepared = dict(sourced)
    prepare_environment(prepared, only_this_machine=True)
    assert prepared == sourced


def test_an_empty_environment_gets_what_the_wheels_lack() -> None:
    prepared: dict[str, str] = {}
    prepare_environment(prepared, only_this_machine=True)
    assert Path(prepared["FASTRTPS_DEFAULT_PROFILES_FILE"]).name == "fastdds_local.xml"
    assert Path(prepared["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()
    assert prepared["ROS_AUTOMATIC_DISCOVERY_RANGE"] != "LOCALHOST", "which adds shared memory"
    assert {"AMENT_PREFIX_PATH", "ROS_LOG_DIR"} <= set(prepared)


def test_a_profile_that_is_not_there_is_replaced() -> None:
    prepared = {"FASTRTPS_DEFAULT_PROFILES_FILE": "/of/another/project.xml"}
    prepare_environment(prepared)
    assert Path(prepared["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


@pytest.mark.parametrize("name", ["HOME", "ROS_HOME", "ROS_LOG_DIR"])
def test_where_logs_cannot_be_written_they_go_to_a_folder_of_this_user(name: str) -> None:
    prepared = {name: "/proc/nobody"}
    prepare_environment(prepared)
    assert prepared["ROS_LOG_DIR"].endswith(f"safedojo_ros_log_{os.getuid()}"), "of no two users"


def test_logs_stay_where_they_can_be_written(tmp_path: Path) -> None:
    prepared = {"HOME": str(tmp_path)}
    prepare_environment(prepared)
    assert "ROS_LOG_DIR" not in prepared
    assert (tmp_path / ".ros/log").is_dir()


def test_a_middleware_that_is_not_installed_is_refused_with_those_that_are(tmp_path: Path) -> None:
    shelf = tmp_path / "share/ament_index/resource_index/rmw_typesupport"
    shelf.mkdir(parents=True)
    for name in ("rmw_fastrtps_cpp", "rmw_implementation"):
        (shelf / name).touch()
    variables = {"AMENT_PREFIX_PATH": str(tmp_path), "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    with pytest.raises(ConfigError, match="cyclonedds_cpp, installed here: rmw_fastrtps_cpp;"):
        prepare_environment(variables)
    prepare_environment(variables | {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"})


@pytest.mark.parametrize("domain", ["left", "-1", "233", "1.5"])
def test_a_domain_that_cannot_be_is_refused(domain: str) -> None:
    with pytest.raises(ConfigError, match="ROS_DOMAIN_ID"):
        prepare_environment({"ROS_DOMAIN_ID": domain})


@pytest.mark.parametrize(
    ("domain", "buffer", "profile"),
    [("31", 212_992, "udp"), ("30", 212_992, ""), ("30", 4_194_304, "udp")],
)
def test_shared_memory_is_used_only_where_sockets_are_small_and_nobody_else_is_there(
    domain: str, buffer: int, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ros_environment, "others_share_memory", lambda domain: domain == 31)
    monkeypatch.setattr(ros_environment, "receive_buffer", lambda: buffer)
    prepared = {"ROS_DOMAIN_ID": domain}
    prepare_environment(prepared)
    name = Path(prepared["FASTRTPS_DEFAULT_PROFILES_FILE"]).stem
    assert name.removeprefix("fastdds").removeprefix("_") == profile


def test_what_the_user_says_of_the_network_goes_first(tmp_path: Path) -> None:
    prepared = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    prepare_environment(prepared, only_this_machine=True)
    assert prepared["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert "local" not in Path(prepared["FASTRTPS_DEFAULT_PROFILES_FILE"]).name
    profile = tmp_path / "own.xml"
    profile.touch()
    prepared = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)}
    prepare_environment(prepared, only_this_machine=True)
    assert prepared["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_a_simulated_arm_stays_on_this_machine_whatever_the_user_says(tmp_path: Path) -> None:
    profile = tmp_path / "own.xml"
    profile.touch()
    prepared = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
    }
    stay_on_this_machine(prepared)
    assert Path(prepared["FASTRTPS_DEFAULT_PROFILES_FILE"]).name == "fastdds_local.xml"
    other = {"AMENT_PREFIX_PATH": "/opt/ros/jazzy", "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    stay_on_this_machine(other)
    assert other["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_a_simulated_arm_s_sockets_hear_this_machine_alone() -> None:
    pytest.importorskip("rclpy")
    script = (
        "from safedojo_ros.nodes.stack.ros_environment import stay_on_this_machine\n"
        "stay_on_this_machine()\n"
        "import rclpy, os, re, glob\n"
        "rclpy.init(); node = rclpy.create_node('local')\n"
        "ours = {os.readlink(f) for f in glob.glob('/proc/self/fd/*') if os.path.islink(f)}\n"
        "for line in open('/proc/net/udp').read().splitlines()[1:]:\n"
        "    fields = line.split()\n"
        "    if f'socket:[{fields[9]}]' in ours: print(fields[1].partition(':')[0])\n"
    )
    variables = dict(os.environ) | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True
    )
    addresses = {socket.inet_ntoa(bytes.fromhex(h)[::-1]) for h in done.stdout.split()}
    assert addresses, done.stderr
    assert addresses <= {"127.0.0.1", "239.255.0.1"}, "else 0.0.0.0"


def test_a_node_that_cannot_start_here_says_so_in_a_line() -> None:
    pytest.importorskip("rclpy")
    pytest.importorskip("safedojo_ros.msg")
    command = [sys.executable, "-m", "safedojo_ros.nodes.camera_node"]
    variables = dict(os.environ) | {"ROS_DOMAIN_ID": "left"}
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "ROS_DOMAIN_ID is 'left', expected a number from 0 to 232\n"


def test_configuration_is_found_in_an_installed_prefix_without_a_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "safedojo_ros.nodes.stack.ros_environment.SOURCE_ROOT", tmp_path / "nowhere"
    )
    monkeypatch.setattr("sys.prefix", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="nowhere"):
        share_directory({})
    share = tmp_path / "prefix/share/safedojo_ros"
    (share / "config").mkdir(parents=True)
    (share / "package.xml").touch()
    assert share_directory({"AMENT_PREFIX_PATH": f"/a:{tmp_path / 'prefix'}"}) == share
