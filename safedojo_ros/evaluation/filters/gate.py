"""The gate at run time ("+ gate"): the safety head judges each chunk before the world executes it.

The robot's own judgement decides (`robot.gate.judge`), with its defaults, its thresholds and its
hysteresis, one gate an episode. What the protocol makes of its decisions where the world waits for
chunks (`evaluation.timing` is for a world that does not):

ALLOW  the chunk is executed.
SLOW   it is executed with half its translations and rotations.
HOLD   no motion, the gripper as it was, for the steps that would have been executed; they count
       towards the episode's limit. Then the policy is asked again, and draws anew.
STOP   no motion until the episode ends: nobody is there to recover the gate.

Forbidden zones may be checked beside the head, or without one: see `filters.zones`. The head may
judge by earlier images of the episode, too (`models.scene_memory`), as the robot's does.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import (
    ACTION_SIZE,
    CONTROL_PERIOD,
    ActionChunk,
    Decision,
    Observation,
)
from safedojo_ros.core.units import SECOND
from safedojo_ros.evaluation.filters.zones import SurveyedObservation
from safedojo_ros.evaluation.play import propose_alike
from safedojo_ros.robot.gate.detour import MEMORY
from safedojo_ros.robot.gate.gate import GateConfig, GateResult, SafetyGate
from safedojo_ros.robot.gate.judge import PROPOSALS, Head, Judge, Memory, Survey
from safedojo_ros.robot.gate.zones import Zones, ZoneVerdict

if TYPE_CHECKING:
    import torch

    from safedojo_ros.models.policy import ProposingPolicy
    from safedojo_ros.models.safety_head import SafetyModel

GRIPPER_OPEN = -1.0


class NoContacts:
    """In place of a safety head: the zones alone decide."""

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """Zeros; see `robot.gate.judge.Head`."""
        return np.zeros(actions.shape[:-1])


@dataclass
class _Episode:
    """chunks: judged so far; gripper: the last executed command."""

    judge: Judge
    chunks: int = 0
    gripper: float = GRIPPER_OPEN


class GatedPolicy:
    """A policy whose chunks pass the gate, or are replaced by no motion.

    safety: None for the zones alone; execute: steps of a chunk that are executed before the next
    (default: all); proposals: chunks that the policy proposes for each decision; memory: frames of
    an episode that the head judges by, 1 for the newest alone; zones: for observations of a
    `SurveyedWorld`; decisions: how many chunks were allowed, slowed, held and stopped; proposed:
    how many were judged for that; detours: how many took a detour; entered: how many were judged
    that enter a stop zone. An episode is known by its generator.
    Raises `ConfigError` for less than one proposal or frame, `CheckpointError` where the head
    judges other chunks or images than the policy's.
    """

    def __init__(
        self,
        policy: "ProposingPolicy",
        safety: "SafetyModel | None",
        execute: int | None = None,
        proposals: int = PROPOSALS,
        config: GateConfig | None = None,
        memory: int = MEMORY,
        zones: Zones | None = None,
    ) -> None:
        if proposals < 1 or memory < 1:
            raise ConfigError(
                f"the gate is given {proposals} proposals and a memory of {memory} frames, "
                "expected at least 1"
            )
        self.config = config or GateConfig()
        if safety is not None:
            _check_pair(policy, safety)
            self.config = replace(self.config, cost_m=safety.cost_m)
        self.policy, self.safety, self.proposals, self.memory = policy, safety, proposals, memory
        self.zones = zones
        self.execute = min(execute or policy.chunk_length, policy.chunk_length)
        kind = "detour" if self.config.detour_ratio else "gate" if safety else "zones"
        self.checkpoint_id = f"{policy.checkpoint_id}+{kind}"
        self.decisions: Counter[str] = Counter()
        self.proposed = self.detours = self.entered = 0
        self._episodes: WeakKeyDictionary[torch.Generator, _Episode] = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        if name == "policy":  # not there yet: it is being copied to a worker
            raise AttributeError(name)
        return getattr(self.policy, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy begins with no episode and no counts."""
        execute, proposals = self.execute, self.proposals
        parts = self.policy, self.safety, execute, proposals, self.config, self.memory, self.zones
        return GatedPolicy, parts

    def act(
        self, observations: list[Observation], generators: "list[torch.Generator] | None" = None
    ) -> np.ndarray:
        """(B, H, 7), what is executed where the world waits; see `models.policy.Policy.act`.

        Without generators each row is an episode.
        """
        generators = generators or [_random_generator() for _ in observations]
        results = self.judged(observations, generators)
        executed: dict[int, np.ndarray] = {}
        for observation, generator, result in zip(observations, generators, results, strict=True):
            if id(observation) not in executed:
                executed[id(observation)] = self._executed(self._episode(generator), result)
        return np.stack([executed[id(observation)] for observation in observations])

    def judged(
        self,
        observations: list[Observation],
        generators: "list[torch.Generator]",
        committed: Sequence[np.ndarray] | None = None,
    ) -> list[GateResult]:
        """What the gate makes of the proposals for each observation, one episode a generator.

        committed: see `models.policy.ProposingPolicy.propose`. An observation that is given twice,
        as `act_alike` does to a single one, is judged once.
        """
        places = {id(o): i for i, o in reversed(list(enumerate(observations)))}
        rows = sorted(places.values())
        seen, noise = [observations[i] for i in rows], [generators[i] for i in rows]
        first = None if committed is None else [committed[i] for i in rows]
        proposed = propose_alike(self.policy, seen, noise, self.proposals, first)
        results = {}
        for row, (observation, generator) in enumerate(zip(seen, noise, strict=True)):
            known = 0 if first is None else len(first[row])
            results[id(observation)] = self._judge(observation, generator, proposed[row], known)
        return [results[id(observation)] for observation in observations]

    def _executed(self, episode: _Episode, result: GateResult) -> np.ndarray:
        """(H, 7)."""
        if result.forwarded is None:
            actions = np.zeros((self.chunk_length, ACTION_SIZE))
            actions[:, 6] = episode.gripper
        else:
            actions = np.asarray(result.forwarded.actions, dtype=np.float64)
        episode.gripper = float(actions[self.execute - 1, 6])
        return actions

    def _judge(
        self,
        observation: Observation,
        generator: "torch.Generator",
        proposed: np.ndarray,
        committed: int,
    ) -> GateResult:
        """One more decision of an episode; proposed: (K, H, 7)."""
        episode = self._episode(generator)
        now = round(episode.chunks * self.execute * CONTROL_PERIOD * SECOND)
        episode.chunks += 1
        chunks = [
            ActionChunk(c, observed_at=now, sequence=episode.chunks, committed=committed)
            for c in proposed
        ]
        head: Head = NoContacts() if self.safety is None else self.safety
        limit = 1.0 if self.safety is None else self.safety.cost_limit
        result, _ = episode.judge.decide(
            chunks, lambda: observation, head, limit, lambda: now, self._survey(observation)
        )
        self.proposed += result.tried
        self.detours += result.detour
        self.entered += result.zones.decision >= Decision.HOLD
        self.decisions[result.decision.name] += 1
        return result

    def _survey(self, observation: Observation) -> Survey | None:
        zones = self.zones
        if zones is None:
            return None
        if not isinstance(observation, SurveyedObservation):
            raise ConfigError("zones need the observations of a SurveyedWorld")
        around = observation.around

        def survey(actions: np.ndarray, state: np.ndarray, _: int) -> ZoneVerdict:
            return zones.check(actions, state, around, around.stamp)

        return survey

    def _episode(self, generator: "torch.Generator") -> _Episode:
        if generator not in self._episodes:
            remember = None if self.safety is None else partial(_remember, frames=self.memory)
            self._episodes[generator] = _Episode(Judge(SafetyGate(self.config), remember))
        return self._episodes[generator]


def _remember(head: Head, frames: int) -> Memory:
    from safedojo_ros.models.scene_memory import SceneMemory

    return SceneMemory(cast("SafetyModel", head), frames)


def _random_generator() -> "torch.Generator":
    import torch

    generator = torch.Generator()
    generator.seed()
    return generator


def _check_pair(policy: "ProposingPolicy", safety: "SafetyModel") -> None:
    if safety.chunk_length != policy.chunk_length:
        raise CheckpointError(
            f"safety head {safety.checkpoint_id} judges chunks of {safety.chunk_length} steps, "
            f"policy {policy.checkpoint_id} has chunks of {policy.chunk_length}"
        )
    if set(safety.cameras) - set(policy.cameras) or safety.image_size % policy.image_size:
        raise CheckpointError(
            f"safety head {safety.checkpoint_id} sees {safety.cameras} of {safety.image_size} "
            f"pixels, policy {policy.checkpoint_id} {policy.cameras} of {policy.image_size}"
        )
