"""What the safety head foresees of a policy's chunk, and of the detour that the gate takes."""

from dataclasses import dataclass, replace

import numpy as np

from safedojo_ros.core.types import ActionChunk, CostEstimate, Observation, top_m_mean
from safedojo_ros.nodes.model_loading import MemoryLike, SafetyLike
from safedojo_ros.robot.gate.gate import SafetyGate


@dataclass(frozen=True)
class Foresight:
    """One judgement.

    chunk: what the gate is to decide about, the policy's own or a detour of it; step_cost: (H,) of
    that, None where there is no usable estimate; proposed_cost: (H,) of the policy's own where that
    is another one; why: which detour it is, or why there is no estimate; seconds: of computing.
    """

    chunk: ActionChunk
    step_cost: np.ndarray | None
    proposed_cost: np.ndarray | None = None
    why: str = ""
    seconds: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether there is an estimate, of numbers."""
        return self.step_cost is not None and bool(np.all(np.isfinite(self.step_cost)))

    def reported(self, estimate: CostEstimate, cost_m: int) -> CostEstimate:
        """The gate's `estimate` of what is played, with the cost of what the policy proposed."""
        if self.proposed_cost is None:
            return estimate
        return replace(
            estimate,
            step_cost=self.proposed_cost,
            chunk_cost=top_m_mean(self.proposed_cost, cost_m),
            reason=estimate.reason or self.why,
        )


def foresee(
    model: SafetyLike,
    gate: SafetyGate,
    observation: Observation,
    chunk: ActionChunk,
    limit: float,
    memory: MemoryLike | None = None,
) -> Foresight:
    """Ask `model` about `chunk`, and about detours where the gate wants one.

    memory: of the model, which then judges by earlier pictures of the scene, too. Raises whatever
    the model raises.
    """
    if memory is not None:
        memory.look(observation)
    ask = (memory or model).step_cost
    cost = np.asarray(ask([observation], chunk.actions[None]))[0]
    way, way_cost, detour = gate.detoured(
        chunk, cost, limit, lambda ways: ask([observation], ways[None])[0]
    )
    return Foresight(way, way_cost, cost if detour else None, detour)
