"""Drives CMakeLists.txt for pip, so that pip and colcon install the same ROS 2 interfaces.

SAFEDOJO_SKIP_INTERFACES=1 leaves the interfaces out: training machines need no ROS.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

PACKAGE = "safedojo_ros"
ROOT = Path(__file__).resolve().parent
SOURCES = ("CMakeLists.txt", "package.xml", "action", "cmake", "config", "launch", "msg", "srv")
"""What CMake reads, beside the names of the nodes."""
PLAIN = re.compile(r"[A-Za-z0-9._+/-]+")
"""Paths that the generators of the interfaces, which do not quote them, can work with."""
SKIP_INTERFACES = os.environ.get("SAFEDOJO_SKIP_INTERFACES", "0") not in ("", "0")


class BuildInterfaces(Command):
    """Generate and compile the interfaces; a step of its own, so that its failure is fatal."""

    description = "compile the ROS 2 interfaces with CMake"
    user_options: list[tuple[str, str | None, str]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        prefix = ROOT / "build" / f"interfaces-{sys.implementation.cache_tag}"
        shutil.rmtree(prefix, ignore_errors=True)
        with plain_folder() as work:
            run_cmake(work)
            shutil.copytree(work / "prefix", prefix, symlinks=True)
        modules = next(prefix.glob(f"lib/python*/*-packages/{PACKAGE}"))
        target = ROOT / PACKAGE if self.editable_mode else Path(str(self.build_lib)) / PACKAGE
        for library in target.glob("*.so"):
            library.unlink()
        for library in modules.glob("*.so"):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)
        for kind in ("msg", "srv", "action"):
            shutil.rmtree(target / kind, ignore_errors=True)
            shutil.copytree(modules / kind, target / kind)
        self.distribution.data_files = data_files(prefix)

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


@contextmanager
def plain_folder() -> Iterator[Path]:
    """A temporary folder with a plain path, whatever TMPDIR says."""
    places = [p for p in (tempfile.gettempdir(), "/tmp", "/var/tmp") if PLAIN.fullmatch(p)]
    with tempfile.TemporaryDirectory(prefix="safedojo_build_", dir=places[0]) as folder:
        yield Path(folder)


def copy_sources(target: Path) -> Path:
    """What CMake needs of this checkout, in a new folder `target`."""
    target.mkdir()
    for path in (ROOT / name for name in SOURCES):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, target / path.name)
    for node in ROOT.glob(f"{PACKAGE}/nodes/*_node.py"):
        copy = target / node.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    return target


def plainly(path: Path, link: Path) -> Path:
    """`path`, or `link` to it where it is not plain."""
    if PLAIN.fullmatch(str(path)):
        return path
    link.symlink_to(path)
    return link


def cmake_environment(ros_prefix: Path, programs: Path) -> dict[str, str]:
    """This process's, without what other projects tell CMake."""
    kept = ("CMAKE_BUILD_PARALLEL_LEVEL",)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not (name.startswith("CMAKE_") or name == "DESTDIR")
    }
    environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(ros_prefix)
    environment["PATH"] = os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)])
    return environment


def run_cmake(work: Path) -> None:
    """Configure and build CMakeLists.txt in `work`, and install into `work`/prefix."""
    import ament_package

    ros_prefix = plainly(Path(ament_package.__file__).resolve().parents[4], work / "ros")
    python = Path(sys.executable)
    programs = plainly(python.parent.parent, work / "python") / python.parent.name
    environment = cmake_environment(ros_prefix, programs)
    cmake = shutil.which("cmake", path=environment["PATH"]) or "cmake"
    configure = [cmake, "-S", str(copy_sources(work / "source")), "-B", str(work / "cmake")]
    configure += ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"]
    configure += [f"-DCMAKE_INSTALL_PREFIX={work / 'prefix'}"]
    configure += [f"-DPython3_EXECUTABLE={programs / python.name}"]
    subprocess.run(configure, check=True, env=environment)
    subprocess.run([cmake, "--build", str(work / "cmake")], check=True, env=environment)
    subprocess.run([cmake, "--install", str(work / "cmake")], check=True, env=environment)


def data_files(prefix: Path) -> list[tuple[str, list[str]]]:
    """List libraries, package index, configuration and executables, relative to sys.prefix."""
    files = [*prefix.glob("lib/*.so"), *prefix.glob(f"lib/{PACKAGE}/*"), *prefix.glob("share/**/*")]
    groups: dict[str, list[str]] = {}
    for file in filter(Path.is_file, files):
        folder = str(file.parent.relative_to(prefix))
        groups.setdefault(folder, []).append(os.path.relpath(file, ROOT))
    return sorted(groups.items())


class BuildWithInterfaces(build):
    sub_commands = [("build_interfaces", None), *build.sub_commands]


class PlatformDistribution(Distribution):
    """Compiled interfaces make the wheel one of this platform and give it data files."""

    def has_ext_modules(self) -> bool:
        return True

    def has_data(self) -> bool:  # asked by editable installs, which otherwise drop data_files
        return True


if __name__ == "__main__" and SKIP_INTERFACES:
    setup()
elif __name__ == "__main__":
    setup(
        distclass=PlatformDistribution,
        cmdclass={"build": BuildWithInterfaces, "build_interfaces": BuildInterfaces},
    )
