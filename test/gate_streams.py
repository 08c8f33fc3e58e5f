"""Streams of chunks, sound and faulty, with a head that answers by a formula."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from safedojo_ros.core.types import ActionChunk
from safedojo_ros.robot.gate.gate import GateConfig

MS = 1_000_000
CHUNKS = 60
CONFIGS = (
    GateConfig(cost_m=2, detour_ratio=0.0),
    GateConfig(cost_m=2, detour_ratio=0.2, release_after=1),
    GateConfig(cost_m=3, detour_ratio=0.6, stop_cost=1.5),
    GateConfig(cost_m=4, mode="monitor", detour_ratio=0.2),
)


@dataclass(frozen=True)
class Question:
    """What a gate is asked once. proposals: of one inference; now: ns."""

    proposals: list[ActionChunk]
    limit: float
    now: int
    wall: np.ndarray
    """(4,): a plane that the head takes for an obstacle."""
    answers: bool

    def ask(self, chunks: np.ndarray) -> np.ndarray:
        """(K, H, 7) → (K, H) P(contact), steeper the farther a chunk goes beyond the plane."""
        beyond = np.cumsum(np.asarray(chunks)[..., :3], axis=-2) @ self.wall[:3] - self.wall[3]
        cost: np.ndarray = 1.0 / (1.0 + np.exp(-60.0 * beyond))
        return cost if self.answers else np.full(cost.shape, np.nan)


def stream(seed: int) -> Iterator[Question]:
    """Questions 200 ms apart, of which about one in five has a fault."""
    rng = np.random.default_rng(seed)
    now, sequence = 1_000 * MS, 0
    for _ in range(CHUNKS):
        now, sequence = now + 200 * MS, sequence + 1
        direction = rng.normal(size=3)
        proposals = []
        for _ in range(int(rng.integers(1, 5))):
            actions = rng.uniform(-0.02, 0.02, (8, 7))
            actions[:, :3] += rng.uniform(0.0, 0.02) * direction / np.linalg.norm(direction)
            actions[:, 6] = 1.0
            proposals.append(ActionChunk(actions, observed_at=now - 50 * MS, sequence=sequence))
        wall = np.append(direction / np.linalg.norm(direction), rng.uniform(-0.01, 0.2))
        question = Question(proposals, 0.3, now, wall, answers=True)
        fault = int(rng.integers(0, 40))
        if fault == 0:
            sequence += 1
            question = replaced(question, sequence=sequence)
        elif fault == 1:
            question = replaced(question, sequence=max(0, sequence - 2))
        elif fault == 2:
            question = replaced(question, observed_at=now - 700 * MS)
        elif fault == 3:
            question = replaced(question, actions=np.full((8, 7), 0.2))
        elif fault == 4:
            question = replaced(question, frame="camera")
        elif fault == 5:
            question = replace(question, answers=False)
        elif fault == 6:
            question = replace(question, limit=1.5, proposals=proposals[:1])
        elif fault == 7:
            now += 800 * MS
            sequence = 0
        yield question


def replaced(question: Question, **changes: object) -> Question:
    proposals = [replace(chunk, **changes) for chunk in question.proposals]  # type: ignore[arg-type]
    return replace(question, proposals=proposals)
