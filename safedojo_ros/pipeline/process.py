"""The training pipeline as a child process of the lowest priority.

It inherits a lock of its run's folder, so that two pipelines never work in it, even while the child
of a killed trainer still saves.
"""

import contextlib
import ctypes
import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.pipeline.goal import TrainingGoal
from safedojo_ros.pipeline.runs import LOG, RunFolder

COMMAND = (sys.executable, "-P", "-m", "safedojo_ros.cli.main", "pipeline")
LOCK = ".running"

PR_SET_PDEATHSIG = 1
"""Of prctl(2): which signal follows the parent's death."""

IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
"""Numbers of the system call, for which glibc has no function."""
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def arguments_of(run: RunFolder, goal: TrainingGoal, store: Path) -> list[str]:
    """The arguments of `safedojo pipeline`."""
    arguments = ["--preset", goal.preset, "--out", str(run.out), "--store", str(store)]
    if goal.data:
        arguments += ["--data", *goal.data]
    if goal.base:
        arguments += ["--base", goal.base]
    if goal.publish:
        arguments.append("--publish")
    return arguments


def lock_run(run: RunFolder) -> IO[bytes] | None:
    """The lock of a run, which its pipeline inherits and holds to its end; None: held already."""
    file = (run.path / LOCK).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


class PipelineProcess:
    """One pipeline. `stop` asks it to save and end; if it has not after `grace` s, it is killed."""

    def __init__(
        self,
        run: RunFolder,
        command: Sequence[str],
        lock: IO[bytes],
        idle: bool = True,
        grace: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """idle: run only when the processor is idle. Raises `ConfigError` if it cannot start."""
        self._grace, self._clock = grace, clock
        self._kill_at: float | None = None
        self.killed = False
        parent = os.getpid()

        def before_exec() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(0)
            least_priority(idle)

        with lock, (run.path / LOG).open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    list(command),
                    env=os.environ | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                    preexec_fn=before_exec,
                )
            except OSError as error:
                raise ConfigError(f"cannot start '{command[0]}': {error.strerror}") from None

    def poll(self) -> int | None:
        """The exit code, None while it runs; kills it once `grace` is over."""
        code = self.process.poll()
        if code is None and self._kill_at is not None and self._clock() >= self._kill_at:
            self._signal(signal.SIGKILL)
            self.killed = True
            code = self.process.wait()
        return code

    def stop(self) -> None:
        """Ask it to save and end."""
        if self._kill_at is None:
            self._kill_at = self._clock() + self._grace
            self.process.terminate()

    def wait(self, seconds: float) -> int:
        """Stop it, and kill it if it has not ended after `seconds`; the exit code."""
        self.stop()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.killed = True
            return self.process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def least_priority(idle: bool) -> None:
    """Give this process the lowest priority that the system allows: niceness, scheduler, disk.

    Niceness is for systems where the idle class is not allowed.
    """
    with contextlib.suppress(OSError):
        os.nice(19)
    if not idle:
        return
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)
