"""Stage: episodes of scripted experts or of a policy, recorded as a data set."""

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.probes import Probes
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.probes import write_probes
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.protocol import batches
from safedojo_ros.evaluation.recording import record_expert, record_policy
from safedojo_ros.evaluation.takeover import record_takeover
from safedojo_ros.evaluation.workers.spread import Make
from safedojo_ros.learning.progress import Say, progress_bar
from safedojo_ros.pipeline.filters import RunTimeFilter
from safedojo_ros.pipeline.players import Players
from safedojo_ros.pipeline.policies import open_policy
from safedojo_ros.pipeline.request import OnDevice, check_counts, check_unused, named
from safedojo_ros.pipeline.scenes import LEVELS_OPTION, OnWorld, scene_cells, task_names
from safedojo_ros.worlds.probes import can_be_probed, probe_scene
from safedojo_ros.worlds.registry import open_world, world_kind
from safedojo_ros.worlds.seeds import SPLITS, split_seeds
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene, Style, World

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy
    from safedojo_ros.models.safety_head import SafetyModel

PROBE_STEPS = 8
"""Control steps of a probe, as many as our policies' chunks have."""
COLLECTION_PATH = "meta/collection.json"
"""File with the options of the recording, and how many episodes were dropped."""


@dataclass(frozen=True)
class Collection(OnWorld, OnDevice):
    """Which episodes are recorded, and which of them are kept."""

    out: Path
    """directory of the dataset"""
    episodes: int = 400
    """how many to record, kept or not"""
    seed: int = 0
    """first seed within the split"""
    split: str = field(default="training", metadata={"choices": tuple(SPLITS)})
    """seeds that the scenes are made from"""
    style: Literal["direct", "safe", "mixed"] = "direct"
    """how the expert moves: direct ignores the obstacle"""
    direct_share: float = 0.9
    """share of direct episodes with --style mixed"""
    policy: str = named("policy", "")
    """record this checkpoint (name, id, directory) in place of an expert"""
    take_over: bool = False
    """with --policy: the expert of --style takes over at a random step; only its steps are kept"""
    filter: RunTimeFilter = field(default_factory=RunTimeFilter)
    execute: int | None = None
    """actions of a chunk between two inferences (default: all)"""
    batch: int = 8
    """worlds side by side, with --policy"""
    levels: tuple[int, ...] = field(default=(), metadata=LEVELS_OPTION)
    """0, I, II, several by comma, or all (default); III when it is asked for"""
    tasks: tuple[str, ...] = field(default=(), metadata={"parse": task_names})
    """names of tasks by comma, or all (default)"""
    noise: float = 0.0
    """standard deviation of noise bursts, m a step"""
    linger: int = 0
    """control steps recorded after success; a success classifier needs some (8)"""
    max_steps: int | None = None
    """control steps an episode (default: the world's, 150 to 550)"""
    image_size: int | None = None
    """side of the images, pixels (default: the world's, 64 or 128); a policy sees them averaged
    down to its own"""
    video: bool = False
    """store images as mp4, not as PNG"""
    probes: int = 0
    """motions near the obstacle, tried in each kept scene without pictures and put back, that a
    safety head learns from"""
    only_successes: bool = False
    """keep successes only"""
    only_safe: bool = False
    """keep only successes without contact in their recorded steps"""
    players: Players = field(default_factory=Players)
    resume: bool = False
    """continue the recording in --out"""

    def __post_init__(self) -> None:
        check_counts(self, "episodes", "batch", "execute", "max_steps", "image_size")
        if self.filter.filter == "cbf-oracle":
            raise ConfigError("--filter cbf-oracle stands before evaluated worlds alone")
        if self.filter.zones:
            raise ConfigError("--zones stands before evaluated worlds alone")
        if self.filter.filter and not self.policy:
            raise ConfigError("--filter needs --policy: it stands between a policy and the world")
        if not self.policy:
            check_unused(self, "needs --policy, which it is about", "execute", "batch")
        elif not self.take_over:
            why = "is about experts; with --policy none acts"
            check_unused(self, why, "style", "direct_share")
        if self.style != "mixed":
            check_unused(self, "needs --style mixed", "direct_share")
        if self.take_over and not self.policy:
            raise ConfigError("--take-over needs --policy: the policy acts first")
        if self.take_over and self.resume:
            raise ConfigError("--take-over cannot be resumed; collect into a new --out")
        if not 0.0 <= self.direct_share <= 1.0:
            raise ConfigError(f"--direct-share is {self.direct_share}, expected 0 to 1")
        if self.probes < 0:
            raise ConfigError(f"--probes is {self.probes}, expected 0 or more")
        if self.linger < 0:
            raise ConfigError(f"--linger is {self.linger} control steps, expected 0 or more")
        if not 0.0 <= self.noise <= 0.05:
            raise ConfigError(f"--noise is {self.noise} m a step, expected 0 to 0.05")

    def wants(self, episode: Episode) -> bool:
        """Whether the episode is kept."""
        if self.only_safe:
            return episode.succeeded and not np.any(episode.cost)
        return episode.succeeded or not self.only_successes

    def plan(self) -> "list[Assignment]":
        """One assignment for each seed; tasks and levels alternate, and styles within each."""
        kind = world_kind(self.world)
        known = scene_cells(self.world, self.tasks, self.levels)
        names = list(dict.fromkeys(self.tasks or [name for one in known.values() for name in one]))
        cells = [(task, level) for task in names for level in known if task in known[level]]
        plan = []
        for number, seed in enumerate(split_seeds(self.split, self.seed, self.episodes)):
            turn, cell = divmod(number, len(cells))
            direct = self.style == "direct"
            if self.style == "mixed":
                direct = _due(turn, cell, self.direct_share)
            plan.append(Assignment(Scene(seed, *cells[cell]), "direct" if direct else "safe"))
        if kind.slow_to_load:
            plan.sort(key=lambda assignment: names.index(assignment.scene.task))
        return plan

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.image_size or world_kind(self.world).image_size

    def vector(self, linger: int) -> VectorWorld:
        """Worlds side by side, for a policy."""
        cameras = world_kind(self.world).cameras
        return VectorWorld(self.size, self.steps, cameras, linger, self.world)

    def new_world(self) -> World:
        """One world, for an expert; its images are those of the recording."""
        return open_world(self.world, self.size, world_kind(self.world).cameras, self.steps)

    @property
    def steps(self) -> int:
        """Control steps an episode."""
        return self.max_steps or world_kind(self.world).max_steps


@dataclass(frozen=True)
class Assignment:
    """One episode to record; style: the expert's, if one acts."""

    scene: Scene
    style: Style


@dataclass(frozen=True)
class Collected:
    """data: directory; episodes: how many it holds; collisions: how many touched the obstacle."""

    data: Path
    episodes: int
    collisions: int


def collect(wanted: Collection, say: Say = print) -> Collected:
    """Record the episodes that are left to record.

    Raises `ConfigError`, `CheckpointError`, or `DatasetError` where `out` holds other episodes.
    """
    if wanted.probes:
        Prober(wanted)  # refused here, before anything is recorded
    policy = _policy(wanted) if wanted.policy else None
    plan = wanted.plan()
    done = finished_part(wanted, plan, f"policy:{policy.checkpoint_id}" if policy else "")
    left = plan[done:]
    make: Make = partial(ExpertRecorder, wanted)
    if policy:
        make = partial(PolicyRecorder, wanted, policy)
    groups = batches(left, wanted.batch if policy else 1)
    cameras, played = world_kind(wanted.world).cameras, done
    with (
        closing(wanted.players.play(make, groups, usual=1 if policy else 2)) as recorded,
        EpisodeWriter(wanted.out, wanted.size, cameras, video=wanted.video) as writer,
        progress_bar("recording", done, len(plan)) as show,
    ):
        kept = writer.episodes
        for episode in chain.from_iterable(recorded):
            played += 1
            if episode and wanted.wants(episode):
                writer.add(episode)
                kept += 1
            show(played, f"{kept} kept")
    collection = {
        "world": wanted.world,
        "split": wanted.split,
        "first_seed": wanted.seed,
        "noise": wanted.noise,
        "linger": wanted.linger,
        "max_steps": wanted.steps,
        "only_successes": wanted.only_successes,
        "only_safe": wanted.only_safe,
        "played": played,
        "kept": kept,
        "dropped": played - kept,
    }
    layout.write_json(wanted.out / COLLECTION_PATH, collection)
    reader = EpisodeReader(wanted.out)
    if wanted.probes:
        record_probes(reader, wanted)
    say(f"{len(reader)} episodes, {reader.frames} steps in {wanted.out}; dropped {played - kept}")
    return Collected(wanted.out, len(reader), sum(row.touched for row in reader.rows))


def _due(turn: int, cell: int, share: float) -> bool:
    """Spreads `share` of the turns evenly; each cell has another phase."""
    phase = cell * 0.6180339887498949 % 1.0
    return int((turn + 1) * share + phase) > int(turn * share + phase)


def finished_part(wanted: Collection, plan: list[Assignment], source: str = "") -> int:
    """How many assignments of the plan earlier runs have kept or dropped; raises `DatasetError`.

    source: of the episodes (default: the expert of the assignment's style).
    """
    out = wanted.out
    if not (out / layout.INFO_PATH).exists():
        return 0
    reader = EpisodeReader(out)
    if len(reader) == 0:
        return 0
    if not wanted.resume:
        raise DatasetError(
            f"{out} holds {len(reader)} episodes; pass --resume, or choose another --out"
        )
    places = {(a.scene, source or f"expert:{a.style}"): i for i, a in enumerate(plan)}
    done = -1
    for row in reader.rows:
        place = places.get((Scene(row.seed, row.task, row.level), row.source), -1)
        if place <= done:
            raise DatasetError(
                f"{out}: episode {row.number} (seed {row.seed}, {row.task}, level {row.level}, "
                f"{row.source}) is not of this plan; resume with the options of the first run"
            )
        done = place
    return done + 1


def record_probes(reader: EpisodeReader, wanted: Collection) -> None:
    """Write the probes of all scenes with an obstacle beside the data set."""
    rows = [row for row in reader.rows if row.level]
    scenes = [Scene(row.seed, row.task, row.level) for row in rows]
    made: list[Probes] = []
    with (
        closing(wanted.players.play(partial(Prober, wanted), scenes, usual=2)) as probed,
        progress_bar("probing", 0, len(scenes)) as show,
    ):
        for probes in probed:
            made.append(probes)
            show(len(made))
    write_probes(wanted.out, [row.number for row in rows], made)


class Prober:
    """Tries motions in scenes; each worker has one, with its world."""

    def __init__(self, wanted: Collection) -> None:
        self.count = wanted.probes
        world = open_world(wanted.world, wanted.size, (), wanted.steps, render_images=False)
        if not can_be_probed(world):
            raise ConfigError(
                f"{wanted.world} cannot be put back after a probe; leave --probes (pipeline.probes)"
                " at 0"
            )
        self.world = world

    def __call__(self, scene: Scene) -> Probes:
        """The probes of a scene."""
        return probe_scene(self.world, scene, self.count, PROBE_STEPS)


class ExpertRecorder:
    """Records scripted experts; each worker has one, with its world."""

    def __init__(self, wanted: Collection) -> None:
        self.wanted = wanted
        self.world = wanted.new_world()

    def __call__(self, group: list[Assignment]) -> list[Episode | None]:
        """The group's episodes, one after the other."""
        noise, linger, wants = self.wanted.noise, self.wanted.linger, self.wanted.wants
        return [record_expert(self.world, a.style, a.scene, noise, linger, wants) for a in group]


class PolicyRecorder:
    """Records a policy, a group of episodes together; each worker has one, with its worlds."""

    def __init__(self, wanted: Collection, policy: "Policy") -> None:
        self.wanted, self.policy = wanted, policy
        self.vector = wanted.vector(0 if wanted.take_over else wanted.linger)

    def __call__(self, group: list[Assignment]) -> list[Episode | None]:
        """The group's episodes; with --take-over the expert's parts, and None for each episode
        that ended before."""
        noise, execute = self.wanted.noise, self.wanted.execute
        scenes, styles = [a.scene for a in group], [a.style for a in group]
        if not self.wanted.take_over:
            return [*record_policy(self.policy, self.vector, scenes, noise, execute)]
        taken = record_takeover(self.policy, self.vector, scenes, styles, noise, execute)
        return [*taken, *[None] * (len(group) - len(taken))]


def _policy(wanted: Collection) -> "Policy":
    """The policy to record, behind its filter."""
    device = wanted.players.device(wanted.device)
    policy = open_policy(wanted.policy, wanted.store, device)
    _check_images(wanted, policy)
    filtered = wanted.filter.before(policy, wanted.execute, wanted.store, device)
    if isinstance(filtered, GatedPolicy) and filtered.safety is not None:
        _check_images(wanted, filtered.safety)
    return filtered


def _check_images(wanted: Collection, model: "Policy | SafetyModel") -> None:
    cameras = world_kind(wanted.world).cameras
    if wanted.size % model.image_size or set(model.cameras) - set(cameras):
        raise ConfigError(
            f"{model.checkpoint_id} sees {tuple(model.cameras)} of {model.image_size} pixels, "
            f"the recording {cameras} of {wanted.size}; pass --image-size "
            f"{model.image_size} or a multiple of it"
        )
