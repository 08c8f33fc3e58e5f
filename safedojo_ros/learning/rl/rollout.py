"""Rollouts of a stochastic policy, many at once, in the simulator or the imagined world."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from safedojo_ros.core.costs import CostLimit
from safedojo_ros.core.types import COLLISION_DISPLACEMENT, Observation, top_m_mean
from safedojo_ros.evaluation.play import ChunkWorld, play
from safedojo_ros.learning.rl.advantage import Groups
from safedojo_ros.models.policy import PolicySample, StochasticPolicy


class RolloutWorld(ChunkWorld, Protocol):
    """contact_threshold: step cost above which the obstacle counts as touched."""

    contact_threshold: float

    @property
    def others(self) -> Sequence[CostLimit]:
        """The costs beside contact that its outcomes have."""
        ...


@dataclass(frozen=True)
class Rollouts:
    """B trajectories of at most T steps, and the N chunks that were drawn for them.

    sample: N chunks; trajectory: (N,) to which a chunk belongs; executed: (N, E) bool, which of the
    first E steps of a chunk were executed before the first success and the end. success, valid:
    (B, T) bool; success_probability, cost (contact, or its probability), displacement (m): (B, T),
    0 where not valid; groups: which trajectories share a start; contact_threshold: step cost above
    which the obstacle counts as touched; limits: the costs beside contact, others: (B, T) of each.
    """

    sample: PolicySample
    trajectory: torch.Tensor
    executed: torch.Tensor
    success: np.ndarray
    success_probability: np.ndarray
    cost: np.ndarray
    displacement: np.ndarray
    valid: np.ndarray
    groups: Groups
    contact_threshold: float
    limits: tuple[CostLimit, ...] = ()
    others: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def joined(parts: "Sequence[Rollouts]", groups: np.ndarray) -> "Rollouts":
        """One batch of several, whose trajectories follow each other, as if rolled out together.

        groups: (B,) which trajectories share a start. Chunks are in the order in which one batch
        draws them, inference by inference, so that minibatches of them are the same.
        """
        firsts = np.cumsum([0, *(len(part.valid) for part in parts)])
        trajectory = torch.cat(
            [part.trajectory + int(first) for part, first in zip(parts, firsts, strict=False)]
        )
        rounds = np.concatenate([_rounds(part.trajectory.numpy()) for part in parts])
        order = torch.from_numpy(np.lexsort((trajectory.numpy(), rounds)))
        names = ("success", "success_probability", "cost", "displacement", "valid")
        return Rollouts(
            PolicySample.concatenate([part.sample for part in parts]).select(order),
            trajectory[order],
            torch.cat([part.executed for part in parts])[order],
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
            groups=Groups(np.asarray(groups)),
            contact_threshold=parts[0].contact_threshold,
            limits=parts[0].limits,
            others={
                name: np.concatenate([part.others[name] for part in parts])
                for name in parts[0].others
            },
        )

    @property
    def succeeded(self) -> np.ndarray:
        """(B,) bool."""
        return np.any(self.success, axis=1)

    @property
    def violated(self) -> np.ndarray:
        """(B,) bool: a step's cost was above the threshold, or the obstacle moved beyond 1 mm."""
        touched = (self.cost > self.contact_threshold) | (
            self.displacement > COLLISION_DISPLACEMENT
        )
        return np.any(touched, axis=1)

    def reward(self, dense: bool = False) -> np.ndarray:
        """(B,): 1 for success, else 0.

        dense: the mean probability of success over all T steps instead. Steps after success count
        1, steps after another end 0, so that an early success is worth more.
        """
        if not dense:
            return self.succeeded.astype(np.float64)
        reached = np.maximum.accumulate(self.success, axis=1)
        return np.where(reached, 1.0, self.success_probability).mean(1)

    def trajectory_cost(self, m: int) -> np.ndarray:
        """(B,): mean of the `m` largest step costs, SafeDojo's trajectory cost.

        With fewer than `m` valid steps it is the mean of these, so that an early success does not
        lower the cost; 0 without any.
        """
        return self._top_m(self.cost, m)

    def other_cost(self, name: str, m: int) -> np.ndarray:
        """(B,): as `trajectory_cost`, of a cost beside contact."""
        return self._top_m(self.others[name], m)

    def having(self, limit: CostLimit) -> np.ndarray:
        """(B,) bool: a step had this cost beside contact, by its threshold."""
        return np.any(self.others[limit.name] > limit.threshold, axis=1)

    def _top_m(self, costs: np.ndarray, m: int) -> np.ndarray:
        pairs = zip(costs, self.valid, strict=True)
        return np.array([top_m_mean(cost[valid], m) for cost, valid in pairs])

    def figures(self, m: int) -> dict[str, float]:
        """Metrics: rates over all trajectories, costs of a trajectory and of a valid step."""
        return {
            "success": float(self.succeeded.mean()),
            "violations": float(self.violated.mean()),
            **{f"violations_{c.name}": float(self.having(c).mean()) for c in self.limits},
            "safe_success": float((self.succeeded & ~self.violated).mean()),
            "cost_top_m": float(self.trajectory_cost(m).mean()),
            "cost_horizon": float(self.cost.sum(1).mean()),
            "cost_per_step": float(self.cost.sum() / max(1, int(self.valid.sum()))),
            "steps": float(self.valid.sum(1).mean()),
        }


def roll_out(
    policy: StochasticPolicy,
    world: RolloutWorld,
    start: Callable[[], list[Observation]],
    groups: np.ndarray,
    max_chunks: int,
    seed: tuple[int, ...],
    execute: int = 0,
    first: int = 0,
) -> Rollouts:
    """Execute `policy` from `start()` until every trajectory succeeded or ended, or `max_chunks`.

    execute: actions of a chunk before the next inference (0: all); the longest trajectory stays
    `max_chunks` whole chunks; groups: (B,) which trajectories share a start; seed: trajectory i
    draws from a generator of its own, seeded with (seed, i), and does not depend on the others;
    first: number i of the first trajectory, where these are part of a batch.
    """
    observations = start()
    count, horizon = len(observations), policy.policy.chunk_length
    execute = min(execute or horizon, horizon)
    most = -(-max_chunks * horizon // execute)
    names = ("success", "success_probability", "cost", "displacement", "valid")
    track: dict[str, np.ndarray] = {name: np.zeros((count, most * execute)) for name in names}
    others = {cost.name: np.zeros((count, most * execute)) for cost in world.others}
    parts: list[PolicySample] = []
    trajectory: list[np.ndarray] = []
    executed: list[np.ndarray] = []

    def sample(seen: list[Observation], generators: list[torch.Generator]) -> np.ndarray:
        parts.append(policy.sample_with_log_prob(seen, generators))
        return parts[-1].chunks

    seeds = [stream_seed(*seed, first + i) for i in range(count)]
    steps = play(policy.policy, world, observations, seeds, execute, act=sample)
    for k, step in zip(range(most), steps, strict=False):
        outcome, running = step.outcome, np.array(step.running)
        success = np.asarray(outcome.success)[running] > 0
        # a success ends the trajectory, even if the world does not stop
        step.over[running] |= success.any(1)
        after = np.cumsum(success, axis=1) - success > 0
        valid = np.asarray(outcome.valid, dtype=bool)[running] & ~after
        columns = slice(k * execute, (k + 1) * execute)
        track["valid"][running, columns] = valid
        for name in names[:-1]:
            values = getattr(outcome, name, None)
            if values is not None:
                track[name][running, columns] = np.where(valid, np.asarray(values)[running], 0.0)
        for name, costs in others.items():
            costs[running, columns] = np.where(valid, outcome.others[name][running], 0.0)
        trajectory.append(running)
        executed.append(valid)
    return Rollouts(
        PolicySample.concatenate(parts),
        torch.from_numpy(np.concatenate(trajectory)),
        torch.from_numpy(np.concatenate(executed)),
        track["success"] > 0,
        track["success_probability"],
        track["cost"],
        track["displacement"],
        track["valid"] > 0,
        Groups(np.asarray(groups)),
        world.contact_threshold,
        tuple(world.others),
        others,
    )


def _rounds(trajectory: np.ndarray) -> np.ndarray:
    """(N,) which inference of its trajectory each chunk is, from 0; a trajectory's are in order."""
    seen = np.zeros(trajectory.max() + 1, dtype=int)
    rounds = np.zeros(len(trajectory), dtype=int)
    for chunk, one in enumerate(trajectory):
        rounds[chunk] = seen[one]
        seen[one] += 1
    return rounds


def stream_seed(*seed: int) -> int:
    """One seed from several numbers, for a torch generator."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
