"""The reference: no millisecond beyond a limit, whatever the targets; smooth; at rest at last."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN, quaternion_of, turn_between
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.reference import MotionLimits, Reference
from safedojo_ros.robot.playback.target import Target, TargetPose

pytest.importorskip("ruckig", reason="ruckig is not installed")
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from velocity_client import VelocityClient, beyond

PERIOD = 0.05
LIMITS = MotionLimits((0.4, 0.6), (2.7, 5.1), PERIOD)
HOME = np.array([0.1, 0.0, 0.24])
BOX = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))


def client_at_home() -> VelocityClient:
    return VelocityClient(LIMITS, HOME, quaternion_of(POINTING_DOWN))


def run(client: VelocityClient, reference: Reference, targets: list[Target], period: float) -> None:
    for target in targets:
        client.ask(reference.towards(target, client.now()), reference.horizon)
        client.run(period)


small = arrays(np.float64, 6, elements=st.floats(-0.05, 0.05))
places = arrays(np.float64, 3, elements=st.floats(-1.0, 1.0))
turns = arrays(np.float64, 3, elements=st.floats(-3.0, 3.0))
any_target = st.builds(
    lambda place, turn, moved, onward: Target(place, quaternion_of(turn), 0.0, moved, onward),
    *(places, turns, small, small),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(any_target, min_size=1, max_size=12), st.sampled_from([0.02, 0.05, 0.11]))
def test_no_millisecond_is_beyond_a_limit_whatever_the_targets_and_when_they_come(
    targets: list[Target], period: float
) -> None:
    client, reference = client_at_home(), Reference(LIMITS)
    run(client, reference, targets, period)
    assert beyond(client.seen, LIMITS) == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(any_target, min_size=1, max_size=6))
def test_when_targets_cease_the_arm_comes_to_rest(targets: list[Target]) -> None:
    client, reference = client_at_home(), Reference(LIMITS)
    run(client, reference, targets, PERIOD)
    client.ask(reference.towards(targets[-1], client.now()), reference.horizon)
    client.run(0.7)
    assert np.abs(client.velocity).max() < 1e-9


def chunk_targets(actions: np.ndarray, client: VelocityClient) -> list[Target]:
    pose = TargetPose(BOX, max_lead=1.0)
    pose.reset(client.position, POINTING_DOWN, -1.0)
    return [
        pose.step(action, client.position, POINTING_DOWN, following)
        for action, following in zip(actions, [*actions[1:], None], strict=True)
    ]


def test_actions_of_one_velocity_are_one_motion_without_ripples() -> None:
    client, reference = client_at_home(), Reference(LIMITS)
    actions = np.zeros((40, 7))
    actions[:, 0] = 0.005
    run(client, reference, chunk_targets(actions, client), PERIOD)
    speeds = np.array(client.seen)[:, 0]
    np.testing.assert_allclose(speeds[500:1900], 0.1, atol=2e-3)
    assert np.abs(np.array(client.seen)[:, 1:]).max() < 1e-9


def test_the_last_target_is_reached_and_hardly_passed() -> None:
    client, reference = client_at_home(), Reference(LIMITS)
    actions = np.zeros((20, 7))
    actions[:, 1], actions[:, 5] = 0.008, 0.02
    targets = chunk_targets(actions, client)
    run(client, reference, targets, PERIOD)
    furthest = client.position[1]
    for _ in range(20):
        run(client, reference, [Target(targets[-1].position, targets[-1].quaternion, -1.0)], PERIOD)
        furthest = max(furthest, client.position[1])
    assert client.position == pytest.approx(targets[-1].position, abs=1e-4)
    assert furthest - targets[-1].position[1] < 0.002
    off = turn_between(client.quaternion, targets[-1].quaternion)
    assert np.linalg.norm(off) < 1e-3


def test_a_target_at_which_the_way_turns_back_is_passed_at_rest_on_that_axis() -> None:
    there, back = np.full(6, 0.01), np.array([-0.01, 0.01, 0.0, 0.01, -0.01, 0.02])
    speeds = Reference(LIMITS).passing(Target(HOME, quaternion_of(POINTING_DOWN), 0.0, there, back))
    assert np.array_equal(speeds > 0.0, [False, True, False, True, False, True])
    assert speeds[5] <= 0.6


def test_nothing_is_passed_faster_than_it_can_be_stopped_within_the_next_action() -> None:
    weak = MotionLimits((0.8, 0.8), (0.9, 0.9), PERIOD)
    for step in (1e-5, 1e-3, 0.01, 0.05):
        moved = np.full(6, step)
        target = Target(HOME, quaternion_of(POINTING_DOWN), 0.0, moved, moved)
        speed = Reference(weak).passing(target)[0]
        a, j = weak.acceleration[0], weak.jerk[0]
        room = speed * (speed / a + a / j) / 2 if speed > a * a / j else speed * np.sqrt(speed / j)
        assert 0.0 < room <= step * 1.001


@pytest.mark.parametrize(
    "wrong", [((0.0, 1.0), (1.0, 1.0), 0.05), ((1.0, 1.0), (1.0, np.inf), 0.05),
              ((1.0, 1.0), (1.0, 1.0), 0.0)],
)  # fmt: skip
def test_limits_that_are_none_are_refused(wrong: tuple) -> None:
    with pytest.raises(ConfigError):
        MotionLimits(*wrong)
