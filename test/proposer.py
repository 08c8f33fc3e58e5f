"""A policy for tests that does what a script says."""

from collections.abc import Sequence

import numpy as np
import torch

from safedojo_ros.core.types import Observation


class Proposer:
    """Proposes, `count` times at each call, to go the next number of `script` cm a step with a
    closed gripper; begins with what is committed."""

    checkpoint_id, chunk_length, image_size, longest_delay = "proposer", 8, 64, 3
    cameras: tuple[str, ...] = ("agentview", "wrist")

    def __init__(self, *script: float) -> None:
        self.script = list(script)
        self.committed: list[np.ndarray] = []
        """What was committed in each call, of the first observation."""

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        return self.propose(observations, generators)[:, 0]

    def propose(
        self,
        observations: list[Observation],
        generators: list[torch.Generator] | None = None,
        count: int = 1,
        committed: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        chunks = np.zeros((len(observations), count, 8, 7))
        for k in range(count):
            chunks[:, k, :, 0] = self.script.pop(0) / 100
        chunks[..., 6] = 1.0
        for row, first in enumerate(committed or ()):
            chunks[row, :, : len(first)] = first
        if committed:
            self.committed.append(committed[0])
        return chunks
