"""The one loop that executes a policy in a world.

Whoever judges, records, films, imagines or practises attaches to it: an act that does more than
act, noise on the actions, or the body of the `for` that watches each step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from safedojo_ros.core.types import ACTION_SIZE, Observation

if TYPE_CHECKING:
    import torch

    from safedojo_ros.evaluation.noise import NoiseBursts
    from safedojo_ros.models.policy import Policy

    Act = Callable[[list[Observation], list[torch.Generator]], np.ndarray]
    """Observations and a generator for each to chunks (R, H, 7)."""


class ChunkWorld(Protocol):
    """B worlds stepped together, as `worlds.vector.VectorWorld` or an imagined one.

    `step` returns a `ChunkOutcome`, or what is like it.
    """

    def step(self, chunks: np.ndarray, steps: int) -> Any:
        """Execute the first `steps` actions of `chunks` (B, H, 7); worlds that are done stay."""
        ...


@dataclass
class Step:
    """What B episodes did together.

    running: numbers of those that took part; observations: B, before it; proposed, executed:
    (B, H, 7), actions without and with noise, of which the world has done the first; outcome: the
    world's; over: (B,) bool, whose episode ends here. Whoever watches may end more of them.
    """

    running: list[int]
    observations: list[Observation]
    proposed: np.ndarray
    executed: np.ndarray
    outcome: Any
    over: np.ndarray


def play(
    policy: "Policy",
    world: ChunkWorld,
    observations: list[Observation],
    seeds: Sequence[int],
    execute: int | None = None,
    *,
    each_action: bool = False,
    act: "Act | None" = None,
    noise: "Sequence[NoiseBursts] | None" = None,
) -> Iterator[Step]:
    """Execute chunks of `policy` in `world` until every episode is over.

    observations: B, as `world` was reset; seeds: (B,), each episode draws from a generator of its
    own, so that its neighbours have no say; execute: actions of a chunk that are done before the
    next inference (default: all); each_action: yield after every action and not only after these;
    act: in place of the policy's own; noise: on the actions of each episode.
    """
    import torch

    horizon = policy.chunk_length
    execute = min(execute or horizon, horizon)
    stride = 1 if each_action else execute
    act = act or (lambda seen, generators: act_alike(policy, seen, generators))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    running = list(range(len(observations)))
    while running:
        chunks = np.zeros((len(observations), horizon, ACTION_SIZE))
        seen = [observations[i] for i in running]
        chunks[running] = act(seen, [generators[i] for i in running])
        for first in range(0, execute, stride):
            executed = chunks[:, first:].copy()
            for i in running if noise else ():
                for action in executed[i, :stride]:
                    action[:] = noise[i].disturb(action)  # type: ignore[index]
            outcome = world.step(executed, stride)
            over = outcome.done.copy()
            step = Step(running, observations, chunks[:, first:], executed, outcome, over)
            yield step
            observations = outcome.observations
            running = [i for i in running if not step.over[i]]
            if not running:
                return


def act_alike(
    policy: "Policy", observations: list[Observation], generators: "list[torch.Generator]"
) -> np.ndarray:
    """(R, H, 7) chunks, the same for each observation whatever stands beside it.

    A single one is given a neighbour: products with a single row are summed in another order, and
    an episode would end otherwise alone than in company.
    """
    import torch

    if len(observations) == 1:
        observations = observations * 2
        generators = [*generators, torch.Generator().manual_seed(0)]
        return np.asarray(policy.act(observations, generators))[:1]
    return np.asarray(policy.act(observations, generators))
