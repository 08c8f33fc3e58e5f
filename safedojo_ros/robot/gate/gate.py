"""The gate: the chunks that a policy proposes in, ALLOW / SLOW / HOLD / STOP and one chunk out.

Not safety-rated. Emergency stop, enabling device, force and speed limiting belong to the robot's
controller and its cell; the gate only keeps chunks with predicted contacts from the arm.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.costs import CONTACT, CostLimit
from safedojo_ros.core.errors import ChunkRejected, ConfigError, SafeDojoError
from safedojo_ros.core.types import COST_M, ActionChunk, CostEstimate, Decision, top_m_mean
from safedojo_ros.robot.gate.detour import DETOUR_RATIO, OFFSETS, chosen_detour, detours, progress
from safedojo_ros.robot.gate.freshness import ChunkFreshness, FreshnessConfig
from safedojo_ros.robot.gate.zones import CLEAR, ZoneVerdict

Mode = Literal["gate", "monitor"]
MODES: tuple[Mode, ...] = ("gate", "monitor")

SLOW_FACTOR = 0.5
"""What SLOW multiplies translations and rotations with; the gripper command stays."""

Ask = Callable[[np.ndarray], np.ndarray]
"""The safety head, for one observation: (K, H, 7) chunks → (K, H) P(contact) of each step, or of a
head that predicts C costs (K, H, C), contact first."""

Limits = dict[str, float]
"""{cost: its limit} in the order in which the head predicts them; "" where it is the only one."""

Clear = Callable[[np.ndarray], ZoneVerdict]
"""The forbidden zones, for one observation: what they say of the path through a chunk (H, 7)."""


def no_zones(_: np.ndarray) -> ZoneVerdict:
    """`Clear` where there are none."""
    return CLEAR


@dataclass(frozen=True)
class GateConfig:
    """Thresholds of the gate. "Cost" is the mean of the `cost_m` largest step costs, in [0, 1]."""

    mode: Mode = "gate"
    """`gate` enforces the decision; `monitor` forwards well-formed chunks and only reports."""
    cost_m: int = COST_M
    """How many of the largest step costs the chunk cost averages; the safety head's own."""
    slow_ratio: float = 0.6
    """SLOW from this share of the cost limit on; HOLD from the limit itself on."""
    stop_cost: float = 0.98
    """STOP from this cost of contact on (never below its limit); above 1 it never stops by
    itself."""
    release_ratio: float = 0.8
    """A level is left only below this share of its own threshold ..."""
    release_after: int = 3
    """... for this many chunks in a row."""
    detour_ratio: float = DETOUR_RATIO
    """From this share of the cost limit on (from SLOW on at the latest) a detour is sought that
    costs less; 0: never."""
    freshness: FreshnessConfig = field(default_factory=FreshnessConfig)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode is '{self.mode}', expected one of {', '.join(MODES)}")
        check_ranges(self, cost_m="[1, inf)", release_after="[1, inf)", stop_cost="(0, inf]")
        check_ranges(self, slow_ratio="(0, 1]", release_ratio="(0, 1]", detour_ratio="[0, 1]")

    @property
    def passing_ratio(self) -> float:
        """Share of the cost limit below which a chunk is executed as it is."""
        return min(self.slow_ratio, self.detour_ratio or self.slow_ratio)


@dataclass(frozen=True)
class GateResult:
    """What the gate did with the proposals of one inference.

    In `monitor` mode the enforced and the advised decision may differ.
    """

    decision: Decision
    """What is enforced (SafetyState)."""
    reason: str
    chosen: ActionChunk
    """The first proposal that passes, or the one that costs least."""
    judged: ActionChunk
    """That, or its detour."""
    forwarded: ActionChunk | None
    """What the arm may execute; None for HOLD and STOP."""
    estimate: CostEstimate
    """The cost of `judged` and the decision that it advises."""
    proposed: CostEstimate
    """The same with the cost of the policy's own chunk (SafetyCost)."""
    detour: bool
    """Whether `judged` is a detour."""
    tried: int
    """How many proposals the head was asked about."""
    zones: ZoneVerdict = CLEAR
    """What the forbidden zones say of `judged`."""


class SafetyGate:
    """Decides about the chunks of one policy, one inference after the other.

    A chunk that is malformed, stale, replayed, out of limits or that comes after a gap in the
    sequence, or one whose cost is missing or not a probability, is a HOLD for that chunk alone.
    A HOLD or SLOW by cost is kept until the cost has stayed low for some chunks. STOP is kept
    until `recover`. What the forbidden zones say can only make a decision stricter.

    Of several costs that decides which is the nearest to its limit, or the farthest beyond it.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        self.config = config or GateConfig()
        self.mode: Mode = self.config.mode
        self.decision = Decision.HOLD
        self.reason = "no chunk has been judged yet"
        self._freshness = ChunkFreshness(self.config.freshness)
        self._calm: dict[Decision, int] = {}  # chunks in a row that were low, of each kept level
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
        self.release()

    def release(self) -> None:
        """Keep no HOLD or SLOW for the costs of earlier chunks; a latched STOP stays."""
        self._calm.clear()

    def recover(self) -> None:
        """Release a latched STOP; the gate holds until the next chunk is judged."""
        self._stopped = ""
        self.release()
        self._freshness.forget()
        self.decision, self.reason = Decision.HOLD, "recovered; waiting for a chunk"

    def silence(self, reason: str) -> Decision:
        """Report that chunks or estimates have stopped coming: HOLD (a latched STOP stays)."""
        if not self._stopped:
            self.decision, self.reason = Decision.HOLD, reason
        return self.decision

    def decide(
        self,
        proposals: Iterable[ActionChunk],
        ask: Ask,
        limit: float,
        now: Callable[[], int],
        clear: Clear = no_zones,
        others: Sequence[CostLimit] = (),
    ) -> GateResult:
        """Choose among `proposals`, seek a detour where none passes, and decide.

        proposals: at least one, of one inference; tried until one costs less than the gate's
        thresholds and enters no stop zone, else the cheapest is taken. ask: what it raises is a
        HOLD, and so is an answer that is not a probability for every step. limit: the cost limit in
        (0, 1]. now: the clock (ns), read after the head has answered. clear: what it raises is a
        HOLD too. others: the costs that the head predicts beside contact. Never raises for bad
        data: that is what HOLD is for.
        """
        limits = {CONTACT if others else "": limit} | {each.name: each.limit for each in others}
        chunk, proposed, zones, tried = self._cheapest(proposals, ask, limits, clear)
        judged, estimate, zones, detour = self._around(chunk, proposed, zones, ask, limits, clear)
        fault = self._fault(judged, now())
        if fault or estimate.reason:
            estimate = _held(estimate, estimate.reason or fault)
        else:
            estimate, zones = _stricter(self._advised(estimate), zones, judged, clear)
        self.decision, self.reason = self._enforced(estimate, fault, detour)
        forwarded = None
        if self.decision <= Decision.SLOW:
            forwarded = slowed(judged) if self.decision == Decision.SLOW else judged
        reported = replace(
            estimate,
            step_cost=proposed.step_cost,
            chunk_cost=proposed.chunk_cost,
            limit=proposed.limit,
            name=proposed.name,
            reason=estimate.reason or detour,
        )
        return GateResult(
            self.decision,
            self.reason,
            chunk,
            judged,
            forwarded,
            estimate,
            reported,
            bool(detour),
            tried,
            zones,
        )

    # ---------------------------------------------------------------- what the head says

    def _cheapest(
        self, proposals: Iterable[ActionChunk], ask: Ask, limits: Limits, clear: Clear
    ) -> tuple[ActionChunk, CostEstimate, ZoneVerdict, int]:
        """The first proposal that passes, or the one that costs least, or that has no estimate; and
        how many were tried.

        One that enters a stop zone does not pass, and is the last choice.
        """
        best: tuple[ActionChunk, CostEstimate, ZoneVerdict] | None = None
        tried = 0
        for chunk in proposals:
            tried += 1
            estimate = self._estimate(chunk, ask, limits)
            if estimate.reason:
                best = chunk, estimate, CLEAR
                break
            zones = verdict(clear, chunk.actions)
            order = (_enters(zones), _scaled(estimate, limits))
            if best is None or order < (_enters(best[2]), _scaled(best[1], limits)):
                best = chunk, estimate, zones
            if self._passes(estimate) and not _enters(zones):
                break
        if best is None:
            raise ValueError("the gate was given no proposal")
        return *best, tried

    def _estimate(self, chunk: ActionChunk, ask: Ask, limits: Limits) -> CostEstimate:
        """The cost of `chunk`; where there is none, HOLD and the reason."""
        name, limit = next(iter(limits.items()))
        unknown = CostEstimate(np.zeros(0), float("nan"), limit, name=name)
        try:
            self._freshness.check_content(chunk)
            for limit in limits.values():
                if not 0.0 < limit <= 1.0:
                    raise ChunkRejected(f"the cost limit is {limit}, expected within (0, 1]")
            actions = np.asarray(chunk.actions, dtype=np.float64)
            return self._decisive(asked(ask, actions[None], len(limits))[0], limits)
        except ChunkRejected as error:
            return _held(unknown, str(error))

    def _decisive(self, costs: np.ndarray, limits: Limits) -> CostEstimate:
        """Of a chunk's step costs (H, C) that which asks for most: contact for a STOP, or else the
        one that is nearest to its limit."""
        every = [
            CostEstimate(steps, top_m_mean(steps, self.config.cost_m), limit, name=name)
            for steps, (name, limit) in zip(costs.T, limits.items(), strict=True)
        ]
        return max(every, key=lambda e: (e.chunk_cost >= self._stop(e), _scaled(e, limits)))

    def _stop(self, estimate: CostEstimate) -> float:
        """From where on it is a STOP, which a person has to recover: contact alone is worth it."""
        contact = estimate.name in ("", CONTACT)
        return max(self.config.stop_cost, estimate.limit) if contact else np.inf

    def _passes(self, estimate: CostEstimate) -> bool:
        return estimate.chunk_cost < self.config.passing_ratio * estimate.limit

    def _around(
        self,
        chunk: ActionChunk,
        estimate: CostEstimate,
        zones: ZoneVerdict,
        ask: Ask,
        limits: Limits,
        clear: Clear,
    ) -> tuple[ActionChunk, CostEstimate, ZoneVerdict, str]:
        """A detour of `chunk` that costs less and enters no stop zone, with its cost, what the
        zones say of it and a sentence that says which; else `chunk` itself: in `monitor` mode,
        without a `detour_ratio`, and where it passes as it is.
        """
        config = self.config
        unchanged = chunk, estimate, zones, ""
        if self.mode != "gate" or not config.detour_ratio or estimate.reason:
            return unchanged
        if self._passes(estimate) and not _enters(zones):
            return unchanged
        actions = np.asarray(chunk.actions, dtype=np.float64)
        candidates = detours(actions, chunk.committed)
        try:
            costs = asked(ask, candidates, len(limits))
        except ChunkRejected as error:
            return chunk, _held(estimate, str(error)), zones, ""
        estimates = [self._decisive(each, limits) for each in costs]
        chunk_costs = np.array([_scaled(each, limits) for each in estimates])
        passing = config.passing_ratio * next(iter(limits.values()))
        onward = progress(actions, candidates)
        worth = np.inf if _enters(zones) else _scaled(estimate, limits)
        taken = chosen_detour(chunk_costs, worth, passing, onward)
        found = CLEAR
        while taken is not None:
            found = verdict(clear, candidates[taken])
            if not _enters(found):
                break
            chunk_costs[taken] = np.inf
            taken = chosen_detour(chunk_costs, worth, passing, onward)
        if taken is None:
            return unchanged
        x, y, z = OFFSETS[taken] * 100.0
        cost = f"predicted cost{_of(estimate)} was {estimate.chunk_cost:.2f}"
        why = zones.reason if _enters(zones) else cost
        return (
            replace(chunk, actions=candidates[taken]),
            estimates[taken],
            found,
            f"detour by ({x:.1f}, {y:.1f}, {z:.1f}) cm a step: {why}",
        )

    # ---------------------------------------------------------------- what follows from it

    def _fault(self, chunk: ActionChunk, now_ns: int) -> str:
        try:
            skipped = self._freshness.check(chunk, now_ns)
        except ChunkRejected as error:
            return str(error)
        if skipped:
            return f"{skipped} chunk(s) before sequence {chunk.sequence} were lost"
        return ""

    def _advised(self, estimate: CostEstimate) -> CostEstimate:
        """Add the decision by cost, with hysteresis: each level is kept by itself, so that a HOLD
        that ends leaves the SLOW that the chunks since then ask for."""
        cost, limit, config = estimate.chunk_cost, estimate.limit, self.config
        thresholds = {
            Decision.SLOW: config.slow_ratio * limit,
            Decision.HOLD: limit,
            Decision.STOP: self._stop(estimate),
        }
        level = max((d for d, t in thresholds.items() if cost >= t), default=Decision.ALLOW)
        for kept in (Decision.SLOW, Decision.HOLD):
            if cost >= config.release_ratio * thresholds[kept]:
                if level >= kept or kept in self._calm:
                    self._calm[kept] = 0
            elif kept in self._calm:
                self._calm[kept] += 1
                if self._calm[kept] >= config.release_after:
                    del self._calm[kept]
        decision = max(level, *self._calm, Decision.ALLOW)
        if decision == Decision.ALLOW:
            return estimate
        said = f"predicted cost{_of(estimate)}"
        if level == decision:
            why = f"{said} {cost:.2f} reaches {thresholds[decision]:.2f} (limit {limit:g})"
        else:
            why = (
                f"{said} {cost:.2f} is low again, {decision.name} is kept until "
                f"{config.release_after} chunks in a row are below "
                f"{config.release_ratio * thresholds[decision]:.2f}"
            )
        return replace(estimate, decision=decision, reason=why)

    def _enforced(self, estimate: CostEstimate, fault: str, detour: str) -> tuple[Decision, str]:
        """What becomes of the advice in this mode, and why."""
        if self.mode == "gate" and estimate.decision == Decision.STOP and not self._stopped:
            self._stopped = estimate.reason
        if self._stopped:
            return Decision.STOP, f"{self._stopped}; waiting for recover"
        if fault:
            return Decision.HOLD, fault
        if self.mode == "monitor":
            return Decision.ALLOW, f"monitor: {estimate.reason}" if estimate.reason else ""
        return estimate.decision, estimate.reason or detour


def asked(ask: Ask, chunks: np.ndarray, count: int) -> np.ndarray:
    """(K, H, C) of `count` costs of `chunks` (K, H, 7); raises `ChunkRejected` where there are
    none."""
    try:
        costs = np.asarray(ask(chunks), dtype=np.float64)
    except SafeDojoError as error:
        raise ChunkRejected(f"no safety estimate: {error}") from error
    except Exception as error:  # a network that fails means hold, never a dead gate
        raise ChunkRejected(
            f"no safety estimate: the safety head failed: {type(error).__name__}: {error}"
        ) from error
    expected = (*chunks.shape[:2], *((count,) if count > 1 else ()))
    if costs.shape != expected:
        raise ChunkRejected(f"the safety estimate has shape {costs.shape}, expected {expected}")
    costs = costs.reshape(*chunks.shape[:2], count)
    wrong = ~((costs >= 0.0) & (costs <= 1.0)).all(axis=(1, 2))  # a NaN is neither
    if wrong.any():
        first = costs[wrong][0].ravel().tolist()
        raise ChunkRejected(f"the safety estimate is not a probability in every step: {first}")
    return costs


def verdict(clear: Clear, actions: np.ndarray) -> ZoneVerdict:
    """What the zones say of `actions` (H, 7); HOLD where they say nothing."""
    try:
        return clear(np.asarray(actions, dtype=np.float64))
    except SafeDojoError as error:
        return ZoneVerdict(Decision.HOLD, f"zones: {error}")
    except Exception as error:  # a check that fails means hold, never a dead gate
        return ZoneVerdict(Decision.HOLD, f"zones: {type(error).__name__}: {error}")


def _scaled(estimate: CostEstimate, limits: Limits) -> float:
    """Its chunk cost on the scale of the first limit, so that several costs can be compared."""
    return estimate.chunk_cost * (next(iter(limits.values())) / estimate.limit)


def _of(estimate: CostEstimate) -> str:
    return f" of {estimate.name}" if estimate.name else ""


def _enters(zones: ZoneVerdict) -> bool:
    return zones.decision >= Decision.HOLD


def _stricter(
    estimate: CostEstimate, zones: ZoneVerdict, chunk: ActionChunk, clear: Clear
) -> tuple[CostEstimate, ZoneVerdict]:
    """`estimate` with the stricter of its decision and that of `zones`.

    A slowed chunk takes another path, and is held where that enters a stop zone.
    """
    if max(estimate.decision, zones.decision) == Decision.SLOW:
        slow = verdict(clear, slowed(chunk).actions)
        zones = slow if _enters(slow) else zones
    if zones.decision > estimate.decision:
        return replace(estimate, decision=zones.decision, reason=zones.reason), zones
    if zones.reason:
        estimate = replace(estimate, reason=f"{estimate.reason}; {zones.reason}")
    return estimate, zones


def _held(estimate: CostEstimate, reason: str) -> CostEstimate:
    return replace(estimate, decision=Decision.HOLD, reason=reason)


def slowed(chunk: ActionChunk) -> ActionChunk:
    """A copy of `chunk` with its pose deltas times `SLOW_FACTOR`, gripper commands unchanged."""
    actions = np.array(chunk.actions, dtype=np.float64)
    actions[:, :6] *= SLOW_FACTOR
    return replace(chunk, actions=actions)
