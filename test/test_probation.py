"""A new policy that is slower, saturated, not finite or dearer than the old one goes back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedojo_ros.checkpoints.swap.probation import (
    Bars,
    Probation,
    Reference,
    judge_canary,
    saturated_share,
)
from safedojo_ros.core.bounds import MAX_DELTA_POSITION, MAX_DELTA_ROTATION
from safedojo_ros.core.errors import CheckpointError, ConfigError

CALM = np.full((8, 7), 0.01)
NOT_A_NUMBER = np.where(np.arange(7) == 3, np.nan, CALM)
AT_LIMITS = np.tile([MAX_DELTA_POSITION, 0, 0, 0, 0, 0, 1.0], (8, 1))
OLD = Reference(seconds=0.03, cost=0.1, head="h1")
BARS = Bars(chunks=10, settle=3)


@pytest.mark.parametrize(
    ("actions", "share"),
    [
        (CALM, 0.0),
        (AT_LIMITS, 1.0),
        (-AT_LIMITS, 1.0),
        (np.concatenate([AT_LIMITS[:2], CALM[:6]]), 0.25),
        (np.tile([0, 0, 0, 0, 0, MAX_DELTA_ROTATION, 0], (4, 1)), 1.0),
        (np.tile([0, 0, 0, 0, 0, 0, 1.0], (4, 1)), 0.0),
    ],
)
def test_a_step_is_saturated_when_a_translation_or_rotation_is(
    actions: np.ndarray, share: float
) -> None:
    assert saturated_share(actions) == share


def test_a_policy_like_the_old_one_passes_both() -> None:
    judge_canary([CALM] * 4, [0.03] * 4, [0.12] * 4, OLD, BARS)
    probation = Probation(BARS, OLD)
    for sequence in range(1, 11):
        assert not probation.over
        assert probation.chunk(0.035, CALM) == ""
        assert probation.cost(sequence, "h1", 0.2, 0.5) == ""
    assert probation.over
    assert probation.summary == "10 chunks, median 35 ms, mean predicted cost 0.20"


@pytest.mark.parametrize(
    ("actions", "seconds", "costs", "words"),
    [
        ([CALM, NOT_A_NUMBER], [0.03], [0.1], "not finite"),
        ([AT_LIMITS] * 4, [0.03], [0.1], "100% of its steps lie at the limits"),
        ([CALM], [0.3, 0.31], [0.1], "300 ms a chunk, the old one 30 ms; the bar is 110 ms"),
        ([CALM], [0.03], [0.4, 0.3], "predicted cost is 0.35, the bar is 0.30"),
    ],
)
def test_the_canary_refuses_what_is_not_fit(
    actions: list, seconds: list, costs: list, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        judge_canary(actions, seconds, costs, OLD, BARS)


def test_one_slow_run_of_a_busy_machine_does_not_refuse_a_policy() -> None:
    judge_canary([CALM], [0.5, 0.4, 0.03], [], OLD, BARS)
    probation = Probation(BARS, OLD)
    assert [probation.chunk(s, CALM) for s in (0.03, 0.5, 0.03, 0.03)] == [""] * 4


def test_what_is_not_known_is_not_compared() -> None:
    judge_canary([CALM], [9.0], [0.9], Reference(), BARS)
    judge_canary([], [], [], OLD, BARS)
    probation = Probation(BARS, Reference())
    assert [probation.chunk(9.0, CALM) for _ in range(5)] == [""] * 5


def test_a_chunk_that_is_not_finite_goes_back_at_once() -> None:
    assert "not finite" in Probation(BARS, OLD).chunk(0.03, NOT_A_NUMBER)


def test_a_slow_policy_goes_back_as_soon_as_its_median_is_known() -> None:
    probation = Probation(BARS, OLD)
    assert [bool(probation.chunk(0.3, CALM)) for _ in range(3)] == [False, False, True]


def test_a_saturated_policy_goes_back() -> None:
    probation = Probation(BARS, OLD)
    faults = [probation.chunk(0.03, AT_LIMITS) for _ in range(3)]
    assert faults[:2] == ["", ""]
    assert "limits of the action space" in faults[2]


def test_a_dear_policy_goes_back_by_the_mean_of_its_own_chunks() -> None:
    probation = Probation(BARS, OLD, since=40)
    assert [probation.cost(n, "h1", 1.0, 0.5) for n in (38, 39, 40)] == [""] * 3, "the old one's"
    assert probation.cost(41, "h1", float("nan"), 0.5) == ""
    faults = [probation.cost(n, "h1", 0.4, 0.5) for n in (42, 43, 44)]
    assert faults[:2] == ["", ""]
    assert faults[2] == "its predicted cost is 0.40, the bar is 0.30"


@pytest.mark.parametrize("reference", [Reference(seconds=0.03, cost=0.1, head="h0"), Reference()])
def test_under_another_safety_head_the_bar_is_its_limit(reference: Reference) -> None:
    probation = Probation(BARS, reference)
    assert [probation.cost(n, "h1", 0.4, 0.5) for n in range(1, 5)] == [""] * 4
    probation = Probation(BARS, reference)
    faults = [probation.cost(n, "h1", 0.6, 0.5) for n in range(1, 4)]
    assert faults[2] == "its predicted cost is 0.60, the bar is 0.50"


def test_a_model_without_actions_is_watched_for_its_time() -> None:
    probation = Probation(BARS, Reference(seconds=0.01))
    assert [bool(probation.chunk(0.2)) for _ in range(3)] == [False, False, True]


@given(st.lists(st.floats(0.0, 0.11), max_size=30), st.lists(st.floats(0.0, 0.3), max_size=30))
@settings(deadline=None)
def test_whatever_lies_within_the_bars_never_goes_back(seconds: list, costs: list) -> None:
    probation = Probation(BARS, OLD)
    assert all(probation.chunk(s, CALM) == "" for s in seconds)
    assert all(probation.cost(n + 1, "h1", c, 0.5) == "" for n, c in enumerate(costs))


def test_the_tightest_bars_are_the_old_ones_figures() -> None:
    bars = Bars(chunks=0, settle=1, latency_ratio=1.0, latency_slack=0.0, cost_margin=0.0)
    assert bars.longest(OLD) == OLD.seconds
    judge_canary([CALM], [0.03], [0.1], OLD, bars)
    assert Probation(bars, OLD).over


@pytest.mark.parametrize(
    "values",
    [
        *({"chunks": -1}, {"settle": 0}, {"latency_ratio": 0.99}),
        *({"latency_slack": -0.1}, {"cost_margin": -0.1}),
    ],
)
def test_bars_that_make_no_sense_are_refused(values: dict) -> None:
    with pytest.raises(ConfigError):
        Bars(**values)
