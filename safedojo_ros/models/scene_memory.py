"""A safety head with a memory: it judges a chunk by several pictures of one scene, not the newest.

The hand hides what it comes near to, and what it carries hides more; earlier pictures show it. The
head is trained to answer by any picture of an episode, for wherever the hand is later, as long as
the obstacle has not been moved. So the logits of several such answers are averaged. What moves by
itself, or is moved by others, is seen the later for it.
"""

import numpy as np
import torch

from safedojo_ros.core.types import Observation
from safedojo_ros.models.safety_head import SafetyModel

LONGEST = 256
"""Moments that are kept of a scene; beyond it, every second one is forgotten."""


class SceneMemory:
    """What `model` has seen of one scene; it is asked by at most `moments` of that.

    The first and the newest moment are always among them, the others spread over all that are kept;
    with one it is the newest. Another scene needs another memory.
    """

    def __init__(self, model: SafetyModel, moments: int) -> None:
        self.model, self.moments = model, moments
        self._seen: list[torch.Tensor] = []

    def look(self, observation: Observation) -> None:
        """Remember a moment; raises `ObservationRejected` for pictures that do not fit."""
        if self.moments == 1:
            self._seen.clear()
        self._seen.append(self.model.contexts([observation])[0])
        if len(self._seen) > LONGEST:
            del self._seen[1:-1:2]

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """As `SafetyModel.step_cost`, of one observation, at which it was just looked."""
        places = np.linspace(0, len(self._seen) - 1, min(len(self._seen), self.moments))
        contexts = torch.stack([self._seen[place] for place in places.round().astype(int)])
        return self.model.judged(contexts[None], observations, actions)
