"""An anchor for practice: demonstrations that the policy keeps imitating during practice.

Practice covers few scenes, and a policy forgets what it could do in others. An imitation loss added
to the objective prevents that, as in DAPG (arXiv 1709.10087).
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.learning.imitation import Demonstrations, check_start, demonstrated_batch
from safedojo_ros.learning.policy_losses import imitation_loss
from safedojo_ros.models.pi0_policy import PI0Policy


@dataclass(frozen=True)
class AnchorConfig:
    """The imitation loss during practice. Used by every method that is given demonstrations."""

    weight: float = 3.0
    """Weight of the imitation loss in the objective, 0 or more; 0 turns the anchor off."""
    batch_size: int = 64
    """Demonstrated frames in each gradient step, at least 1."""
    noise_draws: int = 2
    """Pairs (time, noise) of flow matching that are drawn for each frame, at least 1."""
    colour_jitter: float = 0.1
    """Largest relative change of the images' brightness and contrast, [0, 1)."""
    only_safe: bool = True
    """Imitate only episodes in which the obstacle was neither touched nor moved."""

    def __post_init__(self) -> None:
        check_ranges(self, weight="[0, inf)", batch_size="[1, inf)", noise_draws="[1, inf)")
        check_ranges(self, colour_jitter="[0, 1)")


class Anchor:
    """The weighted imitation loss of a policy on random frames of demonstrations."""

    def __init__(self, config: AnchorConfig, policy: PI0Policy, data: Demonstrations) -> None:
        """Raises `ConfigError` for data of other cameras or unknown sentences."""
        check_start(policy, policy.size, data)
        self.config, self.policy, self.data = config, policy, data

    def loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Scalar, with gradient; the batch is drawn from `rng`."""
        config, data = self.config, self.data
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        batch = demonstrated_batch(
            self.policy, data, config.batch_size, config.colour_jitter, generator
        )
        loss, _ = imitation_loss(self.policy, batch, config.noise_draws, 0, 0.0, generator)
        return config.weight * loss
