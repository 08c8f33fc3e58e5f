"""The canary of a policy: a new one is tried on what the running one has just seen and played."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from safedojo_ros.checkpoints.swap.probation import Bars, Reference, judge_canary
from safedojo_ros.core.errors import CheckpointError, ObservationRejected
from safedojo_ros.core.types import Observation, empty_scene, top_m_mean

OBSERVATIONS = 4
"""On how many recent observations a new policy is tried."""
ROUNDS = 3
"""How often a policy that seems too slow is timed, since a busy machine is slow at times."""


class HeadLike(Protocol):
    """What is needed of a safety head."""

    cost_m: int

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, H) P(contact) of each step of the chunks (B, H, 7)."""
        ...


class PolicyCanary:
    """Remembers what the running policy did, and judges a new one by it.

    `played`, `judged` and `forget` are called by the thread that acts, `judge` by the one that
    loads.
    """

    def __init__(
        self,
        bars: Bars,
        act: Callable[[Any, Observation], np.ndarray],
        load_head: Callable[[str], HeadLike] | None,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """act: (policy, observation) → (H, 7); load_head: the safety head of an id, None where
        predicted costs are not to be compared; say: tell a person; clock: seconds."""
        self._clock = clock
        self._bars, self._act, self._load_head, self._say = bars, act, load_head, say
        self._recent: deque[tuple[Observation, np.ndarray]] = deque(maxlen=OBSERVATIONS)
        self._costs: deque[float] = deque(maxlen=50)
        self._head_of_costs = ""
        self._head: tuple[str, HeadLike] | None = None
        self.seconds: deque[float] = deque(maxlen=200)
        """Computing times of the running policy."""

    def played(self, observation: Observation, actions: np.ndarray, seconds: float) -> None:
        """The running policy answered `observation` with `actions` (H, 7)."""
        self._recent.append((observation, actions))
        self.seconds.append(seconds)

    def judged(self, head: str, cost: float) -> None:
        """The safety head `head` predicts `cost` for a chunk of the running policy."""
        if head != self._head_of_costs:
            self._head_of_costs = head
            self._costs.clear()
        if np.isfinite(cost):
            self._costs.append(cost)

    def reference(self) -> Reference:
        """What the running policy did, to compare its successor with."""
        seconds, costs = list(self.seconds), list(self._costs)
        return Reference(
            float(np.median(seconds)) if seconds else None,
            float(np.mean(costs)) if costs else None,
            self._head_of_costs,
        )

    def forget(self) -> None:
        """Another policy runs now: its times and costs are its own."""
        self.seconds.clear()
        self._costs.clear()

    def judge(self, policy: Any, running: Any | None, head: str = "") -> None:
        """Raise `CheckpointError` unless `policy` may follow `running`, as judged by `head`."""
        wanted = (policy.cameras, policy.image_size)
        if running is not None and wanted != (running.cameras, running.image_size):
            raise CheckpointError(
                f"it needs pictures of {policy.cameras} at {policy.image_size} px, the running "
                f"policy {running.cameras} at {running.image_size} px; restart the node with it"
            )
        recent, reference = list(self._recent), self.reference()
        if running is None or not recent:
            sentence = next(iter(getattr(policy, "instructions", ())), "wait")
            scene = empty_scene(policy.cameras, policy.image_size, sentence)
            if not np.all(np.isfinite(self._act(policy, scene))):
                raise CheckpointError("its actions are not finite")
            return
        observations = [observation for observation, _ in recent]
        self._timed(policy, observations[:1])  # the first one is for warming up
        chunks, quickest = self._timed(policy, observations)
        longest = self._bars.longest(reference)
        for _ in range(ROUNDS - 1):
            if longest is not None and quickest > longest:
                quickest = min(quickest, self._timed(policy, observations)[1])
        judge_canary(chunks, [quickest], [], Reference(reference.seconds), self._bars)
        self._compare_costs(recent, chunks, head)

    def _timed(
        self, policy: Any, observations: list[Observation]
    ) -> tuple[list[np.ndarray], float]:
        """Its chunks, and how long the quickest took (s)."""
        chunks, seconds = [], []
        for observation in observations:
            started = self._clock()
            try:
                chunks.append(self._act(policy, observation))
            except ObservationRejected as error:
                raise CheckpointError(f"it refuses what the robot sees now: {error}") from None
            seconds.append(self._clock() - started)
        return chunks, min(seconds)

    def _compare_costs(
        self, recent: list[tuple[Observation, np.ndarray]], chunks: list[np.ndarray], head: str
    ) -> None:
        """The same head on the same observations: the new chunks, and those that were played."""
        if self._load_head is None or not head:
            return
        try:
            if self._head is None or self._head[0] != head:
                self._head = None
                self._head = (head, self._load_head(head))
            model = self._head[1]
            old = [_chunk_cost(model, seen, played) for seen, played in recent]
        except Exception as error:  # the gate judges every chunk anyway
            self._say(f"predicted costs were not compared: {error}")
            return
        try:
            new = [_chunk_cost(model, o, c) for (o, _), c in zip(recent, chunks, strict=True)]
        except Exception as error:
            raise CheckpointError(f"safety head {head} cannot judge it: {error}") from None
        judge_canary([], [], new, Reference(cost=float(np.mean(old))), self._bars)


def _chunk_cost(head: HeadLike, observation: Observation, actions: np.ndarray) -> float:
    return top_m_mean(np.asarray(head.step_cost([observation], actions[None]))[0], head.cost_m)
