"""Constrained GRPO: one policy update from one batch of rollouts, in the order of its equations.

With a critic in the group's place the same update is PPO, constrained (as SafeVLA's) or not.

Symbols: R reward, C cost and A advantage of a trajectory, J_c the rate of violating episodes,
d its limit, λ the multiplier, r the likelihood ratio of a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.rl.advantage import (
    MODES,
    Mode,
    RunningSpread,
    group_advantage,
)
from safedojo_ros.learning.rl.anchor import Anchor
from safedojo_ros.learning.rl.critic import Critic, CriticConfig, chunk_signals, critic_advantage
from safedojo_ros.learning.rl.multiplier import Multiplier, MultiplierConfig
from safedojo_ros.learning.rl.rollout import Rollouts
from safedojo_ros.models.policy import StochasticPolicy


@dataclass(frozen=True)
class UpdateConfig:
    """One update.

    constrained, rewarded: whether cost and reward have a say; baseline: what an advantage is
    measured from, the group or a critic; advantage: see `learning.rl.advantage`; dense_reward: mean
    probability of success instead of success; uncertainty_weight: of the world model's doubt;
    cost_m: M, largest step costs that make a trajectory's cost; violation_threshold: step cost
    above which an episode violates, in imagination 0 for the safety checkpoint's own; cost_floor:
    σ_floor; tolerance: of `switching`; least_reward, least_cost: spreads in a group below which it
    teaches nothing.
    clip_low, clip_high: of the ratio below and above 1; dual_clip: most that a bad chunk's ratio
    counts; target_kl: approximate KL of a minibatch beyond which the update stops; epochs,
    minibatch (chunks); chunks_per_trajectory: drawn at random for the gradient, 0 for all.
    """

    constrained: bool = True
    rewarded: bool = True
    baseline: Literal["group", "critic"] = "group"
    advantage: Mode = "normalised"
    dense_reward: bool = False
    uncertainty_weight: float = 0.0
    cost_m: int = 16
    violation_threshold: float = 0.5
    cost_floor: float = 0.05
    tolerance: float = 0.05
    least_reward: float = 1e-3
    least_cost: float = 1e-3
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    target_kl: float = 0.05
    epochs: int = 1
    minibatch: int = 128
    chunks_per_trajectory: int = 0
    learning_rate: float = 5e-5
    gradient_clip: float = 1.0
    critic: CriticConfig = field(default_factory=CriticConfig)


class ConstrainedGRPO:
    """The learner: policy, optimizer, multiplier and running spreads."""

    def __init__(
        self,
        policy: StochasticPolicy,
        config: UpdateConfig,
        multiplier: MultiplierConfig,
        anchor: Anchor | None = None,
    ) -> None:
        """anchor: what the policy goes on imitating meanwhile."""
        if config.advantage not in MODES:
            raise ConfigError(
                f"advantage is '{config.advantage}', expected one of {', '.join(MODES)}"
            )
        if config.baseline not in ("group", "critic"):
            raise ConfigError(f"baseline is '{config.baseline}', expected group or critic")
        self.policy, self.config, self.anchor = policy, config, anchor
        self.multiplier = Multiplier(multiplier)
        self.spread = RunningSpread()
        self.optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
        self.modules = torch.nn.ModuleDict(
            {"policy": policy.modules, "multiplier": self.multiplier, "spread": self.spread}
        )
        self.critic: Critic | None = None
        if config.baseline == "critic":
            self.critic = Critic(policy.feature_size, config.critic)
            self.modules["critic"] = self.critic
            rate = config.critic.learning_rate
            self.optimizer.add_param_group({"params": self.critic.parameters(), "lr": rate})
        """All that is saved and resumed beside the optimizer."""

    def update(self, rollouts: Rollouts, seed: tuple[int, ...]) -> dict[str, float]:
        """Improve the policy on `rollouts` of its present weights; returns the metrics."""
        config, groups = self.config, rollouts.groups
        # R, C: one number a trajectory
        reward = rollouts.reward(config.dense_reward, config.uncertainty_weight)
        reward = reward if config.rewarded else np.zeros_like(reward)
        cost = rollouts.trajectory_cost(config.cost_m)
        # λ ← [λ + rate·(J_c − d)]₊, from all rollouts, before any is dropped
        rate = float(rollouts.violated(config.violation_threshold).mean())
        flat = float(np.mean(groups.spread(cost) <= config.least_cost))
        penalty, over_limit = 0.0, False
        if config.constrained:
            by_rate = self.multiplier.config.signal == "violations"
            penalty = self.multiplier.update(rate if by_rate else float(cost.mean()), flat)
            over_limit = rate > self.multiplier.config.limit + config.tolerance
        # A: reward and cost standardised apart, by the group or by a critic
        rng = np.random.default_rng(seed)
        running = self.spread.update(groups, reward, cost)
        if self.critic is None:
            advantage = group_advantage(
                config.advantage,
                groups,
                reward,
                cost,
                penalty,
                cost_floor=config.cost_floor,
                running=running,
                over_limit=over_limit,
            )
            chunk_advantage = torch.from_numpy(advantage).float()[rollouts.trajectory]
            # groups whose members differ in neither signal teach nothing
            least = (config.least_reward, config.least_cost)
            kept = groups.informative(reward, cost if config.constrained else None, least)
        else:
            features = self.policy.features(rollouts.sample).float().cpu()
            signals = chunk_signals(rollouts, reward, config.cost_m)
            apart = critic_advantage(
                self.critic, self.optimizer, features, signals, rollouts.trajectory, rng
            )
            chunk_advantage = (apart[:, 0] - penalty * apart[:, 1]) / (1.0 + penalty)
            kept = np.ones(groups.count, dtype=bool)
        # θ ← θ − ∇ of the clipped objective
        rows, weight = chosen_chunks(rollouts, kept[groups.index], config, rng)
        return {
            **rollouts.figures(config.violation_threshold, config.cost_m),
            "reward": float(reward.mean()),
            "multiplier": penalty,
            "reward_spread": float(groups.spread(reward).mean()),
            "cost_spread": float(groups.spread(cost).mean()),
            "groups_kept": float(kept.mean()),
            "groups_without_cost_spread": flat,
            **self.improve(rollouts, rows, weight, chunk_advantage, rng),
        }

    def improve(
        self,
        rollouts: Rollouts,
        rows: torch.Tensor,
        weight: torch.Tensor,
        advantage: torch.Tensor,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Epochs of minibatches over the chunks `rows`, with `weight` and `advantage` (N,)."""
        config = self.config
        metrics: dict[str, list[float]] = {}
        stopped = False
        for batch in minibatches(rows, config.minibatch, config.epochs, rng):
            part, executed = rollouts.sample.select(batch), rollouts.executed[batch]
            log_ratio = chunk_log_ratio(self.policy.log_prob(part), part.log_prob, executed)
            loss, clipped = clipped_loss(log_ratio, advantage[batch].to(log_ratio), config)
            share = (weight[batch] / weight[batch].mean()).to(log_ratio)
            kl = float((log_ratio.exp() - 1.0 - log_ratio).mean().detach())
            if kl > config.target_kl:
                stopped = True
                break
            self.optimizer.zero_grad(set_to_none=True)
            (loss * share).mean().backward()
            seen = {"anchor": self._pull(rng)} if self.anchor else {}
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.gradient_clip)
            self.optimizer.step()
            seen |= {
                "loss": float((loss * share).mean().detach()),
                "gradient_norm": float(norm),
                "kl": kl,
                "clip_share": float(clipped.float().mean()),
                "ratio": float(log_ratio.exp().mean().detach()),
            }
            for name, value in seen.items():
                metrics.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        steps = len(metrics.get("loss", []))
        return means | {"gradient_steps": float(steps), "kl_stop": float(stopped)}

    def _pull(self, rng: np.random.Generator) -> float:
        """Add the anchor's gradient; returns its loss."""
        assert self.anchor is not None
        loss = self.anchor.loss(rng)
        loss.backward()
        return float(loss.detach())


def chunk_log_ratio(new: torch.Tensor, old: torch.Tensor, executed: torch.Tensor) -> torch.Tensor:
    """(N,) float32 log r of the chunks' executed steps.

    new, old: (N, H); executed: (N, E), of the first E steps.
    """
    steps = executed.shape[1]
    return ((new.float() - old.float())[:, :steps] * executed.to(new)).sum(1)


def clipped_loss(
    log_ratio: torch.Tensor, advantage: torch.Tensor, config: UpdateConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """−min(r·A, clip(r)·A), but for A < 0 not below dual_clip·A, and where clipping had a say."""
    ratio = log_ratio.exp()
    plain = ratio * advantage
    bounded = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high) * advantage
    objective = torch.minimum(plain, bounded)
    floor = torch.where(advantage < 0, config.dual_clip * advantage, objective)
    return -torch.maximum(objective, floor), bounded < plain


def chosen_chunks(
    rollouts: Rollouts, kept: np.ndarray, config: UpdateConfig, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the chunks that the gradient is taken of, and weights (N,) of all chunks.

    kept: (B,) trajectories of informative groups. A trajectory weighs 1 however many chunks it
    has, so that long ones do not drown short ones.
    """
    owner = rollouts.trajectory.numpy()
    order = rng.permutation(len(owner))
    order = order[kept[owner[order]]]
    if config.chunks_per_trajectory:
        ranked = order[np.argsort(owner[order], kind="stable")]
        mine = owner[ranked]
        position = np.arange(len(mine)) - np.searchsorted(mine, mine)
        order = ranked[position < config.chunks_per_trajectory]
    counts = np.bincount(owner[order], minlength=int(owner.max()) + 1)
    weight = 1.0 / np.maximum(counts, 1)[owner]
    return torch.from_numpy(np.sort(order)), torch.from_numpy(weight).float()


def minibatches(
    rows: torch.Tensor, size: int, epochs: int, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Each epoch all `rows` in a new order, in batches as even as can be of at most `size`."""
    for _ in range(epochs if len(rows) else 0):
        shuffled = rows[torch.from_numpy(rng.permutation(len(rows)))]
        yield from shuffled.tensor_split(-(-len(shuffled) // size))
