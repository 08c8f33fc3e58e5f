"""Tick statistics, chunk schedule, episode schedule: arithmetic with injected time."""

import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.episode_schedule import EpisodeSchedule
from safedojo_ros.robot.playback.schedule import ChunkSchedule
from safedojo_ros.robot.tick_statistics import TickStatistics
from safedojo_ros.worlds.seeds import EVALUATION

MS = 1_000_000


def test_even_ticks_have_no_jitter_and_miss_nothing() -> None:
    statistics = TickStatistics(0.05)
    for i in range(100):
        statistics.tick(i * 50 * MS)
    summary = statistics.summary()
    assert (summary.ticks, summary.missed) == (100, 0)
    assert summary.jitter_p99 == pytest.approx(0.0, abs=1e-9)


def test_a_gap_of_three_periods_misses_two_ticks() -> None:
    statistics = TickStatistics(0.05)
    for at in (0, 50, 200, 250):
        statistics.tick(at * MS)
    assert statistics.summary().missed == 2


def test_a_late_tick_is_jitter_and_not_a_miss() -> None:
    statistics = TickStatistics(0.05)
    for at in (0, 50, 120, 150):
        statistics.tick(at * MS)
    summary = statistics.summary()
    assert summary.missed == 0
    assert summary.jitter_p99 == pytest.approx(0.02, abs=1e-3)


def test_no_tick_has_an_empty_summary_and_old_ones_are_forgotten() -> None:
    assert TickStatistics(0.05).summary().jitter_p50 == 0.0
    statistics = TickStatistics(0.05, window=3)
    for at in (0, 90, 140, 190, 240):
        statistics.tick(at * MS)
    summary = statistics.summary()
    assert (summary.ticks, summary.missed) == (5, 1)
    assert summary.jitter_p99 == pytest.approx(0.0, abs=1e-9)


def test_half_of_the_ticks_jitter_less_than_the_median() -> None:
    statistics = TickStatistics(0.05)
    for at in (0, 51, 103, 156):
        statistics.tick(at * MS)
    assert statistics.summary().jitter_p50 == pytest.approx(0.002, abs=1e-9)


def test_the_first_chunk_is_due_at_once_and_the_next_before_the_old_one_ends() -> None:
    schedule = ChunkSchedule(0.05, margin_steps=2)
    assert schedule.due(1)
    schedule.asked(1000 * MS, length=8)
    schedule.answered(0.03)  # one step, and a margin of two: due 3 steps before the end
    due = [step for step in range(1, 9) if schedule.due((1000 + 50 * step) * MS)]
    assert due == [5, 6, 7, 8]


def test_a_slow_policy_is_asked_earlier_but_never_twice_for_one_observation() -> None:
    schedule = ChunkSchedule(0.05, margin_steps=2)
    schedule.asked(1000 * MS, length=8)
    schedule.answered(10.0)
    assert not schedule.due(1000 * MS)
    assert schedule.due(1050 * MS)


def test_a_chunk_is_due_when_the_clock_has_gone_back() -> None:
    schedule = ChunkSchedule(0.05)
    schedule.asked(5_000 * MS, 10)
    assert not schedule.due(5_000 * MS)
    assert schedule.due(4_000 * MS)


def test_the_slowest_of_the_last_computations_counts_and_older_ones_do_not() -> None:
    schedule = ChunkSchedule(0.05, margin_steps=0, memory=2)
    schedule.asked(1000 * MS, length=8)
    for seconds, ahead in ((0.16, 4), (0.05, 4), (0.05, 1), (0.12, 3)):
        schedule.answered(seconds)
        assert schedule.steps_ahead == ahead
    schedule.asked(1000 * MS, length=1)
    assert schedule.steps_ahead == 1


def test_a_new_instruction_makes_a_chunk_due_at_once() -> None:
    schedule = ChunkSchedule(0.05)
    schedule.asked(1000 * MS, length=8)
    assert not schedule.due(1050 * MS)
    schedule.restart()
    assert schedule.due(1050 * MS)


def test_episodes_take_turns_through_the_tasks_on_held_out_seeds() -> None:
    schedule = EpisodeSchedule(level=1, seed=5, count=6)
    plans = [schedule.plan(i) for i in range(6)]
    assert len({p.task for p in plans if p}) == 4
    assert [p.seed for p in plans if p] == list(EVALUATION[5:11])
    assert schedule.plan(6) is None


def test_without_a_count_episodes_never_end() -> None:
    plan = EpisodeSchedule(level=0, seed=0, task="stack_blocks").plan(12345)
    assert plan is not None
    assert plan.task == "stack_blocks"


@pytest.mark.parametrize(
    "options", [{"level": 3, "seed": 0}, {"level": 1, "seed": 0, "task": "tea"}]
)
def test_an_impossible_schedule_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        EpisodeSchedule(**options)
