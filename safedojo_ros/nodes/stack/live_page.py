"""rerun's page in the browser, served to this machine alone. No ROS.

The library's own servers listen on every interface. Its program can be told an address, so it runs
as a child, and what is shown is sent to it.
"""

import contextlib
import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from safedojo_ros.core.errors import ConfigError

LOOPBACK = "127.0.0.1"
USUAL_PORTS = (9876, 9090)
"""Of the data and of the page; others are taken where these are in use."""
PATIENCE = 20.0
"""Seconds that it may take to begin."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): which signal follows the parent's death."""


def rerun_program() -> Path | None:
    """rerun's program, where it is installed."""
    spec = importlib.util.find_spec("rerun_cli")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).with_name("rerun")
    return program if program.is_file() else None


class LivePage:
    """Serves until `close`, or until the thread that made it ends.

    data: URL to log to; page: URL for a browser. Raises `ConfigError` where it does not begin.
    """

    def __init__(self) -> None:
        program = rerun_program()
        if program is None:
            raise ConfigError("rerun's program is missing; 'pip install rerun-sdk' brings it")
        data_port, page_port = (free_port(port) for port in USUAL_PORTS)
        self.data = f"rerun+http://{LOOPBACK}:{data_port}/proxy"
        self.page = f"http://{LOOPBACK}:{page_port}/?url={quote(self.data, safe='')}"
        command = [str(program), "--serve-web", "--bind", LOOPBACK, "--hide-welcome-screen"]
        command += ["--port", str(data_port), "--web-viewer-port", str(page_port)]
        parent = os.getpid()

        def before_exec() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(0)

        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: what is on its way is kept first
            preexec_fn=before_exec,
        )
        deadline = time.monotonic() + PATIENCE
        while not (_answers(data_port) and _answers(page_port)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise ConfigError("rerun's page did not begin; 'rerun --serve-web' may say why")
            time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port(usual: int) -> int:
    """`usual` where nobody listens there on this machine, else one that the kernel chooses."""
    with contextlib.suppress(OSError), socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind((LOOPBACK, usual))
        return usual
    with socket.socket() as port:
        port.bind((LOOPBACK, 0))
        return int(port.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 0.5):
        return True
    return False
