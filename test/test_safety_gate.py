"""The gate forwards what is predicted to be safe, and holds for everything it cannot judge."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_streams import CONFIGS, stream
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.core.types import ActionChunk, Decision
from safedojo_ros.robot.gate.freshness import FreshnessConfig
from safedojo_ros.robot.gate.gate import GateConfig, GateResult, SafetyGate, slowed

MS = 1_000_000
START = 1_000 * MS
LIMIT = 0.5
ALLOW, SLOW, HOLD, STOP = Decision.ALLOW, Decision.SLOW, Decision.HOLD, Decision.STOP


def decide(gate: SafetyGate, chunk: ActionChunk, cost: Any, limit: float, now: int) -> GateResult:
    """One chunk, of which the head says `cost`, or raises it."""

    def ask(chunks: np.ndarray) -> np.ndarray:
        if isinstance(cost, Exception):
            raise cost
        answer: np.ndarray = np.stack([cost] * len(chunks))
        return answer

    return gate.decide([chunk], ask, limit, lambda: now)


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

    def judge(self, cost: float, limit: float = LIMIT) -> GateResult:
        chunk = self.chunk()
        return decide(self.gate, chunk, np.full(8, cost), limit, self.now)


def test_a_low_cost_passes_the_chunk_unchanged() -> None:
    stream = Stream()
    chunk = stream.chunk()
    result = decide(stream.gate, chunk, np.full(8, 0.1), LIMIT, stream.now)
    assert result.decision == result.estimate.decision == ALLOW
    assert result.forwarded is chunk
    assert result.reason == ""


def test_slow_halves_the_motion_and_keeps_the_gripper() -> None:
    result = Stream().judge(0.35)
    assert result.decision == SLOW
    assert result.forwarded is not None
    assert np.all(result.forwarded.actions[:, :6] == 0.005)
    assert np.all(result.forwarded.actions[:, 6] == 0.01)
    assert "0.35" in result.reason


def test_hold_forwards_nothing_and_says_why() -> None:
    result = Stream().judge(0.5)
    assert (result.decision, result.forwarded) == (HOLD, None)
    assert "predicted cost 0.50" in result.reason


def test_the_chunk_cost_is_the_mean_of_the_largest_steps() -> None:
    stream = Stream(GateConfig(cost_m=2))
    costs = np.array([0.0, 0.9, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    result = decide(stream.gate, stream.chunk(), costs, LIMIT, stream.now)
    assert result.estimate.chunk_cost == pytest.approx(0.7)
    assert result.decision == HOLD


@pytest.mark.fault(
    "gate", "a predicted cost above the limit of STOP", "STOP, until a person recovers it"
)
def test_stop_latches_until_recover() -> None:
    stream = Stream()
    assert stream.judge(0.99).decision == STOP
    for _ in range(20):
        result = stream.judge(0.0)
        assert (result.decision, result.forwarded) == (STOP, None)
    assert stream.gate.silence("nothing came") == STOP
    stream.gate.recover()
    assert stream.gate.decision == HOLD
    assert stream.judge(0.0).decision == ALLOW


def test_hold_is_kept_until_the_cost_stayed_low_for_some_chunks() -> None:
    stream = Stream(GateConfig(release_after=3))
    costs = [0.6, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.1]
    seen = [stream.judge(cost).decision for cost in costs]
    assert seen == [HOLD, HOLD, HOLD, HOLD, HOLD, HOLD, ALLOW, ALLOW]


def test_a_cost_just_below_the_threshold_does_not_count_as_low() -> None:
    stream = Stream(GateConfig(release_after=3, release_ratio=0.8))
    costs = [0.6, 0.1, 0.1, 0.8 * LIMIT, 0.1, 0.1, 0.1]
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


def test_a_hold_that_ends_leaves_the_slow_that_a_chunk_asked_for_meanwhile() -> None:
    stream = Stream(GateConfig(release_after=3))
    costs = [0.6, 0.1, 0.35, 0.1, 0.1, 0.1]
    seen = [stream.judge(cost).decision for cost in costs]
    assert seen == [HOLD, HOLD, HOLD, SLOW, SLOW, ALLOW]


def test_a_rising_cost_acts_at_once() -> None:
    stream = Stream()
    assert [stream.judge(c).decision for c in (0.0, 0.3, 0.5)] == [ALLOW, SLOW, HOLD]


def test_monitor_forwards_and_reports() -> None:
    stream = Stream(GateConfig(mode="monitor"))
    chunk = stream.chunk()
    result = decide(stream.gate, chunk, np.full(8, 0.99), LIMIT, stream.now)
    assert (result.decision, result.forwarded) == (ALLOW, chunk)
    assert result.estimate.decision == STOP
    assert result.reason.startswith("monitor: ")
    assert stream.judge(0.0).estimate.decision == HOLD, "hysteresis is reported too"


def test_monitor_still_refuses_what_no_arm_may_play() -> None:
    stream = Stream(GateConfig(mode="monitor"))
    chunk = replace(stream.chunk(), actions=np.full((8, 7), np.nan))
    result = decide(stream.gate, chunk, np.zeros(8), LIMIT, stream.now)
    assert (result.decision, result.forwarded) == (HOLD, None)


@pytest.mark.fault("gate", "the safety head fails or answers no probability", "HOLD for that chunk")
@pytest.mark.parametrize(
    ("cost", "why"),
    [
        (ObservationRejected("the camera stopped"), "no safety estimate: the camera stopped"),
        (ValueError("odd"), "no safety estimate: the safety head failed: ValueError: odd"),
        (MemoryError(), "no safety estimate: the safety head failed: MemoryError"),
        (None, "the safety estimate has shape"),
        (np.zeros(7), r"the safety estimate has shape \(1, 7\), expected \(1, 8\)"),
        (np.zeros((8, 1)), "the safety estimate has shape"),
        (np.array([np.nan] * 8), "the safety estimate is not a probability"),
        (np.array([0.0] * 7 + [1.1]), "the safety estimate is not a probability"),
        (np.array([-0.1] + [0.0] * 7), "the safety estimate is not a probability"),
        (["a"] * 8, "no safety estimate"),
    ],
)
def test_an_unusable_estimate_holds_that_chunk_alone(cost: Any, why: str) -> None:
    stream = Stream()
    result = decide(stream.gate, stream.chunk(), cost, LIMIT, stream.now)
    assert (result.decision, result.forwarded) == (HOLD, None)
    assert re.match(why, result.reason)
    assert np.isnan(result.estimate.chunk_cost)
    assert len(result.estimate.step_cost) == 0
    assert stream.judge(0.0).decision == ALLOW


@pytest.mark.parametrize("limit", [0.0, -1.0, 1.5, float("nan")])
def test_a_limit_that_is_no_probability_holds(limit: float) -> None:
    result = Stream().judge(0.0, limit)
    assert result.decision == HOLD
    assert "cost limit" in result.reason


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


@pytest.mark.fault(
    "gate", "a chunk is malformed, stale, beyond a limit or repeated", "HOLD for that chunk"
)
@pytest.mark.parametrize("fault", BROKEN)
def test_a_faulty_chunk_holds_with_its_reason_and_the_next_good_one_passes(fault: str) -> None:
    stream = Stream()
    assert stream.judge(0.0).decision == ALLOW
    breaks, words = BROKEN[fault]
    result = decide(stream.gate, breaks(stream.chunk()), np.zeros(8), LIMIT, stream.now)
    assert (result.decision, result.forwarded) == (HOLD, None)
    assert words in result.reason
    assert stream.gate.reason == result.reason
    stream.sequence += {"skipped": 1, "repeated": -1}.get(fault, 0)
    assert stream.judge(0.0).decision == ALLOW


@pytest.mark.parametrize("before", [1, 5])
def test_a_restarted_policy_is_let_in_after_a_pause(before: int) -> None:
    stream = Stream()
    for _ in range(before):
        stream.judge(0.0)
    stream.sequence = 0
    stream.now += 600 * MS
    assert stream.judge(0.0).decision == ALLOW
    assert stream.judge(0.0).decision == ALLOW


@pytest.mark.fault("gate", "a chunk of before is replayed", "HOLD for that chunk")
def test_a_replayed_message_is_not_taken_for_a_restart() -> None:
    stream = Stream()
    chunk = stream.chunk()
    assert decide(stream.gate, chunk, np.zeros(8), LIMIT, stream.now).decision == ALLOW
    late = decide(stream.gate, chunk, np.zeros(8), LIMIT, stream.now + 440 * MS)
    assert late.decision == HOLD


def test_a_replayed_message_after_a_pause_does_not_turn_the_count_back() -> None:
    stream = Stream()
    first = stream.chunk()
    decide(stream.gate, first, np.zeros(8), LIMIT, stream.now)
    stream.judge(0.0)
    stream.now += 600 * MS
    assert decide(stream.gate, first, np.zeros(8), LIMIT, stream.now).decision == HOLD
    assert stream.judge(0.0).decision == ALLOW


def test_after_the_clock_went_back_newer_chunks_pass_and_nothing_replayed_does() -> None:
    stream = Stream()
    before = [stream.chunk()]
    stream.judge(0.0)
    stream.now -= 10_000 * MS
    assert stream.judge(0.0).decision == ALLOW
    stream.now += 10_600 * MS  # the observation of before is as old as it was
    replayed = decide(stream.gate, before[0], np.zeros(8), LIMIT, before[0].observed_at + 100 * MS)
    assert replayed.decision == HOLD
    assert "replayed" in replayed.reason
    assert "call safety/recover" in replayed.reason


@pytest.mark.parametrize(
    ("age", "decision"), [(500, ALLOW), (501, HOLD), (-10, ALLOW), (-11, HOLD)]
)
def test_a_chunk_is_as_old_as_it_may_be_and_not_older(age: int, decision: Decision) -> None:
    stream = Stream()
    chunk = replace(stream.chunk(), observed_at=stream.now - age * MS)
    assert decide(stream.gate, chunk, np.zeros(8), LIMIT, stream.now).decision == decision


def test_what_counts_as_fresh_can_be_configured() -> None:
    fresh = FreshnessConfig(period=0.1, max_age=0.2, frame="camera")
    stream = Stream(GateConfig(freshness=fresh))
    chunk = replace(stream.chunk(), period=0.1, frame="camera")
    assert decide(stream.gate, chunk, np.zeros(8), LIMIT, stream.now).decision == ALLOW
    late = replace(stream.chunk(), period=0.1, frame="camera", observed_at=stream.now - 201 * MS)
    assert "the limit is 0.2 s" in decide(stream.gate, late, np.zeros(8), LIMIT, stream.now).reason
    for wrong in ("period", "max_age", "restart_after"):
        with pytest.raises(ConfigError, match=wrong):
            FreshnessConfig(**{wrong: -0.1})  # type: ignore[arg-type]


@pytest.mark.fault("gate", "the policy or the cameras fall silent", "HOLD")
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
        {"slow_ratio": 1.01},
        {"slow_ratio": 0.0},
        {"release_ratio": 0.0},
        {"release_ratio": 1.01},
        {"stop_cost": float("nan")},
        {"stop_cost": 0.0},
        {"detour_ratio": -0.01},
        {"detour_ratio": 1.01},
    ],
)
def test_a_senseless_configuration_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        GateConfig(**wrong)
    with pytest.raises(ConfigError):
        SafetyGate().set_mode("off")


def test_the_ends_of_the_ranges_are_allowed() -> None:
    config = GateConfig(
        cost_m=1, release_after=1, slow_ratio=1.0, release_ratio=1.0, detour_ratio=1.0
    )
    decisions = [Stream(config).judge(cost, limit=1.0).decision for cost in (0.999, 1.0)]
    assert decisions == [ALLOW, STOP], "STOP is never below the limit"
    assert Stream(replace(config, stop_cost=2.0)).judge(1.0, limit=1.0).decision == HOLD


def test_a_gate_that_has_seen_nothing_holds() -> None:
    gate = SafetyGate()
    assert (gate.decision, gate.last_sequence) == (HOLD, 0)
    assert "no chunk" in gate.reason


def test_a_new_mode_begins_without_what_was_held_before() -> None:
    stream = Stream(GateConfig(release_after=3))
    stream.gate.set_mode("monitor")
    assert stream.judge(0.6).forwarded is not None
    stream.gate.set_mode("gate")
    assert stream.judge(0.6).decision == HOLD
    assert stream.judge(0.1).decision == HOLD
    stream.gate.set_mode("gate")
    assert stream.judge(0.1).decision == ALLOW
    assert stream.judge(0.6).decision == HOLD
    assert [stream.judge(0.1).decision for _ in range(3)] == [HOLD, HOLD, ALLOW]


def test_recovery_begins_anew_whatever_the_sequence_and_the_count_of_calm_chunks() -> None:
    stream = Stream(GateConfig(release_after=3))
    for cost in (0.6, 0.1, 0.1):
        assert stream.judge(cost).decision == HOLD
    stream.gate.recover()
    assert stream.gate.last_sequence == 0
    stream.sequence, stream.now = 0, START - 500 * MS
    assert stream.judge(0.6).decision == HOLD, "an older clock and sequence are let in"
    assert stream.gate.last_sequence == 1
    assert [stream.judge(0.1).decision for _ in range(3)] == [HOLD, HOLD, ALLOW]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.05, 1))
def test_nothing_beyond_the_limit_is_ever_forwarded(costs: list[float], limit: float) -> None:
    stream = Stream()
    for cost in costs:
        result = stream.judge(cost, limit)
        assert result.estimate.chunk_cost == pytest.approx(cost)
        if result.estimate.chunk_cost >= limit or result.decision >= HOLD:
            assert result.forwarded is None
        else:
            assert result.forwarded is not None
        assert result.decision == ALLOW or result.reason


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
    result = decide(SafetyGate(), chunk, cost, limit, START)
    if result.forwarded is not None:
        assert np.all(np.isfinite(actions))
        assert np.all(np.abs(actions[:, :3]) <= 0.05 + 1e-6)
        assert len(cost) == len(actions)
    else:
        assert result.decision in (HOLD, STOP)
        assert result.reason


HOLDING = GateConfig(detour_ratio=0.0)
"""Without detours."""


def proposed(*speeds: float) -> list[ActionChunk]:
    """Chunks of one inference that go so many metres a step."""
    chunks = [Stream().chunk() for _ in speeds]
    return [
        replace(c, actions=np.full((8, 7), speed)) for c, speed in zip(chunks, speeds, strict=True)
    ]


def test_proposals_are_drawn_until_one_passes_and_else_the_cheapest_is_judged() -> None:
    ask = lambda chunks: 20.0 * np.abs(chunks[..., 0])  # noqa: E731
    drawn = iter(proposed(0.04, 0.01, 0.001))
    result = SafetyGate(HOLDING).decide(drawn, ask, LIMIT, lambda: START + 200 * MS)
    assert (result.decision, result.judged.actions[0, 0]) == (ALLOW, 0.01)
    assert result.tried == 2
    assert len(list(drawn)) == 1, "the third was not needed"
    dear = proposed(0.04, 0.02, 0.03)
    result = SafetyGate(HOLDING).decide(dear, ask, LIMIT, lambda: START + 200 * MS)
    assert (result.decision, result.judged.actions[0, 0]) == (SLOW, 0.02)
    assert result.proposed.chunk_cost == pytest.approx(0.4)
    alike = proposed(0.02, -0.02)
    assert (
        SafetyGate(HOLDING).decide(alike, ask, LIMIT, lambda: START + 200 * MS).judged is alike[0]
    )
    with pytest.raises(ValueError, match="no proposal"):
        SafetyGate().decide([], ask, LIMIT, lambda: START)


def test_a_proposal_without_an_estimate_holds_whatever_the_others_cost() -> None:
    answers = iter([np.full((1, 8), 0.4), np.full((1, 8), np.nan)])
    chunks = proposed(0.01, 0.01, 0.01)
    result = SafetyGate().decide(chunks, lambda _: next(answers), LIMIT, lambda: START + 200 * MS)
    assert (result.decision, result.forwarded) == (HOLD, None)
    assert "not a probability" in result.reason


def test_the_clock_is_read_after_the_head_has_answered() -> None:
    clock = [START + 200 * MS]

    def slow(chunks: np.ndarray) -> np.ndarray:
        clock[0] += 500 * MS
        return np.zeros(chunks.shape[:2])

    result = SafetyGate().decide(proposed(0.01), slow, LIMIT, lambda: clock[0])
    assert result.decision == HOLD
    assert "observed 0.550 s ago" in result.reason


def test_the_head_is_not_asked_about_a_chunk_that_no_arm_may_execute() -> None:
    for chunk in (*proposed(0.06), *proposed(np.nan)):
        result = decide(SafetyGate(), chunk, ValueError("was asked"), LIMIT, START + 200 * MS)
        assert result.decision == HOLD
        assert "asked" not in result.estimate.reason


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_the_decisions_are_those_that_were_recorded_before_they_took_one_call(number: int) -> None:
    rows = json.loads((Path(__file__).parent / "recorded_decisions.json").read_text())
    gate = SafetyGate(CONFIGS[number])
    recorded = [row[1:] for row in rows if row[0] == number]
    for k, (question, row) in enumerate(zip(stream(number), recorded, strict=True)):
        now = partial(int, question.now)
        result = gate.decide(question.proposals, question.ask, question.limit, now)
        forwarded = result.forwarded
        found = [
            result.decision.name,
            result.estimate.decision.name,
            result.reason[:110],
            result.detour and forwarded is not None,
            forwarded and round(float(np.abs(forwarded.actions).sum()), 6),
        ]
        assert found == row, f"question {k}"
        if k % 4 == 3 and gate.decision == STOP:
            gate.recover()
