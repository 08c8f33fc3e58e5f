"""Forbidden zones: distances are exact, no path through a stop zone passes, nothing old is used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, matrix_of, multiply
from safedojo_ros.core.rotation import quaternion_of as quaternion
from safedojo_ros.core.types import Decision
from safedojo_ros.robot.gate import capsules
from safedojo_ros.robot.gate import zones as zones_room
from safedojo_ros.robot.gate.capsules import (
    FINGER_OPEN,
    LINKS,
    box_distances,
    box_gaps,
    link_ends,
    matrices_of,
    point_distances,
    swept,
)
from safedojo_ros.robot.gate.zones import (
    CLEAR,
    Carried,
    PointSource,
    Surroundings,
    Zone,
    Zones,
    ZonesConfig,
    read_zones,
)
from safedojo_ros.robot.kinematics import Kinematics

ALLOW, SLOW, HOLD = Decision.ALLOW, Decision.SLOW, Decision.HOLD
SECOND = 1_000_000_000
HOME = np.array([0.0, -0.565, 0.0, -2.690, 0.0, 2.125, 0.785])
FOOT = np.array([-0.45, 0.0, 0.0])
CARRIED = (0.06, 0.04)
place = arrays(np.float64, 3, elements=st.floats(-0.5, 0.5))


def standing(x: float = 0.0, y: float = 0.0, z: float = 0.2, fingers: float = 0.04) -> np.ndarray:
    return np.array([x, y, z, *POINTING_DOWN, fingers, fingers])


def going(dx: float = 0.0, dy: float = 0.0, dz: float = 0.0, gripper: float = -1.0) -> np.ndarray:
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 6] = (dx, dy, dz), gripper
    return actions


def box(low: Any, high: Any, **more: Any) -> Zones:
    zone = Zone("post", tuple(low), tuple(high), **more)
    return Zones(ZonesConfig((zone,)))


def checked(zones: Zones, actions: np.ndarray, state: np.ndarray, **around: Any) -> Any:
    return zones.check(actions, state, Surroundings(**around), 0)


# ---------------------------------------------------------------- distances


@given(place, place, place, place)
def test_the_distance_to_a_box_is_that_of_a_dense_sampling(
    start: np.ndarray, end: np.ndarray, one: np.ndarray, other: np.ndarray
) -> None:
    low, high = np.minimum(one, other), np.maximum(one, other)
    found = box_distances(start[None], end[None], low[None], high[None])[0]
    axis = start + np.linspace(0.0, 1.0, 2001)[:, None] * (end - start)
    sampled = np.linalg.norm(axis - np.clip(axis, low, high), axis=1).min()
    coarse = np.linalg.norm(end - start) / 2000
    assert sampled - coarse - 1e-9 <= found <= sampled + 1e-9
    assert box_gaps(start[None], end[None], low[None], high[None])[0, 0] <= found + 1e-12


@given(place, place, arrays(np.float64, (5, 3), elements=st.floats(-0.5, 0.5)))
def test_the_distance_to_points_is_that_of_a_dense_sampling(
    start: np.ndarray, end: np.ndarray, points: np.ndarray
) -> None:
    found = point_distances(start[None], end[None], points)[0]
    axis = start + np.linspace(0.0, 1.0, 2001)[:, None] * (end - start)
    sampled = np.linalg.norm(axis[:, None] - points, axis=-1).min(0)
    coarse = np.linalg.norm(end - start) / 2000
    assert np.all(found <= sampled + 1e-7)
    assert np.all(found >= sampled - coarse - 1e-7)


@given(arrays(np.float64, (4, 3), elements=st.floats(-3, 3)))
def test_rotations_side_by_side_are_those_one_by_one(turns: np.ndarray) -> None:
    expected = np.array([matrix_of(turn) for turn in turns])
    np.testing.assert_allclose(matrices_of(turns), expected, atol=1e-8)


def test_the_links_end_where_the_published_kinematics_put_the_flange() -> None:
    rng = np.random.default_rng(0)
    flange = Kinematics(np.eye(4))
    for joints in HOME + rng.uniform(-0.3, 0.3, (5, 7)):
        ends = link_ends(joints[None])[0]
        turn, position, _ = flange.forward(joints)
        wrist = position - 0.107 * turn[:, 2]  # origin of the seventh joint
        last = ends[len(LINKS) - 1]
        np.testing.assert_allclose(last[0], wrist - 0.06 * turn[:, 2], atol=1e-9)
        np.testing.assert_allclose(last[1], wrist + 0.08 * turn[:, 2], atol=1e-9)


# ---------------------------------------------------------------- the sweep


def test_the_path_is_that_of_the_arms_target() -> None:
    rng = np.random.default_rng(1)
    actions = rng.uniform(-0.02, 0.02, (8, 7))
    actions[:, 3:6] *= 10
    state = standing()
    sweep = swept(state, actions, CARRIED)
    position, turn = state[:3].copy(), quaternion(state[3:6])
    for k, action in enumerate(actions, start=1):
        position = position + action[:3]
        turn = multiply(quaternion(action[3:6]), turn)
        last = np.flatnonzero(sweep.step == k)[-1]
        expected = position + matrix_of(axis_angle_of(turn)) @ capsules.HAND[0]
        np.testing.assert_allclose(sweep.start[last, 0], expected, atol=1e-9)


@settings(max_examples=30)
@given(arrays(np.float64, (3, 6), elements=st.floats(-1, 1)), st.booleans())
def test_between_two_samples_nothing_is_farther_from_both_than_the_slack(
    moves: np.ndarray, links: bool
) -> None:
    actions = np.zeros((3, 7))
    actions[:, :3], actions[:, 3:6] = 0.05 * moves[:, :3], 0.5 * moves[:, 3:]
    state = standing()
    around = (HOME, FOOT) if links else (None, None)
    sweep = swept(state, actions, CARRIED, *around)
    fine = actions.repeat(7, axis=0) / 7  # the same path of the hand, 7 times as dense
    dense = swept(state, fine, CARRIED)
    hand = dense.start.shape[1]
    for c in range(hand):
        apart = np.linalg.norm(dense.start[:, None, c] - sweep.start[None, :, c], axis=-1)
        assert apart.min(axis=1).max() <= sweep.slack + 1e-9


def test_the_links_follow_the_end_effector() -> None:
    position = Kinematics().forward(HOME)[1] + FOOT
    state = np.concatenate([position, POINTING_DOWN, [0.04, 0.04]])
    actions = going(dy=0.02, dz=-0.01)
    sweep = swept(state, actions, CARRIED, HOME, FOOT)
    at = sweep.names.index("hand")
    flange = len(sweep.names) - 1  # its last point is fixed to the hand, 13 cm from its middle
    for sample in (0, -1):
        middle = (sweep.start[sample, at] + sweep.end[sample, at]) / 2
        apart = np.linalg.norm(middle - sweep.end[sample, flange])
        assert apart == pytest.approx(0.057, abs=0.004)


def test_the_fingers_are_as_wide_as_they_will_be_and_an_object_is_carried_between_closed_ones() -> (
    None
):
    def names_and_width(fingers: float, gripper: float) -> tuple[list[str], float]:
        sweep = swept(standing(fingers=fingers), going(gripper=gripper), CARRIED)
        one, other = (i for i, name in enumerate(sweep.names) if name == "finger")
        return list(sweep.names), float(abs(sweep.start[0, one] - sweep.start[0, other])[1])

    names, width = names_and_width(0.01, -1.0)
    assert "carried object" not in names
    assert width == pytest.approx(2 * FINGER_OPEN + 0.012)
    names, width = names_and_width(0.021, 1.0)
    assert "carried object" in names
    assert width == pytest.approx(0.042 + 0.012)
    assert "carried object" not in names_and_width(0.0005, 1.0)[0], "closed on nothing"


# ---------------------------------------------------------------- boxes


def test_a_path_away_from_every_zone_is_clear() -> None:
    zones = box((0.2, -0.1, 0.0), (0.3, 0.1, 0.4))
    assert checked(zones, going(dx=-0.02), standing()) == CLEAR


def test_a_hold_says_which_zone_at_which_step_and_how_near() -> None:
    zones = box((0.2, -0.1, 0.0), (0.3, 0.1, 0.4), margin=0.02)
    verdict = checked(zones, going(dx=0.02), standing())
    assert (verdict.decision, verdict.zone) == (HOLD, "stop zone 'post'")
    # the hand's capsule reaches 5 cm ahead: 15 cm to go, 2 cm a step and margin
    assert verdict.step == 7
    assert verdict.reason.startswith("step 7: the hand comes to 0.6 cm")
    assert verdict.distance == pytest.approx(0.01 - 0.02 / 6 - 3e-4), "and half a sample's way"
    assert "from stop zone 'post' (margin 2 cm)" in verdict.reason
    assert checked(zones, going(dx=0.02)[:6], standing()).decision == ALLOW


def test_a_slow_zone_is_slow_on_the_way_in_inside_and_on_the_way_out() -> None:
    zones = box((0.2, -0.1, 0.0), (0.3, 0.1, 0.4), type="slow")
    assert checked(zones, going(dx=0.02), standing()).decision == SLOW
    assert checked(zones, going(), standing(x=0.25)).decision == SLOW
    assert checked(zones, going(dx=-0.02), standing(x=0.25)).decision == SLOW


def test_a_thin_wall_between_two_steps_is_seen() -> None:
    zones = box((0.12, -0.5, -0.5), (0.1201, 0.5, 0.5), margin=0.0)
    actions = going(dx=0.05)
    verdict = checked(zones, actions, standing())
    assert verdict.decision == HOLD


def test_what_stands_in_a_margin_may_leave_slowly_and_come_no_nearer() -> None:
    zones = box((0.065, -0.1, 0.0), (0.2, 0.1, 0.4), margin=0.03)
    away = checked(zones, going(dx=-0.01), standing())
    assert (away.decision, away.step) == (SLOW, 0)
    assert checked(zones, going(), standing()).decision == SLOW
    assert checked(zones, going(dx=0.001), standing()).decision == HOLD
    back = going(dx=-0.01)
    back[4:, 0] = 0.02
    assert checked(zones, back, standing()).decision == HOLD


def test_what_stands_inside_a_box_is_held_whichever_way_it_goes() -> None:
    zones = box((-0.1, -0.1, 0.0), (0.2, 0.1, 0.4))
    for way in (-0.02, 0.02):
        verdict = checked(zones, going(dx=way), standing())
        assert verdict.decision == HOLD
        assert "move it out by hand" in verdict.reason


def test_the_carried_object_and_the_forearm_count() -> None:
    below = box((-0.2, -0.2, 0.0), (0.2, 0.2, 0.1), margin=0.0)
    carrying = standing(z=0.17, fingers=0.02)
    verdict = checked(below, going(dz=-0.005, gripper=1.0), carrying)
    assert verdict.decision == HOLD
    assert "the carried object" in verdict.reason
    assert checked(below, going(dz=-0.005, gripper=1.0), standing(z=0.17, fingers=0.0)) == CLEAR
    position = Kinematics().forward(HOME)[1] + FOOT
    state = np.concatenate([position, POINTING_DOWN, [0.04, 0.04]])
    elbow = link_ends(HOME[None])[0, 2].mean(0) + FOOT
    zone = Zone("shelf", tuple(elbow + [-0.1, -0.1, 0.1]), tuple(elbow + [0.1, 0.1, 0.2]))
    zones = Zones(ZonesConfig((zone,), foot=tuple(FOOT)))
    verdict = checked(zones, going(dx=-0.03, dz=0.03), state, joints=HOME)
    assert verdict.decision == HOLD
    assert "the elbow" in verdict.reason or "the forearm" in verdict.reason
    assert Zones(ZonesConfig((zone,))).check(
        going(dx=-0.03, dz=0.03), state, Surroundings(), 0
    ).decision == ALLOW, "no foot: no links"  # fmt: skip


@pytest.mark.fault("gate", "a path into a forbidden zone", "HOLD, with zone, step and distance")
@settings(max_examples=150)
@given(
    arrays(np.float64, (8, 6), elements=st.floats(-1, 1)),
    place,
    st.floats(0.01, 0.1),
    st.floats(0.0, 0.1),
    st.booleans(),
)
def test_no_path_through_a_stop_zone_passes(
    moves: np.ndarray, centre: np.ndarray, half: float, margin: float, closed: bool
) -> None:
    """Whatever passes keeps its margin, by a dense sampling of the gripper along the path."""
    low, high = centre - half, centre + half
    zones = box(low.tolist(), high.tolist(), margin=margin)
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 3:6] = 0.05 * moves[:, :3], 0.2 * moves[:, 3:]
    actions[:, 6] = 1.0 if closed else -1.0
    state = standing(fingers=0.02)
    verdict = checked(zones, actions, state)
    dense = swept(state, actions.repeat(10, axis=0) / 10, CARRIED)
    share = np.linspace(0.0, 1.0, 20)[:, None, None, None]
    axis = dense.start + share * (dense.end - dense.start)
    apart = np.linalg.norm(axis - np.clip(axis, low, high), axis=-1).min(0) - dense.radius
    least, before = apart.min(0), apart[0]
    if verdict.decision < HOLD:
        assert np.all(least >= np.minimum(margin, before) - 1e-3)
    if verdict.decision == ALLOW:
        assert np.all(least >= margin - 1e-3)
    if np.all(least > margin + 0.01):
        assert verdict.decision == ALLOW, "and what is clear of it by a centimetre passes"


# ---------------------------------------------------------------- points


def seen(*points: Any, source: PointSource | None = None) -> tuple[Zones, dict[str, Any]]:
    zones = Zones(ZonesConfig(points=source or PointSource()))
    return zones, {"points": np.array(points, dtype=np.float64).reshape(-1, 3), "stamp": 0}


def test_a_point_ahead_is_a_hold_and_one_a_little_aside_slow() -> None:
    zones, ahead = seen((0.15, 0.0, 0.25))
    verdict = checked(zones, going(dx=0.02), standing(), **ahead)
    assert (verdict.decision, verdict.zone) == (HOLD, "the point cloud")
    assert verdict.step == 4
    zones, aside = seen((0.1, 0.0, 0.36))
    verdict = checked(zones, going(dx=0.02), standing(), **aside)
    assert (verdict.decision, verdict.zone) == (SLOW, "the point cloud")
    zones, far = seen((0.1, 0.0, 0.5))
    assert checked(zones, going(dx=0.02), standing(), **far) == CLEAR


def test_no_points_are_no_obstacle_and_no_cloud_is_a_hold() -> None:
    zones, nothing = seen()
    assert checked(zones, going(), standing(), **nothing) == CLEAR
    verdict = checked(zones, going(), standing())
    assert (verdict.decision, verdict.reason) == (HOLD, "no point cloud has been heard yet")


@pytest.mark.fault("gate", "the point cloud falls silent", "HOLD")
@pytest.mark.parametrize(
    ("age", "words"), [(0.3, ""), (0.31, "is 0.31 s old, the limit is 0.3 s"), (-0.06, "future")]
)
def test_a_cloud_is_as_old_as_it_may_be_and_not_older(age: float, words: str) -> None:
    zones, cloud = seen((1.0, 1.0, 1.0))
    now = round(age * SECOND)
    verdict = zones.check(going(), standing(), Surroundings(**cloud), now)
    assert (verdict.decision == HOLD) == bool(words)
    assert words in verdict.reason


@settings(max_examples=100)
@given(
    arrays(np.float64, (8, 6), elements=st.floats(-1, 1)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 800),
)
def test_whatever_passes_keeps_its_distance_to_every_point(
    moves: np.ndarray, seed: int, count: int
) -> None:
    points = np.random.default_rng(seed).uniform(-0.3, 0.5, (count, 3))
    points = points[np.linalg.norm(points - [0.0, 0.0, 0.25], axis=1) > 0.2]
    zones, cloud = seen(*points)
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 3:6] = 0.03 * moves[:, :3], 0.2 * moves[:, 3:]
    verdict = checked(zones, actions, standing(), **cloud)
    dense = swept(standing(), actions.repeat(5, axis=0) / 5, CARRIED)
    apart = np.array(
        [point_distances(dense.start[:, c], dense.end[:, c], points) for c in range(3)]
    )
    least = np.inf
    if len(points):
        least = (apart - dense.radius[:3, None, None]).min() - PointSource().radius
    if verdict.decision < HOLD:
        assert least >= PointSource().stop - 1e-3
    if verdict.decision == ALLOW:
        assert least >= PointSource().slow - 1e-3
    if least > PointSource().slow + 0.01:
        assert verdict.decision == ALLOW


@pytest.mark.parametrize("seed", range(6))
def test_looking_at_some_samples_first_changes_no_verdict(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    around = rng.normal(size=(5000, 3))
    points = around / np.linalg.norm(around, axis=1)[:, None] * rng.uniform(0.19, 0.3, (5000, 1))
    zones, cloud = seen(*(points + [0.0, 0.0, 0.25]), source=PointSource(stop=0.01, slow=0.03))
    kinds = set()
    for way in rng.normal(size=(12, 3)):
        actions = going(*(0.012 * way))
        monkeypatch.setattr(zones_room, "FEW", 200)
        quick = checked(zones, actions, standing(), **cloud)
        monkeypatch.setattr(zones_room, "FEW", 10**6)
        assert checked(zones, actions, standing(), **cloud) == quick
        kinds.add(quick.decision)
    assert len(kinds) > 1


# ---------------------------------------------------------------- links and where the arm stands


def test_an_arm_whose_joints_are_not_known_or_that_stands_elsewhere_is_held() -> None:
    position = Kinematics().forward(HOME)[1] + FOOT
    state = np.concatenate([position, POINTING_DOWN, [0.04, 0.04]])
    zone = Zone("far", (5.0, 5.0, 5.0), (6.0, 6.0, 6.0))
    zones = Zones(ZonesConfig((zone,), foot=tuple(FOOT)))
    assert checked(zones, going(), state, joints=HOME) == CLEAR
    assert "joints are not known" in checked(zones, going(), state).reason
    elsewhere = Zones(ZonesConfig((zone,), foot=(0.0, 0.0, 0.0)))
    verdict = checked(elsewhere, going(), state, joints=HOME)
    assert verdict.decision == HOLD
    assert "45 cm from where it was measured; check 'foot'" in verdict.reason


# ---------------------------------------------------------------- the file


def test_a_file_gives_zones_points_and_what_is_carried(tmp_path: Path) -> None:
    path = tmp_path / "zones.toml"
    path.write_text(
        'foot = [-0.45, 0, 0]\n[[zone]]\nname = "post"\nlow = [0, 0, 0]\nhigh = [1, 1, 1]\n'
        '[[zone]]\nname = "door"\ntype = "slow"\nlow = [2, 0, 0]\nhigh = [3, 1, 1]\nmargin = 0.1\n'
        "[points]\nstop = 0.03\n[carried]\nlength = 0.2\n"
    )
    config = read_zones(path)
    assert [z.type for z in config.zone] == ["stop", "slow"]
    assert config.points == PointSource(stop=0.03)
    assert config.carried == Carried(length=0.2)
    assert config.foot == (-0.45, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither zones nor points"),
        ("[[zones]]\nname = 'a'", "unknown setting 'zones'; did you mean 'zone'"),
        ("[[zone]]\nname = 'a'\nlow = [0, 0, 0]", "high"),
        ("[[zone]]\nname = 'a'\nlow = [0, 0]\nhigh = [1, 1, 1]", "expected 3 finite metres"),
        ("[[zone]]\nname = 'a'\nlow = [0, 0, nan]\nhigh = [1, 1, 1]", "expected 3 finite metres"),
        ("[[zone]]\nname = 'a'\nlow = [0, 0, 2]\nhigh = [1, 1, 1]", "is not below"),
        ("[[zone]]\nname = ''\nlow = [0, 0, 0]\nhigh = [1, 1, 1]", "no name"),
        ("[[zone]]\nname = 'a'\ntype = 'halt'\nlow = [0, 0, 0]\nhigh = [1, 1, 1]", "'stop' or"),
        ("[[zone]]\nname = 'a'\nlow = [0, 0, 0]\nhigh = [1, 1, 1]\nmargin = -1", "margin is -1"),
        ("[points]\nstop = 0.2", "slow is 0.05, expected at least stop"),
        ("[points]\nmax_age = 0", "max_age is 0"),
        ("[points]\nrotation = [0, 0, 0, 2]", "expected a unit quaternion"),
        ("[points]\nrotation = [0, 0, 1]", "expected a unit quaternion"),
        ("[points]\nlow = [0, 0]", "expected 3 finite metres"),
        ("[points]\n[carried]\nradius = 0", "carried.radius is 0"),
        ("foot = [0, 0, inf]\n[points]", "foot"),
        ("[points", "is not valid TOML"),
    ],
)
def test_a_faulty_file_is_one_sentence_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "zones.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_zones(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_zones_of_one_name_are_refused() -> None:
    zone = Zone("post", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="two zones are called 'post'"):
        ZonesConfig((zone, replace(zone, margin=0.1)))
    many = tuple(replace(zone, name=f"{i}") for i in range(257))
    with pytest.raises(ConfigError, match="257 zones, expected at most 256"):
        ZonesConfig(many)
