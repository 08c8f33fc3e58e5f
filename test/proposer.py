"""A policy for tests that does what a script says."""

import numpy as np
import torch

from safedojo_ros.core.types import Observation


class Proposer:
    """Proposes, at the k-th call, to go `script[k]` cm a step with a closed gripper."""

    checkpoint_id, chunk_length, image_size = "proposer", 8, 64
    cameras = ("agentview", "wrist")

    def __init__(self, *script: float) -> None:
        self.script = list(script)

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        chunks = np.zeros((len(observations), 8, 7))
        chunks[:, :, 0], chunks[:, :, 6] = self.script.pop(0) / 100, 1.0
        return chunks
