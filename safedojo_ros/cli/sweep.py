"""`safedojo sweep`: methods by training seeds as resumable jobs, some at a time.

Each job practises with one method and seed and evaluates the outcome on held-out seeds, in
OUT/<method>-seed<k>. Methods: those of `safedojo practice`; safedojo-limit0.1 (any limit, safevla
too), another limit of violations; <method>-gate, -detour and -cbf, what <method> has learned behind
the safety head's gate, behind the gate with detours or behind the CBF-QP filter (aegis), which
train nothing anew; and without practice base, aegis, aegis-oracle, base-gate and base-detour.

What has an evaluation is done and is skipped; a killed sweep goes on when it is called again.
`safedojo report --sweep OUT` shows them beside each other. Exit code 3: some job was refused by a
check or gate; the others are done.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safedojo_ros.cli.practice import RESULT_FILE
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.rl.methods import METHODS

FILTERS = {
    "base": "",
    "aegis": "cbf",
    "aegis-oracle": "cbf-oracle",
    "base-gate": "gate",
    "base-detour": "detour",
}
"""Methods without practice: the base policy as it is, or behind a filter at run time."""
LIMITED = [name for name, m in METHODS.items() if m.constrained and not m.fixed_multiplier]
"""Methods whose name may give another limit."""
LEARNED = re.compile(
    rf"(?P<learner>({'|'.join(METHODS)})|({'|'.join(LIMITED)})-limit(?P<limit>0\.\d+|0|1))"
    "(-(?P<filter>gate|detour|cbf))?"
)
DEFAULT = (*FILTERS, *METHODS, "safedojo-gate", "safedojo-detour", "safedojo-cbf")
GATED = ("gate", "detour")
EVALUATION, FILM = "evaluation.json", "film.png"
LOG = "job.log"
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One method and training seed; a method without practice is evaluated once.

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
        """Of its directory."""
        return self.method if self.method in FILTERS else f"{self.method}-seed{self.seed}"

    @property
    def learner(self) -> "Job | None":
        """The job that practises for it: itself, another one, or none."""
        parts = LEARNED.fullmatch(self.method)
        return Job(parts["learner"], self.seed) if parts else None

    @property
    def practises(self) -> bool:
        """Whether it trains its policy itself."""
        return self.learner == self

    @property
    def training(self) -> tuple[str, list[str]]:
        """Method of `safedojo practice`, and the settings that are this job's own."""
        parts = LEARNED.fullmatch(self.method)
        assert parts is not None
        settings = [f"practice.seed={self.seed}"]
        if parts["limit"]:
            settings.append(f"practice.multiplier.limit={float(parts['limit'])}")
        return parts["learner"].partition("-limit")[0], settings

    @property
    def filter(self) -> str:
        """Of `safedojo evaluate`, "" for none."""
        parts = LEARNED.fullmatch(self.method)
        return (parts["filter"] or "") if parts else FILTERS[self.method]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--methods", default=",".join(DEFAULT), help="see above")
    parser.add_argument("--seeds", default="0,1,2", help="training seeds, by comma")
    parser.add_argument("--out", type=Path, required=True, help="directory of the sweep")
    parser.add_argument("--base", default="latest", help="policy checkpoint to begin from")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="see safedojo practice")
    parser.add_argument(
        "--demonstrations", type=Path, nargs="+", default=[], help="see safedojo practice"
    )
    parser.add_argument("--world-model", default="latest")
    parser.add_argument("--success", default="latest")
    parser.add_argument("--safety", default="latest")
    parser.add_argument("--preset", default="tiny", help="smoke, tiny, small or a TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="practice.KEY=VALUE")
    parser.add_argument("--store", type=Path, help="store of the checkpoints (default: the user's)")
    parser.add_argument("--parallel", type=int, default=2, help="jobs at a time")
    parser.add_argument("--episodes", type=int, default=200, help="of evaluation, at each level")
    parser.add_argument("--levels", default="I,II", help="of evaluation")
    parser.add_argument("--max-steps", type=int, default=150, help="control steps an episode")
    parser.add_argument("--execute", type=int, help="actions of a chunk that evaluation plays")


def run(args: argparse.Namespace) -> int:
    """Run what is left; prints a line for each job."""
    jobs = plan(args.methods, args.seeds)
    if args.parallel < 1:
        raise ConfigError(f"--parallel is {args.parallel}, expected at least 1")
    checkpoints = resolved(args, jobs)
    left = [job for job in jobs if not (args.out / job.name / EVALUATION).exists()]
    for job in jobs:
        if job not in left:
            print(f"{job.name}: done before")
    worst = 0
    # what only evaluates another job's policy comes after all that practise
    for turn in (True, False):
        mine = [job for job in left if (job.practises or job.learner is None) == turn]
        worst = max(worst, run_turn(mine, args, checkpoints))
    return worst


def run_turn(jobs: Sequence[Job], args: argparse.Namespace, checkpoints: dict[str, str]) -> int:
    """Run jobs that need none of each other; returns the worst exit code, 0, 2 or 3."""
    worst, left = 0, []
    for job in jobs:
        if job.practises or job.learner is None or published_of(job.learner, args.out):
            left.append(job)
        else:
            print(f"{job.name}: {job.learner.name} has no policy", file=sys.stderr)
            worst = 3
    commands = [commands_of(job, args, checkpoints) for job in left]
    codes = run_jobs([args.out / job.name for job in left], commands, args.parallel)
    for job, code in zip(left, codes, strict=True):
        if code:
            print(f"{job.name}: exit code {code}, see {args.out / job.name / LOG}", file=sys.stderr)
            worst = max(worst, 3 if code == 3 else 2)
    return worst


def plan(methods: str, seeds: str) -> list[Job]:
    """Jobs, seed by seed, so that a sweep cut short has every method; raises `ConfigError`."""
    names = [name.strip() for name in methods.split(",")]
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is '{seeds}', expected numbers by comma") from None
    jobs = [Job(name, 0) for name in names if name in FILTERS]
    jobs += [Job(name, seed) for seed in numbers for name in names if name not in FILTERS]
    for job in jobs:
        if job.learner and job.learner not in jobs:
            raise ConfigError(
                f"{job.method} evaluates what {job.learner.method} has learned; name both"
            )
    return jobs


def resolved(args: argparse.Namespace, jobs: Sequence[Job]) -> dict[str, str]:
    """{option: checkpoint directory}: all jobs use what the names mean now."""
    from safedojo_ros.checkpoints.names import find_checkpoint

    wanted = {"base": "policy"}
    if any(job.practises and METHODS[job.training[0]].world == "imagination" for job in jobs):
        wanted |= {"world_model": "world_model", "success": "success", "safety": "safety"}
    if any(job.filter in GATED for job in jobs):
        wanted |= {"safety": "safety"}
    return {
        option: str(find_checkpoint(kind, getattr(args, option), args.store).resolve())
        for option, kind in wanted.items()
    }


def commands_of(
    job: Job, args: argparse.Namespace, checkpoints: dict[str, str]
) -> list[Callable[[], list[str]]]:
    """The job's commands, each made when the one before has ended well."""
    out: Path = args.out / job.name

    def practise() -> list[str]:
        options = [
            text
            for option, path in checkpoints.items()
            for text in (f"--{option.replace('_', '-')}", path)
        ]
        data = ["--data", *map(str, args.data)] if args.data else []
        if args.demonstrations:
            data += ["--demonstrations", *map(str, args.demonstrations)]
        method, own = job.training
        settings = [f"--set={setting}" for setting in [*args.set, *own]]
        return [
            "practice", "--method", method, "--out", str(out), "--preset", args.preset,
            "--resume", "--publish", "--store", str(out / "store"), *options, *data, *settings,
        ]  # fmt: skip

    def evaluate() -> list[str]:
        policy = published_of(job.learner, args.out) if job.learner else checkpoints["base"]
        how = ["--execute", str(args.execute)] if args.execute is not None else []
        how += ["--filter", job.filter] if job.filter else []
        how += ["--safety", checkpoints["safety"]] if job.filter in GATED else []
        how += ["--film", str(out / FILM)] if job.filter != "cbf-oracle" else []
        return [
            "evaluate", "--checkpoint", policy, "--level", args.levels, "--episodes",
            str(args.episodes), "--max-steps", str(args.max_steps), "--batch", "32", "--json",
            str(out / EVALUATION), *how,
        ]  # fmt: skip

    return [practise, evaluate] if job.practises else [evaluate]


def published_of(job: Job, root: Path) -> str:
    """Directory of the policy that a job of the sweep in `root` has published, "" if none."""
    result = root / job.name / RESULT_FILE
    published = json.loads(result.read_text())["published"] if result.exists() else None
    store = root / job.name / "store" / "policy"
    return str((store / published).resolve()) if published else ""


def run_jobs(
    directories: Sequence[Path],
    commands: Sequence[list[Callable[[], list[str]]]],
    parallel: int,
) -> list[int]:
    """Exit code of each job: 0, or that of its first command which failed.

    A process of its own each, `parallel` at a time, with one thread where several run. Whatever
    ends the sweep ends them too; they go on from their last save when it is called again.
    """
    environment = dict(os.environ)
    if parallel > 1:
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running: set[subprocess.Popen[bytes]] = set()
    over = threading.Event()

    def work(directory: Path, steps: list[Callable[[], list[str]]]) -> int:
        directory.mkdir(parents=True, exist_ok=True)
        print(f"{directory.name}: started", flush=True)
        for arguments in steps:
            if over.is_set():
                return INTERRUPTED
            with (directory / LOG).open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "safedojo_ros.cli.main", *arguments()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
            running.add(process)
            code = process.wait()
            running.discard(process)
            if code:
                return code
        print(f"{directory.name}: done", flush=True)
        return 0

    with ThreadPoolExecutor(parallel) as pool:
        jobs = [pool.submit(work, *pair) for pair in zip(directories, commands, strict=True)]
        try:
            return [job.result() for job in jobs]
        finally:
            over.set()
            for process in list(running):
                process.terminate()
