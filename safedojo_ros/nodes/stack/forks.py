"""Nodes that need the same large packages, forked from one process that has imported them once.

    python -P -m safedojo_ros.nodes.stack.forks DESCRIPTOR MODULE...

imports the modules and then answers requests on the socket that it has inherited; it ends with the
socket. PyTorch and transformers take seconds of a core to import; two nodes that import them at the
same time wait twice as long on two cores. Nothing but imports happens before a fork: no thread, no
ROS context, no CUDA.
"""

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from safedojo_ros.nodes.stack.scheduling import end_with_parent

PR_SET_NAME = 15
MESSAGE = 2**16
"""Bytes of a request or an answer at most."""

NO_CUDA_BEFORE_A_FORK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Whether there is a graphics card is asked without CUDA, which no fork could use any more."""


class Fork:
    """One forked process; speaks like a `subprocess.Popen`."""

    def __init__(self, server: "ForkServer") -> None:
        self._server = server
        self.pid: int | None = None
        """None while the server imports."""
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        self._server.listen(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises `subprocess.TimeoutExpired`."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = 1.0 if end is None else end - time.monotonic()
            if left <= 0.0:
                raise subprocess.TimeoutExpired("a forked node", timeout or 0.0)
            self._server.listen(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process; where it is not forked yet, its server ends instead."""
        if self.poll() is None and self.pid is None:
            self._server.kill()
        elif self.poll() is None and self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that imports `modules`; starts with the first fork, and again if it has died."""

    def __init__(
        self,
        modules: Sequence[str],
        spawn: Callable[[list[str], Mapping[str, str], tuple[int, ...]], "subprocess.Popen[bytes]"],
    ) -> None:
        """spawn: starts a command with further variables and inherited descriptors."""
        self._modules, self._spawn = list(modules), spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._forks: dict[int, Fork] = {}
        self._count = 0

    def fork(self, module: str, arguments: Sequence[str], niceness: int) -> Fork:
        """`module.main()` with these arguments in a process of its own; does not wait for it."""
        if self._link is None:
            self._start()
        assert self._link is not None
        self._count += 1
        fork = self._forks[self._count] = Fork(self)
        request = {"number": self._count, "module": module, "niceness": niceness}
        with suppress(ConnectionError):  # `listen` finds out
            self._link.send(json.dumps(request | {"arguments": list(arguments)}).encode())
        return fork

    def listen(self, seconds: float) -> None:
        """Take what the server has said, and wait so long at most for the first word."""
        if self._link is None:
            return
        self._link.settimeout(seconds)
        try:
            while answer := self._link.recv(MESSAGE):
                said = json.loads(answer)
                if "pid" in said:
                    self._forks[said["number"]].pid = said["pid"]
                else:
                    self._forks.pop(said["number"]).returncode = said["code"]
                self._link.settimeout(0.0)
        except (BlockingIOError, TimeoutError):
            return
        except ConnectionError:
            pass
        self._over()

    def kill(self) -> None:
        """SIGKILL; its forks end with it."""
        if self._process is not None:
            self._process.kill()
            self._over()

    def close(self) -> None:
        """End the server; its forks have ended."""
        if self._link is not None:
            self._over()

    def _start(self) -> None:
        self._link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = "safedojo_ros.nodes.stack.forks"
        command = [sys.executable, "-P", "-m", name, str(other.fileno()), *self._modules]
        with other:
            self._process = self._spawn(command, NO_CUDA_BEFORE_A_FORK, (other.fileno(),))

    def _over(self) -> None:
        assert self._process is not None
        assert self._link is not None
        self._link.close()
        self._link = None
        code = self._process.wait()
        for fork in self._forks.values():
            fork.returncode = code or -signal.SIGTERM
        self._forks.clear()


# ---------------------------------------------------------------- in the server's process


def serve(link: socket.socket) -> dict[str, Any] | None:
    """Fork for every request until the link ends: None. In a fork: the request that it is for."""
    selector, server = selectors.DefaultSelector(), os.getpid()
    selector.register(link, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                number, process = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                link.send(json.dumps({"number": number, "code": code}).encode())
                continue
            received = link.recv(MESSAGE)
            if not received:
                return None
            request: dict[str, Any] = json.loads(received)
            process = os.fork()
            if process == 0:
                for other in [k for k in selector.get_map().values() if k.data is not None]:
                    os.close(other.fd)
                selector.close()
                link.close()
                os.setsid()
                end_with_parent(server)
                return request
            link.send(json.dumps({"number": request["number"], "pid": process}).encode())
            handle = os.pidfd_open(process)
            selector.register(handle, selectors.EVENT_READ, (request["number"], process))


def main() -> int:
    """Import, then serve; in a fork, run the node."""
    link = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        with suppress(ImportError):  # the node that needs it will say so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    request = serve(link)
    if request is None:
        return 0
    with suppress(OSError):
        os.nice(request["niceness"])
    module = importlib.import_module(request["module"])
    ctypes.CDLL(None).prctl(PR_SET_NAME, request["module"].rpartition(".")[2].encode()[:15])
    sys.argv[:] = [str(module.__file__), *request["arguments"]]
    return int(module.main())


if __name__ == "__main__":
    sys.exit(main())
