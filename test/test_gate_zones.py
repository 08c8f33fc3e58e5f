"""The gate with forbidden zones: never less strict, and nothing that enters a stop zone passes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from gate_streams import CONFIGS, Question, stream
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN
from safedojo_ros.core.types import ActionChunk, Decision
from safedojo_ros.robot.gate.gate import GateConfig, GateResult, SafetyGate, slowed
from safedojo_ros.robot.gate.zones import CLEAR, Surroundings, Zone, Zones, ZonesConfig, ZoneVerdict

ALLOW, SLOW, HOLD, STOP = Decision.ALLOW, Decision.SLOW, Decision.HOLD, Decision.STOP
STATE = np.array([0.0, 0.0, 0.2, *POINTING_DOWN, 0.04, 0.04])
MS = 1_000_000


def asked(gate: SafetyGate, question: Question, clear: object = None) -> GateResult:
    now = partial(int, question.now)
    if clear is None:
        return gate.decide(question.proposals, question.ask, question.limit, now)
    return gate.decide(question.proposals, question.ask, question.limit, now, clear)  # type: ignore[arg-type]


def around(seed: int, kind: str = "stop") -> partial:
    """The check against three boxes about the gripper."""
    rng = np.random.default_rng(seed)
    boxes = []
    for i, way in enumerate(rng.normal(size=(3, 3))):
        centre = STATE[:3] + rng.uniform(0.15, 0.35) * way / np.linalg.norm(way)
        low, high = tuple((centre - 0.04).tolist()), tuple((centre + 0.04).tolist())
        boxes.append(Zone(f"box {i}", low, high, kind))  # type: ignore[arg-type]
    zones = Zones(ZonesConfig(tuple(boxes)))
    return partial(zones.check, state=STATE, around=Surroundings(), now=0)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["stop", "slow"]), st.booleans())
@example(460, "stop", False)  # a HOLD by cost, which ended sooner than the SLOW without zones
def test_zones_only_ever_make_a_decision_stricter(seed: int, kind: str, monitor: bool) -> None:
    config = GateConfig(cost_m=2, mode="monitor" if monitor else "gate")
    without, with_zones = SafetyGate(config), SafetyGate(config)
    clear = around(seed, kind)
    for question in stream(seed):
        one = replace(question, proposals=question.proposals[:1])
        before, after = asked(without, one), asked(with_zones, one, clear)
        assert after.decision >= before.decision
        assert after.estimate.decision >= before.estimate.decision
        assert (after.forwarded is None) >= (before.forwarded is None)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(CONFIGS))
def test_nothing_that_enters_a_stop_zone_is_forwarded(seed: int, config: GateConfig) -> None:
    gate, clear = SafetyGate(replace(config, mode="gate", release_after=1)), around(seed)
    for question in stream(seed):
        result = asked(gate, question, clear)
        if result.forwarded is not None:
            assert clear(np.asarray(result.forwarded.actions)).decision < HOLD
        if gate.decision == STOP:
            gate.recover()


def chunk(dx: float, sequence: int = 1, dy: float = 0.0) -> ActionChunk:
    actions = np.zeros((8, 7))
    actions[:, 0], actions[:, 1] = dx, dy
    return ActionChunk(actions, observed_at=950 * MS, sequence=sequence)


def decided(
    *proposals: ActionChunk, cost: float = 0.0, config: GateConfig | None = None, clear: object
) -> GateResult:
    def ask(chunks: np.ndarray) -> np.ndarray:
        return np.full(chunks.shape[:2], cost)

    gate = SafetyGate(config or GateConfig(detour_ratio=0.0))
    return gate.decide(proposals, ask, 0.5, lambda: 1000 * MS, clear)  # type: ignore[arg-type]


def wall(actions: np.ndarray) -> ZoneVerdict:
    """A stop zone from x = 10 cm on."""
    beyond = np.cumsum(actions[:, 0]) > 0.1
    if not beyond.any():
        return CLEAR
    return ZoneVerdict(HOLD, "step 6: the hand comes to 0.0 cm from stop zone 'wall'", "wall", 6)


def test_a_stop_zone_is_a_hold_whatever_the_head_says_and_the_reason_names_it() -> None:
    result = decided(chunk(0.02), clear=wall)
    assert (result.decision, result.forwarded) == (HOLD, None)
    assert result.reason == "step 6: the hand comes to 0.0 cm from stop zone 'wall'"
    assert (result.zones.zone, result.zones.step) == ("wall", 6)
    assert decided(chunk(0.01), clear=wall).decision == ALLOW


def test_a_slow_zone_slows_and_both_reasons_are_given() -> None:
    def slow(actions: np.ndarray) -> ZoneVerdict:
        return ZoneVerdict(SLOW, "slow zone 'door'")

    result = decided(chunk(0.01), clear=slow)
    assert (result.decision, result.reason) == (SLOW, "slow zone 'door'")
    assert result.forwarded is not None
    assert result.forwarded.actions[0, 0] == 0.005
    result = decided(chunk(0.01), cost=0.6, clear=slow)
    assert result.decision == HOLD
    assert result.reason.startswith("predicted cost 0.60")
    assert result.reason.endswith("; slow zone 'door'")


def test_a_slowed_chunk_is_checked_on_its_own_path() -> None:
    """Half of a way around a corner goes through the corner."""

    def corner(actions: np.ndarray) -> ZoneVerdict:
        ends = float(np.sum(actions[:, 0]))
        return ZoneVerdict(HOLD, "corner") if 0.05 < ends < 0.12 else CLEAR

    assert decided(chunk(0.02), clear=corner).decision == ALLOW
    result = decided(chunk(0.02), cost=0.35, clear=corner)
    assert (result.decision, result.forwarded) == (HOLD, None)
    assert result.reason == "corner"
    assert corner(slowed(chunk(0.02)).actions).decision == HOLD


def test_a_proposal_that_enters_a_stop_zone_is_passed_over() -> None:
    first, second = chunk(0.02), chunk(0.01)
    result = decided(first, second, clear=wall)
    assert (result.decision, result.judged) == (ALLOW, second)
    assert decided(first, chunk(0.03), clear=wall).decision == HOLD


def test_a_detour_is_sought_for_a_zone_too_and_must_be_clear_of_it() -> None:
    config = GateConfig(detour_ratio=0.2)
    result = decided(chunk(0.014), config=config, clear=wall)
    assert (result.decision, result.detour) == (ALLOW, True)
    assert wall(np.asarray(result.judged.actions)) == CLEAR
    assert "detour by (-0.4, -0.4, 0.0) cm" in result.reason
    assert "stop zone 'wall'" in result.reason
    farther = decided(chunk(0.02), config=config, clear=wall)
    assert (farther.decision, farther.detour) == (ALLOW, True), "the nearest ones enter it too"
    assert decided(chunk(0.05), config=config, clear=wall).decision == HOLD, "none is clear"
    assert decided(chunk(0.02), clear=wall).detour is False


@pytest.mark.parametrize(
    ("error", "words"),
    [(ConfigError("no file"), "zones: no file"), (ValueError("odd"), "zones: ValueError: odd")],
)
def test_a_check_that_fails_is_a_hold(error: Exception, words: str) -> None:
    def broken(actions: np.ndarray) -> ZoneVerdict:
        raise error

    result = decided(chunk(0.0), clear=broken)
    assert (result.decision, result.reason) == (HOLD, words)


def test_a_malformed_chunk_is_a_hold_before_its_path_is_looked_at() -> None:
    result = decided(replace(chunk(0.0), actions=np.full((8, 7), np.nan)), clear=around(0))
    assert result.decision == HOLD
    assert "not finite" in result.reason
