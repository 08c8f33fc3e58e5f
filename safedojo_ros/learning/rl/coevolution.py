"""Co-evolution: what imagines and what judges is refined on what the policy does by now.

Practice moves the policy away from the rollouts that world model and readers were trained on. Every
few updates fresh rollouts of the present policy are recorded in the real world and learned from.
"""

from dataclasses import dataclass
from typing import Protocol

from safedojo_ros.models.policy import StoredPolicy


@dataclass(frozen=True)
class Refinement:
    """What a refinement took: real episodes, and those that touched or moved the obstacle.

    violation_threshold: step cost above which a trajectory violates from now on.
    """

    episodes: int
    collisions: int
    violation_threshold: float


class Refiner(Protocol):
    """Keeps an imagined world up with the policy that practises in it."""

    def refine(self, policy: StoredPolicy, update: int) -> Refinement:
        """Record `policy`, which has made `update` updates, and learn from it, in place."""
        ...

    def restore(self, update: int) -> None:
        """Be as after the refinement at `update`."""
        ...
