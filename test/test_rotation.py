"""Axis-angles, quaternions and matrices say the same rotation, and come back."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.rotation import (
    POINTING_DOWN,
    axis_angle_of,
    conjugate,
    matrix_of,
    multiply,
    quaternion_of,
    small_turn_between,
    turn_between,
)

turns = arrays(np.float64, 3, elements=st.floats(-1.8, 1.8))
vectors = arrays(np.float64, 3, elements=st.floats(-1.0, 1.0))


def rotated(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    moved = multiply(multiply(quaternion, np.append(0.0, vector)), conjugate(quaternion))
    assert moved[0] == pytest.approx(0.0, abs=1e-12)
    return np.asarray(moved[1:])


@given(turns)
@example(np.array([1.6e-9, 0.0, 0.0]))
def test_an_axis_angle_comes_back_from_its_quaternion_of_either_sign(turn: np.ndarray) -> None:
    for sign in (1.0, -1.0):
        assert axis_angle_of(sign * quaternion_of(turn)) == pytest.approx(turn, abs=1e-9)


@given(turns, vectors)
def test_quaternion_and_matrix_rotate_alike(turn: np.ndarray, vector: np.ndarray) -> None:
    expected = matrix_of(turn) @ vector
    assert rotated(quaternion_of(turn), vector) == pytest.approx(expected, abs=1e-8)


@given(turns, turns)
def test_the_turn_between_two_poses_leads_from_the_first_to_the_second(
    start: np.ndarray, end: np.ndarray
) -> None:
    turn = turn_between(quaternion_of(start), quaternion_of(end))
    assert np.linalg.norm(turn) <= np.pi + 1e-9
    assert matrix_of(turn) @ matrix_of(start) == pytest.approx(matrix_of(end), abs=1e-7)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    quarter = np.array([0.0, 0.0, np.pi / 2])
    assert matrix_of(quarter) @ [1.0, 0.0, 0.0] == pytest.approx([0.0, 1.0, 0.0])
    assert rotated(quaternion_of(quarter), np.array([1.0, 0.0, 0.0])) == pytest.approx([0, 1, 0])


@pytest.mark.parametrize("turn", [[0.1, -0.2, 0.3], [0, 0, 1e-12], [0, 1.4, 0], [0, 0, 0]])
def test_a_small_turn_comes_back_from_matrices(turn: list[float]) -> None:
    start = matrix_of(np.array([0.3, 0.2, -0.9]))
    turned = matrix_of(np.array(turn)) @ start
    np.testing.assert_allclose(small_turn_between(start, turned), turn, atol=1e-12)


@given(arrays(np.float64, 3, elements=st.floats(-0.5, 0.5)))
def test_near_a_pose_the_axis_angle_does_not_jump_to_the_other_side(small: np.ndarray) -> None:
    """A gripper that points down has an angle near pi, where the sign of the axis flips."""
    pose = multiply(quaternion_of(small), quaternion_of(POINTING_DOWN))
    for quaternion in (pose, -pose):
        turn = axis_angle_of(quaternion, near=POINTING_DOWN)
        assert turn[0] > 2.0
        assert matrix_of(turn) == pytest.approx(
            matrix_of(small) @ matrix_of(POINTING_DOWN), abs=1e-7
        )
