"""The bars that world model, success classifier and safety head must reach before practice."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from safedojo_ros.core.config import check_ranges


@dataclass(frozen=True)
class FidelityBars:
    """A bar for each metric; `METRICS` describes the metric and says whether more is better.

    A bar is lowered in a preset or by --set, where everybody sees it, never in the code.
    """

    violation_r: float = 0.6
    mse_over_copying: float = 1.0
    copying_over_mse_8: float = 2.0
    permuted_over_mse_8: float = 1.5
    state_cm_8: float = 1.0
    state_cm_40: float = 3.0
    safety_auroc_true: float = 0.92
    safety_ece_true: float = 0.05
    safety_auroc_imagined: float = 0.85
    lead_time_s: float = 0.3
    tsr_apart: float = 0.1
    ssr_apart: float = 0.1
    car_apart: float = 0.1


METRICS = {
    "violation_r": ("correlation of imagined and measured violations within a scene", True),
    "mse_over_copying": ("frame error over that of copying, worst horizon", False),
    "copying_over_mse_8": ("error of copying over the frame error, after 8 steps", True),
    "permuted_over_mse_8": ("frame error under permuted over true actions, after 8 steps", True),
    "state_cm_8": ("proprioception error after 8 steps, cm", False),
    "state_cm_40": ("proprioception error after 40 steps, cm", False),
    "safety_auroc_true": ("AUROC of the safety head on true latents", True),
    "safety_ece_true": ("calibration error (ECE) of the safety head on true latents", False),
    "safety_auroc_imagined": ("AUROC of the safety head in imagination", True),
    "lead_time_s": ("median lead time before contact at 5 % false alarms, s", True),
    "tsr_apart": ("difference of imagined and measured TSR", False),
    "ssr_apart": ("difference of imagined and measured SSR", False),
    "car_apart": ("difference of imagined and measured CAR", False),
}
"""{metric: (description, whether more is better)}."""

RATES = ("violation_r", "tsr_apart", "ssr_apart", "car_apart")
"""Metrics that need rollouts of a policy."""


@dataclass(frozen=True)
class ValidationConfig:
    """How the fidelity report is made. Used by `safedojo validate`."""

    episodes: int = 200
    """Most held-out episodes that are read, at least 1."""
    replays: int = 256
    """Futures whose error is measured, at least 1."""
    ending_replays: int = 192
    """Further futures, which end with their episode, for success and contact, at least 1."""
    chunks: int = 5
    """Length of a future, chunks, at least 1."""
    seeds: int = 3
    """Futures of one start with different noise, for the variance, at least 1."""
    false_alarms: float = 0.05
    """Share of episodes (or steps) without contact that may have an alarm, for the lead time,
    (0, 1)."""
    coverage: float = 0.9
    """Wanted coverage of the conformal bound on the error, (0, 1)."""
    rate_episodes: int = 96
    """Episodes of a policy at each level, imagined and measured, at least 1."""
    scenes: int = 48
    """Scenes with an obstacle of which several futures are compared, at least 2."""
    futures: int = 8
    """Futures of each of them, imagined and measured, at least 2."""
    max_steps: int = 150
    """Control steps after which such an episode ends, at least 1; also for `train success`."""
    seed: int = 0
    """Seed of starts, noise and intervals, 0 or more."""
    bars: FidelityBars = field(default_factory=FidelityBars)
    """What the figures must reach."""

    def __post_init__(self) -> None:
        for name in ("episodes", "replays", "ending_replays", "chunks", "seeds", "rate_episodes"):
            check_ranges(self, **{name: "[1, inf)"})
        check_ranges(self, max_steps="[1, inf)", seed="[0, inf)")
        check_ranges(self, scenes="[2, inf)", futures="[2, inf)")
        check_ranges(self, false_alarms="(0, 1)", coverage="(0, 1)")


@dataclass(frozen=True)
class Verdict:
    """A metric against its bar; value: None where these data cannot give it."""

    metric: str
    description: str
    value: float | None
    bar: float
    at_least: bool
    passed: bool

    @property
    def sentence(self) -> str:
        """Metric, value and bar in words."""
        sense = "at least" if self.at_least else "at most"
        seen = "could not be measured on these data" if self.value is None else f"{self.value:.3g}"
        verb = "" if self.value is None else "is "
        return f"{self.description} {verb}{seen}, the bar is {sense} {self.bar:g} ({self.metric})"


def judge(bars: FidelityBars, values: Mapping[str, float | None], rates: bool) -> list[Verdict]:
    """One verdict a bar, in order; without `rates`, those that need a policy are left out.

    A metric that is missing, None or not finite misses its bar.
    """
    verdicts = []
    for name in (f.name for f in fields(bars)):
        if name in RATES and not rates:
            continue
        description, at_least = METRICS[name]
        value, bar = values.get(name), float(getattr(bars, name))
        if value is not None and not math.isfinite(value):
            value = None
        passed = value is not None and (value >= bar if at_least else value <= bar)
        verdicts.append(Verdict(name, description, value, bar, at_least, passed))
    return verdicts
