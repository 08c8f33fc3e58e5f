"""What every policy offers, whatever network stands behind it."""

from typing import Protocol

import numpy as np
import torch

from safedojo_ros.core.types import Observation


class Policy(Protocol):
    """Observations in, action chunks out.

    checkpoint_id: of the weights; chunk_length: H; cameras, image_size: which pictures it needs.
    """

    checkpoint_id: str
    chunk_length: int
    cameras: tuple[str, ...]
    image_size: int

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions in metres and radians; noise comes from one generator an observation.

        Raises `ObservationRejected` for a missing or misshapen picture, a non-finite state, or an
        instruction that the policy was not trained on.
        """
        ...
