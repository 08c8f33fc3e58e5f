"""Rollouts on several workers, a group at a time.

A group's trajectories depend on weights, update and the group's number alone, so neither the number
of workers nor one that dies changes them. In one process all groups are rolled out together, which
sums products in another order: the last bits differ.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from safedojo_ros.evaluation.workers.spread import Crew, Make, spread
from safedojo_ros.learning.rl.rollout import Rollouts, roll_out
from safedojo_ros.learning.rl.starts import DividedWorld
from safedojo_ros.models.policy import StochasticPolicy

Hire = Callable[[Make, int], Crew]
"""Makes so many workers, which are started later."""


class GroupPlayer:
    """Rolls out one group; each worker has one, with the policy and a world."""

    def __init__(
        self,
        policy: StochasticPolicy,
        world: DividedWorld,
        group_size: int,
        max_chunks: int,
        seed: int,
        execute: int,
    ) -> None:
        self.policy, self.world, self.group_size = policy, world, group_size
        self.max_chunks, self.seed, self.execute = max_chunks, seed, execute
        self.has = -1

    def __call__(self, batch: tuple[int, int, int, Callable[[], Any]]) -> Rollouts:
        """batch: update, group, a number for these weights, and what gives them."""
        update, group, number, weights = batch
        if number != self.has:
            self.policy.modules.load_state_dict(weights())
            self.has = number
        return roll_out(
            self.policy,
            self.world,
            lambda: self.world.start(update, group),
            np.zeros(self.group_size, dtype=int),
            self.max_chunks,
            (self.seed, update),
            self.execute,
            first=group * self.group_size,
        )


class SpreadRollouts:
    """The workers of a run of practice; they keep policy and world from update to update."""

    def __init__(self, hire: Hire, workers: int) -> None:
        self.hire, self.workers = hire, workers
        self.sent = 0
        self._crew: Crew | None = None

    def roll_out(
        self,
        policy: StochasticPolicy,
        world: DividedWorld,
        update: int,
        groups: np.ndarray,
        max_chunks: int,
        seed: int,
        execute: int,
    ) -> Rollouts:
        """As `rollout.roll_out` of all `groups` (B,), equal in size, with the present weights.

        Raises what a group raises, or `WorkerLost` where one ends every worker that has it.
        """
        count = int(groups.max()) + 1
        started, size = self._crew is not None, len(groups) // count
        if self._crew is None:
            make = partial(GroupPlayer, policy, world, size, max_chunks, seed, execute)
            self._crew = self.hire(make, min(self.workers, count))
        self.sent += 1
        weights = {k: v.detach().cpu() for k, v in policy.modules.state_dict().items()}
        shared = self._crew.share(weights)
        batches = [(update, group, self.sent, shared) for group in range(count)]
        return Rollouts.joined(list(spread(self._crew, batches, self.workers, started)), groups)

    def close(self) -> None:
        """End the workers."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None
