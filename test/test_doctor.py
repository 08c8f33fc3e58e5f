"""The doctor finds what is amiss and names the command that mends it."""

import contextlib
import json
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from packaging.specifiers import SpecifierSet

from safedojo_ros.cli import doctor
from safedojo_ros.cli.doctor import Library
from safedojo_ros.cli.doctor_robot import examine_robot
from safedojo_ros.cli.findings import Finding, Status
from safedojo_ros.robot.fci.emulator import FciEmulator
from safedojo_ros.robot.fci.preflight import host_remarks, version_fault
from safedojo_ros.worlds.tabletop.robot import TabletopRobot
from safedojo_ros.worlds.tabletop.world import TabletopWorld


def broken_import(reason: Exception) -> object:
    def import_module(_: str) -> ModuleType:
        raise reason

    return import_module


def test_a_library_that_works_is_present() -> None:
    finding = doctor.check_library(Library("numpy", "numpy", ">=1.26,<3"))
    assert (finding.status, finding.mend) == (Status.PRESENT, "")


def test_a_missing_library_comes_with_the_command_for_this_very_python() -> None:
    finding = doctor.check_library(Library("no-such-arm", "no_such_arm", ">=2"))
    assert finding.status is Status.MISSING
    assert finding.mend == f"{sys.executable} -m pip install 'no-such-arm>=2'"


def test_a_library_in_another_version_is_wrong_and_both_versions_are_named() -> None:
    finding = doctor.check_library(Library("numpy", "numpy", "<1.0"))
    assert finding.status is Status.WRONG
    assert doctor.installed_version(["numpy"], None) in finding.detail
    assert "<1.0" in finding.detail


@pytest.mark.parametrize(
    "reason",
    [OSError("libGL.so.1: no such file"), ModuleNotFoundError("no inner part", name="inner")],
)
def test_a_library_that_is_there_but_broken_is_wrong_not_missing(
    reason: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.import_module", broken_import(reason))
    finding = doctor.check_library(Library("numpy", "numpy", ">=1"))
    assert finding.status is Status.WRONG
    assert str(reason) in finding.detail


@pytest.mark.parametrize("version", ["9.1.0", "3.3.16", "not a version"])
def test_the_rclpy_of_another_ros_is_wrong(version: str) -> None:
    finding = doctor.judge_version("rclpy", version, doctor.RCLPY, "mend")
    assert (finding.status, finding.mend) == (Status.WRONG, "mend")


def test_a_local_or_pre_release_version_counts_as_its_release() -> None:
    for version in ("2.13.0+cpu", "2.14.0rc1"):
        finding = doctor.judge_version("torch", version, SpecifierSet(">=2.8"), "mend")
        assert finding.status is Status.PRESENT


def test_an_rclpy_that_ends_the_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rclpy")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_of_another_project")
    finding = doctor.check_rclpy(needed=True)
    assert finding.status is Status.MISSING
    assert "rmw_of_another_project" in finding.detail
    settings = doctor.check_ros_settings(needed=True)
    assert settings.status is Status.WRONG
    assert "RMW_IMPLEMENTATION" in settings.detail


def test_nodes_of_two_users_that_do_not_hear_each_other_are_reported() -> None:
    finding = doctor.check_users({30: {1000}, 31: {0, 1000}})
    assert finding.status is Status.WRONG
    assert "[0, 1000] in domain 31" in finding.detail
    assert doctor.check_users({30: {1000}, 31: {0}}).status is Status.PRESENT


def test_sockets_too_small_for_large_images_come_with_the_command_that_mends_them() -> None:
    finding = doctor.check_sockets(212_992)
    assert (finding.status, finding.needed) == (Status.WRONG, False)
    assert "net.core.rmem_max=4194304" in finding.mend
    assert doctor.check_sockets(4_194_304).status is Status.PRESENT


@pytest.mark.parametrize("root", ["/proc/store", "~/store"])
def test_a_store_that_cannot_be_written_is_reported(
    root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAFEDOJO_STORE", str(tmp_path / "not/yet"))
    assert doctor.check_store().status is Status.PRESENT
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("os.access", lambda place, _: place != Path("/proc"))  # also for root
    monkeypatch.setenv("SAFEDOJO_STORE", root)
    finding = doctor.check_store()
    assert (finding.status, finding.needed) == (Status.WRONG, False)
    assert "SAFEDOJO_STORE" in finding.mend


def test_interfaces_that_are_not_built_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = ModuleNotFoundError("No module named 'safedojo_ros.msg'")
    monkeypatch.setattr("importlib.import_module", broken_import(reason))
    finding = doctor.check_interfaces(needed=True)
    assert finding.status is Status.MISSING
    assert "./dojo" in finding.mend


def test_interfaces_of_another_python_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = ImportError("undefined symbol")
    monkeypatch.setattr("importlib.import_module", broken_import(reason))
    assert doctor.check_interfaces(needed=True).status is Status.WRONG


def test_a_rendering_backend_counts_only_if_it_really_draws() -> None:
    finding = doctor.check_rendering(["no_such_backend"])
    assert finding.status is Status.MISSING
    assert "no_such_backend" in finding.detail
    assert "apt-get install" in finding.mend


def test_the_next_backend_is_tried_when_one_fails() -> None:
    finding = doctor.check_rendering(["no_such_backend", *doctor.rendering_backends()])
    assert finding.status is Status.PRESENT


def test_too_little_room_and_no_place_at_all_are_told_apart(tmp_path: Path) -> None:
    assert doctor.check_room("disk", tmp_path, 0, "mend").status is Status.PRESENT
    assert doctor.check_room("disk", tmp_path, 1e18, "mend").status is Status.WRONG
    assert doctor.check_room("disk", tmp_path / "no", 0, "mend").status is Status.MISSING


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_the_exit_code_counts_only_what_is_needed(
    needed: bool,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "found.json"
    finding = Finding("franky-control", Status.MISSING, "needs >=2", "pip install it", needed)
    monkeypatch.setattr(doctor, "examine", lambda: iter([finding]))
    assert doctor.run(Namespace(json=file, robot=None)) == code
    assert json.loads(file.read_text())[0]["mend"] == "pip install it"
    assert "franky-control: pip install it" in capsys.readouterr().out


@pytest.fixture
def emulator() -> Iterator[FciEmulator]:
    pytest.importorskip("franky", reason="franky-control is not installed")
    world = TabletopWorld(render_images=False)
    world.reset(seed=0)
    emulator = FciEmulator(TabletopRobot(world), "127.0.0.24", patience=0.5)
    emulator.start()
    with contextlib.closing(emulator):
        yield emulator


def robot_findings() -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_robot("127.0.0.24")}


def test_a_robot_in_order_is_said_to_be(emulator: FciEmulator) -> None:
    found = robot_findings()
    for subject in ("robot", "end effector", "robot's mode", "gripper"):
        assert found[subject].status is Status.PRESENT, found[subject]
    assert "states in 1 s" in found["robot's states"].detail
    assert "5.7.2" in found["robot"].detail, "firmware that is known to trip is named"


def test_what_is_wrong_with_a_robot_is_said_and_the_rest_is_looked_at(
    emulator: FciEmulator,
) -> None:
    emulator.controller._state["F_T_EE"] = np.eye(4).ravel()
    emulator.controller._state["m_load"] = 1.0
    emulator.gripper.max_width = 0.0
    emulator.press_user_stop()
    found = robot_findings()
    for subject in ("end effector", "load", "robot's mode", "gripper"):
        assert found[subject].status is Status.WRONG, found[subject]
    assert "UserStopped" in found["robot's mode"].detail
    assert "home it in Desk" in found["gripper"].detail


def test_no_robot_and_one_of_another_version_are_said() -> None:
    (finding,) = [f for f in examine_robot("127.0.0.25") if f.subject == "robot"]
    assert finding.status is Status.MISSING
    assert "FCI activated in Desk" in finding.detail
    assert "update the robot to system 5.9" in version_fault(9)
    assert "update franky-control" in version_fault(11)
    assert version_fault(10) == ""


def test_a_robot_that_another_client_has_is_said_to_be_taken(emulator: FciEmulator) -> None:
    with socket.create_connection(("127.0.0.24", 1337)):
        (finding,) = [f for f in examine_robot("127.0.0.24") if f.subject == "robot"]
    assert "another client has it" in finding.detail


@pytest.mark.parametrize(
    ("realtime", "governor", "count"), [("1", "performance", 0), ("0", "powersave", 2)]
)
def test_a_machine_that_may_answer_late_is_said(
    realtime: str, governor: str, count: int, tmp_path: Path
) -> None:
    cpu = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    cpu.mkdir(parents=True)
    (cpu / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "sys/kernel").mkdir()
    (tmp_path / "sys/kernel/realtime").write_text(realtime)
    remarks = [r for r in host_remarks(tmp_path) if "rtprio" not in r]
    assert len(remarks) == count
    if count:
        assert "PREEMPT_RT" in remarks[0]
        assert "powersave" in remarks[1]
