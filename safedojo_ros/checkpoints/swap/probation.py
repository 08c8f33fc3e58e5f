"""Whether a new model is as fit as the old one: before it is taken over, and just after.

The same bars twice. The canary compares on recent observations, beside the running model; the
probation watches the first chunks that are really played. Both speak in sentences; what follows
from them is the owner's business. No clock: the owner measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.errors import CheckpointError, ConfigError

AT_THE_LIMIT = 0.999
"""Share of a limit from which on a step counts as saturated."""


@dataclass(frozen=True)
class Bars:
    """What a new model must keep to."""

    chunks: int = 20
    """How many chunks it is watched for; 0: not at all."""
    settle: int = 4
    """Chunks before a mean or median is judged."""
    latency_ratio: float = 3.0
    """Its computing time may be so many times the old one's ..."""
    latency_slack: float = 0.02
    """... and so much more (s), since times on a busy machine scatter."""
    saturation: float = 0.5
    """Share of steps whose translation or rotation may lie at a limit of the action space."""
    cost_margin: float = 0.2
    """How far its mean predicted cost may lie above the old one's."""

    def longest(self, reference: "Reference") -> float | None:
        """Longest computing time (s) after a model like `reference`, None if that is not known."""
        if reference.seconds is None:
            return None
        return self.latency_ratio * reference.seconds + self.latency_slack

    def __post_init__(self) -> None:
        if self.chunks < 0 or self.settle < 1:
            raise ConfigError(f"chunks is {self.chunks} and settle {self.settle}: expected >= 0, 1")
        if self.latency_ratio < 1.0 or self.latency_slack < 0.0 or self.cost_margin < 0.0:
            raise ConfigError(
                f"latency_ratio {self.latency_ratio}, latency_slack {self.latency_slack}, "
                f"cost_margin {self.cost_margin}: expected >= 1, >= 0, >= 0"
            )


@dataclass(frozen=True)
class Reference:
    """What the old model did. seconds: median computing time; cost: mean chunk cost that the
    safety head `head` predicted. None: not known, and then not compared."""

    seconds: float | None = None
    cost: float | None = None
    head: str = ""


def saturated_share(actions: np.ndarray) -> float:
    """Share of steps of `actions` (..., 7) with a translation or rotation at its limit.

    The gripper is left out: open and close are its limits.
    """
    at_limit = np.abs(np.asarray(actions)[..., :6]) >= AT_THE_LIMIT * ACTION_BOUND[:6]
    return float(np.mean(np.any(at_limit, axis=-1)))


def judge_canary(
    actions: Sequence[np.ndarray],
    seconds: Sequence[float],
    costs: Sequence[float],
    reference: Reference,
    bars: Bars,
) -> None:
    """Raise `CheckpointError` unless a new model is fit to be played.

    actions: its (H, 7) chunks on recent observations; seconds: how long each took, after a first
    one that does not count; costs: what the safety head predicts for each, reference.cost on the
    same observations; any of them may be empty.
    """
    if not all(np.all(np.isfinite(chunk)) for chunk in actions):
        raise CheckpointError("its actions are not finite")
    fault = ""
    if actions:
        fault = _limits_fault(float(np.mean([saturated_share(a) for a in actions])), bars)
    if not fault and seconds:
        fault = _latency_fault(min(seconds), reference, bars)
    if not fault and costs and reference.cost is not None:
        fault = _cost_fault(float(np.mean(costs)), reference.cost + bars.cost_margin, bars)
    if fault:
        raise CheckpointError(fault)


class Probation:
    """The first chunks after a swap. Each method returns why to go back, or ""."""

    def __init__(self, bars: Bars, reference: Reference, since: int = 0) -> None:
        """since: sequence of the last chunk before the swap; later ones are the new model's."""
        self._bars, self._reference, self._since = bars, reference, since
        self._seconds: list[float] = []
        self._shares: list[float] = []
        self._costs: list[float] = []

    @property
    def over(self) -> bool:
        """Whether it has been watched long enough."""
        return len(self._seconds) >= self._bars.chunks

    @property
    def summary(self) -> str:
        """What was seen, for a person to read."""
        words = f"{len(self._seconds)} chunks"
        if self._seconds:
            words += f", median {np.median(self._seconds) * 1e3:.0f} ms"
        if self._costs:
            words += f", mean predicted cost {np.mean(self._costs):.2f}"
        return words

    def chunk(self, seconds: float, actions: np.ndarray | None = None) -> str:
        """After computing a chunk (H, 7) of actions; None for a model that makes none."""
        if actions is not None:
            if not np.all(np.isfinite(actions)):
                return "its actions are not finite"
            self._shares.append(saturated_share(actions))
        self._seconds.append(seconds)
        if len(self._seconds) < self._bars.settle:
            return ""
        fault = _latency_fault(float(np.median(self._seconds)), self._reference, self._bars)
        if not fault and self._shares:
            fault = _limits_fault(float(np.mean(self._shares)), self._bars)
        return fault

    def cost(self, sequence: int, head: str, cost: float, limit: float) -> str:
        """After the safety head `head` has judged chunk `sequence`; the limit is its own.

        Costs of two heads are not comparable: under another head than the reference's, the new
        model must keep below the limit.
        """
        if sequence <= self._since or not np.isfinite(cost):
            return ""
        self._costs.append(cost)
        if len(self._costs) < self._bars.settle:
            return ""
        known = self._reference.cost
        same = known is not None and head == self._reference.head
        bar = known + self._bars.cost_margin if known is not None and same else limit
        return _cost_fault(float(np.mean(self._costs)), bar, self._bars)


def _latency_fault(seconds: float, reference: Reference, bars: Bars) -> str:
    bar = bars.longest(reference)
    if bar is None or reference.seconds is None or seconds <= bar:
        return ""
    return (
        f"it takes {seconds * 1e3:.0f} ms a chunk, the old one {reference.seconds * 1e3:.0f} ms; "
        f"the bar is {bar * 1e3:.0f} ms"
    )


def _limits_fault(share: float, bars: Bars) -> str:
    if share <= bars.saturation:
        return ""
    return f"{share:.0%} of its steps lie at the limits of the action space, the bar is " + (
        f"{bars.saturation:.0%}"
    )


def _cost_fault(cost: float, bar: float, bars: Bars) -> str:
    if cost <= bar:
        return ""
    return f"its predicted cost is {cost:.2f}, the bar is {bar:.2f}"
