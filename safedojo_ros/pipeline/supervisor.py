"""Starts, watches and ends training runs, one at a time, without ROS.

However the trainer ends, its next start resumes the newest unfinished run.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safedojo_ros.core.errors import ConfigError, SafeDojoError
from safedojo_ros.pipeline.goal import TrainingGoal
from safedojo_ros.pipeline.process import PipelineProcess, arguments_of, lock_run
from safedojo_ros.pipeline.runs import (
    INTERRUPTED,
    PROGRESS,
    Progress,
    ProgressReader,
    RunEnd,
    RunFolder,
    RunState,
    run_end,
    run_to_resume,
    unfinished_run,
)

MAX_RESTARTS = 3
"""How often a run restarts a pipeline that was killed from outside."""


class TrainingSupervisor:
    """Call `start` or `resume`, then `step` a few times a second until `end` is set."""

    def __init__(
        self,
        root: Path,
        store: Path,
        command: Sequence[str],
        find: Callable[[str, str], object],
        idle: bool = True,
        grace: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """root: folder of the runs; find: raises unless the store holds a checkpoint (kind, id)."""
        self._root, self._store, self._command = root, store, tuple(command)
        self._find, self._idle, self._grace, self._clock = find, idle, grace, clock
        self._process: PipelineProcess | None = None
        self._canceled = False
        self._restarts = 0
        self._goal: TrainingGoal | None = None
        self.run: RunFolder | None = None
        self.progress = Progress()
        self.end: RunEnd | None = None
        self.waiting = ""
        """Why the run's pipeline has not been started yet, or ""."""

    @property
    def busy(self) -> bool:
        """Whether a run is in progress."""
        return self.run is not None and self.end is None

    @property
    def state(self) -> RunState | None:
        """State of the newest run; None before the first."""
        if self.run is None:
            return None
        if self.end is not None:
            return self.end.state
        return RunState.STOPPING if self._canceled else RunState.RUNNING

    def start(self, goal: TrainingGoal) -> RunFolder:
        """Start a run, or resume the newest if it had this goal and was canceled or interrupted."""
        if self.busy:
            raise ConfigError(f"run {self.run.path.name} is in progress; cancel it first")  # type: ignore[union-attr]
        run = run_to_resume(self._root, goal)
        if run is None:
            run = RunFolder.make(self._root, goal)
        run.reopen()
        self._begin(run, goal)
        return run

    def resume(self) -> RunFolder | None:
        """Resume the run that the trainer's own end interrupted; None if there is none."""
        run = unfinished_run(self._root)
        if run is None:
            return None
        try:
            goal = run.goal()
        except SafeDojoError as error:
            run.end(RunEnd(RunState.FAILED, str(error)))
            return None
        self._begin(run, goal)
        return run

    def cancel(self) -> None:
        """Ask the pipeline to save and end."""
        if self.busy:
            self._canceled = True
            if self._process is not None:
                self._process.stop()

    def step(self) -> bool:
        """Check on the pipeline; returns whether anything changed."""
        if not self.busy or self.run is None or self._goal is None:
            return False
        if self._process is None:
            if self._canceled:
                return self._over(RunEnd(RunState.CANCELED, "canceled before it was started"))
            return self._launch(self.run, self._goal)
        code = self._process.poll()
        fresh = self._reader.read()
        if fresh is not None:
            self.progress = fresh
        if code is None:
            return fresh is not None
        process, self._process = self._process, None
        interrupted = code < 0 or code == INTERRUPTED
        if (
            interrupted
            and not self._canceled
            and not process.killed
            and self._restarts < MAX_RESTARTS
        ):
            self._restarts += 1
            return True
        return self._over(run_end(code, self.run, self._goal, self._canceled, self._find))

    def leave(self, seconds: float) -> None:
        """The trainer ends: the pipeline saves and ends, too; its run can be resumed later.

        A run that was canceled before is ended.
        """
        process, self._process = self._process, None
        if process is not None:
            code = process.wait(seconds)
            if self.run is not None and self._goal is not None and (self._canceled or code >= 0):
                end = run_end(code, self.run, self._goal, self._canceled, self._find)
                if self._canceled or end.state in (RunState.PUBLISHED, RunState.FINISHED):
                    self._over(end)
        self.run = None if self.end is None else self.run

    # ---------------------------------------------------------------- inside

    def _begin(self, run: RunFolder, goal: TrainingGoal) -> None:
        self.run, self._goal, self.end = run, goal, None
        self.progress = Progress()
        self._canceled, self._restarts, self.waiting = False, 0, ""
        self._reader = ProgressReader(run.out / PROGRESS)
        self._reader.read()  # the progress of an earlier try is not new

    def _launch(self, run: RunFolder, goal: TrainingGoal) -> bool:
        try:
            lock = lock_run(run)
        except OSError as error:
            return self._over(RunEnd(RunState.FAILED, f"{run.path}: {error.strerror}"))
        if lock is None:
            changed = not self.waiting
            self.waiting = "an earlier pipeline of this run still saves"
            return changed
        self.waiting = ""
        command = [*self._command, *arguments_of(run, goal, self._store)]
        try:
            self._process = PipelineProcess(
                run, command, lock, self._idle, self._grace, self._clock
            )
        except SafeDojoError as error:
            return self._over(RunEnd(RunState.FAILED, str(error)))
        return True

    def _over(self, end: RunEnd) -> bool:
        self.end = end
        if self.run is not None:
            self.run.end(end)
        return True
