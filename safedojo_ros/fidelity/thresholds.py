"""What a world model and its readers must reach before anything is practised in imagination."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Bars:
    """A bar for each metric; the metric's description and its sense stand in `METRICS`.

    A bar is lowered in a preset or by --set, where everybody sees it, never in the code.
    """

    mse_over_copying: float = 1.0
    copying_over_mse_8: float = 2.0
    permuted_over_mse_8: float = 1.5
    state_cm_8: float = 1.0
    state_cm_40: float = 3.0
    success_f1_real: float = 0.95
    success_f1_imagined: float = 0.9
    safety_auroc_true: float = 0.92
    safety_ece_true: float = 0.05
    safety_auroc_imagined: float = 0.85
    lead_time_s: float = 0.3
    tsr_apart: float = 0.1
    ssr_apart: float = 0.1
    car_apart: float = 0.1


METRICS = {
    "mse_over_copying": ("frame error over that of copying, worst horizon", False),
    "copying_over_mse_8": ("error of copying over the frame error, after 8 steps", True),
    "permuted_over_mse_8": ("frame error under permuted over true actions, after 8 steps", True),
    "state_cm_8": ("proprioception error after 8 steps, cm", False),
    "state_cm_40": ("proprioception error after 40 steps, cm", False),
    "success_f1_real": ("F1 of the success classifier on real frames", True),
    "success_f1_imagined": ("F1 of the success classifier on imagined frames", True),
    "safety_auroc_true": ("AUROC of the safety head on true latents", True),
    "safety_ece_true": ("calibration error (ECE) of the safety head on true latents", False),
    "safety_auroc_imagined": ("AUROC of the safety head in imagination", True),
    "lead_time_s": ("median lead time before contact at 5 % false alarms, s", True),
    "tsr_apart": ("imagined and measured TSR apart", False),
    "ssr_apart": ("imagined and measured SSR apart", False),
    "car_apart": ("imagined and measured CAR apart", False),
}
"""{metric: (description, whether more is better)}."""

RATES = ("tsr_apart", "ssr_apart", "car_apart")
"""Metrics that only a policy's rollouts can give."""


@dataclass(frozen=True)
class ValidationConfig:
    """How the fidelity report is made.

    episodes: most held-out episodes that are read; replays: futures whose error is measured;
    ending_replays: further ones that end with their episode, for success and contact; chunks:
    length of a replay; seeds: noise draws of one future, for its variance; bar_space: "camera" or
    "reconstruction", the pictures against which the frame bars are judged; rate_episodes: of a
    policy, imagined and measured, at each level; max_steps: control steps of such an episode.
    """

    episodes: int = 200
    replays: int = 128
    ending_replays: int = 96
    chunks: int = 5
    seeds: int = 3
    bar_space: str = "camera"
    false_alarms: float = 0.05
    coverage: float = 0.9
    rate_episodes: int = 32
    max_steps: int = 150
    seed: int = 0
    bars: Bars = field(default_factory=Bars)


@dataclass(frozen=True)
class Verdict:
    """A metric against its bar. value: None where the data could not give it."""

    metric: str
    description: str
    value: float | None
    bar: float
    at_least: bool
    passed: bool

    @property
    def sentence(self) -> str:
        """Metric, value, bar, in words."""
        sense = "at least" if self.at_least else "at most"
        seen = "could not be measured on these data" if self.value is None else f"{self.value:.3g}"
        verb = "" if self.value is None else "is "
        return f"{self.description} {verb}{seen}, the bar is {sense} {self.bar:g} ({self.metric})"


def judge(bars: Bars, values: Mapping[str, float | None], rates: bool) -> list[Verdict]:
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
