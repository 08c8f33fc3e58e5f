"""The gate forwards what is foreseen to be safe, and holds for everything it cannot judge."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ActionChunk, Decision
from safedojo_ros.robot.gate.gate import GateConfig, SafetyGate, Verdict, slowed

MS = 1_000_000
START = 1_000 * MS
LIMIT = 0.5
ALLOW, SLOW, HOLD, STOP = Decision.ALLOW, Decision.SLOW, Decision.HOLD, Decision.STOP


class Stream:
    """Feeds a gate with a well-formed chunk every 200 ms."""

    def __init__(self, config: GateConfig | None = None) -> None:
        self.gate = SafetyGate(config)
        self.now, self.sequence = START, 0

    def chunk(self) -> ActionChunk:
        self.now += 200 * MS
        self.sequence += 1
        actions = np.full((8, 7), 0.01)
        return ActionChunk(actions, observed_at=self.now - 50 * MS, sequence=self.sequence)

    def judge(self, cost: float, limit: float = LIMIT) -> Verdict:
        chunk = self.chunk()
        return self.gate.judge(chunk, np.full(8, cost), limit, self.now)


def test_a_low_cost_passes_the_chunk_unchanged() -> None:
    stream = Stream()
    chunk = stream.chunk()
    verdict = stream.gate.judge(chunk, np.full(8, 0.1), LIMIT, stream.now)
    assert verdict.decision == verdict.estimate.decision == ALLOW
    assert verdict.chunk is chunk
    assert verdict.reason == ""


def test_slow_halves_the_motion_and_keeps_the_gripper() -> None:
    verdict = Stream().judge(0.35)
    assert verdict.decision == SLOW
    assert verdict.chunk is not None
    assert np.all(verdict.chunk.actions[:, :6] == 0.005)
    assert np.all(verdict.chunk.actions[:, 6] == 0.01)
    assert "0.35" in verdict.reason


def test_hold_forwards_nothing_and_says_why() -> None:
    verdict = Stream().judge(0.5)
    assert (verdict.decision, verdict.chunk) == (HOLD, None)
    assert "predicted cost 0.50" in verdict.reason


def test_the_chunk_cost_is_the_mean_of_the_largest_steps() -> None:
    stream = Stream(GateConfig(cost_m=2))
    costs = np.array([0.0, 0.9, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    verdict = stream.gate.judge(stream.chunk(), costs, LIMIT, stream.now)
    assert verdict.estimate.chunk_cost == pytest.approx(0.7)
    assert verdict.decision == HOLD


def test_stop_latches_until_recover() -> None:
    stream = Stream()
    assert stream.judge(0.99).decision == STOP
    for _ in range(20):
        verdict = stream.judge(0.0)
        assert (verdict.decision, verdict.chunk) == (STOP, None)
    assert stream.gate.silence("nothing came") == STOP
    stream.gate.recover()
    assert stream.gate.decision == HOLD
    assert stream.judge(0.0).decision == ALLOW


def test_a_person_can_stop_in_either_mode() -> None:
    for mode in ("gate", "monitor"):
        stream = Stream(GateConfig(mode=mode))
        stream.gate.stop("somebody shouted")
        verdict = stream.judge(0.0)
        assert (verdict.decision, verdict.chunk) == (STOP, None)
        assert "somebody shouted" in verdict.reason


def test_hold_is_kept_until_the_cost_stayed_low_for_some_chunks() -> None:
    stream = Stream(GateConfig(release_after=3))
    costs = [0.6, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1]
    seen = [stream.judge(cost).decision for cost in costs]
    assert seen == [HOLD, HOLD, HOLD, HOLD, HOLD, HOLD, ALLOW, ALLOW]


def test_a_cost_just_below_the_threshold_does_not_count_as_low() -> None:
    stream = Stream(GateConfig(release_after=3, release_ratio=0.8))
    costs = [0.6, 0.1, 0.1, 0.45, 0.1, 0.1, 0.1]
    seen = [stream.judge(cost).decision for cost in costs]
    assert seen == [HOLD] * 6 + [ALLOW]


def test_a_cost_that_flickers_about_the_threshold_does_not_flicker_the_decision() -> None:
    stream = Stream()
    seen = {stream.judge(0.5 + 0.01 * (-1) ** k).decision for k in range(20)}
    assert seen == {HOLD}


def test_hold_falls_back_to_slow_before_allow() -> None:
    stream = Stream(GateConfig(release_after=2))
    costs = [0.6, 0.35, 0.35, 0.1, 0.1]
    seen = [stream.judge(cost).decision for cost in costs]
    assert seen == [HOLD, HOLD, SLOW, SLOW, ALLOW]


def test_a_rising_cost_acts_at_once() -> None:
    stream = Stream()
    assert [stream.judge(c).decision for c in (0.0, 0.3, 0.5)] == [ALLOW, SLOW, HOLD]


def test_monitor_forwards_and_reports() -> None:
    stream = Stream(GateConfig(mode="monitor"))
    chunk = stream.chunk()
    verdict = stream.gate.judge(chunk, np.full(8, 0.99), LIMIT, stream.now)
    assert (verdict.decision, verdict.chunk) == (ALLOW, chunk)
    assert verdict.estimate.decision == STOP
    assert verdict.reason.startswith("monitor: ")
    assert stream.judge(0.0).estimate.decision == HOLD, "hysteresis is reported too"


def test_monitor_still_refuses_what_no_arm_may_play() -> None:
    stream = Stream(GateConfig(mode="monitor"))
    chunk = replace(stream.chunk(), actions=np.full((8, 7), np.nan))
    verdict = stream.gate.judge(chunk, np.zeros(8), LIMIT, stream.now)
    assert (verdict.decision, verdict.chunk) == (HOLD, None)


@pytest.mark.parametrize(
    "cost",
    [
        None,
        np.zeros(7),
        np.zeros((8, 1)),
        np.array([np.nan] * 8),
        np.full(8, 1.1),
        np.full(8, -0.1),
        ["a"] * 8,
    ],
)
def test_an_unusable_estimate_holds_that_chunk_alone(cost: np.ndarray | None) -> None:
    stream = Stream()
    verdict = stream.gate.judge(stream.chunk(), cost, LIMIT, stream.now, "the model failed")
    assert (verdict.decision, verdict.chunk) == (HOLD, None)
    assert "safety estimate" in verdict.reason
    assert np.isnan(verdict.estimate.chunk_cost)
    assert cost is not None or "the model failed" in verdict.reason
    assert stream.judge(0.0).decision == ALLOW


@pytest.mark.parametrize("limit", [0.0, -1.0, 1.5, float("nan")])
def test_a_limit_that_is_no_probability_holds(limit: float) -> None:
    verdict = Stream().judge(0.0, limit)
    assert verdict.decision == HOLD
    assert "cost limit" in verdict.reason


BROKEN = {
    "nan": (lambda c: replace(c, actions=np.full((8, 7), np.nan)), "not finite"),
    "shape": (lambda c: replace(c, actions=np.zeros((8, 6))), "shape"),
    "empty": (lambda c: replace(c, actions=np.zeros((0, 7))), "0 actions"),
    "text": (lambda c: replace(c, actions=[["a"] * 7] * 8), "table of numbers"),
    "too fast": (lambda c: replace(c, actions=np.full((8, 7), 0.06)), "the limit is 0.05"),
    "period": (lambda c: replace(c, period=0.1), "period"),
    "period nan": (lambda c: replace(c, period=float("nan")), "period"),
    "frame": (lambda c: replace(c, frame="camera"), "frame"),
    "future": (lambda c: replace(c, observed_at=c.observed_at + 100 * MS), "future"),
    "old": (lambda c: replace(c, observed_at=c.observed_at - 460 * MS), "ago"),
    "repeated": (lambda c: replace(c, sequence=c.sequence - 1), "replayed"),
    "skipped": (lambda c: replace(c, sequence=c.sequence + 1), "lost"),
    "frozen": (lambda c: replace(c, observed_at=c.observed_at - 200 * MS), "camera frozen"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_faulty_chunk_holds_with_its_reason_and_the_next_good_one_passes(fault: str) -> None:
    stream = Stream()
    assert stream.judge(0.0).decision == ALLOW
    breaks, words = BROKEN[fault]
    verdict = stream.gate.judge(breaks(stream.chunk()), np.zeros(8), LIMIT, stream.now)
    assert (verdict.decision, verdict.chunk) == (HOLD, None)
    assert words in verdict.reason
    assert stream.gate.reason == verdict.reason
    stream.sequence += {"skipped": 1, "repeated": -1}.get(fault, 0)
    assert stream.judge(0.0).decision == ALLOW


def test_a_restarted_policy_is_let_in_after_a_pause() -> None:
    stream = Stream()
    for _ in range(5):
        stream.judge(0.0)
    stream.sequence = 0
    stream.now += 600 * MS
    assert stream.judge(0.0).decision == ALLOW
    assert stream.judge(0.0).decision == ALLOW


def test_a_replayed_message_is_not_taken_for_a_restart() -> None:
    stream = Stream()
    chunk = stream.chunk()
    assert stream.gate.judge(chunk, np.zeros(8), LIMIT, stream.now).decision == ALLOW
    late = stream.gate.judge(chunk, np.zeros(8), LIMIT, stream.now + 440 * MS)
    assert late.decision == HOLD


def test_a_replayed_message_after_a_pause_does_not_turn_the_count_back() -> None:
    stream = Stream()
    first = stream.chunk()
    stream.gate.judge(first, np.zeros(8), LIMIT, stream.now)
    stream.judge(0.0)
    stream.now += 600 * MS
    assert stream.gate.judge(first, np.zeros(8), LIMIT, stream.now).decision == HOLD
    assert stream.judge(0.0).decision == ALLOW


def test_silence_holds() -> None:
    stream = Stream()
    stream.judge(0.0)
    assert stream.gate.silence("no chunk for 0.4 s") == HOLD
    assert stream.gate.reason == "no chunk for 0.4 s"


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "off"},
        {"cost_m": 0},
        {"release_after": 0},
        {"slow_ratio": 1.2},
        {"slow_ratio": 0.0},
        {"release_ratio": 0.0},
        {"stop_cost": float("nan")},
    ],
)
def test_a_senseless_configuration_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        GateConfig(**wrong)
    with pytest.raises(ConfigError):
        SafetyGate().set_mode("off")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.05, 1))
def test_nothing_beyond_the_limit_is_ever_forwarded(costs: list[float], limit: float) -> None:
    stream = Stream()
    for cost in costs:
        verdict = stream.judge(cost, limit)
        assert verdict.estimate.chunk_cost == pytest.approx(cost)
        if verdict.estimate.chunk_cost >= limit or verdict.decision >= HOLD:
            assert verdict.chunk is None
        else:
            assert verdict.chunk is not None
        assert verdict.decision == ALLOW or verdict.reason


@given(arrays(np.float64, (4, 7), elements=st.floats(-1, 1)))
def test_a_slowed_chunk_never_asks_for_more(actions: np.ndarray) -> None:
    chunk = ActionChunk(actions.copy())
    slow = slowed(chunk)
    assert np.all(np.abs(slow.actions[:, :6]) <= np.abs(actions[:, :6]))
    assert np.array_equal(slow.actions[:, 6], actions[:, 6])
    assert np.array_equal(chunk.actions, actions), "the original is left alone"


wild = st.floats(allow_nan=True, allow_infinity=True)


@given(
    arrays(np.float64, st.tuples(st.integers(0, 70), st.integers(5, 8)), elements=wild),
    arrays(np.float64, st.integers(0, 70), elements=wild),
    wild,
    st.integers(-(2**63), 2**63),
    st.integers(0, 2**64 - 1),
    wild,
)
def test_whatever_comes_the_gate_answers_and_forwards_only_sound_chunks(
    actions: np.ndarray, cost: np.ndarray, limit: float, stamp: int, sequence: int, period: float
) -> None:
    chunk = ActionChunk(actions, period, stamp, sequence)
    verdict = SafetyGate().judge(chunk, cost, limit, START)
    if verdict.chunk is not None:
        assert np.all(np.isfinite(actions))
        assert np.all(np.abs(actions[:, :3]) <= 0.05 + 1e-6)
        assert len(cost) == len(actions)
    else:
        assert verdict.decision in (HOLD, STOP)
        assert verdict.reason
