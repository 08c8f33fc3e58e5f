"""The Lagrange multiplier of the constraint J_c ≤ d: projected gradient, or PID.

J_c is the rate of violating episodes over all rollouts, the unfiltered ones; d the allowed rate.
Plain ascent and PID (Stooke et al. 2020), never Adam: on a scalar its step is about ± the learning
rate, whatever the violation. Ascent alone is an integrator, which swings around the limit with a
policy that answers it; the proportional part of the PID damps that, so it is the default.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from safedojo_ros.core.errors import ConfigError


@dataclass(frozen=True)
class MultiplierConfig:
    """kind: gradient, pid, or fixed (an ablation); initial: λ before the first update; cap: its
    largest value; limit: d, allowed rate of violating episodes.

    signal: what is held under the limit, the rate of violating episodes or the mean trajectory
    cost (as the paper does); rate: step of the gradient; kp, ki, kd: gains of the PID, for rates
    in [0, 1] and tens of updates (the literature's 0.1, 0.01, 0.01 and ema 0.95 are for costs of
    tens and thousands of updates); ema: share that its smoothed error and cost keep of their past;
    delay: updates between the two costs of its derivative. While more than `windup_share` of the
    groups give no cost gradient, λ may fall but not rise: the policy cannot answer it.
    """

    kind: Literal["gradient", "pid", "fixed"] = "pid"
    initial: float = 0.5
    cap: float = 100.0
    limit: float = 0.2
    signal: Literal["violations", "cost"] = "violations"
    rate: float = 0.1
    kp: float = 1.0
    ki: float = 0.1
    kd: float = 0.1
    ema: float = 0.2
    delay: int = 5
    windup_share: float = 0.5


class Multiplier(torch.nn.Module):
    """λ and what it remembers, in buffers, so that it is saved and resumed with a run."""

    def __init__(self, config: MultiplierConfig) -> None:
        super().__init__()
        if config.kind not in ("gradient", "pid", "fixed"):
            raise ConfigError(f"multiplier.kind is '{config.kind}', expected gradient, pid, fixed")
        if not 0.0 <= config.limit <= 1.0 or not 0.0 <= config.initial <= config.cap:
            raise ConfigError(
                f"multiplier.limit {config.limit} must lie in [0, 1] and initial {config.initial} "
                f"in [0, cap {config.cap}]"
            )
        if config.delay < 1:
            raise ConfigError(f"multiplier.delay is {config.delay} updates, expected at least 1")
        self.config = config
        self._value: torch.Tensor
        self._integral: torch.Tensor
        self._error: torch.Tensor
        self._costs: torch.Tensor
        self._updates: torch.Tensor
        self.register_buffer("_value", torch.tensor(config.initial, dtype=torch.float64))
        self.register_buffer("_integral", torch.tensor(config.initial, dtype=torch.float64))
        self.register_buffer("_error", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_costs", torch.zeros(config.delay + 1, dtype=torch.float64))
        self.register_buffer("_updates", torch.zeros((), dtype=torch.int64))

    @property
    def value(self) -> float:
        """λ ≥ 0."""
        return float(self._value)

    def update(self, measured: float, degenerate_share: float = 0.0) -> float:
        """Step λ on J_c = `measured`; returns the new λ.

        degenerate_share: of groups whose members do not differ in cost.
        """
        config = self.config
        error = measured - config.limit
        frozen = degenerate_share > config.windup_share and error > 0.0
        if config.kind == "gradient":
            value = self.value if frozen else self.value + config.rate * error
        elif config.kind == "pid":
            value = self._pid(measured, error, frozen)
        else:
            value = self.value
        self._value.fill_(min(max(value, 0.0), config.cap))
        return self.value

    def _pid(self, measured: float, error: float, frozen: bool) -> float:
        config, keep = self.config, self.config.ema
        if self._updates == 0:
            self._error.fill_(error)
            self._costs.fill_(measured)
        if not frozen:
            integral = float(self._integral) + config.ki * error
            self._integral.fill_(min(max(integral, 0.0), config.cap))
        self._error.fill_(keep * float(self._error) + (1.0 - keep) * error)
        smooth = keep * float(self._costs[-1]) + (1.0 - keep) * measured
        self._costs.copy_(torch.cat([self._costs[1:], self._costs.new_tensor([smooth])]))
        self._updates += 1
        rise = max(0.0, float(self._costs[-1] - self._costs[0]))
        value = config.kp * float(self._error) + float(self._integral) + config.kd * rise
        return min(value, self.value) if frozen else value
