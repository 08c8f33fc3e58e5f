"""Runs of the training pipeline on disk.

A run is a folder: `goal.json` (the request), `pipeline/` (the pipeline's OUT, with `progress.jsonl`
and `result.json`), `pipeline.log`, and `ended.json` once it is over. A run without `ended.json` is
resumed when the same command is called again.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from safedojo_ros.core.errors import LEFT_OUT, ConfigError, SafeDojoError
from safedojo_ros.core.files import write_whole
from safedojo_ros.pipeline.goal import TrainingGoal

GOAL, ENDED, LOG, OUT = "goal.json", "ended.json", "pipeline.log", "pipeline"
PROGRESS, RESULT = "progress.jsonl", "result.json"
RUN_NAME = re.compile(r"\d{8}T\d{6}_\d{6}")

DONE, NOT_PASSED, INTERRUPTED = 0, 3, 130
"""Exit codes of the pipeline beside `LEFT_OUT`; every other one is a fault."""

MAX_LINE = 64 * 1024
"""Bytes; a longer line of progress is a broken one."""


class RunState(StrEnum):
    """The state of a run, or how it ended."""

    RUNNING = "running"
    STOPPING = "stopping"
    PUBLISHED = "published"
    FINISHED = "finished"
    REFUSED = "refused"
    CANCELED = "canceled"
    FAILED = "failed"


@dataclass(frozen=True)
class RunEnd:
    """How a run ended; reason: a sentence; published: the policy's id or ""."""

    state: RunState
    reason: str
    published: str = ""


@dataclass(frozen=True)
class Progress:
    """One line of the pipeline's progress; total 0: not known."""

    stage: str = ""
    step: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------- the folder of a run


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @classmethod
    def make(cls, root: Path, goal: TrainingGoal) -> "RunFolder":
        """A new folder in `root`; raises `ConfigError` if it cannot be written."""
        numbers = [int(run.path.name.rpartition("_")[2]) for run in runs_in(root)]
        text = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        run = cls(root / f"{text}_{max(numbers, default=0) + 1:06d}")
        try:
            run.path.mkdir(parents=True)
            write_whole(run.path / GOAL, goal.as_json() + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {run.path}: {error.strerror}") from None
        return run

    @property
    def number(self) -> int:
        """Counts the runs of a root; it only grows, also where the clock is set back."""
        return int(self.path.name.rpartition("_")[2])

    @property
    def out(self) -> Path:
        """The pipeline's own folder."""
        return self.path / OUT

    def goal(self) -> TrainingGoal:
        """The request; raises `ConfigError`."""
        try:
            return TrainingGoal.from_json((self.path / GOAL).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{self.path / GOAL}: {error.strerror}") from None

    def ended(self) -> RunEnd | None:
        """How it ended, None if it has not."""
        try:
            said = json.loads((self.path / ENDED).read_bytes())
            return RunEnd(RunState(said["state"]), str(said["reason"]), str(said["published"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def end(self, end: RunEnd) -> None:
        """Write ended.json."""
        write_whole(self.path / ENDED, json.dumps(asdict(end)) + "\n")

    def reopen(self) -> None:
        """Delete ended.json, so that the run can be resumed."""
        (self.path / ENDED).unlink(missing_ok=True)

    def result(self) -> dict[str, Any]:
        """The pipeline's result.json; empty where there is none that can be read."""
        try:
            said = json.loads((self.out / RESULT).read_bytes())
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def last_words(self) -> str:
        """The last line that the pipeline wrote."""
        try:
            with (self.path / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def runs_in(root: Path) -> list[RunFolder]:
    """The runs of `root`, oldest first."""
    if not root.is_dir():
        return []
    found = [
        RunFolder(path)
        for path in root.iterdir()
        if RUN_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(found, key=lambda run: run.number)


def unfinished_run(root: Path) -> RunFolder | None:
    """The newest run, if it has not ended: it is resumed after a restart."""
    newest = runs_in(root)[-1:]
    return newest[0] if newest and newest[0].ended() is None else None


def run_to_resume(root: Path, goal: TrainingGoal) -> RunFolder | None:
    """The newest run, if it had the same goal and was canceled or is unfinished."""
    newest = runs_in(root)[-1:]
    if not newest:
        return None
    ended = newest[0].ended()
    if ended is not None and ended.state != RunState.CANCELED:
        return None
    try:
        return newest[0] if newest[0].goal() == goal else None
    except ConfigError:
        return None


# ---------------------------------------------------------------- progress and end


class ProgressReader:
    """Follows a growing `progress.jsonl`; keeps half a line for later, skips a broken one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._rest = 0, b""
        self.broken = 0
        self.newest: Progress | None = None

    def read(self) -> Progress | None:
        """The newest progress if there is something new, else None."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                fresh = file.read()
        except OSError:
            return None
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self._rest, self.broken = b"", self.broken + 1
        found = None
        for line in lines:
            if line.strip():
                progress = progress_of(line)
                self.broken += progress is None
                found = progress or found
        self.newest = found or self.newest
        return found


def progress_of(line: bytes) -> Progress | None:
    """The progress in a line; None if no pipeline writes such a line."""
    try:
        said = json.loads(line)
        metrics = {
            str(name): float(value)
            for name, value in (said.get("metrics") or {}).items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        step, total = int(said.get("step", 0)), int(said.get("total") or 0)
        return Progress(str(said["stage"]), max(0, step), max(0, total), metrics)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def run_end(
    code: int,
    run: RunFolder,
    goal: TrainingGoal,
    canceled: bool,
    find: Callable[[str, str], object],
) -> RunEnd:
    """How a run ended, from the exit code and the pipeline's result.

    A publication counts only if `find("policy", id)` finds it whole in the store.
    """
    result = run.result()
    reason = str(result.get("reason") or "")
    done = code in (DONE, LEFT_OUT)
    if canceled and (not done or not result):
        return RunEnd(RunState.CANCELED, "canceled; the same goal resumes it")
    if code == NOT_PASSED:
        return RunEnd(RunState.REFUSED, reason or run.last_words() or "a gate did not hold")
    if not done:
        why = run.last_words() or "it printed nothing"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return RunEnd(RunState.FAILED, f"{how}: {why}; see {run.path / LOG}")
    if not result:
        return RunEnd(RunState.FAILED, f"it ended well, but left no {run.out / RESULT}")
    published = str(result.get("published") or "")
    if not goal.publish:
        return RunEnd(RunState.FINISHED, reason or "done; publishing was not asked for")
    if not published:
        return RunEnd(RunState.REFUSED, reason or "nothing was published")
    try:
        find("policy", published)
    except SafeDojoError as error:
        return RunEnd(RunState.FAILED, f"it names {published} as published, but: {error}")
    return RunEnd(RunState.PUBLISHED, reason or "published", published)
