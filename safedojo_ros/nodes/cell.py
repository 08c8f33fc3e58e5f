"""The contract of this cell, as the nodes read it: which topics are which camera, state and words.

The same file says it for training and for the conversion of bags; see `core.contract`.
"""

from safedojo_ros.core.contract import CameraSource, Contract, read_contract
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import expand_home
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, STATE_SIZE
from safedojo_ros.nodes.lifecycle import DojoNode, Setting

CONTRACT = Setting(
    "contract",
    "tabletop",
    "What this cell is: tabletop, franka_realsense, ... or a file.yaml; see own-data.md.",
)
IN_CONTRACT = "contract"
"""A source of a camera: the topic that the contract names."""


def cell_contract(node: DojoNode) -> Contract:
    """The contract that a node's parameter names; raises `ConfigError` that says what is wrong."""
    name = str(node.setting(CONTRACT.name))
    return read_contract(str(expand_home(name)) if "/" in name else name)


def gated_contract(node: DojoNode) -> Contract:
    """The same, where the gate can take what policies of this cell command."""
    contract, name = cell_contract(node), node.setting(CONTRACT.name)
    expected = {
        "actions of kind": (contract.learned_kind, "ee_delta"),
        "numbers of an action": (contract.action_size, ACTION_SIZE),
        "numbers of a state": (contract.state_size, STATE_SIZE),
        "the frame": (contract.frame, "base"),
        "the rate": (contract.rate, round(1 / CONTROL_PERIOD)),
    }
    for what, (seen, wanted) in expected.items():
        if seen != wanted:
            raise ConfigError(
                f"contract '{name}': {what} is {seen}, the gate takes {wanted}; train and run "
                "with a contract that says so"
            )
    return contract


def relayed_topic(camera: CameraSource) -> str:
    """The topic of a camera's driver; raises `ConfigError` where it is the node's own."""
    own, topic = f"camera/{camera.name}/image_raw", camera.topic.strip("/")
    if topic.removesuffix("/compressed") in ("", own):
        raise ConfigError(
            f"the contract names no topic of a driver for camera '{camera.name}'; write "
            f"'topic:' there, or topic:, device:, ... into 'sources'"
        )
    return topic
