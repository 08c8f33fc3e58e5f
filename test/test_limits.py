"""Limits refuse and explain; the target never leaves its box nor runs away from the arm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, quaternion_of, turn_between
from safedojo_ros.robot.limits import FR3_JOINTS, ActionLimits, Workspace
from safedojo_ros.robot.playback.target import TargetPose

BOX = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))
HOME = np.array([-0.1, 0.0, 0.24])

any_float = st.floats(-1e6, 1e6)
shares = arrays(np.float64, 7, elements=st.floats(-1, 1))


@given(arrays(np.float64, 3, elements=any_float))
def test_a_clamped_point_is_inside_and_an_inside_point_is_untouched(point: np.ndarray) -> None:
    clamped = BOX.clamp(point)
    assert BOX.contains(clamped)
    assert np.array_equal(BOX.clamp(clamped), clamped)
    assert BOX.contains(point) == np.array_equal(clamped, point)


@pytest.mark.parametrize(
    "corners",
    [
        ((0, 0, 0), (1, 1, 0)),
        ((0, 0, 0), (1, -1, 1)),
        ((0, 0, float("nan")), (1, 1, 1)),
        ((0, 0, 0), (1, 1, float("inf"))),
    ],
)
def test_a_workspace_without_a_volume_is_refused(corners: tuple) -> None:
    with pytest.raises(ConfigError):
        Workspace(*corners)


@given(arrays(np.float64, (5, 7), elements=st.floats(-2, 2)))
def test_a_chunk_is_refused_exactly_when_a_delta_is_beyond_its_bound(actions: np.ndarray) -> None:
    beyond = bool((np.abs(actions) > ACTION_BOUND + 1e-6).any())
    if beyond:
        with pytest.raises(ChunkRejected, match="the limit is"):
            ActionLimits().check(actions)
    else:
        ActionLimits().check(actions)


def test_bounds_that_travelled_as_float32_pass() -> None:
    ActionLimits().check(np.tile(ACTION_BOUND, (3, 1)).astype(np.float32))


def test_the_message_names_step_component_and_limit() -> None:
    actions = np.zeros((4, 7))
    actions[2, 4] = -0.7
    with pytest.raises(ChunkRejected, match=r"action 2 asks for -0.7 rad in component 4.* 0.5"):
        ActionLimits().check(actions)


def test_a_nan_is_beyond_every_limit() -> None:
    with pytest.raises(ChunkRejected):
        ActionLimits().check(np.full((1, 7), np.nan))


@given(arrays(np.float64, 7, elements=st.floats(0, 1)))
def test_joint_velocity_limits_close_towards_the_position_limits(share: np.ndarray) -> None:
    joints = FR3_JOINTS.lower + share * (FR3_JOINTS.upper - FR3_JOINTS.lower)
    low, high = FR3_JOINTS.velocity_range(joints)
    assert np.all(low <= 0)
    assert np.all(high >= 0)
    assert np.all(high <= FR3_JOINTS.velocity)
    nearer = joints + 0.5 * (FR3_JOINTS.upper - joints)
    assert np.all(FR3_JOINTS.velocity_range(nearer)[1] <= high + 1e-12)


def test_far_from_their_limits_the_joints_have_the_published_speed() -> None:
    middle = (FR3_JOINTS.lower + FR3_JOINTS.upper) / 2
    lowest, highest = FR3_JOINTS.velocity_range(middle)
    np.testing.assert_array_equal(highest, [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
    np.testing.assert_array_equal(lowest, -highest)


def test_near_a_joint_limit_the_speed_is_what_the_published_formula_says() -> None:
    room = 0.1
    _, highest = FR3_JOINTS.velocity_range(FR3_JOINTS.upper - room)
    lowest, _ = FR3_JOINTS.velocity_range(FR3_JOINTS.lower + room)
    offset = np.array([0.6599, 0.2517, 0.2, 0.3533, 0.5757, 0.4878, 0.4628])
    expected = np.sqrt(2 * np.array([6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0]) * room) - offset
    np.testing.assert_allclose(highest, expected, rtol=1e-9)
    np.testing.assert_allclose(lowest, -expected, rtol=1e-9)


def test_at_a_joint_limit_no_speed_towards_it_is_left() -> None:
    assert np.all(FR3_JOINTS.velocity_range(FR3_JOINTS.upper)[1] == 0)
    assert np.all(FR3_JOINTS.velocity_range(FR3_JOINTS.lower)[0] == 0)


def test_joint_faults_are_sentences() -> None:
    middle = (FR3_JOINTS.lower + FR3_JOINTS.upper) / 2
    assert FR3_JOINTS.fault(middle, np.zeros(7)) == ""
    beyond = middle.copy()
    beyond[3] = 0.0
    assert "joint 4 is at 0.0000 rad" in FR3_JOINTS.fault(beyond)
    fast = np.zeros(7)
    fast[6] = -5.3
    assert "joint 7 moves at -5.300 rad/s" in FR3_JOINTS.fault(middle, fast)
    assert "finite" in FR3_JOINTS.fault(np.full(7, np.nan))
    assert "finite" in FR3_JOINTS.fault(middle, np.full(7, np.inf))


@given(st.lists(st.tuples(shares, st.floats(0, 1)), min_size=1, max_size=30))
def test_the_target_stays_in_the_box_and_near_the_arm(steps: list) -> None:
    target = TargetPose(BOX, max_lead=0.06)
    measured, turn = HOME.copy(), quaternion_of(POINTING_DOWN)
    target.reset(measured, POINTING_DOWN, -1.0)
    for share, progress in steps:
        seen = target.step(share * ACTION_BOUND, measured, axis_angle_of(turn))
        assert BOX.contains(seen.position)
        assert np.linalg.norm(seen.position - measured) <= 0.06 + 1e-9
        ahead = turn_between(turn, seen.quaternion)
        assert np.linalg.norm(ahead) <= 1.0 + 1e-6
        assert np.linalg.norm(seen.quaternion) == pytest.approx(1.0)
        assert -1.0 <= seen.gripper <= 1.0
        measured = measured + progress * (seen.position - measured)  # the arm lags behind


@given(shares)
def test_one_step_moves_the_target_by_its_delta(share: np.ndarray) -> None:
    action = share * ACTION_BOUND * 0.5
    target = TargetPose(BOX)
    target.reset(HOME, POINTING_DOWN, -1.0)
    seen = target.step(action, HOME, POINTING_DOWN)
    assert seen.position == pytest.approx(HOME + action[:3])
    turned = turn_between(quaternion_of(POINTING_DOWN), seen.quaternion)
    assert turned == pytest.approx(action[3:6], abs=1e-8)
    assert seen.command()[:3] == pytest.approx(seen.position)
    assert quaternion_of(seen.command()[3:6]) @ seen.quaternion == pytest.approx(
        np.sign(quaternion_of(seen.command()[3:6]) @ seen.quaternion)
    )


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.zeros(6), np.full(7, np.inf)])
def test_a_bad_action_leaves_the_target_where_it_was(bad: np.ndarray) -> None:
    target = TargetPose(BOX)
    before = target.reset(HOME, POINTING_DOWN, -1.0)
    with pytest.raises(ChunkRejected):
        target.step(bad, HOME, POINTING_DOWN)
    with pytest.raises(ChunkRejected):
        target.step(np.zeros(7), np.full(3, np.nan), POINTING_DOWN)
    assert target.current is before


def test_a_target_begins_at_the_measured_pose() -> None:
    target = TargetPose(BOX)
    begun = target.reset(np.array([9.0, 0.0, -9.0]), POINTING_DOWN, 3.0)
    assert begun is target.current
    assert begun.position == pytest.approx([9.0, 0.0, -9.0])
    steps = [target.step(np.full(7, size), HOME, POINTING_DOWN) for size in (-1.5, 1.5)]
    assert [begun.gripper, *(step.gripper for step in steps)] == [1.0, -1.0, 1.0]
    unplaced = TargetPose(BOX).step(np.zeros(7), HOME, POINTING_DOWN)
    assert unplaced.position == pytest.approx(HOME)
    assert abs(unplaced.quaternion @ quaternion_of(POINTING_DOWN)) == pytest.approx(1.0)


points = arrays(np.float64, 3, elements=st.floats(-2.0, 2.0))


@given(points)
def test_an_action_of_zero_moves_no_arm_wherever_it_stands(place: np.ndarray) -> None:
    target = TargetPose(BOX)
    target.reset(place, POINTING_DOWN, -1.0)
    assert np.array_equal(target.step(np.zeros(7), place, POINTING_DOWN).position, place)


@given(points, st.lists(st.tuples(shares, points), max_size=20))
def test_no_target_is_further_than_the_lead_wherever_the_arm_is_measured(
    place: np.ndarray, steps: list
) -> None:
    target = TargetPose(BOX, max_lead=0.06)
    target.reset(place, POINTING_DOWN, -1.0)
    for share, measured in steps:
        seen = target.step(share * ACTION_BOUND, measured, POINTING_DOWN)
        assert np.linalg.norm(seen.position - measured) <= 0.06 + 1e-9


@given(points, st.lists(shares, max_size=20))
def test_from_outside_a_target_comes_in_and_goes_no_further_out(
    place: np.ndarray, steps: list
) -> None:
    target = TargetPose(BOX, max_lead=0.06)
    measured = target.reset(place, POINTING_DOWN, -1.0).position
    outside = np.abs(BOX.clamp(measured) - measured)
    for share in steps:
        measured = target.step(share * ACTION_BOUND, measured, POINTING_DOWN).position
        still = np.abs(BOX.clamp(measured) - measured)
        assert np.all(still <= outside + 1e-9)
        outside = still


def test_a_blocked_arm_does_not_wind_its_target_up() -> None:
    target = TargetPose(BOX, max_lead=0.06, max_turn=0.4)
    target.reset(HOME, POINTING_DOWN, -1.0)
    for _ in range(20):
        seen = target.step(np.array([0.05, 0, 0, 0, 0, 0.3, 0]), HOME, POINTING_DOWN)
    assert seen.position == pytest.approx(HOME + [0.06, 0.0, 0.0])
    turned = turn_between(quaternion_of(POINTING_DOWN), seen.quaternion)
    assert turned == pytest.approx([0.0, 0.0, 0.4])
    assert np.linalg.norm(seen.quaternion) == pytest.approx(1.0)
    for wrong in ({"max_lead": 0.0}, {"max_lead": np.inf}, {"max_turn": 0.0}, {"max_turn": 3.2}):
        with pytest.raises(ConfigError):
            TargetPose(BOX, **wrong)


def test_every_kind_of_joint_fault_is_found_and_the_limits_themselves_are_allowed() -> None:
    middle = (FR3_JOINTS.lower + FR3_JOINTS.upper) / 2
    for allowed in (FR3_JOINTS.lower, FR3_JOINTS.upper):
        assert FR3_JOINTS.fault(allowed, np.zeros(7)) == ""
    for j in range(7):
        for low, limit in ((True, FR3_JOINTS.lower), (False, FR3_JOINTS.upper)):
            beyond = middle.copy()
            beyond[j] = limit[j] + (-1e-6 if low else 1e-6)
            assert f"joint {j + 1} is at" in FR3_JOINTS.fault(beyond)
        fast = np.zeros(7)
        fast[j] = FR3_JOINTS.velocity[j] + 1e-6
        assert f"joint {j + 1} moves" in FR3_JOINTS.fault(middle, fast)
        assert f"joint {j + 1} moves" in FR3_JOINTS.fault(middle, -fast)
        fast[j] = FR3_JOINTS.velocity[j]
        assert FR3_JOINTS.fault(middle, fast) == ""
    for odd in (np.zeros(6), np.full(7, np.inf)):
        assert "expected 7 finite radians" in FR3_JOINTS.fault(odd)
        assert "expected 7 finite rad/s" in FR3_JOINTS.fault(middle, odd)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"position": 0.0}, "position"), ({"rotation": np.nan}, "rotation")],
)
def test_limits_that_are_none_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ActionLimits(**wrong)
    with pytest.raises(ChunkRejected, match="shape"):
        ActionLimits().check(np.zeros((4, 6)))


@pytest.mark.parametrize(
    ("column", "words"), [(2, "0.2 m in component 2"), (5, "2 rad in"), (6, "2 .gripper. in")]
)
def test_the_message_gives_the_unit(column: int, words: str) -> None:
    actions = np.zeros((2, 7))
    actions[1, column] = 0.2 if column < 3 else 2.0
    with pytest.raises(ChunkRejected, match=words):
        ActionLimits().check(actions)
