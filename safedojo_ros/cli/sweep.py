"""`safedojo sweep`: methods by training seeds as resumable jobs, some at a time.

Each job practises with one method and seed and evaluates the outcome on held-out seeds, in
OUT/<method>-seed<k>. What has an evaluation is done and is skipped; a killed sweep goes on when it
is called again. `safedojo report --sweep OUT` shows them beside each other. Exit code 3: some job
was refused by a check or gate; the others are done.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safedojo_ros.core.errors import ConfigError

PRACTISED = ("safedojo", "wmpo", "safevla", "grpo", "ppo")
FILTERED = {"base": (), "aegis": ("--filter", "cbf"), "aegis-oracle": ("--filter", "cbf-oracle")}
"""Methods without practice: the base policy as it is, or behind a filter at run time."""
EVALUATION = "evaluation.json"
LOG = "job.log"
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One method and training seed; a method without practice is evaluated once."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.method if self.method in FILTERED else f"{self.method}-seed{self.seed}"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--methods", default=",".join([*FILTERED, *PRACTISED]))
    parser.add_argument("--seeds", default="0,1,2", help="training seeds, by comma")
    parser.add_argument("--out", type=Path, required=True, help="directory of the sweep")
    parser.add_argument("--base", default="latest", help="policy checkpoint to begin from")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="see safedojo practice")
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
    commands = [commands_of(job, args, checkpoints) for job in left]
    codes = run_jobs([args.out / job.name for job in left], commands, args.parallel)
    worst = 0
    for job, code in zip(left, codes, strict=True):
        if code:
            print(f"{job.name}: exit code {code}, see {args.out / job.name / LOG}", file=sys.stderr)
            worst = max(worst, 3 if code == 3 else 2)
    return worst


def plan(methods: str, seeds: str) -> list[Job]:
    """Jobs, seed by seed, so that a sweep cut short has every method; raises `ConfigError`."""
    names = [name.strip() for name in methods.split(",")]
    for name in names:
        if name not in (*FILTERED, *PRACTISED):
            known = ", ".join([*FILTERED, *PRACTISED])
            raise ConfigError(f"unknown method '{name}'; choose of {known}")
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is '{seeds}', expected numbers by comma") from None
    jobs = [Job(name, 0) for name in names if name in FILTERED]
    return jobs + [Job(name, seed) for seed in numbers for name in names if name in PRACTISED]


def resolved(args: argparse.Namespace, jobs: Sequence[Job]) -> dict[str, str]:
    """{option: checkpoint directory}: all jobs use what the names mean now."""
    from safedojo_ros.checkpoints.store import find_checkpoint

    wanted = {"base": "policy"}
    if any(job.method in ("safedojo", "wmpo") for job in jobs):
        wanted |= {"world_model": "world_model", "success": "success", "safety": "safety"}
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
        settings = [f"--set={setting}" for setting in [*args.set, f"practice.seed={job.seed}"]]
        return [
            "practice", "--method", job.method, "--out", str(out), "--preset", args.preset,
            "--resume", "--publish", "--store", str(out / "store"), *options, *data, *settings,
        ]  # fmt: skip

    def evaluate() -> list[str]:
        policy = checkpoints["base"]
        if job.method in PRACTISED:
            published = json.loads((out / "practice.json").read_text())["published"]
            policy = str((out / "store" / "policy" / published).resolve())
        return [
            "evaluate", "--checkpoint", policy, "--level", args.levels, "--episodes",
            str(args.episodes), "--max-steps", str(args.max_steps), "--batch", "32", "--json",
            str(out / EVALUATION), *FILTERED.get(job.method, ()),
        ]  # fmt: skip

    return [practise, evaluate] if job.method in PRACTISED else [evaluate]


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
