"""The state of a pipeline on disk: finished stages, progress, and how it ended.

stages.json: {"plan": settings and inputs, "done": {stage: its outputs}}, replaced atomically after
each stage, so that a run killed at any time repeats no finished stage; progress.jsonl: a line
{"time", "stage", "step", "total", "metrics"} every few seconds; result.json: written at the end.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.learning.progress import observed

STAGES_FILE = "stages.json"
PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"

PROGRESS_PERIOD = 2.0
"""Least seconds between two lines of progress within a stage."""


class StageLedger:
    """The directory of one pipeline run.

    plan: plain values that must not change between two calls. Raises `ConfigError` where the
    directory holds a run with another plan.
    """

    def __init__(
        self,
        directory: Path,
        plan: dict[str, Any],
        clock: Callable[[], float] = time.time,
        between: Callable[[int], None] = lambda step: None,
    ) -> None:
        """clock: seconds since the epoch; between: called after every step of a training."""
        self.directory, self._clock, self._between = directory, clock, between
        directory.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        path = directory / STAGES_FILE
        if path.exists():
            try:
                kept = json.loads(path.read_bytes())
                self.done = dict(kept["done"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path} is unreadable ({error!r}); choose a new --out") from None
            changed = sorted(k for k in plan if kept["plan"].get(k) != plan[k])
            if changed:
                raise ConfigError(
                    f"{directory} holds a run with other {', '.join(changed)}; use those of the "
                    "first call, or another --out"
                )
        self.plan = plan
        self._write(STAGES_FILE, {"plan": plan, "done": self.done})

    def stage(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The outputs of stage `name`: of an earlier call if it finished, otherwise of `make()`."""
        if name not in self.done:
            with self._watched(name):
                outputs = make()
            self.done[name] = outputs
            self._write(STAGES_FILE, {"plan": self.plan, "done": self.done})
            self.progress(name, 1, 1, {})
        return self.done[name]

    def progress(self, stage: str, step: int, total: int, metrics: dict[str, float]) -> None:
        """Append a line to progress.jsonl."""
        row = {
            "time": round(self._clock(), 3),
            "stage": stage,
            "step": step,
            "total": total,
            "metrics": metrics,
        }
        with (self.directory / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def seconds(self) -> dict[str, float]:
        """{stage: seconds spent on it}, over all calls, from the lines of progress.jsonl.

        The work of a killed call after its last line is not known and left out; so are pauses.
        """
        spent: dict[str, float] = {}
        before: dict[str, Any] = {}
        path = self.directory / PROGRESS_FILE
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except (
                ValueError
            ):  # half-written by a killed call, maybe with the next call's first line
                before = {}
                continue
            begins = row["step"] == row["total"] == 0
            if not begins and row["stage"] == before.get("stage"):
                passed = max(0.0, row["time"] - before["time"])
                spent[row["stage"]] = spent.get(row["stage"], 0.0) + passed
            before = row
        return spent

    def finish(self, published: str | None, reason: str, **more: Any) -> None:
        """Write result.json."""
        self._write(RESULT_FILE, {"published": published, "reason": reason} | more)

    @contextmanager
    def _watched(self, stage: str) -> Iterator[None]:
        """Inside, the progress of trainings and recordings is written as that of the stage."""
        known = {"total": 0, "written": -PROGRESS_PERIOD}
        self.progress(stage, 0, 0, {})

        def write(step: int, total: int | None, metrics: dict[str, float]) -> None:
            if total is not None:
                known["total"] = total
            now = time.monotonic()
            if now - known["written"] >= PROGRESS_PERIOD or (metrics and total is None):
                known["written"] = now
                self.progress(stage, step, int(known["total"]), metrics)
            if total is not None:
                self._between(step)

        with observed(write):
            yield

    def _write(self, name: str, values: dict[str, Any]) -> None:
        write_whole(self.directory / name, json.dumps(values, indent=1) + "\n")
