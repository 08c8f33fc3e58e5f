"""What every policy offers, whatever network stands behind it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from safedojo_ros.core.types import Observation


class Policy(Protocol):
    """Observations in, action chunks out.

    checkpoint_id: of the weights; chunk_length: H; cameras, image_size: which images it needs.
    """

    checkpoint_id: str
    chunk_length: int
    cameras: tuple[str, ...]
    image_size: int

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions in metres and radians; noise comes from one generator an observation.

        Raises `ObservationRejected` for a missing or misshapen image, a non-finite state, or an
        instruction that the policy was not trained on.
        """
        ...


class ProposingPolicy(Policy, Protocol):
    """A policy that proposes several chunks at once, and knows that they come late.

    longest_delay: most steps that may be committed, for it has learned no more; 0: none.
    """

    longest_delay: int

    def propose(
        self,
        observations: list[Observation],
        generators: list[torch.Generator] | None = None,
        count: int = 1,
        committed: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """(B, K, H, 7): `count` chunks of one inference, or fewer where they are dear; `act` is the
        first of one.

        committed: (d, 7) for each observation, 0 <= d <= `longest_delay`: what the robot will
        execute from the observation on, because the chunk comes late; every chunk begins with it.
        """
        ...


class StoredPolicy(ProposingPolicy, Protocol):
    """A policy with files. instructions: the sentences that it was trained on."""

    instructions: tuple[str, ...]

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, for the manifest."""
        ...

    def save(self, directory: Path, half: bool = False) -> None:
        """Write the checkpoint's files into an existing directory."""
        ...


@dataclass(frozen=True)
class PolicySample:
    """Chunks that a stochastic policy drew, and what it takes to compute their probability again.

    chunks: (B, H, 7), metres and radians, clipped to the limits after they were drawn;
    log_prob: (B, H) float32, of each step of the (unclipped) chunk under the policy that drew it,
    so that a chunk's is the sum over its steps; tensors: {name: (B, ...)}, the policy's own.
    """

    chunks: np.ndarray
    log_prob: torch.Tensor
    tensors: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.log_prob)

    def select(self, rows: torch.Tensor) -> "PolicySample":
        """The sample's `rows` (int64)."""
        tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return PolicySample(self.chunks[rows.numpy()], self.log_prob[rows], tensors)

    @staticmethod
    def concatenate(parts: "Sequence[PolicySample]") -> "PolicySample":
        """One sample of several."""
        names = parts[0].tensors
        return PolicySample(
            np.concatenate([p.chunks for p in parts]),
            torch.cat([p.log_prob for p in parts]),
            {name: torch.cat([p.tensors[name] for p in parts]) for name in names},
        )


class StochasticPolicy(Protocol):
    """A policy with a distribution over chunks: what reinforcement learning needs of it.

    feature_size: F of `features`.
    """

    feature_size: int

    @property
    def policy(self) -> StoredPolicy:
        """The one that acts, and is saved."""
        ...

    @property
    def modules(self) -> torch.nn.Module:
        """All that is learned, for saving a run."""
        ...

    def sample_with_log_prob(
        self, observations: list[Observation], generators: list[torch.Generator]
    ) -> PolicySample:
        """One chunk an observation, noise from one generator an observation; no gradient."""
        ...

    def log_prob(self, sample: PolicySample) -> torch.Tensor:
        """(B, H) float32 under the present weights, with gradient."""
        ...

    def features(self, sample: PolicySample) -> torch.Tensor:
        """(B, F) of what was seen, without gradient, for a value function."""
        ...

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """What is learned."""
        ...
