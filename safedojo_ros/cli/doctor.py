"""Say what is present, missing or in a wrong version on this machine, and what mends it."""

import argparse
import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safedojo_ros.checkpoints.names import user_store
from safedojo_ros.cli.findings import Finding, Status
from safedojo_ros.cli.options import add_json, write_json
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.dds import users_in_shared_memory
from safedojo_ros.nodes.stack.ros_environment import (
    RECEIVE_BUFFER,
    log_directory,
    prepare_environment,
    receive_buffer,
)

SET_UP = "./dojo doctor"
FREE_DISK = 3e9
"""Bytes that a set-up and a first training need."""
FREE_SHARED_MEMORY = 48e6
"""Bytes: seven nodes with a segment of 4 MB each, and what Fast DDS adds."""


@dataclass(frozen=True)
class Library:
    """A Python library, and the versions of it that pyproject.toml declares."""

    distribution: str
    module: str
    versions: str
    needed: bool = True
    mend: str = ""


LIBRARIES = (
    Library("numpy", "numpy", ">=1.26,<3"),
    Library("opencv-python-headless", "cv2", ">=4.9,<6"),
    Library("mujoco", "mujoco", ">=3.8,<3.9"),
    Library("torch", "torch", ">=2.8,<3"),
    Library("transformers", "transformers", ">=5.20,<6"),
    Library("diffusers", "diffusers", ">=0.36,<1"),
    Library("franky-control", "franky", ">=2.0,<3", needed=False),
    Library("ruckig", "ruckig", ">=0.14,<1", needed=False),
    Library("robosuite", "robosuite", "==1.4.0", needed=False, mend="./dojo libero"),
    Library("hf-libero", "libero", "==0.1.4", needed=False, mend="./dojo libero"),
)
RCLPY = SpecifierSet(">=7.1,<8")
"""The rclpy of ROS 2 Jazzy."""

RENDER_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 -4 2" dir="0 1 -0.5"/>'
    '<geom type="sphere" size="1" rgba="1 0 0 1"/>'
    '<camera name="c" pos="0 -4 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data, "c")
    red, green, blue = renderer.render()[16, 16].tolist()
if not red > 2 * max(green, blue, 10):
    raise SystemExit("the image of a red sphere is not red")
"""


def judge_version(
    subject: str, found: str, versions: SpecifierSet, mend: str, needed: bool = True
) -> Finding:
    """Compare the version `found` with those that work."""
    try:
        fits = versions.contains(Version(found), prereleases=True)
    except InvalidVersion:
        fits = False
    if fits:
        return Finding(subject, Status.PRESENT, found, needed=needed)
    return Finding(subject, Status.WRONG, f"{found}, needs {versions}", mend, needed)


def installed_version(distributions: Iterable[str], module: object) -> str:
    """The version that the packaging metadata or the imported module itself states."""
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(getattr(module, "__version__", "unknown"))


def check_python() -> Finding:
    """The interpreter's own version."""
    mend = f"DOJO_PYTHON=python3.11 {SET_UP}"
    return judge_version("Python", platform.python_version(), SpecifierSet(">=3.11,<3.13"), mend)


def check_library(library: Library) -> Finding:
    """Whether `library` can be imported, in a version that works."""
    wanted = f"'{library.distribution}{library.versions}'"
    mend = library.mend or f"{sys.executable} -m pip install {wanted}"
    subject, needed = library.distribution, library.needed
    logging.disable(logging.WARNING)  # robosuite asks for a macro file that nobody needs
    try:
        module = importlib.import_module(library.module)
    except ModuleNotFoundError as error:
        if error.name == library.module:
            detail = f"needs {library.versions}"
            return Finding(subject, Status.MISSING, detail, mend, needed)
        return Finding(subject, Status.WRONG, f"importing fails: {error}", mend, needed)
    except Exception as error:  # a broken native library raises anything
        return Finding(subject, Status.WRONG, f"importing fails: {error}", mend, needed)
    finally:
        logging.disable(logging.NOTSET)
    found = installed_version([library.distribution], module)
    return judge_version(subject, found, SpecifierSet(library.versions), mend, needed)


def check_rclpy(needed: bool) -> Finding:
    """Whether rclpy is there, and Jazzy's: unpinned wheels bring another ROS."""
    mend = f"{SET_UP}   (or source a ROS 2 Jazzy installation)"
    probe = [sys.executable, "-c", "import rclpy"]  # its libraries may end the process
    result = subprocess.run(probe, capture_output=True, text=True, errors="replace", timeout=60)
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        return Finding("rclpy", Status.MISSING, said[-1], mend, needed)
    found = installed_version(["ros-rclpy", "rclpy"], importlib.import_module("rclpy"))
    return judge_version("rclpy", found, RCLPY, mend, needed)


def check_ros_settings(needed: bool) -> Finding:
    """Whether nodes can start with the ROS settings of this shell."""
    subject, variables = "ROS settings", dict(os.environ)
    try:
        prepare_environment(variables)
    except ConfigError as error:
        return Finding(subject, Status.WRONG, str(error), "unset what is named there", needed)
    detail = f"domain {variables.get('ROS_DOMAIN_ID') or 0}, logs in {log_directory(variables)}"
    return Finding(subject, Status.PRESENT, detail, needed=needed)


def check_users(users: Mapping[int, set[int]]) -> Finding:
    """Whether nodes of two users share a ROS domain by shared memory: they hear nothing then.

    users: {domain: ids of the users whose nodes use shared memory there}.
    """
    subject = "users of shared memory"
    for domain, ids in users.items():
        if len(ids) > 1:
            detail = f"nodes of the users {sorted(ids)} in domain {domain} do not hear each other"
            mend = f"sudo sysctl net.core.rmem_max={RECEIVE_BUFFER}, then start all nodes again"
            return Finding(subject, Status.WRONG, detail, mend, needed=False)
    return Finding(subject, Status.PRESENT, "one at most in a ROS domain", needed=False)


def check_sockets(size: int) -> Finding:
    """Whether the kernel's largest receive buffer, `size` bytes, holds large images."""
    detail = f"{size} bytes of buffer, images beyond 400x400 pixels need {RECEIVE_BUFFER}"
    if size >= RECEIVE_BUFFER:
        return Finding("sockets", Status.PRESENT, f"{size} bytes of buffer", needed=False)
    mend = f"sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER}   (else shared memory is used)"
    return Finding("sockets", Status.WRONG, detail, mend, needed=False)


def check_store() -> Finding:
    """Whether what is learned can be kept."""
    subject, mend = "checkpoint store", "export SAFEDOJO_STORE=/a/folder/of/yours"
    try:
        root = user_store().root
    except ConfigError as error:
        return Finding(subject, Status.WRONG, str(error), mend, needed=False)
    if os.access(standing(root), os.W_OK):
        return Finding(subject, Status.PRESENT, str(root), needed=False)
    return Finding(subject, Status.WRONG, f"{root} cannot be written", mend, needed=False)


def standing(place: Path) -> Path:
    """`place`, or the nearest folder above it that exists."""
    return next((p for p in (place, *place.parents) if p.exists()), Path("/"))


def check_interfaces(needed: bool) -> Finding:
    """Whether this package's messages have been compiled, for this Python."""
    subject = "ROS interfaces"
    mend = f"{SET_UP}   (or colcon build, and source install/setup.bash)"
    try:
        messages = importlib.import_module("safedojo_ros.msg")
        messages.ActionChunk.__import_type_support__()
    except ModuleNotFoundError:
        return Finding(subject, Status.MISSING, "safedojo_ros.msg is not built", mend, needed)
    except Exception as error:
        return Finding(subject, Status.WRONG, f"type support fails: {error}", mend, needed)
    return Finding(subject, Status.PRESENT, "safedojo_ros.msg", needed=needed)


def check_rendering(backends: Iterable[str]) -> Finding:
    """Which of the OpenGL `backends` draws a red sphere red, tried in a process of its own."""
    reasons = []
    for backend in backends:
        probe = [sys.executable, "-c", RENDER_PROBE]
        environment = {**os.environ, "MUJOCO_GL": backend}
        try:
            result = subprocess.run(
                probe, env=environment, capture_output=True, text=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            reasons.append(f"{backend}: no image within 60 s")
            continue
        if result.returncode == 0:
            return Finding("rendering", Status.PRESENT, f"MUJOCO_GL={backend}")
        # Closing a context that never worked complains after the real reason.
        error = result.stderr.partition("Exception ignored in:")[0].strip()
        reasons.append(f"{backend}: {(error.splitlines() or ['no reason given'])[-1]}")
    mend = "sudo apt-get install libegl1 libopengl0 libgl1-mesa-dri"
    return Finding("rendering", Status.MISSING, "; ".join(reasons), mend)


def rendering_backends() -> list[str]:
    """The user's own choice alone, else those that can work here."""
    if chosen := os.environ.get("MUJOCO_GL"):
        return [chosen]
    return ["egl", *(["glfw"] if os.environ.get("DISPLAY") else []), "osmesa"]


def check_room(subject: str, place: Path, wanted: float, mend: str) -> Finding:
    """Whether `wanted` bytes are free at `place`."""
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(subject, Status.MISSING, f"{place}: {error.strerror}", mend)
    detail = f"{free / 1e9:.2f} GB free in {place}"
    if free >= wanted:
        return Finding(subject, Status.PRESENT, detail)
    return Finding(subject, Status.WRONG, f"{detail}, needs {wanted / 1e9:.2f}", mend)


def examine() -> Iterator[Finding]:
    """All findings, in the order of the report."""
    ros_needed = os.environ.get("SAFEDOJO_SKIP_INTERFACES", "0") in ("", "0")
    yield check_python()
    yield check_rclpy(ros_needed)
    yield check_interfaces(ros_needed)
    yield check_ros_settings(ros_needed)
    for library in LIBRARIES:
        yield check_library(library)
    yield check_rendering(rendering_backends())
    yield check_store()
    yield check_room("disk", Path(sys.prefix), FREE_DISK, "remove what you no longer need")
    yield check_room(
        "shared memory",
        Path("/dev/shm"),
        FREE_SHARED_MEMORY,
        "sudo mount -o remount,size=256M /dev/shm   (docker: --shm-size=256m)",
    )
    yield check_sockets(receive_buffer())
    yield check_users(users_in_shared_memory())


def show(findings: Iterable[Finding], console: Console) -> None:
    """Print one row for each finding, then the commands that mend what is amiss."""
    colours = {Status.PRESENT: "green", Status.MISSING: "red", Status.WRONG: "red"}
    table = Table("subject", "", "detail", box=None, pad_edge=False)
    mends = []
    for finding in findings:
        amiss = finding.status is not Status.PRESENT
        word = f"{finding.status}" if finding.needed or not amiss else f"{finding.status}, optional"
        colour = colours[finding.status] if finding.needed else "yellow" if amiss else "green"
        table.add_row(finding.subject, Text(word, style=colour), Text(finding.detail))
        if amiss:
            mends.append(f"  {finding.subject}: {finding.mend}")
    console.print(table)
    if mends:
        console.print("\nto mend:", *mends, sep="\n", markup=False, highlight=False, soft_wrap=True)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json(parser.add_argument)
    parser.add_argument(
        "--robot",
        metavar="ADDRESS",
        help="look at the Franka there, too, and at this machine's timing; nothing moves",
    )


def run(args: argparse.Namespace) -> int:
    """Report; 0 if everything needed is present, else 1."""
    findings = list(examine())
    if args.robot:
        from safedojo_ros.cli.doctor_robot import examine_robot

        findings += examine_robot(args.robot)
    show(findings, Console())
    write_json(args.json, [asdict(finding) for finding in findings])
    return int(any(f.needed and f.status is not Status.PRESENT for f in findings))
