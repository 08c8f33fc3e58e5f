"""The gate: one action chunk and its predicted cost in, ALLOW / SLOW / HOLD / STOP out.

Not safety-rated. Emergency stop, enabling device, force and speed limiting belong to the robot's
controller and its cell; the gate only keeps a policy's foreseen contacts from being played.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.types import ActionChunk, CostEstimate, Decision, top_m_mean
from safedojo_ros.robot.gate.detour import OFFSETS, Judge, chosen_detour, detours, progress
from safedojo_ros.robot.gate.freshness import ChunkFreshness, FreshnessConfig

Mode = Literal["gate", "monitor"]
MODES: tuple[Mode, ...] = ("gate", "monitor")

SLOW_FACTOR = 0.5
"""What SLOW multiplies translations and rotations with; the gripper command stays."""


@dataclass(frozen=True)
class GateConfig:
    """Thresholds of the gate. "Cost" is the mean of the `cost_m` largest step costs, in [0, 1]."""

    mode: Mode = "gate"
    """`gate` enforces the decision; `monitor` forwards well-formed chunks and only reports."""
    cost_m: int = 3
    """How many of the largest step costs the chunk cost averages."""
    slow_ratio: float = 0.6
    """SLOW from this share of the cost limit on."""
    hold_ratio: float = 1.0
    """HOLD from this share of the cost limit on."""
    stop_cost: float = 0.98
    """STOP from this cost on (never below the HOLD threshold); above 1 it never stops by itself."""
    release_ratio: float = 0.8
    """A level is left only below this share of its own threshold ..."""
    release_after: int = 3
    """... for this many chunks in a row."""
    detour_ratio: float = 0.0
    """From this share of the cost limit on (from SLOW on at the latest) a way around is sought that
    costs less; 0: never."""
    freshness: FreshnessConfig = field(default_factory=FreshnessConfig)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode is '{self.mode}', expected one of {', '.join(MODES)}")
        if self.cost_m < 1 or self.release_after < 1:
            raise ConfigError(
                f"cost_m is {self.cost_m} and release_after {self.release_after}, expected >= 1"
            )
        if not 0.0 < self.slow_ratio <= self.hold_ratio:
            raise ConfigError(
                f"slow_ratio {self.slow_ratio} and hold_ratio {self.hold_ratio}: "
                "expected 0 < slow_ratio <= hold_ratio"
            )
        if not 0.0 < self.release_ratio <= 1.0:
            raise ConfigError(f"release_ratio is {self.release_ratio}, expected within (0, 1]")
        if not self.stop_cost > 0.0:
            raise ConfigError(f"stop_cost is {self.stop_cost}, expected > 0")
        if not 0.0 <= self.detour_ratio <= 1.0:
            raise ConfigError(f"detour_ratio is {self.detour_ratio}, expected within [0, 1]")

    @property
    def passing_ratio(self) -> float:
        """Share of the cost limit below which a chunk is played as it is."""
        return min(self.slow_ratio, self.detour_ratio or self.slow_ratio)


@dataclass(frozen=True)
class Verdict:
    """What the gate did with one chunk.

    decision: what is enforced (SafetyState); chunk: what to forward, None for HOLD and STOP;
    estimate: what the cost says, with the advised decision (SafetyCost). In `monitor` mode the
    two decisions may differ.
    """

    decision: Decision
    reason: str
    estimate: CostEstimate
    chunk: ActionChunk | None = None


class SafetyGate:
    """Judges the chunks of one policy, one after the other, and finds a way around where it can.

    A chunk that is malformed, stale, replayed, out of limits or that comes after a gap in the
    sequence, or one whose cost is missing or not a probability, is a HOLD for that chunk alone.
    A HOLD or SLOW by cost is kept until the cost has stayed low for some chunks. STOP is kept
    until `recover`.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        self.config = config or GateConfig()
        self.mode: Mode = self.config.mode
        self.decision = Decision.HOLD
        self.reason = "no chunk has been judged yet"
        self._freshness = ChunkFreshness(self.config.freshness)
        self._level = Decision.ALLOW
        self._calm = 0
        self._stopped = ""

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest chunk seen, 0 before the first."""
        return self._freshness.last_sequence or 0

    def set_mode(self, mode: str) -> None:
        """Switch between `gate` and `monitor`; a latched STOP stays. Raises `ConfigError`."""
        if mode not in MODES:
            raise ConfigError(f"mode is '{mode}', expected one of {', '.join(MODES)}")
        self.mode = mode
        self._level, self._calm = Decision.ALLOW, 0

    def stop(self, reason: str) -> None:
        """Latch STOP by hand, in either mode."""
        self._stopped = reason or "stopped by request"
        self._set(Decision.STOP, self._stopped)

    def recover(self) -> None:
        """Release a latched STOP; the gate holds until the next chunk is judged."""
        self._stopped = ""
        self._level, self._calm = Decision.ALLOW, 0
        self._freshness.forget()
        self._set(Decision.HOLD, "recovered; waiting for a chunk")

    def silence(self, reason: str) -> Decision:
        """Report that chunks or estimates have stopped coming: HOLD (a latched STOP stays)."""
        if not self._stopped:
            self._set(Decision.HOLD, reason)
        return self.decision

    def detoured(
        self, chunk: ActionChunk, step_cost: np.ndarray, limit: float, judge: Judge
    ) -> tuple[ActionChunk, np.ndarray, str]:
        """What is to be judged: `chunk` with its (H,) costs, or a detour of it that costs less.

        judge: the safety head, for the same observation. The sentence says which detour it is, ""
        for none: without a `detour_ratio`, in `monitor` mode, for a chunk that passes as it is, and
        for what no detour may mend, a chunk that is malformed or beyond a limit and costs that are
        not probabilities.
        """
        config = self.config
        if not config.detour_ratio or self.mode != "gate" or np.shape(step_cost) != (len(chunk),):
            return chunk, step_cost, ""
        cost, passing = top_m_mean(step_cost, config.cost_m), config.passing_ratio * limit
        if not cost >= passing or not np.all((step_cost >= 0.0) & (step_cost <= 1.0)):
            return chunk, step_cost, ""
        try:
            config.freshness.limits.check(chunk.validate().actions)
        except ChunkRejected:
            return chunk, step_cost, ""
        ways = detours(chunk.actions)
        costs = np.asarray(judge(ways), dtype=np.float64)
        onward = progress(chunk.actions, ways)
        taken = chosen_detour(costs, config.cost_m, cost, passing, onward)
        if taken is None:
            return chunk, step_cost, ""
        x, y, z = OFFSETS[taken] * 100.0
        why = f"detour by ({x:.1f}, {y:.1f}, {z:.1f}) cm a step: predicted cost was {cost:.2f}"
        return replace(chunk, actions=ways[taken]), costs[taken], why

    def judge(
        self,
        chunk: ActionChunk,
        step_cost: np.ndarray | None,
        limit: float,
        now_ns: int,
        failure: str = "",
        detour: str = "",
    ) -> Verdict:
        """Decide about `chunk`.

        step_cost: (H,) P(contact) per step, or None when the safety model gave none (then
        `failure` says why); limit: the cost limit in (0, 1]; detour: what `detoured` said of it.
        Never raises for bad data: that is what HOLD is for.
        """
        fault = self._fault(chunk, now_ns)
        estimate, missing = self._estimate(chunk, step_cost, limit, failure)
        if not missing and not fault:
            estimate = self._advise(estimate)
        elif not missing:
            estimate = replace(estimate, decision=Decision.HOLD, reason=fault)
        if self.mode == "gate" and estimate.decision == Decision.STOP and not self._stopped:
            self._stopped = estimate.reason
        if self._stopped:
            return self._verdict(Decision.STOP, f"{self._stopped}; waiting for recover", estimate)
        if fault:
            return self._verdict(Decision.HOLD, fault, estimate)
        if self.mode == "monitor":
            note = "" if estimate.decision == Decision.ALLOW else f"monitor: {estimate.reason}"
            return self._verdict(Decision.ALLOW, note, estimate, chunk)
        if estimate.decision == Decision.ALLOW:
            return self._verdict(Decision.ALLOW, detour, estimate, chunk)
        if estimate.decision == Decision.SLOW:
            return self._verdict(Decision.SLOW, estimate.reason, estimate, slowed(chunk))
        return self._verdict(estimate.decision, estimate.reason, estimate)

    def _fault(self, chunk: ActionChunk, now_ns: int) -> str:
        try:
            skipped = self._freshness.check(chunk, now_ns)
        except ChunkRejected as error:
            return str(error)
        if skipped:
            return f"{skipped} chunk(s) before sequence {chunk.sequence} were lost"
        return ""

    def _estimate(
        self, chunk: ActionChunk, step_cost: np.ndarray | None, limit: float, failure: str
    ) -> tuple[CostEstimate, bool]:
        """The estimate without a decision by cost, and whether it is unusable (then HOLD)."""
        why, costs = "", np.zeros(0)
        if step_cost is None:
            why = f"no safety estimate: {failure or 'the safety model gave none'}"
        else:
            try:
                costs = np.asarray(step_cost, dtype=np.float64)
            except (TypeError, ValueError):
                costs = np.full(len(chunk), np.nan)
            if costs.shape != (len(chunk),):
                why = f"the safety estimate has shape {costs.shape}, expected ({len(chunk)},)"
            elif not (np.all(np.isfinite(costs)) and np.all((costs >= 0.0) & (costs <= 1.0))):
                why = f"the safety estimate is not a probability in every step: {costs.tolist()}"
        if not why and not 0.0 < limit <= 1.0:
            why = f"the cost limit is {limit}, expected within (0, 1]"
        if why:
            return CostEstimate(np.zeros(0), float("nan"), limit, Decision.HOLD, why), True
        return CostEstimate(costs, top_m_mean(costs, self.config.cost_m), limit), False

    def _advise(self, estimate: CostEstimate) -> CostEstimate:
        """Add the decision by cost, with hysteresis."""
        cost, limit, config = estimate.chunk_cost, estimate.limit, self.config
        hold_at = config.hold_ratio * limit
        thresholds = {
            Decision.SLOW: config.slow_ratio * limit,
            Decision.HOLD: hold_at,
            Decision.STOP: max(config.stop_cost, hold_at),
        }
        level = max((d for d, t in thresholds.items() if cost >= t), default=Decision.ALLOW)
        if level >= self._level:
            self._calm = 0
            self._level = min(level, Decision.HOLD)
        elif cost >= config.release_ratio * thresholds[self._level]:
            self._calm = 0
        else:
            self._calm += 1
            if self._calm >= config.release_after:
                self._calm, self._level = 0, level
        decision = max(level, self._level)
        if decision == Decision.ALLOW:
            return replace(estimate, decision=decision)
        if level == decision:
            why = f"predicted cost {cost:.2f} reaches {thresholds[decision]:.2f} (limit {limit:g})"
        else:
            why = (
                f"predicted cost {cost:.2f} is low again, {decision.name} is kept until "
                f"{config.release_after} chunks in a row are below "
                f"{config.release_ratio * thresholds[decision]:.2f}"
            )
        return replace(estimate, decision=decision, reason=why)

    def _verdict(
        self,
        decision: Decision,
        reason: str,
        estimate: CostEstimate,
        chunk: ActionChunk | None = None,
    ) -> Verdict:
        self._set(decision, reason)
        return Verdict(decision, reason, estimate, chunk)

    def _set(self, decision: Decision, reason: str) -> None:
        self.decision, self.reason = decision, reason


def slowed(chunk: ActionChunk) -> ActionChunk:
    """A copy of `chunk` with its pose deltas times `SLOW_FACTOR`, gripper commands unchanged."""
    actions = np.array(chunk.actions, dtype=np.float64)
    actions[:, :6] *= SLOW_FACTOR
    return replace(chunk, actions=actions)
