"""One judgement: the proposals of one inference, the observation they answer, the safety head.

The robot's safety node and the evaluation's filter both judge by this, with the same defaults. They
differ in where observations come from and in what is done with the decision.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from safedojo_ros.core.costs import CostLimit
from safedojo_ros.core.errors import CheckpointError, ChunkRejected, SafeDojoError
from safedojo_ros.core.types import ActionChunk, Observation
from safedojo_ros.robot.gate.gate import GateResult, SafetyGate, no_zones
from safedojo_ros.robot.gate.zones import ZoneVerdict

PROPOSALS = 4
"""Chunks that a policy proposes at once; the gate takes the first that passes."""

Survey = Callable[[np.ndarray, np.ndarray, int], ZoneVerdict]
"""The forbidden zones: actions (H, 7), the robot's state (8,), the time (ns) → what they say."""


class Head(Protocol):
    """What judging needs of a safety head; see `models.safety_head.SafetyModel`."""

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, K, H) P(contact) of each step of K chunks (B, K, H, 7) for each observation."""
        ...


@runtime_checkable
class SeveralCosts(Protocol):
    """A head that predicts costs beside contact, and what remembers for it."""

    @property
    def others(self) -> Sequence[CostLimit]:
        """These, in the order of its answers."""
        ...

    def step_costs(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """(B, K, H, C) of each step of K chunks (B, K, H, 7) for each observation."""
        ...


class Memory(Head, Protocol):
    """A head with what it has seen of a scene; see `models.scene_memory.SceneMemory`."""

    def look(self, observation: Observation) -> None:
        """Remember a frame."""
        ...


@dataclass
class Asked:
    """What came of asking the safety head about one inference.

    observation: that the chunks answer, None if the head was not asked; fault: why the head itself
    should be left, or ""; seconds: of computing.
    """

    observation: Observation | None = None
    answered: bool = False
    fault: str = ""
    seconds: float = 0.0


class Judge:
    """A gate, and what its head remembers of the scene. One for each stream of chunks."""

    def __init__(
        self,
        gate: SafetyGate,
        remember: Callable[[Head], Memory] | None = None,
        deadline: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """remember: a memory for a head, None to judge by the newest frame alone; deadline: longest
        that the head may compute for one inference, by `clock` (s)."""
        self.gate, self.deadline = gate, deadline
        self._remember, self._clock = remember, clock
        self._memory: tuple[Head, Memory] | None = None

    def decide(
        self,
        proposals: Sequence[ActionChunk],
        observe: Callable[[], Observation],
        head: Head | None,
        limit: float,
        now: Callable[[], int],
        survey: Survey | None = None,
    ) -> tuple[GateResult, Asked]:
        """Decide about `proposals`, at least one, best first; see `SafetyGate.decide`.

        observe: the observation that they answer; what it raises is a HOLD. head: None is a HOLD
        too. survey: the forbidden zones, None where there are none.
        """
        asked = Asked()
        looking: list[Head] = []
        others = head.others if isinstance(head, SeveralCosts) else ()

        def ask(chunks: np.ndarray) -> np.ndarray:
            if head is None:
                raise CheckpointError("no safety head is loaded")
            started = self._clock()
            try:
                if asked.observation is None:
                    asked.observation = observe()
                if not looking:
                    looking.append(self._looking(head, asked.observation))
                asking = looking[0].step_cost
                if others and isinstance(looking[0], SeveralCosts):
                    asking = looking[0].step_costs
                answer = asking([asked.observation], chunks[None])
                costs = np.asarray(answer, dtype=np.float64)[0]
            except SafeDojoError:
                raise
            except Exception as error:
                asked.fault = f"the safety head failed: {type(error).__name__}: {error}"
                raise
            finally:
                asked.seconds += self._clock() - started
            asked.answered = True
            if not np.all(np.isfinite(costs)):
                asked.fault = "its costs are not finite"
            if asked.seconds > self.deadline:
                raise ChunkRejected(
                    f"judging took {asked.seconds:.3f} s, the deadline is {self.deadline:g} s"
                )
            return costs

        clear = no_zones if survey is None else partial(_clear, survey, asked, observe, now)
        return self.gate.decide(proposals, ask, limit, now, clear, others), asked

    def forget(self) -> None:
        """Earlier images show another scene."""
        self._memory = None

    def begin_scene(self) -> None:
        """Another scene, or another task in it: neither images nor costs of before count."""
        self.forget()
        self.gate.release()

    def _looking(self, head: Head, observation: Observation) -> Head:
        """The head, or what it remembers of this scene, with this observation."""
        if self._remember is None:
            return head
        if self._memory is None or self._memory[0] is not head:
            self._memory = head, self._remember(head)
        self._memory[1].look(observation)
        return self._memory[1]


def _clear(
    survey: Survey,
    asked: Asked,
    observe: Callable[[], Observation],
    now: Callable[[], int],
    actions: np.ndarray,
) -> ZoneVerdict:
    """What the zones say of `actions` from where the robot was measured: see `gate.Clear`."""
    return survey(actions, (asked.observation or observe()).state, now())
