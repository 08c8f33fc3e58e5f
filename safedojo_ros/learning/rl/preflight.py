"""Checks before the first update: do rewards and costs differ, and is the likelihood right?

Reinforcement learning on a constant reward or with a wrong likelihood wastes hours without an
error; these checks stop it at once and say why.
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.learning.rl.constrained_grpo import ConstrainedGRPO, chunk_log_ratio
from safedojo_ros.learning.rl.rollout import Rollouts

CHECKED_CHUNKS = 128


@dataclass(frozen=True)
class PreflightConfig:
    """What the rollouts of the first update must show. Used by every method."""

    reward_share: float = 0.1
    """Share of the groups whose members must at least differ in reward, [0, 1]. Not used by
    `no-task`."""
    cost_share: float = 0.1
    """Share of the groups whose members must at least differ in cost, [0, 1]. Used by constrained
    methods."""
    log_ratio: float = 0.02
    """Largest |log r| allowed for the unchanged policy on its own chunks, above 0."""
    enforced: bool = True
    """True: a failed check or gate stops the run. False: it is reported, and the run continues."""

    def __post_init__(self) -> None:
        check_ranges(self, reward_share="[0, 1]", cost_share="[0, 1]", log_ratio="(0, inf)")


def check_rollouts(
    learner: ConstrainedGRPO, rollouts: Rollouts, config: PreflightConfig
) -> list[str]:
    """One sentence for each check that failed."""
    update, method, groups = learner.config, learner.method, rollouts.groups
    failed = []
    reward = learner.reward(rollouts)
    share = float(np.mean(groups.differing(reward, update.least_spread)))
    if method.rewarded and share < config.reward_share:
        failed.append(
            f"reward differs in {share:.0%} of {groups.count} groups (mean {reward.mean():.2f}), "
            f"the bar is {config.reward_share:.0%}: start from a policy that sometimes succeeds "
            "and sometimes fails, make groups larger, or set practice.update.dense_reward"
        )
    cost = rollouts.trajectory_cost(update.cost_m)
    share = float(np.mean(groups.differing(cost, update.least_spread)))
    if method.constrained and share < config.cost_share:
        failed.append(
            f"cost differs in {share:.0%} of {groups.count} groups (mean {cost.mean():.2f}), the "
            f"bar is {config.cost_share:.0%}: start at levels with an obstacle, or explore more"
        )
    drift = largest_log_ratio(learner, rollouts)
    if not drift <= config.log_ratio:
        failed.append(
            f"the likelihood ratio of the unchanged policy is off 1 by {drift:.2g} (log), the bar "
            f"is {config.log_ratio:g}: sampling and log_prob do not agree"
        )
    return failed


@torch.no_grad()
def largest_log_ratio(learner: ConstrainedGRPO, rollouts: Rollouts) -> float:
    """Largest |log r| over the first `CHECKED_CHUNKS` chunks."""
    rows = torch.arange(min(CHECKED_CHUNKS, len(rollouts.sample)))
    part = rollouts.sample.select(rows)
    new = learner.policy.log_prob(part)
    return float(chunk_log_ratio(new, part.log_prob, rollouts.executed[rows]).abs().max())
