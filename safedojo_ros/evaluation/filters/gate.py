"""The gate at run time ("+ gate"): the safety head judges each chunk before the world plays it.

The robot's own gate decides (`robot.gate.gate`), with its thresholds and its hysteresis, one
gate an episode. What the protocol makes of its decisions:

ALLOW  the chunk is played.
SLOW   it is played with half its translations and rotations.
HOLD   no motion, the gripper as it was, for the steps that would have been played; they count
       towards the episode's limit. Then the policy is asked again, and draws anew.
STOP   no motion until the episode ends: nobody is there to recover the gate.

Before each decision the policy may propose several chunks (best of N): the first one whose cost is
below the gate's thresholds is judged, or the one that costs least where none is, by a detour where
the gate finds one. With one proposal the gate sees what the robot's would see. The head may judge
by earlier pictures of the episode, too (`models.scene_memory`), as the robot's may.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.types import CONTROL_PERIOD, ActionChunk, Observation, top_m_mean
from safedojo_ros.evaluation.recording import act_alike
from safedojo_ros.robot.gate.freshness import SECOND
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
    """memory: None where the newest picture judges alone; chunks: judged so far; gripper: the last
    command that was played.
    """

    gate: SafetyGate
    memory: "SceneMemory | None" = None
    chunks: int = 0
    gripper: float = GRIPPER_OPEN


class GatedPolicy:
    """A policy whose chunks pass the gate, or are replaced by no motion.

    execute: steps of a chunk that are played before the next (default: all); memory: moments of an
    episode whose pictures the head judges by, 1 for the newest alone; decisions: how many chunks
    were allowed, slowed, held and stopped; proposed: how many were drawn for that; detours: how
    many were led around. An episode is known by its generator. Raises `ConfigError` for less than
    one proposal or moment, `CheckpointError` where the head judges other chunks or pictures than
    the policy's.
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
                f"the gate is given {proposals} proposals and a memory of {memory} moments, "
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

        An observation that is given twice, as `act_alike` does to the last world that runs, is
        judged once.
        """
        generators = generators or [_random_generator() for _ in observations]
        places = {id(o): i for i, o in reversed(list(enumerate(observations)))}
        rows = sorted(places.values())
        seen, noise = [observations[i] for i in rows], [generators[i] for i in rows]
        episodes = [self._episode(generator) for generator in noise]
        for episode, observation in zip(episodes, seen, strict=True):
            if episode.memory:
                episode.memory.look(observation)
        chunks, costs = self._propose(seen, noise, episodes)
        played = {
            id(observation): self._gated(episode, observation, chunk, cost)
            for observation, episode, chunk, cost in zip(seen, episodes, chunks, costs, strict=True)
        }
        return np.stack([played[id(observation)] for observation in observations])

    def _propose(
        self,
        observations: list[Observation],
        generators: "list[torch.Generator]",
        episodes: list[_Episode],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The chunk that is to be judged for each observation (B, H, 7), and its costs (B, H)."""
        passing = self.config.passing_ratio * self.safety.cost_limit
        count, horizon = len(observations), self.policy.chunk_length
        chunks, costs = np.zeros((count, horizon, 7)), np.zeros((count, horizon))
        least = np.full(count, np.inf)
        for _ in range(self.proposals):
            asked = np.flatnonzero(least >= passing).tolist()
            if not asked:
                break
            drawn = act_alike(self.policy, observations, generators, asked)
            judged = self._step_costs(
                [observations[i] for i in asked], [episodes[i] for i in asked], drawn
            )
            self.proposed += len(asked)
            for i, chunk, cost in zip(asked, drawn, judged, strict=True):
                total = top_m_mean(cost, self.config.cost_m)
                if total < least[i]:
                    chunks[i], costs[i], least[i] = chunk, cost, total
        return chunks, costs

    def _step_costs(
        self, observations: list[Observation], episodes: list[_Episode], chunks: np.ndarray
    ) -> np.ndarray:
        """(B, H); a single row is given a neighbour, see `act_alike`."""
        if self.memory > 1:  # each scene by itself: they have seen more or less
            rows = zip(observations, episodes, chunks[:, None], strict=True)
            return np.concatenate([self._judge(e).step_cost([o], chunk) for o, e, chunk in rows])
        if len(observations) > 1:
            return self.safety.step_cost(observations, chunks)
        return self.safety.step_cost(observations * 2, np.repeat(chunks, 2, axis=0))[:1]

    def _judge(self, episode: _Episode) -> "SafetyModel | SceneMemory":
        return episode.memory or self.safety

    def _episode(self, generator: "torch.Generator") -> _Episode:
        if generator not in self._episodes:
            self._episodes[generator] = _Episode(SafetyGate(self.config), self._new_memory())
        return self._episodes[generator]

    def _new_memory(self) -> "SceneMemory | None":
        from safedojo_ros.models.scene_memory import SceneMemory

        return SceneMemory(self.safety, self.memory) if self.memory > 1 else None

    def _gated(
        self, episode: _Episode, observation: Observation, chunk: np.ndarray, cost: np.ndarray
    ) -> np.ndarray:
        """(H, 7) what is played instead of `chunk`, after one more decision of the episode."""
        now = round(episode.chunks * self.execute * CONTROL_PERIOD * SECOND)
        episode.chunks += 1
        proposal = ActionChunk(
            chunk, observed_at=now, sequence=episode.chunks, checkpoint=self.policy.checkpoint_id
        )
        limit = self.safety.cost_limit
        proposal, cost, detour = episode.gate.detoured(
            proposal,
            cost,
            limit,
            lambda ways: self._judge(episode).step_cost([observation], ways[None])[0],
        )
        self.detours += bool(detour)
        verdict = episode.gate.judge(proposal, cost, limit, now, detour=detour)
        self.decisions[verdict.decision.name] += 1
        if verdict.chunk is None:
            played = np.zeros_like(chunk)
            played[:, 6] = episode.gripper
        else:
            played = np.asarray(verdict.chunk.actions)
        episode.gripper = float(played[self.execute - 1, 6])
        return played


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
