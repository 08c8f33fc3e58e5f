"""A value function for reward and cost, and advantages in the manner of PPO.

The PPO baselines compare a chunk with the value that a critic expected, not with a group, by
generalised advantage estimation (Schulman et al. 2016).
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.learning.rl.advantage import LEAST_SPREAD
from safedojo_ros.learning.rl.rollout import Rollouts


@dataclass(frozen=True)
class CriticConfig:
    """The critic and how it is fitted. Used by the methods `safevla` and `ppo`."""

    hidden: int = 128
    """Units of the hidden layer, at least 1."""
    discount: float = 0.99
    """γ, discount of reward and cost from one chunk to the next, [0, 1]."""
    trace: float = 0.95
    """λ of generalised advantage estimation, from one chunk to the next, [0, 1]."""
    learning_rate: float = 1e-3
    """Adam's learning rate for the critic, above 0."""
    epochs: int = 8
    """How often the fit passes over an update's chunks, at least 1."""
    minibatch: int = 256
    """Chunks in each gradient step of the fit, at least 1."""

    def __post_init__(self) -> None:
        check_ranges(self, discount="[0, 1]", trace="[0, 1]", learning_rate="(0, inf)")
        check_ranges(self, hidden="[1, inf)", epochs="[1, inf)", minibatch="[1, inf)")


class Critic(torch.nn.Module):
    """Two values for the policy's features: expected reward and expected cost from here on."""

    def __init__(self, features: int, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        self.network = torch.nn.Sequential(
            torch.nn.LayerNorm(features),
            torch.nn.Linear(features, config.hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(config.hidden, 2),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, F) → (N, 2)."""
        return self.network(features)

    def advantage(
        self,
        features: torch.Tensor,
        rollouts: Rollouts,
        reward: np.ndarray,
        cost_m: int,
        multiplier: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages (N,) of the chunks, and the returns (N, 2) that the critic is then fitted to.

        features: (N, F); reward: (B,). Reward and cost are standardised over all chunks, each by
        itself.
        """
        with torch.no_grad():
            values = self(features)
        signals = chunk_signals(rollouts, reward, cost_m)
        raw = generalised_advantage(signals, values, rollouts.trajectory, self.config)
        z = (raw - raw.mean(0)) / raw.std(0).clamp_min(LEAST_SPREAD)
        return (z[:, 0] - multiplier * z[:, 1]) / (1.0 + multiplier), raw + values

    def fit(
        self,
        features: torch.Tensor,
        returns: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
    ) -> None:
        """Fit `returns` (N, 2) by mean squared error.

        optimizer: holds the critic's parameters; it skips its others, which have no gradient here.
        """
        optimizer.zero_grad(set_to_none=True)
        for _ in range(self.config.epochs):
            order = torch.from_numpy(rng.permutation(len(features)))
            for batch in order.split(self.config.minibatch):
                loss = (self(features[batch]) - returns[batch]).square().mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def chunk_signals(rollouts: Rollouts, reward: np.ndarray, cost_m: int) -> torch.Tensor:
    """(N, 2): reward and cost of each chunk.

    reward: (B,), paid with a trajectory's last chunk; cost: the chunk's step costs over `cost_m`,
    so that a trajectory in contact for `cost_m` steps costs 1.
    """
    owner = rollouts.trajectory.numpy()
    execute = rollouts.executed.shape[1]
    done = np.zeros(len(reward), dtype=int)
    last = np.zeros(len(reward), dtype=int)
    signals = np.zeros((len(owner), 2), dtype=np.float32)
    for n, i in enumerate(owner):
        steps = slice(done[i] * execute, (done[i] + 1) * execute)
        signals[n, 1] = rollouts.cost[i, steps].sum() / cost_m
        done[i] += 1
        last[i] = n
    signals[last, 0] = reward
    return torch.from_numpy(signals)


def generalised_advantage(
    signals: torch.Tensor, values: torch.Tensor, trajectory: torch.Tensor, config: CriticConfig
) -> torch.Tensor:
    """(N, 2) advantages of N chunks in order of time; the value after a trajectory's last is 0."""
    count = int(trajectory.max()) + 1
    following = torch.zeros(count, 2)
    advantage_after = torch.zeros(count, 2)
    advantages = torch.zeros_like(signals)
    for n in range(len(signals) - 1, -1, -1):
        owner = trajectory[n]
        error = signals[n] + config.discount * following[owner] - values[n]
        advantages[n] = error + config.discount * config.trace * advantage_after[owner]
        advantage_after[owner], following[owner] = advantages[n], values[n]
    return advantages
