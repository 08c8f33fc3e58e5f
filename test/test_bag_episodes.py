"""Takes, series and clocks: rows never reach over a gap, and what is amiss is always named."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedojo_ros.core.units import SECOND
from safedojo_ros.data.bags.episodes import ConversionConfig, episodes_of
from safedojo_ros.data.bags.said import Truth
from safedojo_ros.data.bags.series import ClockWatch, Series
from safedojo_ros.data.bags.takes import ArmTarget, Take

MS = 1_000_000
PERIOD = 50 * MS
START = 1_700_000_000 * SECOND


def synthetic(
    ticks: list[int], seen: list[int], truths: list[int] | None, ended: int | None = None
) -> Take:
    """A take whose pictures hold the number of their stamp."""
    take = Take("bag", {"eye": Series("camera/eye/image_raw")})
    for number, stamp in enumerate(seen):
        picture = np.full((16, 16, 3), number % 256, np.uint8)
        take.pictures["eye"].add(stamp, picture)
        take.poses.add(stamp, np.full(6, stamp / SECOND))
        take.fingers.add(stamp, np.zeros(2))
    for number, stamp in enumerate(ticks):
        place = np.array([number * 0.01, 0.0, 0.2])
        take.targets.add(stamp, ArmTarget(place, np.zeros(3), -1.0, int(number > 0), "p"))
    for stamp in truths or ():
        take.truths.add(stamp, Truth(False, 0.0, False, True, "task", 0))
    take.instructions.add(0, "go")
    take.ended = ended
    return take


HOLD = ArmTarget(np.zeros(3), np.zeros(3), -1.0, 0, "")
EYE = ConversionConfig(("eye",), 16, min_steps=1)


@given(
    st.lists(st.sampled_from([30, 45, 50, 55, 70, 95, 130, 200]), min_size=3, max_size=40),
    st.lists(st.sampled_from([10, 50, 60, 110, 150, 400]), min_size=2, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_every_row_saw_the_newest_picture_and_no_row_reaches_over_a_gap(
    tick_steps: list[int], picture_steps: list[int]
) -> None:
    ticks = [int(t) * MS + START for t in np.cumsum([200, *tick_steps])]
    seen = [int(t) * MS + START for t in np.cumsum(picture_steps)]
    result = episodes_of(synthetic(ticks, seen, None), EYE)
    rows = 0
    for episode in result.episodes:
        rows += len(episode)
        index = episode.images["eye"][:, 0, 0, 0]
        stamps = episode.state[:, 0].astype(np.float64)
        assert np.all(np.diff(index.astype(int)) >= 0)
        places = [seen[i] for i in index]
        np.testing.assert_allclose(stamps, np.array(places) / SECOND, rtol=1e-6)
        # An action of n steps of 1 cm would reach over n - 1 unseen ticks.
        steps = np.round(episode.actions[:, 0] / 0.01).astype(int)
        assert np.all(steps >= 1)
    fresh = [t for t in ticks[1:] if any(0 <= t - s <= EYE.max_gap * SECOND for s in seen)]
    assert rows <= len(fresh)
    silent = [f for f in result.findings if f.topic == "camera/eye/image_raw"]
    stale = [t for t in ticks[1:] if not any(0 <= t - s <= EYE.max_gap * SECOND for s in seen)]
    assert not stale or silent, "a stale tick without a finding would be silent"


@given(st.integers(2, 30), st.integers(0, 29), st.integers(3, 20))
@settings(max_examples=100, deadline=None)
def test_missed_ticks_always_split_and_the_parts_hold_every_other_row(
    count: int, place: int, missed: int
) -> None:
    place = 1 + place % (count - 1)
    ticks = [START + i * PERIOD for i in range(count)]
    ticks[place:] = [t + missed * PERIOD for t in ticks[place:]]
    seen = list(range(START - PERIOD, ticks[-1] + PERIOD, PERIOD))
    result = episodes_of(synthetic(ticks, seen, None), EYE)
    assert sum(map(len, result.episodes)) == count - 1
    assert len(result.episodes) == (2 if place > 1 else 1)
    (finding,) = [f for f in result.findings if f.topic == "arm/target"]
    assert finding.at == ticks[place - 1]


def test_a_tick_that_catches_up_is_no_row_and_its_motion_is_not_lost() -> None:
    ticks = [START + i * PERIOD for i in range(12)]
    ticks.insert(6, ticks[5] + 5 * MS)
    take = synthetic(ticks, ticks, None)
    (episode,) = episodes_of(take, EYE).episodes
    assert len(episode) == 11
    assert episode.actions[:, 0].sum() == pytest.approx(0.12)


def test_without_a_world_the_costs_are_those_that_the_safety_head_expected() -> None:
    ticks = [START + i * PERIOD for i in range(10)]
    take = synthetic(ticks, ticks, None)
    take.observed_at[1] = ticks[1] - 10 * MS
    take.expected_cost[1] = np.array([0.1, 0.2, 0.9, 0.6, 0.1])
    (episode,) = episodes_of(take, EYE).episodes
    assert episode.cost.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert not episode.succeeded
    assert episode.level == -1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda take: take.targets.values.__setitem__(slice(1, None), [HOLD] * 9), "no chunk"),
        (lambda take: take.instructions.stamps.clear(), "no instruction"),
        (lambda take: take.pictures["eye"].stamps.clear(), "no step"),
    ],
    ids=["held", "unspoken", "blind"],
)
def test_a_take_of_which_nothing_is_kept_says_why(
    spoil: Callable[[Take], object], reason: str
) -> None:
    ticks = [START + i * PERIOD for i in range(10)]
    take = synthetic(ticks, ticks, None)
    spoil(take)
    result = episodes_of(take, EYE)
    assert result.episodes == []
    assert reason in result.dropped[0]


# ---------------------------------------------------------------- series and clocks

STAMPS = st.lists(st.integers(0, 1000), min_size=0, max_size=30)


@given(STAMPS, st.lists(st.integers(-5, 1005), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_newest_not_later_is_what_a_search_by_hand_finds(
    stamps: list[int], instants: list[int]
) -> None:
    series = Series("x")
    for stamp in stamps:
        series.add(stamp, stamp)
    for instant, index in zip(instants, series.newest(np.array(instants)), strict=True):
        earlier = [s for s in series.stamps if s <= instant]
        assert (index == -1) if not earlier else (series.stamps[index] == max(earlier))
    assert series.stamps == sorted(set(series.stamps))


@given(STAMPS, st.floats(0.0, 1e-7))
@settings(deadline=None)
def test_gaps_are_exactly_the_silences_beyond_the_bound(stamps: list[int], bound: float) -> None:
    series = Series("x")
    for stamp in sorted(stamps):
        series.add(stamp, None)
    found = series.gaps(0, 1001, bound)
    if not stamps or min(stamps) > 0:
        assert found.pop(0).what.startswith("nothing")
    edges = [*sorted(set(stamps)), 1001]
    silences = [a for a, b in zip(edges[:-1], edges[1:], strict=True) if (b - a) / SECOND > bound]
    assert [f.at for f in found] == silences


@given(
    st.lists(st.tuples(st.integers(30, 70), st.integers(0, 30)), min_size=4, max_size=40),
    st.integers(1, 38),
    st.one_of(st.integers(200, 10**7), st.integers(-(10**7), -100)),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_clock_that_jumps_is_noticed_at_once_and_one_that_does_not_never(
    steps: list[tuple[int, int]], place: int, jump: int, only_the_camera: bool
) -> None:
    place = 1 + place % (len(steps) - 1)
    watch = ClockWatch(bound=0.12)
    sent, noticed = START, []
    for number, (step, latency) in enumerate(steps):
        sent += step * MS
        shift = jump * MS if number >= place else 0
        heard = sent + latency * MS + (0 if only_the_camera else shift)
        if watch.see("camera", heard, sent + shift):
            noticed.append(number)
    assert noticed == [place]
