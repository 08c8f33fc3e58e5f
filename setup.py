"""Drives CMakeLists.txt for pip, so that pip and colcon install the same ROS 2 interfaces.

SAFEDOJO_SKIP_INTERFACES=1 leaves the interfaces out: training machines need no ROS.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

PACKAGE = "safedojo_ros"
ROOT = Path(__file__).resolve().parent
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
        work = ROOT / "build" / f"interfaces-{sys.implementation.cache_tag}"
        shutil.rmtree(work, ignore_errors=True)
        prefix = work / "prefix"
        run_cmake(work / "cmake", prefix)
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


def run_cmake(build_directory: Path, prefix: Path) -> None:
    """Configure, build and install CMakeLists.txt into `prefix` with the ROS wheels' prefix."""
    import ament_package

    ros_prefix = Path(ament_package.__file__).resolve().parents[4]
    environment = dict(os.environ)
    environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(ros_prefix)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=environment["PATH"]) or "cmake"
    configure = [cmake, "-S", str(ROOT), "-B", str(build_directory), "-G", "Ninja"]
    configure += [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DPython3_EXECUTABLE={sys.executable}"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF"]
    subprocess.run(configure, check=True, env=environment)
    subprocess.run([cmake, "--build", str(build_directory)], check=True, env=environment)
    subprocess.run([cmake, "--install", str(build_directory)], check=True, env=environment)


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


if SKIP_INTERFACES:
    setup()
else:
    setup(
        distclass=PlatformDistribution,
        cmdclass={"build": BuildWithInterfaces, "build_interfaces": BuildInterfaces},
    )
