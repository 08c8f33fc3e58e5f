"""Detours: near, never downwards, never beyond a limit, and only for what is sound but careless."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import MAX_DELTA_POSITION, ActionChunk, Decision
from safedojo_ros.robot.gate.detour import LENGTHS, OFFSETS, chosen_detour, detours, progress
from safedojo_ros.robot.gate.gate import GateConfig, SafetyGate

LIMIT, PASSING = 0.5, 0.3
MS = 1_000_000
NOW = 1_000 * MS


def wall(chunks: np.ndarray) -> np.ndarray:
    """P(contact) of each step of (K, H, 7): only what rises by almost a centimetre clears it."""
    return np.where(chunks[..., 2] < 0.009, 0.9, 0.05)


def ahead(**changes: object) -> ActionChunk:
    actions = np.zeros((8, 7))
    actions[:, 0], actions[:, 3], actions[:, 6] = 0.01, 0.1, 1.0
    chunk = ActionChunk(actions, observed_at=NOW - 50 * MS, sequence=1)
    return replace(chunk, **changes)  # type: ignore[arg-type]


def gate(ratio: float = 0.6, mode: str = "gate") -> SafetyGate:
    return SafetyGate(GateConfig(detour_ratio=ratio, mode=mode))  # type: ignore[arg-type]


def test_the_nearest_detour_that_passes_is_played_and_named() -> None:
    judge = gate()
    chunk, cost, why = judge.detoured(ahead(), wall(ahead().actions), LIMIT, wall)
    np.testing.assert_allclose(chunk.actions[:, :3], [[0.01, 0.0, 0.01]] * 8)
    np.testing.assert_array_equal(chunk.actions[:, 3:], ahead().actions[:, 3:])
    assert why == "detour by (0.0, 0.0, 1.0) cm a step: predicted cost was 0.90"
    verdict = judge.judge(chunk, cost, LIMIT, NOW, detour=why)
    assert (verdict.decision, verdict.reason) == (Decision.ALLOW, why)
    assert verdict.chunk is chunk


def test_detours_may_begin_before_the_gate_slows_and_not_after() -> None:
    early, late = gate(ratio=0.2), gate(ratio=1.0)
    cost = np.full(8, 0.2)  # below SLOW at 0.3
    assert early.detoured(ahead(), cost, LIMIT, wall)[2]
    assert not late.detoured(ahead(), cost, LIMIT, wall)[2]
    assert late.detoured(ahead(), np.full(8, 0.4), LIMIT, wall)[2]
    with pytest.raises(ConfigError, match="detour_ratio is 2"):
        GateConfig(detour_ratio=2.0)


def test_without_a_way_around_the_chunk_is_held() -> None:
    judge = gate()
    blocked = lambda chunks: np.full(chunks.shape[:-1], 0.9)  # noqa: E731
    chunk, cost, why = judge.detoured(ahead(), np.full(8, 0.9), LIMIT, blocked)
    assert why == ""
    assert judge.judge(chunk, cost, LIMIT, NOW, detour=why).decision == Decision.HOLD


def test_a_detour_that_still_costs_too_much_does_not_pass() -> None:
    judge = gate()
    better = lambda chunks: np.full(chunks.shape[:-1], 0.6)  # noqa: E731
    chunk, cost, why = judge.detoured(ahead(), np.full(8, 0.9), LIMIT, better)
    assert why
    verdict = judge.judge(chunk, cost, LIMIT, NOW, detour=why)
    assert (verdict.decision, verdict.chunk) == (Decision.HOLD, None)


@pytest.mark.parametrize(
    ("judge", "chunk", "cost"),
    [
        (gate(ratio=0.0), ahead(), np.full(8, 0.9)),
        (gate(mode="monitor"), ahead(), np.full(8, 0.9)),
        (gate(), ahead(), np.full(8, 0.2)),
        (gate(), ahead(), np.full(8, np.nan)),
        (gate(), ahead(), np.full(7, 0.9)),
        (gate(), ahead(), np.full(8, 1.5)),
        (gate(), ahead(), np.array([-1.0] + [0.9] * 7)),
        (gate(), ahead(actions=np.full((8, 7), np.nan)), np.full(8, 0.9)),
        (gate(), ahead(actions=np.full((8, 7), 0.2)), np.full(8, 0.9)),
    ],
    ids=[
        "off",
        "monitor",
        "passes",
        "no cost",
        "few costs",
        "above 1",
        "below 0",
        "not finite",
        "beyond a limit",
    ],
)
def test_what_needs_no_detour_or_deserves_none_stays_as_it_is(
    judge: SafetyGate, chunk: ActionChunk, cost: np.ndarray
) -> None:
    assert judge.detoured(chunk, cost, LIMIT, wall)[0] is chunk


def test_a_stale_chunk_stays_stale() -> None:
    judge, late = gate(), ahead(observed_at=NOW - 2_000 * MS)
    chunk, cost, why = judge.detoured(late, wall(late.actions), LIMIT, wall)
    verdict = judge.judge(chunk, cost, LIMIT, NOW, detour=why)
    assert (verdict.decision, verdict.chunk) == (Decision.HOLD, None)
    assert "ago" in verdict.reason


def test_a_head_that_answers_nonsense_leads_nowhere() -> None:
    broken = lambda chunks: np.full(chunks.shape[:-1], np.nan)  # noqa: E731
    assert gate().detoured(ahead(), np.full(8, 0.9), LIMIT, broken)[2] == ""


@given(arrays(np.float64, (8, 7), elements=st.floats(-0.05, 0.05)))
def test_a_detour_never_leads_down_nor_beyond_a_limit(actions: np.ndarray) -> None:
    ways = detours(actions)
    assert ways.shape == (len(OFFSETS), 8, 7)
    assert np.all(np.abs(ways[..., :3]) <= MAX_DELTA_POSITION)
    assert np.all(ways[..., 2] >= actions[:, 2])
    np.testing.assert_array_equal(ways[..., 3:], np.broadcast_to(actions[:, 3:], (68, 8, 4)))


def test_taking_the_motion_back_before_the_obstacle_is_the_last_choice() -> None:
    """The nearest that passes stops the arm; one that goes around it is farther."""
    post = lambda chunks: np.where(  # noqa: E731
        (chunks[..., 0] > 0.004) & (np.abs(chunks[..., 1]) < 0.015), 0.9, 0.05
    )
    floor = lambda chunks: np.where(chunks[..., 2] > 0.001, 0.9, post(chunks))  # noqa: E731
    chunk, _, why = gate().detoured(ahead(), floor(ahead().actions), LIMIT, floor)
    assert why
    assert chunk.actions[0, 0] == pytest.approx(0.01)
    assert abs(chunk.actions[0, 1]) == pytest.approx(0.02)
    shut = lambda chunks: np.where(chunks[..., 0] > 0.004, 0.9, 0.05)  # noqa: E731
    still, _, why = gate().detoured(ahead(), shut(ahead().actions), LIMIT, shut)
    assert why
    assert still.actions[0, 0] < 0.004


def test_progress_is_counted_in_the_chunks_own_direction_over_its_first_half() -> None:
    actions = ahead().actions
    ways = np.repeat(actions[None], 4, axis=0)
    ways[1, :, 0] = 0.0
    ways[2, :, 1] = 0.03
    ways[3, 4:, 0] = 0.0
    np.testing.assert_allclose(progress(actions, ways), [1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(progress(np.zeros((8, 7)), ways), np.ones(4))


@given(
    arrays(np.float64, (len(OFFSETS), 4), elements=st.floats(0, 1)),
    st.floats(0, 1),
    arrays(np.bool_, len(OFFSETS)),
)
def test_the_choice_is_the_nearest_that_passes_and_goes_on_or_the_cheapest(
    costs: np.ndarray, cost: float, onward: np.ndarray
) -> None:
    taken = chosen_detour(costs, 2, cost, PASSING, onward)
    totals = np.sort(costs)[:, -2:].mean(1)
    passing = totals < PASSING
    if passing.any():
        assert taken is not None
        eligible = passing & onward if (passing & onward).any() else passing
        assert eligible[taken]
        assert LENGTHS[taken] <= LENGTHS[eligible].min() + 1e-9
    elif taken is None:
        assert totals.min() >= cost
    else:
        assert totals[taken] == totals.min() < cost
