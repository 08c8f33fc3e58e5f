"""Chunks follow each other without a jump, and anything doubtful ends in holding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.types import ActionChunk
from safedojo_ros.robot.playback.playback import ChunkPlayback, PlaybackConfig
from safedojo_ros.robot.watchdog import Watchdog

MS = 1_000_000
TICK = 50 * MS
START = 10_000 * MS


def chunk(observed_at: int, sequence: int, first: float = 0.0, length: int = 10) -> ActionChunk:
    """Action k of the chunk moves x by first + k thousandths of a metre."""
    actions = np.zeros((length, 7))
    actions[:, 0] = first + np.arange(length) * 1e-3
    actions[:, 6] = 1.0
    return ActionChunk(actions, observed_at=observed_at, sequence=sequence, checkpoint="a")


def started(length: int = 10, config: PlaybackConfig | None = None) -> ChunkPlayback:
    playback = ChunkPlayback(config)
    assert playback.accept(chunk(START - 30 * MS, 1, length=length), START) == 0
    return playback


def play(playback: ChunkPlayback, first: int, count: int) -> list[float | None]:
    """x of `count` ticks, the first one at `first` ns; None where the arm holds."""
    actions = [playback.tick(first + k * TICK) for k in range(count)]
    return [None if a is None else round(float(a[0]), 9) for a in actions]


def test_a_chunk_is_played_action_by_action_and_ends_in_hold() -> None:
    playback = started(length=3)
    assert (playback.remaining, playback.last_sequence, playback.checkpoint) == (3, 1, "a")
    assert play(playback, START, 5) == [0.0, 0.001, 0.002, None, None]
    assert "ran out" in playback.reason


def test_after_the_clock_went_back_the_arm_holds_until_a_newer_chunk_comes() -> None:
    playback = started()
    play(playback, START, 4)
    earlier = START - 5_000 * MS
    assert play(playback, earlier, 2) == [None, None]
    assert "went back" in playback.reason
    with pytest.raises(ChunkRejected, match="replayed"):
        playback.accept(chunk(earlier + 60 * MS, 1), earlier + 2 * TICK)
    assert playback.accept(chunk(earlier + 60 * MS, 2), earlier + 2 * TICK) == 0
    assert play(playback, earlier + 2 * TICK, 2) == [0.0, 0.001]


def test_nothing_is_played_before_the_first_chunk() -> None:
    playback = ChunkPlayback()
    assert playback.tick(START) is None
    assert (playback.remaining, playback.last_sequence, playback.checkpoint) == (0, 0, "")
    assert "no chunk" in playback.reason


def test_a_new_chunk_starts_where_the_arm_is_not_at_its_first_action() -> None:
    playback = started()
    play(playback, START, 4)  # ticks at 0, 50, 100 and 150 ms
    start = playback.accept(chunk(START + 60 * MS, 2), START + 170 * MS)
    assert start == 2, "two actions, at 100 and 150 ms, were played since its observation"


def test_actions_that_were_never_played_are_not_skipped() -> None:
    playback = ChunkPlayback()
    assert playback.accept(chunk(START - 400 * MS, 1), START) == 0
    assert play(playback, START, 2) == [0.0, 0.001]


def test_what_was_played_but_not_yet_seen_counts_as_played() -> None:
    playback = started(config=PlaybackConfig(actuation_delay=0.05))
    play(playback, START, 4)
    assert playback.accept(chunk(START + 60 * MS, 2), START + 170 * MS) == 3


def test_a_new_chunk_is_joined_where_it_would_have_brought_the_arm() -> None:
    playback = started(config=PlaybackConfig(blend_steps=2))
    play(playback, START, 4)  # of which 0.002 and 0.003 come after the observation
    playback.accept(chunk(START + 60 * MS, 2, first=0.020), START + 170 * MS)
    apart = (0.020 + 0.021) - (0.002 + 0.003)
    seen = play(playback, START + 4 * TICK, 3)
    assert seen == pytest.approx([0.022 + apart / 2, 0.023 + apart / 2, 0.024])


def test_without_blending_a_new_chunk_goes_on_from_where_the_arm_is() -> None:
    playback = started(config=PlaybackConfig(blend_steps=0))
    play(playback, START, 4)
    playback.accept(chunk(START + 60 * MS, 2, first=0.020), START + 170 * MS)
    assert play(playback, START + 4 * TICK, 2) == [0.022, 0.023]


def test_a_slowed_chunk_takes_effect_at_once() -> None:
    playback = started()
    play(playback, START, 4)
    playback.accept(chunk(START + 60 * MS, 2, first=0.010), START + 170 * MS, slow=True)
    assert play(playback, START + 4 * TICK, 1) == [0.012]


def test_what_the_gate_has_slowed_is_within_half_of_the_limits() -> None:
    """So a chunk that somebody else publishes under SLOW moves no faster than SLOW allows."""
    playback = started()
    fast = chunk(START + 60 * MS, 2)
    fast.actions[3, 1] = -0.026
    with pytest.raises(ChunkRejected, match="says SLOW, but action 3 asks for -0.026 m"):
        playback.accept(fast, START + 170 * MS, slow=True)
    assert playback.tick(START + 4 * TICK) is None
    fast = chunk(START + 190 * MS, 3)
    fast.actions[3, :6] = np.array([0.025, -0.025, 0.025, 0.25, -0.25, 0.25], np.float32)
    playback.accept(fast, START + 200 * MS, slow=True)


def test_chunks_of_two_checkpoints_are_never_mixed() -> None:
    playback = started()
    play(playback, START, 4)
    other = replace(chunk(START + 60 * MS, 2, first=0.020), checkpoint="b")
    playback.accept(other, START + 170 * MS)
    assert play(playback, START + 4 * TICK, 2) == [0.022, 0.023]
    assert playback.checkpoint == "b"


def test_a_new_gripper_command_counts_at_once_and_is_never_halfway() -> None:
    playback = started(config=PlaybackConfig(blend_steps=3))
    play(playback, START, 4)
    opening = chunk(START + 60 * MS, 2)
    opening.actions[:, 6] = -1.0
    playback.accept(opening, START + 170 * MS)
    commands = [playback.tick(START + (4 + k) * TICK) for k in range(6)]
    assert {float(a[6]) for a in commands if a is not None} == {-1.0}


REJECTED = {
    "nan": (lambda c: replace(c, actions=np.full((10, 7), np.nan)), "not finite"),
    "shape": (lambda c: replace(c, actions=np.zeros((10, 8))), "shape"),
    "beyond the limits": (lambda c: replace(c, actions=np.full((10, 7), 0.2)), "limit"),
    "wrong period": (lambda c: replace(c, period=0.02), "period"),
    "wrong frame": (lambda c: replace(c, frame="tool"), "frame"),
    "stale": (lambda c: replace(c, observed_at=START - 450 * MS), "ago"),
    "future": (lambda c: replace(c, observed_at=START + 200 * MS), "future"),
    "replayed": (lambda c: replace(c, sequence=1), "replayed"),
    "skipped": (lambda c: replace(c, sequence=3), "lost while the arm was moving"),
    "frozen camera": (lambda c: replace(c, observed_at=START - 30 * MS), "frozen"),
    "exhausted": (lambda c: replace(c, actions=np.zeros((1, 7))), "too late"),
}


@pytest.mark.parametrize("fault", REJECTED)
def test_a_rejected_chunk_makes_the_arm_hold_at_the_next_tick(fault: str) -> None:
    playback = started()
    play(playback, START, 2)
    breaks, words = REJECTED[fault]
    with pytest.raises(ChunkRejected, match=words):
        playback.accept(breaks(chunk(START + 10 * MS, 2)), START + 70 * MS)
    assert playback.tick(START + 2 * TICK) is None
    assert words in playback.reason
    assert playback.rejected == 1


@pytest.mark.parametrize("fault", REJECTED)
def test_after_a_rejected_chunk_a_newly_observed_one_moves_the_arm_again(fault: str) -> None:
    playback = started()
    play(playback, START, 2)
    bad = REJECTED[fault][0](chunk(START + 10 * MS, 2))
    with pytest.raises(ChunkRejected):
        playback.accept(bad, START + 70 * MS)
    follower = chunk(START + 120 * MS, max(bad.sequence, 1) + 1)
    assert playback.accept(follower, START + 150 * MS) == 0
    assert play(playback, START + 3 * TICK, 2) == [0.0, 0.001]


def test_a_plan_from_before_a_hold_is_never_continued() -> None:
    playback = started()
    play(playback, START, 2)
    playback.hold(START + 80 * MS, "the gate said so")
    with pytest.raises(ChunkRejected, match="before the arm held.*the gate said so"):
        playback.accept(chunk(START + 75 * MS, 2), START + 130 * MS)
    with pytest.raises(ChunkRejected, match="before the arm held"):
        playback.accept(chunk(START + 79 * MS, 3), START + 180 * MS)
    assert playback.accept(chunk(START + 90 * MS, 4), START + 200 * MS) == 0


def test_rejections_during_a_hold_do_not_prolong_it() -> None:
    playback = started()
    playback.hold(START, "held")
    for k in range(1, 4):
        with pytest.raises(ChunkRejected):
            playback.accept(chunk(START - (10 - k) * MS, 1 + k), START + k * 30 * MS)
    assert playback.accept(chunk(START + 50 * MS, 5), START + 100 * MS) == 0


def test_a_gap_while_the_arm_holds_is_counted_and_tolerated() -> None:
    playback = started()
    playback.hold(START + 10 * MS, "the gate held two chunks")
    assert playback.accept(chunk(START + 20 * MS, 4), START + 60 * MS) == 0
    assert playback.skipped == 2


def test_a_chunk_that_ran_out_may_be_followed_by_the_one_computed_meanwhile() -> None:
    playback = started(length=3)
    play(playback, START, 4)
    assert playback.accept(chunk(START + 60 * MS, 2), START + 400 * MS) == 1
    apart = 0.0 - 0.002  # the new chunk would not have moved where the old one moved 2 mm
    assert play(playback, START + 8 * TICK, 2) == pytest.approx([0.001 + apart, 0.002])


def test_a_restarted_policy_is_let_in_only_after_arming_anew() -> None:
    playback = ChunkPlayback()
    playback.accept(chunk(START - 10 * MS, 77, length=3), START)
    play(playback, START, 4)
    for k in (1, 2):
        with pytest.raises(ChunkRejected, match="replayed"):
            playback.accept(chunk(START + k * 600 * MS, k), START + (k * 600 + 10) * MS)
    playback.restart(START + 1500 * MS, "armed", last_sequence=2)
    with pytest.raises(ChunkRejected, match="came after 2"):
        playback.accept(chunk(START + 1510 * MS, 2), START + 1520 * MS)
    assert playback.accept(chunk(START + 1530 * MS, 3), START + 1540 * MS) == 0


def test_a_stalled_control_loop_holds() -> None:
    playback = started()
    play(playback, START, 2)
    assert playback.tick(START + TICK + 260 * MS) is None
    assert "stalled" in playback.reason


def test_a_clock_that_goes_back_holds() -> None:
    playback = started()
    play(playback, START, 2)
    assert playback.tick(START - 1) is None
    assert "went back" in playback.reason


def test_a_timer_that_catches_up_does_not_speed_the_arm_up() -> None:
    playback = started()
    play(playback, START, 1)
    early = playback.tick(START + 10 * MS)
    assert early is not None
    assert np.array_equal(early, [0, 0, 0, 0, 0, 0, 1.0])
    assert play(playback, START + TICK, 2) == [0.001, 0.002]


def test_arming_anew_forgets_the_old_stream_but_not_that_it_holds() -> None:
    playback = started()
    play(playback, START, 2)
    playback.restart(START + 100 * MS, "armed")
    assert playback.tick(START + 100 * MS) is None
    with pytest.raises(ChunkRejected, match="before the arm held"):
        playback.accept(chunk(START + 90 * MS, 1), START + 110 * MS)
    assert playback.accept(chunk(START + 120 * MS, 2), START + 150 * MS) == 0


@pytest.mark.parametrize(
    "wrong", [{"blend_steps": -1}, {"actuation_delay": float("nan")}, {"max_tick_gap": 0.05}]
)
def test_a_senseless_configuration_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        PlaybackConfig(**wrong)


events = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.integers(-20, 400)),
        st.tuples(st.just("hold"), st.integers(0, 50)),
        st.tuples(
            st.just("chunk"),
            st.tuples(
                st.integers(0, 100),  # ms that pass
                st.integers(-50, 700),  # age of the observation, ms
                st.integers(-2, 4),  # sequence step
                st.integers(1, 12),  # length
                st.booleans(),  # one action is beyond the limits or not a number
            ),
        ),
    ),
    max_size=60,
)


@given(events)
def test_whatever_comes_every_played_action_is_within_limits_and_of_a_fresh_chunk(
    sequence_of_events: list,
) -> None:
    playback, now, sequence, held_at, accepted_at = ChunkPlayback(), START, 0, -1, -1
    for kind, detail in sequence_of_events:
        if kind == "tick":
            now += detail * MS
            action = playback.tick(now)
            if action is not None:
                assert np.all(np.isfinite(action))
                assert np.all(np.abs(action[:3]) <= 0.05 + 1e-6)
                assert accepted_at >= held_at, "nothing moves after a hold without a new chunk"
        elif kind == "hold":
            now += detail * MS
            playback.hold(now, "held")
            held_at, accepted_at = now, -1
        else:
            elapsed, age, step, length, broken = detail
            now += elapsed * MS
            sequence = max(0, sequence + step)
            offered = chunk(now - age * MS, sequence, 0.03, length)
            if broken:
                offered.actions[length // 2, 1] = np.nan if length % 2 else 0.2
            try:
                playback.accept(offered, now)
            except ChunkRejected:
                assert not playback.executing
                accepted_at = -1
                held_at = max(held_at, 0)
            else:
                assert not broken
                assert -10 <= age <= 500
                accepted_at = now


@given(
    arrays(np.float64, (12, 7), elements=st.floats(-0.05, 0.05)),
    arrays(np.float64, (12, 7), elements=st.floats(-0.02, 0.02)),
    st.integers(1, 3),
    st.integers(1, 12),
)
def test_a_blend_ends_on_the_new_path_and_keeps_every_limit(
    old: np.ndarray, new: np.ndarray, late: int, steps: int
) -> None:
    playback = ChunkPlayback(PlaybackConfig(blend_steps=steps))
    playback.accept(replace(chunk(START - MS, 1), actions=old), START)
    moved = np.zeros(6)
    for k in range(4):
        action = playback.tick(START + k * TICK)
        assert action is not None
        moved += action[:6] * (k >= 4 - late)
    observed_at = START + (4 - late) * TICK - 2 * MS
    start = playback.accept(replace(chunk(observed_at, 2), actions=new), START + 3 * TICK + MS)
    assert start == late
    for k in range(late, 12):
        action = playback.tick(START + (4 + k - late) * TICK)
        assert action is not None
        assert np.all(np.abs(action[:3]) <= 0.05 + 1e-12)
        moved += action[:6]
    if steps <= 12 - late:  # 0.21 m apart at most, and 0.03 m in each of nine steps to make it up
        assert moved == pytest.approx(new[:, :6].sum(0), abs=1e-9)


def test_the_watchdog_names_who_is_silent() -> None:
    watchdog = Watchdog({"camera": 0.2, "gate": 0.5})
    assert watchdog.late(START) == [
        "'camera' has not been heard yet",
        "'gate' has not been heard yet",
    ]
    watchdog.feed("camera", START)
    watchdog.feed("gate", START)
    assert watchdog.late(START + 200 * MS) == []
    assert len(watchdog.late(START + 201 * MS)) == 1
    assert "'camera' has been silent for 0.30 s" in watchdog.late(START + 300 * MS)[0]
    assert "went back" in watchdog.late(START - MS)[0]
    with pytest.raises(ConfigError, match="known: camera, gate"):
        watchdog.feed("lidar", START)
    for deadline in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError):
            Watchdog({"camera": deadline})
    assert watchdog.silence("camera", START + 300 * MS) == pytest.approx(0.3)
    assert watchdog.silence("camera", START - MS) == float("inf")
