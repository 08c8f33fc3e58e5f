"""How many workers play episodes, and where."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.workers.processes import ProcessCrew
from safedojo_ros.evaluation.workers.ray_actors import RayCrew, check_address
from safedojo_ros.evaluation.workers.spread import Crew, Make, spread
from safedojo_ros.pipeline.request import check_counts


@dataclass(frozen=True)
class Players:
    """The workers of a stage that plays episodes; their number changes no result."""

    workers: int | None = None
    """workers that play batches of episodes side by side, each with one thread; their number
    changes no result (default: 1; 2 where an expert is recorded)"""
    ray: str | None = field(default=None, metadata={"metavar": "ADDRESS"})
    """the workers are Ray's: local, or HOST:PORT of a running Ray whose machines have the same
    safedojo_ros (default: processes of this machine)"""

    def __post_init__(self) -> None:
        check_counts(self, "workers")
        if self.ray is not None:
            check_address(self.ray)

    def device(self, name: str) -> str:
        """The device `name` ("auto": the fastest), on which models are loaded for the workers.

        Those of Ray have processors alone: raises `ConfigError` where another one is asked for.
        """
        from safedojo_ros.models.threads import chosen_device

        if self.ray is None:
            return chosen_device(name)
        if name not in ("auto", "cpu"):
            raise ConfigError(
                f"--device is {name}, but the workers of Ray compute on processors; leave it at "
                "auto, or do without --ray"
            )
        return "cpu"

    def play(
        self, make: Make, batches: Sequence[Any], usual: int = 1
    ) -> Generator[Any, None, None]:
        """What the player of `make` gives for each batch, in order; close it to end the workers.

        One worker without Ray is this process. usual: workers where none are asked for. Raises
        what a batch raises, `ConfigError` where Ray cannot be had, `WorkerLost`.
        """
        if not batches:
            return
        count = min(self.workers or usual, len(batches))
        if self.ray is None and count == 1:
            yield from map(make(), batches)
            return
        crew = self.hire(make, count)
        try:
            yield from spread(crew, batches, count)
        finally:
            crew.close()

    def hire(self, make: Make, count: int) -> Crew:
        """`count` workers of the kind that is asked for; close it to end them."""
        return ProcessCrew(make) if self.ray is None else RayCrew(make, self.ray, count)
