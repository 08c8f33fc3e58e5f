"""Constrained GRPO: one policy update from one batch of rollouts, in the order of its equations.

With a critic in the group's place the same update is PPO, constrained (as SafeVLA's) or not.

A cost beside contact has a C, a J_c, a d and a λ of its own; see `advantage`.

Symbols: R reward, C cost and A advantage of a trajectory, J_c the rate of violating episodes,
d its limit, λ the multiplier, r the likelihood ratio of a chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.costs import CostLimit
from safedojo_ros.core.types import COST_M
from safedojo_ros.learning.rl.advantage import Mode, group_advantage
from safedojo_ros.learning.rl.anchor import Anchor
from safedojo_ros.learning.rl.critic import Critic, CriticConfig
from safedojo_ros.learning.rl.methods import Method
from safedojo_ros.learning.rl.multiplier import Multiplier, MultiplierConfig
from safedojo_ros.learning.rl.rollout import Rollouts
from safedojo_ros.models.policy import StochasticPolicy


@dataclass(frozen=True)
class UpdateConfig:
    """One update of the policy. Used by every method, unless a field says otherwise."""

    advantage: Mode = "normalised"
    """How the rewards and costs of a group become advantages: `normalised` or `paper`, the formulae
    of `learning.rl.advantage`. Used by methods without a critic."""
    dense_reward: bool = False
    """R is the mean probability of success over all steps (true), or 1 for success (false)."""
    cost_m: int = COST_M
    """M, at least 1: the cost C of a trajectory is the mean of its M largest step costs."""
    cost_floor: float = 0.05
    """σ_floor, above 0: C is divided by its standard deviation in the group, or by this if that is
    smaller. Used by the advantage `normalised`."""
    least_spread: float = 1e-3
    """A group differs in R or C where its standard deviation exceeds this, 0 or more. A group that
    differs in neither teaches nothing and is left out."""
    learning_rate: float = 1.5e-4
    """Adam's learning rate for the policy, above 0."""
    epochs: int = 2
    """How often an update passes over its chunks, at least 1."""
    minibatch: int = 384
    """Most chunks in a gradient step, at least 1. With 128 (and 8 groups an update) the results of
    training seeds differed widely. `simulator.minibatch` replaces it in the simulator."""
    clip_low: float = 0.2
    """r is clipped below at 1 minus this, (0, 1)."""
    clip_high: float = 0.28
    """r is clipped above at 1 plus this, above 0."""
    dual_clip: float = 3.0
    """Largest r that counts for a chunk with a negative advantage, above 1."""
    target_kl: float = 0.3
    """An update ends early at a minibatch whose approximate KL divergence (nats) from the policy
    that drew it exceeds this, above 0."""
    gradient_clip: float = 1.0
    """The gradient is scaled down to this norm where it is larger, above 0."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The value function. Used by the methods `safevla` and `ppo`."""

    def __post_init__(self) -> None:
        for name in ("cost_m", "epochs", "minibatch"):
            check_ranges(self, **{name: "[1, inf)"})
        for name in ("cost_floor", "learning_rate", "clip_high", "target_kl", "gradient_clip"):
            check_ranges(self, **{name: "(0, inf)"})
        check_ranges(self, least_spread="[0, inf)", clip_low="(0, 1)", dual_clip="(1, inf)")


class ConstrainedGRPO:
    """The learner: policy, optimizer, multiplier, and a critic where the method has one."""

    def __init__(
        self,
        policy: StochasticPolicy,
        config: UpdateConfig,
        multiplier: MultiplierConfig,
        method: Method,
        anchor: Anchor | None = None,
        others: Sequence[CostLimit] = (),
    ) -> None:
        """anchor: the imitation loss that is added to the objective, if any; others: the costs
        beside contact, each with a λ of its own that holds the share of its episodes."""
        self.policy, self.config, self.method, self.anchor = policy, config, method, anchor
        self.multiplier = Multiplier(multiplier, method.fixed_multiplier)
        self.optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
        self.modules = torch.nn.ModuleDict(
            {"policy": policy.modules, "multiplier": self.multiplier}
        )
        """Everything but the optimizer that a run saves and resumes."""
        self.others = torch.nn.ModuleDict(
            {
                cost.name: Multiplier(
                    replace(multiplier, limit=cost.share), method.fixed_multiplier
                )
                for cost in others
            }
        )
        if others:
            self.modules["others"] = self.others
        self.critic: Critic | None = None
        if method.baseline == "critic":
            self.critic = Critic(policy.feature_size, config.critic)
            self.modules["critic"] = self.critic
            rate = config.critic.learning_rate
            self.optimizer.add_param_group({"params": self.critic.parameters(), "lr": rate})

    def update(self, rollouts: Rollouts, seed: tuple[int, ...]) -> dict[str, float]:
        """Improve the policy on `rollouts` of its present weights; returns the metrics."""
        config, groups, rng = self.config, rollouts.groups, np.random.default_rng(seed)
        # R, C: one number a trajectory
        reward, cost = self.reward(rollouts), rollouts.trajectory_cost(config.cost_m)
        # λ: a PID on J_c − d, from all rollouts, before any is left out
        flat = float(np.mean(~groups.differing(cost, config.least_spread)))
        penalty = 0.0
        if self.method.constrained:
            penalty = self.multiplier.update(float(rollouts.violated.mean()), flat)
        others = self._penalties(rollouts)
        # A: reward and cost standardised separately, by the group or by a critic
        if self.critic is None:
            mode, floor = config.advantage, config.cost_floor
            pairs = list(others.values())
            of_trajectory = group_advantage(mode, groups, reward, cost, penalty, floor, pairs)
            advantage = torch.from_numpy(of_trajectory).float()[rollouts.trajectory]
            kept = groups.differing(reward, config.least_spread)
            if self.method.constrained:  # groups that all succeed but differ in safety count, too
                for each in (cost, *(values for values, _ in others.values())):
                    kept |= groups.differing(each, config.least_spread)
        else:
            features = self.policy.features(rollouts.sample).float().cpu()
            advantage, returns = self.critic.advantage(
                features, rollouts, reward, config.cost_m, penalty
            )
            self.critic.fit(features, returns, self.optimizer, rng)
            kept = np.ones(groups.count, dtype=bool)
        # θ ← θ − ∇ of the clipped objective
        rows, weight = chunks_of(rollouts, kept[groups.index])
        return {
            **rollouts.figures(config.cost_m),
            "reward": float(reward.mean()),
            "multiplier": penalty,
            **{f"multiplier_{name}": each for name, (_, each) in others.items()},
            "reward_spread": float(groups.spread(reward).mean()),
            "cost_spread": float(groups.spread(cost).mean()),
            "groups_kept": float(kept.mean()),
            "groups_without_cost_spread": flat,
            **self.improve(rollouts, rows, weight, advantage, rng),
        }

    def _penalties(self, rollouts: Rollouts) -> dict[str, tuple[np.ndarray, float]]:
        """{cost beside contact: (B,) C of the trajectories, its λ}, each λ stepped by its PID."""
        if not self.method.constrained:
            return {}
        found, config = {}, self.config
        for limit in rollouts.limits:
            cost = rollouts.other_cost(limit.name, config.cost_m)
            flat = float(np.mean(~rollouts.groups.differing(cost, config.least_spread)))
            multiplier = cast("Multiplier", self.others[limit.name])
            rate = float(rollouts.having(limit).mean())
            found[limit.name] = cost, multiplier.update(rate, flat)
        return found

    def reward(self, rollouts: Rollouts) -> np.ndarray:
        """(B,) R; zeros for a method that does not use reward."""
        reward = rollouts.reward(self.config.dense_reward)
        return reward if self.method.rewarded else np.zeros_like(reward)

    def improve(
        self,
        rollouts: Rollouts,
        rows: torch.Tensor,
        weight: torch.Tensor,
        advantage: torch.Tensor,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Epochs of minibatches over the chunks `rows`, with `weight` and `advantage` (N,)."""
        config, metrics, stopped = self.config, dict[str, list[float]](), False
        for batch in minibatches(rows, config.minibatch, config.epochs, rng):
            part, executed = rollouts.sample.select(batch), rollouts.executed[batch]
            log_ratio = chunk_log_ratio(self.policy.log_prob(part), part.log_prob, executed)
            kl = float((log_ratio.exp() - 1.0 - log_ratio).mean().detach())
            if kl > config.target_kl:
                stopped = True
                break
            of_chunk, clipped = clipped_loss(log_ratio, advantage[batch].to(log_ratio), config)
            loss = (of_chunk * (weight[batch] / weight[batch].mean()).to(log_ratio)).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            seen = {}
            if self.anchor:
                imitation = self.anchor.loss(rng)
                imitation.backward()
                seen["anchor"] = float(imitation.detach())
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.gradient_clip)
            self.optimizer.step()
            seen |= {
                "loss": float(loss.detach()),
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


def chunk_log_ratio(new: torch.Tensor, old: torch.Tensor, executed: torch.Tensor) -> torch.Tensor:
    """(N,) float32 log r of the chunks' executed steps.

    new, old: (N, H); executed: (N, E), of the first E steps.
    """
    steps = executed.shape[1]
    return ((new.float() - old.float())[:, :steps] * executed.to(new)).sum(1)


def clipped_loss(
    log_ratio: torch.Tensor, advantage: torch.Tensor, config: UpdateConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) −min(r·A, clip(r)·A), for A < 0 at most −dual_clip·A; (N,) bool, what was clipped."""
    ratio = log_ratio.exp()
    plain = ratio * advantage
    bounded = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high) * advantage
    objective = torch.minimum(plain, bounded)
    floor = torch.where(advantage < 0, config.dual_clip * advantage, objective)
    return -torch.maximum(objective, floor), bounded < plain


def chunks_of(rollouts: Rollouts, kept: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the chunks of the trajectories `kept` (B,), and weights (N,) of all chunks.

    The weights of a trajectory's chunks sum to 1, so that long trajectories do not outweigh short
    ones.
    """
    owner = rollouts.trajectory.numpy()
    weight = 1.0 / np.bincount(owner)[owner]
    return torch.from_numpy(np.flatnonzero(kept[owner])), torch.from_numpy(weight).float()


def minibatches(
    rows: torch.Tensor, size: int, epochs: int, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """All `rows` in a new order each epoch, in nearly equal batches of at most `size`."""
    for _ in range(epochs if len(rows) else 0):
        shuffled = rows[torch.from_numpy(rng.permutation(len(rows)))]
        yield from shuffled.tensor_split(-(-len(shuffled) // size))
