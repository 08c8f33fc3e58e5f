"""From a verified checkpoint directory to the model it holds.

The nodes of the robot loop load policies and safety heads alone, so the rest is imported late.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.models.network_policy import NetworkPolicy
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.safety_head import SafetyModel
from safedojo_ros.models.token_policy import TokenPolicy
from safedojo_ros.models.weights import read_config

if TYPE_CHECKING:
    from safedojo_ros.models.success_classifier import SuccessModel
    from safedojo_ros.models.world_model import WorldModel


POLICIES: dict[str, type[NetworkPolicy[Any]]] = {
    family.architecture: family for family in (PI0Policy, TokenPolicy)
}
"""{architecture in config.json: policy family}."""


def load_policy(directory: Path) -> NetworkPolicy[Any]:
    """The policy of a checkpoint, of its own family.

    Raises `CheckpointError` that says what does not fit.
    """
    return POLICIES[read_config(directory, *POLICIES)["architecture"]].load(directory)


def load_safety(directory: Path) -> SafetyModel:
    """The safety model of a checkpoint; raises `CheckpointError` that says what does not fit."""
    return SafetyModel.load(directory)


def load_world_model(directory: Path) -> "WorldModel":
    """The world model of a checkpoint; raises `CheckpointError` that says what does not fit."""
    from safedojo_ros.models.world_model import WorldModel

    return WorldModel.load(directory)


def load_success(directory: Path) -> "SuccessModel":
    """The success classifier of a checkpoint; raises `CheckpointError` where it does not fit."""
    from safedojo_ros.models.success_classifier import SuccessModel

    return SuccessModel.load(directory)
