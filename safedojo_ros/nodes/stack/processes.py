"""The nodes of a stack as child processes: started, watched, started again, ended without traces.

Children never outlive their parent (Linux), end on SIGINT first and SIGKILL last, and what killed
ones leave in /dev/shm is removed.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.registry import NodeEntry, Stack, ros_arguments

PR_SET_PDEATHSIG = 1
GRACE = 8.0
"""Seconds that a child may take to end after SIGINT before it is killed."""

DOMAINS = range(1, 101)
"""ROS domains whose ports lie below the ephemeral ones."""

SHARED_MEMORY = Path("/dev/shm")
SEGMENT = re.compile("fastrtps_[0-9a-f]{16}(_el)?")
SETTLED = 2.0
"""Seconds after which a segment that nobody has mapped is nobody's."""


class DomainLease:
    """A ROS domain that no other run of this package uses on this machine, until `release`."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: where the lock files lie; raises `ConfigError` when every domain is taken."""
        places = (folder or Path(tempfile.gettempdir())) / f"safedojo_domains_{os.getuid()}"
        places.mkdir(exist_ok=True)
        for number in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
            self._lock = (places / str(number)).open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                continue
            self.number = number
            return
        raise ConfigError(f"all of the ROS domains {DOMAINS} are in use; set ROS_DOMAIN_ID")

    def release(self) -> None:
        """Let others have it."""
        self._lock.close()


@dataclass
class NodeProcess:
    """One child. command: without the `--ros-args` part."""

    name: str
    command: list[str]
    arguments: list[str]
    niceness: int = 0
    respawn: bool = True
    process: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


@dataclass
class StackProcesses:
    """All children of one stack."""

    environment: Mapping[str, str]
    children: list[NodeProcess] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    quiet: bool = False

    def start(self) -> None:
        """Start every child that does not run."""
        for child in self.children:
            if not child.alive:
                self.start_one(child)

    def start_one(self, child: NodeProcess) -> None:
        """Start one child, from the main thread (its death would end the child)."""
        sink = subprocess.DEVNULL if self.quiet else None
        parent, niceness = os.getpid(), child.niceness

        def before_exec() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(0)
            with contextlib.suppress(OSError):
                os.nice(niceness)

        child.process = subprocess.Popen(
            [*child.command, *child.arguments],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            preexec_fn=before_exec,
        )

    def child(self, name: str) -> NodeProcess:
        """The child of that name."""
        return next(child for child in self.children if child.name == name)

    def dead(self) -> list[NodeProcess]:
        """Children that have been started and do not run any more."""
        return [c for c in self.children if c.process is not None and not c.alive]

    def end_one(self, child: NodeProcess) -> None:
        """SIGINT to one child, SIGKILL if it stays; `start_one` starts it again."""
        if child.process is None or not child.alive:
            return
        child.process.send_signal(signal.SIGINT)
        try:
            child.process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()

    def stop(self) -> list[str]:
        """SIGINT to all, SIGKILL to whoever stays; returns the names of those."""
        for child in self.children:
            if child.alive and child.process is not None:
                child.process.send_signal(signal.SIGINT)
        deadline, stubborn = time.monotonic() + GRACE, []
        for child in self.children:
            if child.process is None:
                continue
            try:
                child.process.wait(timeout=max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                stubborn.append(child.name)
                child.process.kill()
                child.process.wait()
        remove_dead_segments(self.started_at)
        return stubborn


def node_process(
    entry: NodeEntry,
    parameter_files: Sequence[Path],
    parameters: dict[str, object] | None = None,
    command: Sequence[str] = (),
) -> NodeProcess:
    """The child for a table entry; `command` replaces `python -P -m module`.

    With -P a source tree in the working directory does not hide the installed package.
    """
    return NodeProcess(
        entry.name,
        list(command) or [sys.executable, "-P", "-m", entry.module],
        ros_arguments(entry, parameter_files, parameters),
        entry.niceness,
        entry.respawn,
    )


def composed_process(stack: Stack, parameter_files: Sequence[Path]) -> NodeProcess:
    """The child that runs a whole stack."""
    arguments = ["--ros-args"]
    for file in parameter_files:
        arguments += ["--params-file", str(file)]
    command = [sys.executable, "-P", "-m", "safedojo_ros.nodes.stack.composed", stack.name]
    return NodeProcess("composed", command, arguments)


def remove_dead_segments(since: float) -> list[str]:
    """Remove DDS data segments made after `since` (s) that no living process maps or holds open.

    Ports and semaphores in the same folder are left alone: they are small, shared by all domains,
    and used again. So is a segment of the last moments, which may just be coming into use.
    """
    settled, candidates = time.time() - SETTLED, {}
    for path in SHARED_MEMORY.glob("fastrtps_*"):
        with contextlib.suppress(OSError):
            if SEGMENT.fullmatch(path.name) and since - 1.0 <= path.stat().st_ctime <= settled:
                candidates[str(path)] = path
    for process in Path("/proc").glob("[0-9]*") if candidates else ():
        used = _opened(process)
        with contextlib.suppress(OSError):
            used += (process / "maps").read_text(errors="replace")
        for name in [n for n in candidates if n in used]:
            candidates.pop(name, None)  # gone already, where its event list was looked at first
            candidates.pop(f"{name}_el", None)
    for path in candidates.values():
        with contextlib.suppress(OSError):
            path.unlink()
    return sorted(candidates)


def _opened(process: Path) -> str:
    """What a process has open, a line each; nothing for one of another user, or that has ended."""
    found = ""
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found += os.readlink(descriptor) + "\n"
    return found
