"""Methods by training seeds as resumable jobs, several at a time, each step in its own process.

A job trains with one method and seed and evaluates the result on held-out seeds, in
OUT/<method>-seed<k>. A job with an evaluation is done; running a killed sweep again resumes it.
"""

import json
import multiprocessing
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safedojo_ros.checkpoints.names import find_checkpoint, user_store
from safedojo_ros.core.errors import ConfigError, SafeDojoError
from safedojo_ros.core.files import claim
from safedojo_ros.evaluation.workers.processes import one_thread
from safedojo_ros.learning.progress import Say
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.pipeline.filters import RunTimeFilter
from safedojo_ros.pipeline.interruption import stop_on_signal
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.practice import RESULT_FILE, PracticeInputs, PracticeRequest, practice
from safedojo_ros.pipeline.request import check_counts
from safedojo_ros.pipeline.runs import DONE, NOT_PASSED
from safedojo_ros.pipeline.scenes import LEVELS_OPTION
from safedojo_ros.worlds.registry import world_kind

if TYPE_CHECKING:
    from safedojo_ros.pipeline.recipe import Recipe

Filter = Literal["cbf", "cbf-oracle", "gate", "detour"]
FILTERS: dict[str, Filter | None] = {
    "base": None,
    "aegis": "cbf",
    "aegis-oracle": "cbf-oracle",
    "base-gate": "gate",
    "base-detour": "detour",
}
"""Methods without training: {name: the filter before the base policy}."""
LIMITED = [name for name, method in METHODS.items() if method.limited]
"""Methods whose limit can be given in the name."""
LEARNED = re.compile(
    rf"(?P<learner>({'|'.join(METHODS)})|({'|'.join(LIMITED)})-limit(?P<limit>0\.\d+|0|1))"
    "(-(?P<filter>gate|detour|cbf))?"
)
DEFAULT = (*FILTERS, *METHODS, "safedojo-gate", "safedojo-detour", "safedojo-cbf")
GATED = ("gate", "detour")
EVALUATION, FILM, LOG = "evaluation.json", "film.png", "job.log"
FAULT = 2
"""Exit code of a step that failed with an error."""

Step = Callable[[], int]
"""What another process runs; returns an exit code."""


def method_names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(","))


def seed_numbers(text: str) -> tuple[int, ...]:
    """Numbers separated by commas; raises `ConfigError`."""
    seeds = text.split(",")
    if not all(seed.strip().isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds is '{text}', expected numbers by comma, none below 0")
    return tuple(map(int, seeds))


@dataclass(frozen=True, kw_only=True)
class Sweep(PracticeInputs):
    """The jobs, the checkpoints that they start from, and how they are evaluated."""

    methods: tuple[str, ...] = field(default=DEFAULT, metadata={"parse": method_names})
    """methods by comma, see above (default: all)"""
    seeds: tuple[int, ...] = field(default=(0, 1, 2), metadata={"parse": seed_numbers})
    """training seeds, by comma (default: 0,1,2)"""
    out: Path
    """directory of the sweep"""
    parallel: int = 2
    """jobs at a time; each has one thread if there are several"""
    episodes: int = 200
    """episodes of evaluation at each level"""
    levels: tuple[int, ...] = field(default=(1, 2), metadata=LEVELS_OPTION)
    """0, I, II, several by comma, or all (default: I,II)"""
    max_steps: int | None = None
    """control steps an episode of evaluation (default: the world's)"""
    execute: int | None = None
    """actions of a chunk between two inferences in evaluation (default: all)"""
    players: Players = field(default_factory=Players)

    def __post_init__(self) -> None:
        check_counts(self, "parallel", "episodes", "max_steps", "execute")

    def jobs(self) -> "list[Job]":
        """All jobs, seed by seed, so that half a sweep has every method; raises `ConfigError`."""
        jobs = [Job(name, 0) for name in self.methods if name in FILTERS]
        jobs += [Job(n, seed) for seed in self.seeds for n in self.methods if n not in FILTERS]
        for job in jobs:
            if job.learner and job.learner not in jobs:
                raise ConfigError(
                    f"{job.method} evaluates the policy of {job.learner.method}; name both"
                )
        return jobs

    def resolved(self) -> "Sweep":
        """This with directories in place of checkpoint names, so that all jobs use the same ones.

        Names that no job uses stay.
        """
        jobs, kinds = self.jobs(), {"base": "policy"}
        if any(job.trains and METHODS[job.trainer].world == "imagination" for job in jobs):
            kinds |= {kind: kind for kind in ("world_model", "success", "safety")}
        if any(job.filter in GATED for job in jobs):
            kinds["safety"] = "safety"
        found = {
            name: str(find_checkpoint(kind, getattr(self, name), self.store).resolve())
            for name, kind in kinds.items()
        }
        return replace(self, **found)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Job:
    """One method and training seed; a method without training is evaluated once.

    Raises `ConfigError` for an unknown method.
    """

    method: str
    seed: int

    def __post_init__(self) -> None:
        if self.method not in FILTERS and not LEARNED.fullmatch(self.method):
            raise ConfigError(
                f"unknown method '{self.method}'; choose of {', '.join(DEFAULT)}, "
                "safedojo-limit0.1, or another of these with -gate, -detour or -cbf"
            )

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.method if self.method in FILTERS else f"{self.method}-seed{self.seed}"

    @property
    def learner(self) -> "Job | None":
        """The job that trains its policy: itself, another one, or none."""
        parts = LEARNED.fullmatch(self.method)
        return Job(parts["learner"], self.seed) if parts else None

    @property
    def trains(self) -> bool:
        """Whether it trains its own policy."""
        return self.learner == self

    @property
    def trainer(self) -> str:
        """Its training method."""
        parts = LEARNED.fullmatch(self.method)
        assert parts is not None
        return str(parts["learner"]).partition("-limit")[0]

    @property
    def filter(self) -> Filter | None:
        """The filter between its policy and the world in evaluation."""
        parts = LEARNED.fullmatch(self.method)
        return parts["filter"] if parts else FILTERS[self.method]  # type: ignore[return-value]

    def recipe(self, recipe: "Recipe") -> "Recipe":
        """`recipe` with its seed, and the limit in its name."""
        config = replace(recipe.practice, seed=self.seed)
        parts = LEARNED.fullmatch(self.method)
        if parts and parts["limit"]:
            multiplier = replace(config.multiplier, limit=float(parts["limit"]))
            config = replace(config, multiplier=multiplier)
        return replace(recipe, practice=config)

    def practice_request(self, sweep: Sweep) -> PracticeRequest:
        """The request to train; `sweep`: from `resolved`."""
        inputs: dict[str, Any] = {}
        if METHODS[self.trainer].world == "imagination":
            inputs = {k: getattr(sweep, k) for k in ("data", "world_model", "success", "safety")}
        out = sweep.out / self.name
        return PracticeRequest(
            world=sweep.world,
            method=self.trainer,
            base=sweep.base,
            out=out,
            demonstrations=sweep.demonstrations,
            resume=True,
            device=sweep.device,
            publish=True,
            store=out / "store",
            **inputs,
        )

    def evaluation(self, sweep: Sweep) -> Evaluation:
        """The request to evaluate, once its policy exists; `sweep`: from `resolved`."""
        out, gated = sweep.out / self.name, self.filter in GATED
        run_time = RunTimeFilter(self.filter, sweep.safety) if gated else RunTimeFilter(self.filter)
        return Evaluation(
            policy_of(self.learner, sweep.out) if self.learner else sweep.base,
            world=sweep.world,
            level=sweep.levels,
            episodes=sweep.episodes,
            filter=run_time,
            execute=sweep.execute,
            max_steps=sweep.max_steps,
            batch=world_kind(sweep.world).side_by_side,
            device=sweep.device,
            players=sweep.players,
            json=out / EVALUATION,
            film=None if self.filter == "cbf-oracle" else out / FILM,
        )


def run_sweep(recipe: "Recipe", sweep: Sweep, say: Say = print) -> dict[str, int]:
    """Run the jobs that are left; {job: exit code}: 0 done, 3 refused by a gate, 2 fault.

    Raises `ConfigError` where another process works in the same folder.
    """
    with claim(sweep.out):
        return _run_left(recipe, sweep, say)


def _run_left(recipe: "Recipe", sweep: Sweep, say: Say) -> dict[str, int]:
    sweep, codes = sweep.resolved(), dict[str, int]()
    for job in sweep.jobs():
        if (sweep.out / job.name / EVALUATION).exists():
            say(f"{job.name}: done before")
            codes[job.name] = DONE
    # jobs that evaluate another job's policy come after all that train
    for first in (True, False):
        steps: dict[str, list[Step]] = {}
        for job in sweep.jobs():
            if job.name in codes or (job.trains or job.learner is None) != first:
                continue
            if job.trains:
                steps[job.name] = [partial(_train, recipe, job, sweep), partial(_judge, job, sweep)]
            elif job.learner is None or policy_of(job.learner, sweep.out):
                steps[job.name] = [partial(_judge, job, sweep)]
            else:
                say(f"{job.name}: {job.learner.name} has no policy")
                codes[job.name] = NOT_PASSED
        codes |= run_jobs(steps, sweep.out, sweep.parallel, say)
    return codes


def policy_of(job: Job, root: Path) -> str:
    """Directory of the policy that a job of the sweep in `root` published, "" if none."""
    result, store = root / job.name / RESULT_FILE, user_store(root / job.name / "store")
    published = json.loads(result.read_bytes())["published"] if result.exists() else None
    return str(store.resolve("policy", published).resolve()) if published else ""


def _train(recipe: "Recipe", job: Job, sweep: Sweep) -> int:
    from safedojo_ros.learning.rl.practice import PracticeRefused
    from safedojo_ros.models.threads import use_processor

    use_processor()
    try:
        made = practice(job.recipe(recipe), job.practice_request(sweep), stop_on_signal())
    except PracticeRefused as refused:
        sys.stderr.write(f"no practice: {refused}\n")
        return NOT_PASSED
    return DONE if made.outcome.completed else NOT_PASSED


def _judge(job: Job, sweep: Sweep) -> int:
    evaluate(job.evaluation(sweep))
    return DONE


# ---------------------------------------------------------------- processes


def run_jobs(
    jobs: Mapping[str, Sequence[Step]], out: Path, parallel: int, say: Say = print
) -> dict[str, int]:
    """{job: 0, or the exit code of its first step that failed, as 2 or 3}.

    Each step is a process, `parallel` at a time, with one thread each if several run; their output
    goes to OUT/<job>/job.log. When the sweep ends, they save and end, too; the next call resumes
    them.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque((name, deque(steps)) for name, steps in jobs.items())
    running: dict[int, tuple[str, deque[Step], Any]] = {}
    codes: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                name, steps = waiting.popleft()
                if len(steps) == len(jobs[name]):
                    say(f"{name}: started")
                log = out / name / LOG
                log.parent.mkdir(parents=True, exist_ok=True)
                process = context.Process(target=_run_step, args=(log, steps.popleft()))
                with one_thread() if parallel > 1 else nullcontext():
                    process.start()
                running[process.sentinel] = (name, steps, process)
            for sentinel in wait(list(running)):
                name, steps, process = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                if process.exitcode:
                    say(f"{name}: exit code {process.exitcode}, see {out / name / LOG}")
                    codes[name] = NOT_PASSED if process.exitcode == NOT_PASSED else FAULT
                elif steps:
                    waiting.appendleft((name, steps))
                else:
                    say(f"{name}: done")
                    codes[name] = DONE
    finally:
        for _, _, process in running.values():
            process.terminate()
        for _, _, process in running.values():
            process.join()
    return codes


def _run_step(log: Path, step: Step) -> None:
    """Run `step` in this process, with its output in `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        sys.exit(step())
    except SafeDojoError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(FAULT)
