"""The methods of practice: one trainer, and in what its baselines and ablations differ.

Nothing here imports torch, so that a command line knows the names at once.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """What a method fixes. None of this is a setting."""

    world: Literal["imagination", "simulator"] = "imagination"
    """Where rollouts come from."""
    constrained: bool = True
    """Whether cost has a say in the advantage."""
    rewarded: bool = True
    """Whether reward has one; without it the success classifier only says where a future ends."""
    baseline: Literal["group", "critic"] = "group"
    """What an advantage is measured from: the mean of a group (GRPO) or a critic's value (PPO)."""
    fixed_multiplier: bool = False
    """The multiplier stays as it begins."""

    @property
    def limited(self) -> bool:
        """Whether the multiplier moves, to hold the rate of violations at its limit."""
        return self.constrained and not self.fixed_multiplier


METHODS = {
    "safedojo": Method(),
    "wmpo": Method(constrained=False),
    "safevla": Method("simulator", baseline="critic"),
    "grpo": Method("simulator", constrained=False),
    "ppo": Method("simulator", constrained=False, baseline="critic"),
    "no-task": Method(rewarded=False),
    "fixed-multiplier": Method(fixed_multiplier=True),
}
"""{name on the command line, in results and reports: what it is}."""

ABLATIONS = {
    "SafeDojo": "safedojo",
    "without safety head: no cost": "wmpo",
    "without constraint: cost has no say": "wmpo",
    "without task head: no reward": "no-task",
    "fixed multiplier": "fixed-multiplier",
}
"""{ablation as in the paper: the method that it is}."""
