"""The nodes of a stack as child processes: started, watched, started again, ended without traces.

Children never outlive their parent (Linux), end on SIGINT first and SIGKILL last, and what killed
ones leave in /dev/shm is removed.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safedojo_ros.nodes.stack.dds import remove_dead_segments
from safedojo_ros.nodes.stack.registry import (
    NodeEntry,
    Stack,
    namespace_arguments,
    ros_arguments,
)

PR_SET_PDEATHSIG = 1
GRACE = 8.0
"""Seconds that a child may take to end after SIGINT before it is killed."""


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
    quiet: bool = False

    def start(self, names: Container[str] | None = None) -> None:
        """Start every child that does not run; names: of those alone."""
        for child in self.children:
            if not child.alive and (names is None or child.name in names):
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
        remove_dead_segments()
        return stubborn


def node_process(
    entry: NodeEntry,
    parameter_files: Sequence[Path],
    parameters: dict[str, object] | None = None,
    command: Sequence[str] = (),
    namespace: str = "",
) -> NodeProcess:
    """The child for a table entry; `command` replaces `python -P -m module`.

    With -P a source tree in the working directory does not hide the installed package.
    """
    return NodeProcess(
        entry.name,
        list(command) or [sys.executable, "-P", "-m", entry.module],
        ros_arguments(entry, parameter_files, parameters, namespace),
        entry.niceness,
        entry.respawn,
    )


def composed_process(
    stack: Stack, parameter_files: Sequence[Path], without: str = "", namespace: str = ""
) -> NodeProcess:
    """The child that runs a whole stack, or all but one node of it."""
    arguments = ["--ros-args", *namespace_arguments(namespace)]
    for file in parameter_files:
        arguments += ["--params-file", str(file)]
    return NodeProcess("composed", composed_command(stack, without), arguments)


def composed_command(stack: Stack, without: str = "") -> list[str]:
    """What runs a stack in one process, but for its `--ros-args`."""
    command = [sys.executable, "-P", "-m", "safedojo_ros.nodes.stack.composed", stack.name]
    return [*command, "--without", without] if without else command
