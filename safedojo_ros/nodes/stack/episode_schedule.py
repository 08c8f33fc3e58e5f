"""Which episodes the demonstration runs, and where it stands in the running one. No ROS."""

from dataclasses import dataclass
from enum import StrEnum

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.seeds import split_seeds
from safedojo_ros.worlds.tabletop.tasks import TASKS


class Phase(StrEnum):
    """What the world is doing."""

    WAITING = "waiting"
    """Laid out and enabled; the episode's clock starts with the first motion."""
    RUNNING = "running"
    RELEASED = "released"
    """The enable switch is released, so that the arm holds before the world is laid out anew."""
    FINISHED = "finished"
    """No more episodes."""


@dataclass(frozen=True)
class EpisodePlan:
    """One episode: number counts from 0; task, level and seed lay out the world."""

    number: int
    task: str
    level: int
    seed: int


class EpisodeSchedule:
    """Gives the plan of each episode; without a task the four take turns."""

    def __init__(
        self, level: int, seed: int, task: str = "", count: int = 0, split: str = "evaluation"
    ) -> None:
        """seed: offset into the split's seeds; count: 0 means without end."""
        if task and task not in TASKS:
            raise ConfigError(f"unknown task '{task}'; choose one of {', '.join(TASKS)}")
        if level not in (0, 1, 2):
            raise ConfigError(f"level is {level}, expected 0, 1 or 2")
        split_seeds(split, seed, max(1, count))
        self._level, self._seed, self._task = level, seed, task
        self._count, self._split = count, split

    def plan(self, number: int) -> EpisodePlan | None:
        """The `number`-th episode, or None after the last."""
        if self._count and number >= self._count:
            return None
        names = tuple(TASKS)
        task = self._task or names[number % len(names)]
        seed = split_seeds(self._split, self._seed + number, 1)[0]
        return EpisodePlan(number, task, self._level, seed)
