"""An anchor for practice: demonstrations that the policy goes on imitating while it practises.

Practice shows a policy its own scenes only, and what it can do elsewhere fades. An imitation loss
beside the objective holds it there, as in DAPG (arXiv 1709.10087).
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.imitation import Demonstrations, check_start, demonstrated_batch
from safedojo_ros.learning.policy_losses import imitation_loss
from safedojo_ros.models.pi0_policy import PI0Policy


@dataclass(frozen=True)
class AnchorConfig:
    """weight: of the imitation loss beside the objective; batch_size: moments a gradient step;
    noise_draws, colour_jitter, only_safe: as in `learning.imitation.ImitationConfig`.
    """

    weight: float = 3.0
    batch_size: int = 64
    noise_draws: int = 2
    colour_jitter: float = 0.1
    only_safe: bool = True


class Anchor:
    """The weighted imitation loss of a policy on random moments of demonstrations."""

    def __init__(self, config: AnchorConfig, policy: PI0Policy, data: Demonstrations) -> None:
        """Raises `ConfigError` for data of other cameras or unknown sentences, or a bad weight."""
        if config.weight < 0.0 or config.batch_size < 1:
            raise ConfigError(
                f"practice.anchor.weight {config.weight} must be 0 or more and batch_size "
                f"{config.batch_size} 1 or more"
            )
        check_start(policy, policy.size, data)
        self.config, self.policy, self.data = config, policy, data

    def loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Scalar, with gradient; the batch is drawn from `rng`."""
        config, data = self.config, self.data
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        drawn = torch.randint(len(data.taught), (config.batch_size,), generator=generator)
        batch = demonstrated_batch(
            self.policy, data, data.taught[drawn], config.colour_jitter, generator
        )
        return config.weight * imitation_loss(self.policy, batch, config.noise_draws, generator)
