"""A contract is read whole, or refused with file, line and what to write instead."""

from pathlib import Path

import pytest

from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.contract import Contract, contract_names, read_contract
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, STATE_SIZE

PLAIN = """\
cameras:
  - name: front
state:
  - {key: observation.state, size: 14}
action:
  kind: joints
  parts:
    - {key: action, size: 8}
rate: 10
"""


def write(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", contract_names())
def test_a_ready_made_contract_can_be_read_and_comes_back_from_a_checkpoint(name: str) -> None:
    contract = read_contract(name)
    assert from_mapping(Contract, contract.to_json()) == contract


def test_there_is_a_contract_for_our_own_cell_for_libero_for_droid_and_for_franka_ros2() -> None:
    assert contract_names() == ["droid", "franka_realsense", "libero", "tabletop"]
    ours = read_contract("tabletop")
    assert (ours.state_size, ours.action_size) == (STATE_SIZE, ACTION_SIZE)
    assert ours.rate == pytest.approx(1 / CONTROL_PERIOD)
    for name in ("libero", "droid"):
        theirs = read_contract(name)
        assert (theirs.state_size, theirs.action_size) == (STATE_SIZE, ACTION_SIZE)
        assert theirs.learned_kind == "ee_delta"


def test_sizes_follow_from_the_contract(tmp_path: Path) -> None:
    contract = read_contract(write(tmp_path, PLAIN))
    assert (contract.state_size, contract.action_size, contract.rate) == (14, 8, 10)
    assert contract.cameras[0].feature == "observation.images.front"


FAULTS = {
    "an unknown key": ("rate: 10", "rata: 10", 9, "did you mean 'rate'"),
    "a wrong type": ("rate: 10", "rate: fast", 9, "'rate' is 'fast', expected int"),
    "out of range": ("rate: 10", "rate: 0", 9, "rate is 0, expected within [1, 1000]"),
    "deep inside": ("size: 8}", "size: 8, columns: [0, 8]}", 8, "expected numbers below size 8"),
    "a missing key": ("{key: action, size: 8}", "{key: action}", 8, "size"),
    "another kind": ("joints", "torques", 6, "'ee_delta' or 'ee_pose' or 'joints'"),
    "an action that is no pose": ("joints", "ee_delta", 7, "8 numbers of kind ee_delta"),
    "a key twice": ("rate: 10", "rate: 10\nrate: 20", 10, "'rate' is there twice"),
    "an alias": ("name: front", "name: &a front\n  - name: *a", 3, "alias"),
    "no YAML": ("kind: joints", "kind: [joints", 7, "not valid YAML"),
    "a camera twice": ("  - name: front", "  - name: a\n  - name: a", 1, "different names"),
    "a rotation of two": (
        "{key: action, size: 8}",
        "{key: action, size: 2, rotation: euler_xyz}",
        8,
        "2 numbers, euler_xyz has 3",
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_line_with_the_line_of_the_file(
    tmp_path: Path, fault: tuple[str, str, int, str]
) -> None:
    old, new, line, says = fault
    assert old in PLAIN
    file = write(tmp_path, PLAIN.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_contract(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no contract 'droit'; did you mean 'droid'"):
        read_contract("droit")
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        read_contract(str(tmp_path / "none.yaml"))
