"""A policy with the running stack's timing: every chunk comes late, while the arm moves on.

The protocol's worlds could wait for a chunk; a robot does not. Here the arm of the stack executes
the chunks (`robot.playback`): the next one is asked for when the stack's schedule asks for it,
answers `latency` control steps later, and is joined to what was executed meanwhile. A HOLD stops
the arm when it comes, and it stands until a later observation's chunk passes. The policy is told
what is committed, as the policy node tells it.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.types import (
    ACTION_SIZE,
    CONTROL_PERIOD,
    ActionChunk,
    Decision,
    Observation,
)
from safedojo_ros.core.units import SECOND
from safedojo_ros.evaluation.filters.gate import GRIPPER_OPEN, GatedPolicy
from safedojo_ros.evaluation.play import propose_alike
from safedojo_ros.robot.playback.committed import CommittedActions
from safedojo_ros.robot.playback.playback import ChunkPlayback
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS, steps_between

if TYPE_CHECKING:
    import torch

    from safedojo_ros.models.policy import ProposingPolicy

PERIOD = round(CONTROL_PERIOD * SECOND)


class Forwarded(NamedTuple):
    """What the gate makes of one inference: actions (H, 7), None where it holds."""

    actions: np.ndarray | None
    slow: bool = False


@dataclass
class SimulatedArm:
    """The arm of one episode. step: control steps so far; an observation is made before a step, the
    arm acts in the middle of it."""

    playback: ChunkPlayback = field(default_factory=ChunkPlayback)
    committed: CommittedActions = field(default_factory=lambda: CommittedActions(CONTROL_PERIOD))
    step: int = 0
    asked: int = 0
    gripper: float = GRIPPER_OPEN
    coming: deque[tuple[int, ActionChunk, bool, bool]] = field(default_factory=deque)
    """(step at which it comes, chunk, whether the gate held it, whether it slowed it), in order."""

    def ask(self, forwarded: Forwarded, latency: int) -> None:
        """`forwarded` answers this step's observation, and comes `latency` steps later."""
        self.asked += 1
        held, actions = forwarded.actions is None, forwarded.actions
        if actions is None:
            actions = np.zeros((0, ACTION_SIZE))
        chunk = ActionChunk(actions, CONTROL_PERIOD, self.step * PERIOD, self.asked)
        self.coming.append((self.step + latency, chunk, held, forwarded.slow))

    def act(self) -> np.ndarray:
        """(7,), the action of the next control step."""
        while self.coming and self.coming[0][0] <= self.step:
            self._take(*self.coming.popleft())
        now = self.step * PERIOD + PERIOD // 2
        action = self.playback.tick(now)
        self.committed.arm(action is not None, now)
        self.step += 1
        if action is None:
            action = np.zeros(ACTION_SIZE)
            action[6] = self.gripper
        self.gripper = float(action[6])
        return action

    def _take(self, step: int, chunk: ActionChunk, held: bool, slow: bool) -> None:
        now = step * PERIOD
        if held:
            self.playback.hold(now, "the gate holds")
            return
        self.committed.forwarded(chunk, now)
        with suppress(ChunkRejected):  # the arm holds
            self.playback.accept(chunk, now, slow)


class TimedPolicy:
    """`policy`, alone or behind a filter, as the running stack executes it.

    Its chunks are what is executed between two inferences. latency: control steps from an
    observation to the first action that answers it; execute: control steps between two inferences
    (default: by the stack's schedule). An episode is known by its generator. Raises `ConfigError`
    where a chunk would have ended before it comes.
    """

    def __init__(
        self,
        policy: "ProposingPolicy",
        latency: int = LATENCY_STEPS,
        execute: int | None = None,
    ) -> None:
        horizon = policy.chunk_length
        if not 1 <= latency < horizon:
            raise ConfigError(
                f"a latency of {latency} steps does not fit a chunk of {horizon}: expected 1 to "
                f"{horizon - 1}"
            )
        self.policy, self.latency = policy, latency
        self.chunk_length = min(execute or steps_between(horizon, latency), horizon)
        self.checkpoint_id = policy.checkpoint_id
        self._arms: WeakKeyDictionary[torch.Generator, SimulatedArm] = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def act(
        self, observations: list[Observation], generators: "list[torch.Generator]"
    ) -> np.ndarray:
        """(B, execute, 7), the actions that are executed after the observations.

        An observation that is given twice, as `play.act_alike` does to a single one, is one.
        """
        places = {id(o): i for i, o in reversed(list(enumerate(observations)))}
        rows = sorted(places.values())
        seen, noise = [observations[i] for i in rows], [generators[i] for i in rows]
        arms = [self._arm(generator) for generator in noise]
        longest = self.policy.longest_delay
        known = [arm.committed.after(arm.step * PERIOD, longest) for arm in arms]
        answers = self._asked(seen, noise, known)
        executed = {}
        for observation, arm, forwarded in zip(seen, arms, answers, strict=True):
            arm.ask(forwarded, self.latency)
            actions = [arm.act() for _ in range(self.chunk_length)]
            executed[id(observation)] = np.stack(actions)
        return np.stack([executed[id(observation)] for observation in observations])

    def _asked(
        self,
        observations: list[Observation],
        generators: "list[torch.Generator]",
        committed: Sequence[np.ndarray],
    ) -> list[Forwarded]:
        """What is forwarded for each observation."""
        if not isinstance(self.policy, GatedPolicy):
            chunks = propose_alike(self.policy, observations, generators, 1, committed)[:, 0]
            return [Forwarded(within_bounds(chunk)) for chunk in chunks]
        return [
            Forwarded(
                None if result.forwarded is None else result.forwarded.actions,
                result.decision == Decision.SLOW,
            )
            for result in self.policy.judged(observations, generators, committed)
        ]

    def _arm(self, generator: "torch.Generator") -> SimulatedArm:
        if generator not in self._arms:
            self._arms[generator] = SimulatedArm()
        return self._arms[generator]
