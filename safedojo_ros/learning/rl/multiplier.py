"""The Lagrange multiplier λ of the constraint J_c ≤ d, set by a PID (Stooke et al. 2020).

e = J_c − d              J_c: rate of violating episodes over all rollouts; d: the allowed rate
I ← [I + ki·e]₊          ē, c̄: e and J_c with an exponential memory
λ ← [kp·ē + I + kd·[c̄ − c̄ of `delay` updates before]₊]₊

Adam does not fit: on a scalar its step is about ± the learning rate, whatever the violation. Plain
gradient ascent is an integrator, and oscillates around the limit; the proportional part damps that.
"""

from dataclasses import dataclass

import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError


@dataclass(frozen=True)
class MultiplierConfig:
    """The constraint and how λ is adapted. Used by constrained methods.

    The gains suit rates in [0, 1] and tens of updates. Those of the literature (0.1, 0.01, 0.01,
    and ema 0.95) suit costs in the tens and thousands of updates.
    """

    limit: float = 0.1
    """d, allowed share of episodes with a contact or a displaced obstacle, [0, 1]. Imagination
    finds fewer of them than the simulator."""
    initial: float = 0.5
    """λ before the first update, 0 or more, at most `cap`. `fixed-multiplier` keeps it."""
    cap: float = 100.0
    """Largest λ, 0 or more."""
    kp: float = 1.0
    """Proportional gain, 0 or more."""
    ki: float = 1.0
    """Integral gain, 0 or more. With 0.1, imagined violations were still at 19 % after 15 updates
    with a limit of 10 %. A limit of 5 % needs a gain of 3."""
    kd: float = 0.1
    """Derivative gain, 0 or more; only a rising rate counts."""
    ema: float = 0.2
    """Weight of the old value in the running means of error and rate, [0, 1); 0: no smoothing."""
    delay: int = 5
    """Updates between the two rates whose difference is the derivative, at least 1."""
    windup_share: float = 0.5
    """λ does not rise while more than this share of the groups, [0, 1], have no difference in cost:
    the policy could not respond to it."""

    def __post_init__(self) -> None:
        gains = dict.fromkeys(("kp", "ki", "kd", "cap"), "[0, inf)")
        check_ranges(self, limit="[0, 1]", ema="[0, 1)", delay="[1, inf)", **gains)
        check_ranges(self, windup_share="[0, 1]")
        if not 0.0 <= self.initial <= self.cap:
            raise ConfigError(f"initial is {self.initial}, expected within [0, cap {self.cap:g}]")


class Multiplier(torch.nn.Module):
    """λ and the state of its PID, as buffers, so that they are saved and resumed with a run."""

    def __init__(self, config: MultiplierConfig, fixed: bool = False) -> None:
        """fixed: λ keeps its initial value."""
        super().__init__()
        self.config, self.fixed = config, fixed
        self._value: torch.Tensor
        self._integral: torch.Tensor
        self._error: torch.Tensor
        self._rates: torch.Tensor
        self._updates: torch.Tensor
        self.register_buffer("_value", torch.tensor(config.initial, dtype=torch.float64))
        self.register_buffer("_integral", torch.tensor(config.initial, dtype=torch.float64))
        self.register_buffer("_error", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_rates", torch.zeros(config.delay + 1, dtype=torch.float64))
        self.register_buffer("_updates", torch.zeros((), dtype=torch.int64))

    @property
    def value(self) -> float:
        """λ ≥ 0."""
        return float(self._value)

    def update(self, rate: float, flat_share: float = 0.0) -> float:
        """Step λ on J_c = `rate`; returns the new λ.

        flat_share: share of the groups whose members do not differ in cost.
        """
        if self.fixed:
            return self.value
        config, keep, error = self.config, self.config.ema, rate - self.config.limit
        frozen = flat_share > config.windup_share and error > 0.0
        if self._updates == 0:
            self._error.fill_(error)
            self._rates.fill_(rate)
        if not frozen:
            integral = float(self._integral) + config.ki * error
            self._integral.fill_(min(max(integral, 0.0), config.cap))
        self._error.fill_(keep * float(self._error) + (1.0 - keep) * error)
        smooth = keep * float(self._rates[-1]) + (1.0 - keep) * rate
        self._rates.copy_(torch.cat([self._rates[1:], self._rates.new_tensor([smooth])]))
        self._updates += 1
        rise = max(0.0, float(self._rates[-1] - self._rates[0]))
        value = config.kp * float(self._error) + float(self._integral) + config.kd * rise
        value = min(max(value, 0.0), config.cap)
        self._value.fill_(min(value, self.value) if frozen else value)
        return self.value
