"""The methods of practice: what the baselines and ablations change in the one trainer.

Nothing here imports torch, so that the command line can list the names without delay.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """What the choice of a method fixes. None of this is a setting."""

    world: Literal["imagination", "simulator"] = "imagination"
    """Where rollouts come from."""
    constrained: bool = True
    """Whether the advantage includes cost."""
    rewarded: bool = True
    """Whether the advantage includes reward; if not, success only ends a trajectory."""
    baseline: Literal["group", "critic"] = "group"
    """What a trajectory is compared with: its group's mean (GRPO) or a critic's value (PPO)."""
    fixed_multiplier: bool = False
    """Whether λ keeps its initial value."""

    @property
    def limited(self) -> bool:
        """Whether λ is adapted to hold the rate of violations at its limit."""
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
    "without constraint: cost is not used": "wmpo",
    "without task head: no reward": "no-task",
    "fixed multiplier": "fixed-multiplier",
}
"""{ablation as the paper names it: the method that trains it}."""
