"""`safedojo collect`: record episodes of scripted experts or of a policy, as a dataset."""

import argparse
import multiprocessing
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from safedojo_ros.cli.filters import add_filter_options, filtered_policy
from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.reader import EpisodeReader, EpisodeRow
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.recording import record_expert, record_policy, record_takeover
from safedojo_ros.worlds.seeds import SPLITS, split_seeds
from safedojo_ros.worlds.tabletop.experts import Style
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.vector import VectorWorld

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy
    from safedojo_ros.models.safety_head import SafetyModel

CAMERAS = ("agentview", "wrist")
COLLECTION_PATH = "meta/collection.json"
"""How the episodes were recorded: the options, and how many episodes were dropped."""


@dataclass(frozen=True)
class Assignment:
    """One episode to record.

    style: direct, safe or policy; noise: metres a step; linger: steps after success.
    """

    seed: int
    task: str
    level: int
    style: str
    noise: float
    linger: int = 0


@dataclass(frozen=True)
class Camera:
    """What the recording world renders, and how long an episode may be (control steps)."""

    image_size: int
    max_steps: int


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, required=True, help="directory of the dataset")
    parser.add_argument("--episodes", type=int, default=400, help="how many to play")
    parser.add_argument("--seed", type=int, default=0, help="first seed within the split")
    parser.add_argument("--split", choices=tuple(SPLITS), default="training")
    parser.add_argument("--style", choices=("direct", "safe", "mixed"), default="direct")
    parser.add_argument("--policy", help="play this checkpoint (name, id, directory), no expert")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="with --policy: the expert of --style takes over at a random moment; keep its steps",
    )
    parser.add_argument("--store", type=Path, help="root of the checkpoint store")
    add_filter_options(parser)
    parser.add_argument("--execute", type=int, help="actions of a chunk between two inferences")
    parser.add_argument("--batch", type=int, default=8, help="worlds side by side, with --policy")
    parser.add_argument(
        "--direct-share", type=float, default=0.9, help="share of direct episodes where mixed"
    )
    parser.add_argument("--levels", default="0,1,2", help="for instance 0,1 (default: 0,1,2)")
    parser.add_argument("--tasks", default="all", help=f"all, or of {', '.join(TASKS)}")
    parser.add_argument("--noise", type=float, default=0.0, help="sigma of noise bursts, m a step")
    parser.add_argument(
        "--linger",
        type=int,
        default=0,
        help="control steps recorded after success; a success classifier needs some (8)",
    )
    parser.add_argument("--max-steps", type=int, default=150, help="control steps an episode")
    parser.add_argument(
        "--image-size",
        type=int,
        default=64,
        help="side of the pictures; a policy sees them averaged down to its own",
    )
    parser.add_argument("--video", action="store_true", help="keep pictures as mp4, not as PNG")
    parser.add_argument("--only-successes", action="store_true", help="keep successes only")
    parser.add_argument(
        "--only-safe",
        action="store_true",
        help="keep only successes whose recorded steps touch nothing",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that play")
    parser.add_argument("--resume", action="store_true", help="go on where --out stopped")


def run(args: argparse.Namespace) -> int:
    """Record what is asked for; raises `ConfigError` or `DatasetError`."""
    if args.filter and not args.policy:
        raise ConfigError("--filter needs --policy: it stands between a policy and the world")
    policy = _load(args) if args.policy else None
    if policy and args.filter:
        policy = filtered_policy(policy, args)
        _check_pictures(args, policy.safety if isinstance(policy, GatedPolicy) else policy)
    plan = make_plan(
        split_seeds(args.split, args.seed, args.episodes),
        chosen_tasks(args.tasks),
        chosen_levels(args.levels),
        "policy" if policy and not args.take_over else args.style,
        args.direct_share,
        args.noise,
        args.linger,
    )
    if args.take_over and not policy:
        raise ConfigError("--take-over needs --policy: it is the policy that plays first")
    if args.take_over and args.resume:
        raise ConfigError("--take-over cannot be resumed; collect into a new --out")
    source = f"policy:{policy.checkpoint_id}" if policy else ""
    done = finished_part(args.out, plan, args.resume, source)
    console = Console()
    camera = Camera(args.image_size, args.max_steps)
    episodes: Iterator[Episode | None]
    if policy:
        episodes = play_policy(
            policy, plan[done:], camera, args.batch, args.execute, args.take_over
        )
    else:
        episodes = play_experts(plan[done:], camera, args.workers)
    with EpisodeWriter(args.out, args.image_size, CAMERAS, video=args.video) as writer:
        progress = Progress(
            TextColumn("recording"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[kept]} kept"),
            TimeRemainingColumn(),
            console=console,
        )
        played, kept = done, writer.episodes
        with progress:
            bar = progress.add_task("", total=len(plan), completed=played, kept=kept)
            for episode in episodes:
                played += 1
                if episode and _wanted(episode, args):
                    writer.add(episode)
                    kept += 1
                progress.update(bar, completed=played, kept=kept)
    collection = {
        "split": args.split,
        "first_seed": args.seed,
        "noise": args.noise,
        "linger": args.linger,
        "max_steps": args.max_steps,
        "only_successes": args.only_successes,
        "only_safe": args.only_safe,
        "played": played,
        "kept": kept,
        "dropped": played - kept,
    }
    layout.write_json(args.out / COLLECTION_PATH, collection)
    reader = EpisodeReader(args.out)
    console.print(summary_table(reader.rows))
    console.print(
        f"{len(reader)} episodes, {reader.frames} steps in {args.out}; dropped {played - kept}"
    )
    return 0


def _wanted(episode: Episode, args: argparse.Namespace) -> bool:
    if args.only_safe:
        return episode.succeeded and not np.any(episode.cost)
    return episode.succeeded or not args.only_successes


def make_plan(
    seeds: list[int],
    tasks: list[str],
    levels: list[int],
    style: str,
    direct_share: float,
    noise: float,
    linger: int = 0,
) -> list[Assignment]:
    """One assignment for each seed: tasks and levels in turn, styles in their share in each."""
    if not 0.0 <= direct_share <= 1.0:
        raise ConfigError(f"--direct-share is {direct_share}, expected 0 to 1")
    if linger < 0:
        raise ConfigError(f"--linger is {linger} control steps, expected 0 or more")
    if not 0.0 <= noise <= 0.05:
        raise ConfigError(f"--noise is {noise} m a step, expected 0 to 0.05")
    cells = [(task, level) for task in tasks for level in levels]
    plan = []
    for number, seed in enumerate(seeds):
        cell = number % len(cells)
        task, level = cells[cell]
        chosen = style
        if style == "mixed":
            chosen = "direct" if _due(number // len(cells), cell, direct_share) else "safe"
        plan.append(Assignment(seed, task, level, chosen, noise, linger))
    return plan


def _due(turn: int, cell: int, share: float) -> bool:
    """Spreads `share` of the turns evenly; the cells are out of step with each other."""
    phase = cell * 0.6180339887498949 % 1.0
    return int((turn + 1) * share + phase) > int(turn * share + phase)


def chosen_tasks(text: str, known: Collection[str] = TASKS) -> list[str]:
    """Parse --tasks; raises `ConfigError` for one that is not `known`."""
    names = list(known) if text == "all" else [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown task '{name}'; choose all or of {', '.join(known)}")
    return names


def chosen_levels(text: str) -> list[int]:
    """Parse --levels: 0, 1, 2 or 0, I, II, separated by commas, or all; raises `ConfigError`."""
    if text == "all":
        return [0, 1, 2]
    names = {"0": 0, "1": 1, "2": 2, "I": 1, "II": 2}
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in names:
            raise ConfigError(f"unknown level '{part}'; choose all or of 0, I, II")
    return [names[part] for part in parts]


def finished_part(out: Path, plan: list[Assignment], resume: bool, source: str = "") -> int:
    """How many assignments of the plan an earlier run has done; raises `DatasetError`.

    source: what the episodes name as theirs (default: the expert of the assignment's style).
    """
    if not (out / layout.INFO_PATH).exists():
        return 0
    reader = EpisodeReader(out)
    if len(reader) == 0:
        return 0
    if not resume:
        raise DatasetError(
            f"{out} holds {len(reader)} episodes; pass --resume to go on, or choose another --out"
        )
    places = {
        (a.seed, a.task, a.level, source or f"expert:{a.style}"): i for i, a in enumerate(plan)
    }
    done = -1
    for row in reader.rows:
        place = places.get((row.seed, row.task, row.level, row.source), -1)
        if place <= done:
            raise DatasetError(
                f"{out}: episode {row.number} (seed {row.seed}, {row.task}, level {row.level}, "
                f"{row.source}) is not of this plan; resume with the options of the first run"
            )
        done = place
    return done + 1


def play_experts(plan: list[Assignment], camera: Camera, workers: int) -> Iterator[Episode]:
    """The plan's episodes in its order, whatever the number of worker processes."""
    jobs = [(assignment, camera) for assignment in plan]
    if workers <= 1 or len(jobs) <= 1:
        yield from map(_play, jobs)
        return
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_play, jobs)


_world: tuple[Camera, TabletopWorld] | None = None
"""Each worker process keeps its world, and with it its GL context."""


def _play(job: tuple[Assignment, Camera]) -> Episode:
    global _world
    assignment, camera = job
    if _world is None or _world[0] != camera:
        _world = (camera, TabletopWorld(camera.image_size, CAMERAS, camera.max_steps))
    return record_expert(
        _world[1],
        "safe" if assignment.style == "safe" else "direct",
        assignment.task,
        assignment.level,
        assignment.seed,
        assignment.noise,
        assignment.linger,
    )


def play_policy(
    policy: "Policy",
    plan: list[Assignment],
    camera: Camera,
    batch: int,
    execute: int | None,
    take_over: bool = False,
) -> Iterator[Episode | None]:
    """The plan's episodes in its order, `batch` of them side by side.

    take_over: what the experts did after the policy; None where it succeeded before.
    """
    linger = plan[0].linger if plan and not take_over else 0
    vector = VectorWorld(camera.image_size, camera.max_steps, CAMERAS, linger)
    for first in range(0, len(plan), batch):
        group = plan[first : first + batch]
        seeds, tasks = [a.seed for a in group], [a.task for a in group]
        levels, noise = [a.level for a in group], group[0].noise
        if take_over:
            styles: list[Style] = ["safe" if a.style == "safe" else "direct" for a in group]
            taken = record_takeover(policy, vector, seeds, tasks, levels, styles, noise, execute)
            yield from taken
            yield from [None] * (len(group) - len(taken))
        else:
            yield from record_policy(policy, vector, seeds, tasks, levels, noise, execute)


def _load(args: argparse.Namespace) -> "Policy":
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.models.loading import load_policy

    policy = load_policy(find_checkpoint("policy", args.policy, args.store))
    _check_pictures(args, policy)
    return policy


def _check_pictures(args: argparse.Namespace, seer: "Policy | SafetyModel") -> None:
    if args.image_size % seer.image_size or set(seer.cameras) - set(CAMERAS):
        raise ConfigError(
            f"{seer.checkpoint_id} sees {tuple(seer.cameras)} of {seer.image_size} pixels, "
            f"the recording {CAMERAS} of {args.image_size}; pass --image-size {seer.image_size} "
            "or a multiple of it"
        )


def summary_table(rows: list[EpisodeRow]) -> Table:
    """Counts of successes, collisions and contacts by source and level."""
    table = Table(title="episodes")
    for heading in ("source", "level", "episodes", "successes", "collisions", "contacts", "steps"):
        side: JustifyMethod = "left" if heading == "source" else "right"
        table.add_column(heading, justify=side, overflow="fold")
    for source, level in sorted({(r.source, r.level) for r in rows}):
        cell = [r for r in rows if (r.source, r.level) == (source, level)]
        table.add_row(
            source,
            str(level),
            str(len(cell)),
            str(sum(r.success for r in cell)),
            str(sum(r.collided for r in cell)),
            str(sum(r.contact_steps > 0 for r in cell)),
            f"{sum(r.length for r in cell) / len(cell):.0f}",
        )
    return table
