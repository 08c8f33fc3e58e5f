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

import pytest

from safedojo_ros.nodes.stack.live_page import LOOPBACK, LivePage, free_port, rerun_program

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
