"""The client against a robot that others have emulated: franky-sim, from an environment of its own.

Put its command on the PATH or name it in FRANKY_SIM (`pip install franky-sim mujoco`, in another
environment: it wants other versions than this package). It knows no reflexes, no user stop, no lost
packets and no limits of motion; what needs those is tested with our own emulator alone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from test_fci import aimed, fingers, going, here, read, wait_for

from safedojo_ros.robot.fci.client import FrankaArm, FrankaConfig

SIMULATOR = os.environ.get("FRANKY_SIM") or shutil.which("franky-sim")
ADDRESS = "127.0.0.27"

pytestmark = pytest.mark.skipif(not SIMULATOR, reason="franky-sim is not installed")


@pytest.fixture
def server() -> Iterator[subprocess.Popen]:
    assert SIMULATOR
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.Popen(
        [SIMULATOR, "-s", "mujoco", "--hostname", ADDRESS],
        env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield process
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)
    process.kill()
    process.wait()


@pytest.fixture
def arm(server: subprocess.Popen) -> Iterator[FrankaArm]:
    pytest.importorskip("franky", reason="franky-control is not installed")
    arm = FrankaArm(FrankaConfig(ADDRESS), 30.0)
    with contextlib.closing(arm):
        yield arm


def test_the_client_goes_is_preempted_and_rests(arm: FrankaArm) -> None:
    start = here(arm)
    far, near = aimed(arm, (0.0, 0.15, 0.0)), aimed(arm, (0.04, -0.05, -0.04))
    going(arm, far, lambda: here(arm)[1] > start[1] + 0.02, "the first motion")
    going(arm, near, lambda: near_to(arm, near.position), "the second target")
    going(arm, far, lambda: here(arm)[1] > start[1] - 0.03, "the motion back")
    arm.rest()
    wait_for(lambda: not arm._robot.is_in_control, "rest")
    assert here(arm)[1] < start[1] + 0.1
    assert not arm.fault


def near_to(arm: FrankaArm, position: np.ndarray) -> bool:
    return bool(np.linalg.norm(here(arm) - position) < 2e-3)


def test_without_a_further_target_the_client_stops_by_itself(arm: FrankaArm) -> None:
    start = here(arm)
    arm.go(aimed(arm, (0.0, 0.25, 0.0)))
    wait_for(lambda: arm._robot.is_in_control, "the motion")
    wait_for(lambda: not arm._robot.is_in_control, "rest")
    assert 0.0 < here(arm)[1] - start[1] < 0.15
    assert not arm.fault


def test_the_gripper_closes_and_opens(arm: FrankaArm) -> None:
    closed, opened = aimed(arm, (0.0, 0.0, 0.0), 1.0), aimed(arm, (0.0, 0.0, 0.0), -1.0)
    going(arm, closed, lambda: fingers(arm) < 0.002, "closed fingers")
    going(arm, opened, lambda: fingers(arm) > 0.038, "open fingers")
    assert not arm.fault


def test_a_server_that_stands_still_is_known_and_one_that_is_gone_is_a_fault(
    arm: FrankaArm, server: subprocess.Popen
) -> None:
    before = read(arm).time
    wait_for(lambda: read(arm).time > before, "a later reading")
    server.send_signal(signal.SIGSTOP)
    wait_for(lambda: arm.read() is None, "silence", 0.4)
    server.kill()
    wait_for(lambda: "lost" in arm.fault, "the loss")
