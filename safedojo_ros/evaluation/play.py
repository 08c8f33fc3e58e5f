"""The one loop that executes a policy in a world.

Evaluation, recording, film, imagination and practice differ in what they attach to it: an act of
their own, noise on the actions, or the body of the `for` over its steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from safedojo_ros.core.types import ACTION_SIZE, Observation

if TYPE_CHECKING:
    import torch

    from safedojo_ros.evaluation.noise import NoiseBursts
    from safedojo_ros.models.policy import Policy, ProposingPolicy

    Act = Callable[[list[Observation], list[torch.Generator]], np.ndarray]
    """(R observations, a generator for each) → chunks (R, H, 7)."""

ROWS = 8
"""Observations of every inference, for products with another number of rows are summed in another
order: an episode would end differently beside other episodes."""


class ChunkWorld(Protocol):
    """B worlds stepped together, as `worlds.vector.VectorWorld` or an imagined one.

    `step` returns a `ChunkOutcome` or something with its fields.
    """

    def step(self, chunks: np.ndarray, steps: int) -> Any:
        """Execute the first `steps` actions of `chunks` (B, H, 7); worlds that are done stay."""
        ...


@dataclass
class Step:
    """One step of B episodes that are executed together.

    running: numbers of the episodes that took part; observations: B, before the step; proposed,
    executed: (B, H, 7), actions without and with noise, of which the world has executed the first;
    outcome: the world's; over: (B,) bool, whose episode ends here; the caller may end more.
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

    observations: B, from the reset of `world`; seeds: (B,), each episode draws from a generator of
    its own, so that it does not depend on the others; execute: actions of a chunk before the next
    inference (default: all); each_action: yield after every action, not only before an inference;
    act: in place of the policy's own; noise: on the actions, one for each episode.
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
    """(R, H, 7) chunks; each depends on its own observation alone."""
    parts = _alike(observations, generators)
    return np.concatenate([np.asarray(policy.act(*part[:2]))[: part[2]] for part in parts])


def propose_alike(
    policy: "ProposingPolicy",
    observations: list[Observation],
    generators: "list[torch.Generator]",
    proposals: int,
    committed: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """(R, K, H, 7) chunks, K proposals an observation; each depends on its own observation alone.

    committed: see `models.policy.ProposingPolicy.propose`.
    """
    chunks, first = [], 0
    for seen, noise, count in _alike(observations, generators):
        known = None
        if committed is not None:
            known = list(committed[first : first + count])
            known += known[:1] * (ROWS - count)
        chunks.append(np.asarray(policy.propose(seen, noise, proposals, known))[:count])
        first += count
    return np.concatenate(chunks)


def _alike(
    observations: list[Observation], generators: "list[torch.Generator]"
) -> "Iterator[tuple[list[Observation], list[torch.Generator], int]]":
    """`ROWS` observations and generators at a time, and how many of them count; the rest are the
    first one again."""
    import torch

    for first in range(0, len(observations), ROWS):
        seen, noise = observations[first : first + ROWS], generators[first : first + ROWS]
        count = len(seen)
        rest = [torch.Generator().manual_seed(0) for _ in range(ROWS - count)]
        yield seen + seen[:1] * len(rest), noise + rest, count
