"""`./dojo` finds itself, and other projects' settings decide nothing about its set-up.

A stand-in for Python notes how it is called, so that nothing is installed.
"""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ODD = "Öl [1] (a&b) 'c"
PYTHON = """#!/bin/bash
{ printf '> %s\\n' "$*"; env; } >>"$NOTES"
"""


class Checkout:
    """A checkout with an odd name, whose Python only notes what it is asked."""

    def __init__(self, folder: Path, name: str = ODD) -> None:
        self.folder, self.root = folder, folder / name
        self.notes, programs = folder / "notes", folder / "programs"
        (self.root / ".venv/bin").mkdir(parents=True)
        (self.root / "safedojo_ros").mkdir()
        programs.mkdir()
        shutil.copy(ROOT / "dojo", self.root)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        for program in (self.root / ".venv/bin/python", programs / "python3", programs / "gcc",
                        programs / "g++", programs / "nvidia-smi"):  # fmt: skip
            program.write_text(PYTHON)
            program.chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "NOTES": str(self.notes),
            "HOME": str(folder),
        }

    def run(
        self, command: str | Path, *words: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command), *(words or ("doctor",))],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[tuple[str, dict[str, str]]]:
        """What Python was asked, with the variables that it saw."""
        found: list[tuple[str, dict[str, str]]] = []
        for line in self.notes.read_text().splitlines() if self.notes.exists() else ():
            if line.startswith("> "):
                found.append((line[2:], {}))
            else:
                name, _, value = line.partition("=")
                found[-1][1][name] = value
        return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_through_a_link_the_checkout_is_found_and_nothing_is_made_beside_the_link(
    checkout: Checkout,
) -> None:
    links = checkout.folder / "links"
    links.mkdir()
    (links / "dojo").symlink_to(checkout.root / "dojo")
    done = checkout.run(links / "dojo")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in links.iterdir()] == ["dojo"]
    assert (checkout.root / ".venv/dojo.stamp").is_file()
    assert checkout.calls()[-1][0] == "-m safedojo_ros.cli.main doctor"


def test_an_exported_cdpath_changes_nothing(checkout: Checkout) -> None:
    done = checkout.run(f"{ODD}/dojo", CDPATH=str(checkout.folder))
    assert done.returncode == 0, done.stderr
    assert (checkout.root / ".venv/dojo.stamp").is_file()


def test_the_set_up_is_not_repeated_through_another_way_to_the_checkout(checkout: Checkout) -> None:
    assert checkout.run(checkout.root / "dojo").returncode == 0
    (checkout.folder / "way").symlink_to(checkout.root)
    before = len(checkout.calls())
    assert checkout.run(checkout.folder / "way/dojo").returncode == 0
    later = [asked for asked, _ in checkout.calls()[before:]]
    assert later == ["--version", "-m safedojo_ros.cli.main doctor"]


def test_other_projects_settings_are_left_out_and_the_users_network_stays(
    checkout: Checkout,
) -> None:
    ros = checkout.folder / "ros"
    ros.mkdir()
    (ros / "librcl.so").touch()
    kept = {
        "PIP_INDEX_URL": "https://mirror/simple",
        "PIP_CERT": "/etc/ca.pem",
        "PIP_DEFAULT_TIMEOUT": "60",
        "PYTHONUNBUFFERED": "1",
        "ROS_DOMAIN_ID": "7",
    }
    left_out = {
        "PIP_TARGET": "/elsewhere",
        "PIP_USER": "1",
        "PIP_CONSTRAINT": "/of/a/container.txt",
        "PYTHONPATH": "/opt/ros/humble",
        "PYTHONHOME": "/opt/conda",
        "PYTHONWARNINGS": "error",
        "AMENT_PREFIX_PATH": "/opt/ros/humble",
        "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
        "ROS_DISTRO": "humble",
    }
    path = f"/usr/local/nvidia/lib64:{ros}"
    done = checkout.run(checkout.root / "dojo", **kept, **left_out, LD_LIBRARY_PATH=path)
    assert done.returncode == 0, done.stderr
    assert "rmw_cyclonedds_cpp is left aside" in done.stderr
    assert any("pip install" in asked for asked, _ in checkout.calls())
    for asked, variables in checkout.calls():
        assert kept.items() <= variables.items(), asked
        seen = set(variables) & set(left_out)
        assert seen <= {"PYTHONWARNINGS"}, asked
        assert variables.get("PYTHONWARNINGS") != "error"
        assert variables["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"


def test_what_leads_pip_elsewhere_is_taken_back_for_this_environment(checkout: Checkout) -> None:
    assert checkout.run(checkout.root / "dojo").returncode == 0
    settings = configparser.ConfigParser()
    settings.read(checkout.root / ".venv/pip.conf")
    for section in ("global", "install"):
        assert {"target", "user", "prefix", "no-binary", "no-deps"} <= set(settings[section])
        assert not any(settings[section].values())
        assert "index-url" not in settings[section]


def test_a_path_that_cannot_work_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, "a:b")
    done = checkout.run(checkout.root / "dojo")
    assert done.returncode == 2
    assert f"move this checkout: {checkout.root}" in done.stderr
    assert not checkout.calls()


def test_a_python_with_a_space_in_its_path_can_be_named(checkout: Checkout) -> None:
    python = checkout.folder / "my python"
    shutil.copy(checkout.root / ".venv/bin/python", python)
    assert checkout.run(checkout.root / "dojo", DOJO_PYTHON=str(python)).returncode == 0


def test_lerobot_is_served_from_an_environment_of_its_own(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    python = checkout.root / ".venv-lerobot/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (checkout.root / ".venv-lerobot/dojo.stamp").touch()
    dojo = checkout.root / "dojo"
    assert checkout.run(dojo, "lerobot", "serve", "DIR", "--port", "0").returncode == 0
    (asked, variables), *others = checkout.calls()
    assert asked == "-P -m safedojo_ros.models.served.lerobot_server DIR --port 0"
    assert variables["PYTHONPATH"] == str(checkout.root)
    assert not others, "our own environment is neither made nor asked"
    refused = checkout.run(dojo, "lerobot", "train")
    assert refused.returncode == 2
    assert "./dojo lerobot serve DIR" in refused.stderr
