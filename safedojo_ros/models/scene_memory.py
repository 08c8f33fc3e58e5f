"""A safety head with a memory: it judges a chunk by several images of one scene, not the newest.

The gripper hides what it comes near to, and what it carries hides more; earlier images show it. The
head is trained to answer by any image of an episode, for wherever the gripper is later, as long as
the obstacle has not been moved. So the logits of several such answers are averaged. What moves by
itself, or is moved by others, is seen the later for it.
"""

import numpy as np
import torch

from safedojo_ros.core.costs import CostLimit
from safedojo_ros.core.types import Observation
from safedojo_ros.models.safety_head import SafetyModel

LONGEST = 256
"""Frames that are kept of a scene; beyond it, every second one is forgotten."""


class SceneMemory:
    """What `model` has seen of one scene; it is asked by at most `frames` of that.

    The first and the newest frame are always among them, the others spread over all that are kept;
    with one it is the newest. Another scene needs another memory.
    """

    def __init__(self, model: SafetyModel, frames: int) -> None:
        self.model, self.frames = model, frames
        self._seen: list[torch.Tensor] = []

    @property
    def others(self) -> tuple[CostLimit, ...]:
        """The costs that the head predicts beside contact."""
        return self.model.others

    def look(self, observation: Observation) -> None:
        """Remember a frame; raises `ObservationRejected` for images that do not fit."""
        if self.frames == 1:
            self._seen.clear()
        self._seen.append(self.model.contexts([observation])[0])
        if len(self._seen) > LONGEST:
            del self._seen[1:-1:2]

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """As `SafetyModel.step_cost`, of one observation, at which it was just looked."""
        return self.model.judged(self._contexts(), observations, actions)

    def step_costs(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        """The same of every cost; see `SafetyModel.step_costs`."""
        return self.model.judged_costs(self._contexts(), observations, actions)

    def _contexts(self) -> torch.Tensor:
        """(1, M, hidden) of the frames that it is asked by."""
        places = np.linspace(0, len(self._seen) - 1, min(len(self._seen), self.frames))
        return torch.stack([self._seen[place] for place in places.round().astype(int)])[None]
