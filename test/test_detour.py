"""Detours: near, never downwards, never beyond a limit, and only for what is sound but unsafe."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.bounds import MAX_DELTA_POSITION
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ActionChunk, Decision
from safedojo_ros.robot.gate.detour import LENGTHS, OFFSETS, chosen_detour, detours, progress
from safedojo_ros.robot.gate.gate import GateConfig, GateResult, SafetyGate

LIMIT, PASSING = 0.5, 0.3
MS = 1_000_000
Head = Callable[[np.ndarray], np.ndarray]
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


def decided(
    head: Head,
    judge: SafetyGate | None = None,
    chunk: ActionChunk | None = None,
    cost: np.ndarray | None = None,
) -> GateResult:
    """What becomes of a chunk; cost: (H,) what the head says of it and not of its detours."""

    def ask(chunks: np.ndarray) -> np.ndarray:
        return cost[None] if cost is not None and len(chunks) == 1 else head(chunks)

    return (judge or gate()).decide([chunk or ahead()], ask, LIMIT, lambda: NOW)


def flat(cost: float) -> Head:
    """The same cost of every chunk."""
    return lambda chunks: np.full(chunks.shape[:-1], cost)


def test_the_nearest_detour_that_passes_is_executed_and_named() -> None:
    result = decided(wall)
    assert result.forwarded is result.judged
    np.testing.assert_allclose(result.judged.actions[:, :3], [[0.01, 0.0, 0.01]] * 8)
    np.testing.assert_array_equal(result.judged.actions[:, 3:], ahead().actions[:, 3:])
    why = "detour by (0.0, 0.0, 1.0) cm a step: predicted cost was 0.90"
    assert (result.decision, result.reason, result.detour) == (Decision.ALLOW, why, True)
    assert result.estimate.chunk_cost == pytest.approx(0.05)
    assert (result.proposed.chunk_cost, result.proposed.reason) == (pytest.approx(0.9), why)
    np.testing.assert_array_equal(result.proposed.step_cost, [0.9] * 8)


def test_detours_may_begin_before_the_gate_slows_and_not_after() -> None:
    low = np.full(8, 0.2)  # below SLOW at 0.3
    assert decided(wall, gate(ratio=0.2), cost=low).detour
    assert not decided(wall, gate(ratio=1.0), cost=low).detour
    assert decided(wall, gate(ratio=1.0), cost=np.full(8, 0.4)).detour
    assert decided(wall, gate(ratio=0.4), cost=np.full(8, 0.4 * LIMIT)).detour, "from there on"
    with pytest.raises(ConfigError, match="detour_ratio is 2"):
        GateConfig(detour_ratio=2.0)


def test_without_a_way_around_the_chunk_is_held() -> None:
    result = decided(flat(0.9))
    assert (result.decision, result.detour, result.forwarded) == (Decision.HOLD, False, None)


def test_a_detour_that_still_costs_too_much_does_not_pass() -> None:
    result = decided(flat(0.6), cost=np.full(8, 0.9))
    assert (result.decision, result.detour, result.forwarded) == (Decision.HOLD, True, None)


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
    result = decided(wall, judge, chunk, cost)
    assert result.judged is chunk
    assert not result.detour


def test_a_stale_chunk_stays_stale() -> None:
    result = decided(wall, chunk=ahead(observed_at=NOW - 2_000 * MS))
    assert (result.decision, result.forwarded) == (Decision.HOLD, None)
    assert "ago" in result.reason


def test_a_head_that_answers_nonsense_about_detours_holds() -> None:
    result = decided(flat(np.nan), gate(ratio=0.2), cost=np.full(8, 0.2))
    assert (result.decision, result.detour, result.forwarded) == (Decision.HOLD, False, None)
    assert "not a probability" in result.reason
    assert result.proposed.chunk_cost == pytest.approx(0.2)


@given(arrays(np.float64, (8, 7), elements=st.floats(-0.05, 0.05)))
def test_a_detour_never_leads_down_nor_beyond_a_limit(actions: np.ndarray) -> None:
    shifted = detours(actions)
    assert shifted.shape == (len(OFFSETS), 8, 7)
    assert np.all(np.abs(shifted[..., :3]) <= MAX_DELTA_POSITION)
    assert np.all(shifted[..., 2] >= actions[:, 2])
    np.testing.assert_array_equal(shifted[..., 3:], np.broadcast_to(actions[:, 3:], (68, 8, 4)))


def test_taking_the_motion_back_before_the_obstacle_is_the_last_choice() -> None:
    """The nearest that passes stops the arm; one that goes around it is farther."""
    post = lambda chunks: np.where(  # noqa: E731
        (chunks[..., 0] > 0.004) & (np.abs(chunks[..., 1]) < 0.015), 0.9, 0.05
    )
    floor = lambda chunks: np.where(chunks[..., 2] > 0.001, 0.9, post(chunks))  # noqa: E731
    around = decided(floor)
    assert around.detour
    assert around.judged.actions[0, 0] == pytest.approx(0.01)
    assert abs(around.judged.actions[0, 1]) == pytest.approx(0.02)
    shut = lambda chunks: np.where(chunks[..., 0] > 0.004, 0.9, 0.05)  # noqa: E731
    still = decided(shut)
    assert still.detour
    assert still.judged.actions[0, 0] < 0.004


def test_a_detour_at_the_threshold_does_not_pass_so_that_the_cheapest_is_taken() -> None:
    onward = np.arange(len(OFFSETS)) >= 5
    costs = np.full(len(OFFSETS), PASSING)
    assert chosen_detour(costs, 0.9, PASSING, onward) == 0
    assert chosen_detour(costs - 1e-6, 0.9, PASSING, onward) == 5
    assert chosen_detour(costs, PASSING, PASSING, onward) is None


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
    totals = np.sort(costs)[:, -2:].mean(1)
    taken = chosen_detour(totals, cost, PASSING, onward)
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
