"""The gate at run time ("+ gate"): the safety head judges each chunk before the world executes it.

The robot's own gate decides (`robot.gate.gate`), with its thresholds and its hysteresis, one
gate an episode. What the protocol makes of its decisions:

ALLOW  the chunk is executed.
SLOW   it is executed with half its translations and rotations.
HOLD   no motion, the gripper as it was, for the steps that would have been executed; they count
       towards the episode's limit. Then the policy is asked again, and draws anew.
STOP   no motion until the episode ends: nobody is there to recover the gate.

Forbidden zones may be checked beside the head, or without one: see `filters.zones`.

Before each decision the policy may propose several chunks (best of N); with one proposal the gate
sees what the robot's would see. The head may judge by earlier images of the episode, too
(`models.scene_memory`), as the robot's may.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import CONTROL_PERIOD, ActionChunk, Decision, Observation
from safedojo_ros.core.units import SECOND
from safedojo_ros.evaluation.filters.zones import SurveyedObservation
from safedojo_ros.evaluation.play import act_alike
from safedojo_ros.robot.gate.gate import Clear, GateConfig, SafetyGate, no_zones
from safedojo_ros.robot.gate.zones import Zones

if TYPE_CHECKING:
    import torch

    from safedojo_ros.models.policy import Policy
    from safedojo_ros.models.safety_head import SafetyModel
    from safedojo_ros.models.scene_memory import SceneMemory

PROPOSALS = 4
"""Chunks that the policy may propose before each decision."""

GRIPPER_OPEN = -1.0


@dataclass
class _Episode:
    """memory: what the head has seen; chunks: judged so far; gripper: the last executed command."""

    gate: SafetyGate
    memory: "SceneMemory | None"
    chunks: int = 0
    gripper: float = GRIPPER_OPEN


class GatedPolicy:
    """A policy whose chunks pass the gate, or are replaced by no motion.

    safety: None for the zones alone; execute: steps of a chunk that are executed before the next
    (default: all); memory: frames of an episode that the head judges by, 1 for the newest alone;
    zones: for observations of a `SurveyedWorld`; decisions: how many chunks were allowed, slowed,
    held and stopped; proposed: how many were drawn for that; detours: how many took a detour;
    entered: how many were judged that enter a stop zone. An episode is known by its generator.
    Raises `ConfigError` for less than one proposal or frame, `CheckpointError` where the head
    judges other chunks or images than the policy's.
    """

    def __init__(
        self,
        policy: "Policy",
        safety: "SafetyModel | None",
        execute: int | None = None,
        proposals: int = PROPOSALS,
        config: GateConfig | None = None,
        memory: int = 1,
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
        return getattr(self.policy, name)

    def act(
        self, observations: list[Observation], generators: "list[torch.Generator] | None" = None
    ) -> np.ndarray:
        """(B, H, 7); see `models.policy.Policy.act`. Without generators each row is an episode.

        The first proposals are drawn side by side, more where an episode needs them. An observation
        that is given twice, as `act_alike` does to a single one, is judged once.
        """
        generators = generators or [_random_generator() for _ in observations]
        places = {id(o): i for i, o in reversed(list(enumerate(observations)))}
        rows = sorted(places.values())
        seen, noise = [observations[i] for i in rows], [generators[i] for i in rows]
        first = act_alike(self.policy, seen, noise)
        executed = {
            id(observation): self._gated(observation, generator, chunk)
            for observation, generator, chunk in zip(seen, noise, first, strict=True)
        }
        return np.stack([executed[id(observation)] for observation in observations])

    def _gated(
        self, observation: Observation, generator: "torch.Generator", first: np.ndarray
    ) -> np.ndarray:
        """(H, 7) what is executed after one more decision; first: (H, 7), a proposal."""
        episode = self._episode(generator)
        now = round(episode.chunks * self.execute * CONTROL_PERIOD * SECOND)
        episode.chunks += 1
        number = episode.chunks

        def proposals() -> Iterator[ActionChunk]:
            chunk = first
            for count in range(self.proposals):
                if count:
                    chunk = act_alike(self.policy, [observation], [generator])[0]
                self.proposed += 1
                yield ActionChunk(chunk, observed_at=now, sequence=number)

        looked = False

        def ask(chunks: np.ndarray) -> np.ndarray:
            nonlocal looked
            if episode.memory is None:
                return np.zeros(chunks.shape[:2])
            if not looked:
                episode.memory.look(observation)
                looked = True
            return episode.memory.step_cost([observation], chunks[None])[0]

        limit = 1.0 if self.safety is None else self.safety.cost_limit
        clear = self._clear(observation)
        result = episode.gate.decide(proposals(), ask, limit, lambda: now, clear)
        self.detours += result.detour
        self.entered += result.zones.decision >= Decision.HOLD
        self.decisions[result.decision.name] += 1
        if result.forwarded is None:
            executed = np.zeros(first.shape)
            executed[:, 6] = episode.gripper
        else:
            executed = np.asarray(result.forwarded.actions, dtype=np.float64)
        episode.gripper = float(executed[self.execute - 1, 6])
        return executed

    def _clear(self, observation: Observation) -> Clear:
        if self.zones is None:
            return no_zones
        if not isinstance(observation, SurveyedObservation):
            raise ConfigError("zones need the observations of a SurveyedWorld")
        around = observation.around
        return partial(self.zones.check, state=observation.state, around=around, now=around.stamp)

    def _episode(self, generator: "torch.Generator") -> _Episode:
        from safedojo_ros.models.scene_memory import SceneMemory

        if generator not in self._episodes:
            memory = None if self.safety is None else SceneMemory(self.safety, self.memory)
            self._episodes[generator] = _Episode(SafetyGate(self.config), memory)
        return self._episodes[generator]


def _random_generator() -> "torch.Generator":
    import torch

    generator = torch.Generator()
    generator.seed()
    return generator


def _check_pair(policy: "Policy", safety: "SafetyModel") -> None:
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
