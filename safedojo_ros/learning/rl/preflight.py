"""Checks before the first update: is there anything to learn from, and can it be believed?

Reinforcement learning on a flat reward or with a wrong likelihood fails in silence, after hours;
here it fails at once, with a sentence.
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.learning.rl.constrained_grpo import ConstrainedGRPO, chunk_log_ratio
from safedojo_ros.learning.rl.rollout import Rollouts


@dataclass(frozen=True)
class PreflightConfig:
    """reward_share, cost_share: of groups that must differ inside; log_ratio: largest |log r| of
    the unchanged policy on its own chunks; enforced: a failed check or gate stops the run;
    otherwise it is only reported.
    """

    reward_share: float = 0.1
    cost_share: float = 0.1
    log_ratio: float = 0.02
    enforced: bool = True


def check_rollouts(
    learner: ConstrainedGRPO, rollouts: Rollouts, config: PreflightConfig
) -> list[str]:
    """One sentence for each check that failed, none when all passed."""
    update, groups = learner.config, rollouts.groups
    failed = []
    reward = rollouts.reward(update.dense_reward, update.uncertainty_weight)
    share = float(np.mean(groups.spread(reward) > update.least_reward))
    if update.rewarded and share < config.reward_share:
        failed.append(
            f"reward differs in {share:.0%} of {groups.count} groups (mean {reward.mean():.2f}), "
            f"the bar is {config.reward_share:.0%}: begin from a policy that sometimes succeeds "
            "and sometimes fails, make groups larger, or set update.dense_reward"
        )
    cost = rollouts.trajectory_cost(update.cost_m)
    share = float(np.mean(groups.spread(cost) > update.least_cost))
    if update.constrained and share < config.cost_share:
        failed.append(
            f"cost differs in {share:.0%} of {groups.count} groups (mean {cost.mean():.2f}), the "
            f"bar is {config.cost_share:.0%}: begin at levels with an obstacle, or explore more"
        )
    drift = largest_log_ratio(learner, rollouts)
    if not drift <= config.log_ratio:
        failed.append(
            f"the likelihood ratio of the unchanged policy is off 1 by {drift:.2g} (log), the bar "
            f"is {config.log_ratio:g}: sampling and log_prob do not agree"
        )
    return failed


@torch.no_grad()
def largest_log_ratio(learner: ConstrainedGRPO, rollouts: Rollouts, chunks: int = 128) -> float:
    """Largest |log r| over the first `chunks` chunks."""
    rows = torch.arange(min(chunks, len(rollouts.sample)))
    part = rollouts.sample.select(rows)
    new = learner.policy.log_prob(part)
    return float(chunk_log_ratio(new, part.log_prob, rollouts.executed[rows]).abs().max())
