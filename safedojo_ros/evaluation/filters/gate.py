"""The gate at run time ("+ gate"): the safety head judges each chunk before the world executes it.

The robot's own gate decides (`robot.gate.gate`), with its thresholds and its hysteresis, one
gate an episode. What the protocol makes of its decisions:

ALLOW  the chunk is executed.
SLOW   it is executed with half its translations and rotations.
HOLD   no motion, the gripper as it was, for the steps that would have been executed; they count
       towards the episode's limit. Then the policy is asked again, and draws anew.
STOP   no motion until the episode ends: nobody is there to recover the gate.

Before each decision the policy may propose several chunks (best of N); with one proposal the gate
sees what the robot's would see. The head may judge by earlier images of the episode, too
(`models.scene_memory`), as the robot's may.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import CONTROL_PERIOD, ActionChunk, Observation
from safedojo_ros.core.units import SECOND
from safedojo_ros.evaluation.play import act_alike
from safedojo_ros.robot.gate.gate import GateConfig, SafetyGate

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
    memory: "SceneMemory"
    chunks: int = 0
    gripper: float = GRIPPER_OPEN


class GatedPolicy:
    """A policy whose chunks pass the gate, or are replaced by no motion.

    execute: steps of a chunk that are executed before the next (default: all); memory: frames of an
    episode that the head judges by, 1 for the newest alone; decisions: how many chunks were
    allowed, slowed, held and stopped; proposed: how many were drawn for that; detours: how many
    took a detour. An episode is known by its generator. Raises `ConfigError` for less than one
    proposal or frame, `CheckpointError` where the head judges other chunks or images than the
    policy's.
    """

    def __init__(
        self,
        policy: "Policy",
        safety: "SafetyModel",
        execute: int | None = None,
        proposals: int = PROPOSALS,
        config: GateConfig | None = None,
        memory: int = 1,
    ) -> None:
        if proposals < 1 or memory < 1:
            raise ConfigError(
                f"the gate is given {proposals} proposals and a memory of {memory} frames, "
                "expected at least 1"
            )
        _check_pair(policy, safety)
        self.policy, self.safety, self.proposals, self.memory = policy, safety, proposals, memory
        self.execute = min(execute or policy.chunk_length, policy.chunk_length)
        self.config = replace(config or GateConfig(), cost_m=safety.cost_m)
        kind = "detour" if self.config.detour_ratio else "gate"
        self.checkpoint_id = f"{policy.checkpoint_id}+{kind}"
        self.decisions: Counter[str] = Counter()
        self.proposed = self.detours = 0
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
        episode.memory.look(observation)
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

        def ask(chunks: np.ndarray) -> np.ndarray:
            return episode.memory.step_cost([observation], chunks[None])[0]

        result = episode.gate.decide(proposals(), ask, self.safety.cost_limit, lambda: now)
        self.detours += result.detour
        self.decisions[result.decision.name] += 1
        if result.forwarded is None:
            executed = np.zeros(first.shape)
            executed[:, 6] = episode.gripper
        else:
            executed = np.asarray(result.forwarded.actions, dtype=np.float64)
        episode.gripper = float(executed[self.execute - 1, 6])
        return executed

    def _episode(self, generator: "torch.Generator") -> _Episode:
        from safedojo_ros.models.scene_memory import SceneMemory

        if generator not in self._episodes:
            memory = SceneMemory(self.safety, self.memory)
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
