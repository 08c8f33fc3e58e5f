"""The live view can be opened on this machine, and from nowhere else."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from safedojo_ros.nodes.rerun_screen import RerunScreen
from safedojo_ros.nodes.stack.live_page import LOOPBACK, LivePage, free_port, rerun_program
from safedojo_ros.robot.description import arm_joints

pytestmark = pytest.mark.skipif(rerun_program() is None, reason="rerun is not installed")


def listening(process: int) -> list[tuple[str, int]]:
    """(address in hexadecimal, port) of every TCP socket on which a process listens."""
    inodes = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        target = os.readlink(descriptor)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return found


@pytest.fixture(scope="module")
def live() -> Iterator[LivePage]:
    page = LivePage()
    yield page
    page.close()


def test_a_running_view_listens_on_loopback_alone(live: LivePage) -> None:
    sockets = listening(live.process.pid)
    assert len(sockets) == 2
    assert {address for address, _ in sockets} == {"0100007F"}  # 127.0.0.1


def test_what_is_logged_reaches_the_page(live: LivePage) -> None:
    import rerun

    with urllib.request.urlopen(live.page.split("?")[0]) as answer:
        assert b"html" in answer.read(200)
    rerun.init("test_live_page")
    rerun.connect_grpc(live.data)
    rerun.log("text", rerun.TextLog("hello"))
    rerun.disconnect()


def test_the_page_has_overview_cost_gate_band_and_arm_and_its_recording_too(
    tmp_path: Path,
) -> None:
    """Read from the recording: the layout names entities, and each has been logged."""
    record, moment = tmp_path / "run.rrd", 1_796_000_000_000_000_000
    screen = RerunScreen(
        arm_joints("base", (-0.45, 0.0, 0.0)), ("agentview", "wrist"), record, True, True
    )
    try:
        screen.at(moment)
        _, coded = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))
        screen.jpeg("overview", coded.tobytes())
        screen.image("agentview", np.zeros((64, 64, 3), np.uint8))
        screen.arm({f"fr3_joint{i}": 0.1 * i for i in range(1, 8)})
        screen.path(np.zeros((3, 3)), np.zeros((3, 3), np.uint8))
        screen.costs(np.array([0.1, 0.4]), 0.4, 0.5)
        screen.latency("policy", 0.05)
        for number in range(3):
            screen.decision("HOLD", f"predicted cost 0.{number} reaches the limit")
        screen.mode("RUNNING", "")
        screen.success(0.4, 0.9)
        screen.imagined(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))
        screen.checkpoint("policy", "20261130T152141Z-a8eb4009", "loaded at start")
        screen.checkpoint("safety", "20261130T115727Z-06e0797a", "loaded at start")
    finally:
        screen.close()
    program = rerun_program()
    assert program is not None
    command = [str(program), "rrd", "print", str(record)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    chunks = [line for line in said.splitlines() if line.startswith("Chunk(")]
    for entity, kind in (
        ("/camera/overview", "EncodedImage"),
        ("/camera/agentview", "Image"),
        ("/world/arm/fr3_link7", "Transform3D"),
        ("/world/arm/fr3_link7", "Capsules3D"),
        ("/world/chunk", "LineStrips3D"),
        ("/safety/cost/chunk", "Scalars"),
        ("/safety/cost/limit", "Scalars"),
        ("/safety/steps", "BarChart"),
        ("/gate", "StateChange"),
        ("/arm", "StateChange"),
        ("/policy", "StateChange"),
        ("/head", "StateChange"),
        ("/latency/policy", "Scalars"),
        ("/success/probability", "Scalars"),
        ("/success/threshold", "Scalars"),
        ("/imagined", "Image"),
    ):
        assert any(f" {entity} " in line and kind in line for line in chunks), (entity, kind)
    held = [line for line in chunks if " /gate " in line and "StateChange" in line]
    assert ["1 rows" in line for line in held] == [True], "one change, however many chunks"
    assert any("/view/" in line for line in chunks), "the layout is in it, too"


def test_a_second_view_takes_other_ports(live: LivePage) -> None:
    second = LivePage()
    try:
        assert second.page != live.page
    finally:
        second.close()
    with socket.socket() as port:
        port.bind((LOOPBACK, 0))
        port.listen()
        taken = port.getsockname()[1]
        assert free_port(taken) != taken


def test_it_ends_with_its_parent() -> None:
    script = (
        "from safedojo_ros.nodes.stack.live_page import LivePage; import time\n"
        "print(LivePage().process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{child}/fd").exists() and listening_or_gone(child):
        assert time.monotonic() < end
        time.sleep(0.05)


def listening_or_gone(process: int) -> bool:
    try:
        return bool(listening(process))
    except OSError:
        return False
