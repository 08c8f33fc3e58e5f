"""From a verified checkpoint directory to the model it holds.

Each is imported when it is asked for: a node needs one of them, and waits for all it imports.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safedojo_ros.models.pi0_policy import PI0Policy
    from safedojo_ros.models.safety_head import SafetyModel
    from safedojo_ros.models.success_classifier import SuccessModel
    from safedojo_ros.models.world_model import WorldModel


def load_policy(directory: Path) -> "PI0Policy":
    """The policy of a checkpoint; raises `CheckpointError` that says what does not fit."""
    from safedojo_ros.models.pi0_policy import PI0Policy

    return PI0Policy.load(directory)


def load_safety(directory: Path) -> "SafetyModel":
    """The safety model of a checkpoint; raises `CheckpointError` that says what does not fit."""
    from safedojo_ros.models.safety_head import SafetyModel

    return SafetyModel.load(directory)


def load_world_model(directory: Path) -> "WorldModel":
    """The world model of a checkpoint; raises `CheckpointError` that says what does not fit."""
    from safedojo_ros.models.world_model import WorldModel

    return WorldModel.load(directory)


def load_success(directory: Path) -> "SuccessModel":
    """The success classifier of a checkpoint; raises `CheckpointError` where it does not fit."""
    from safedojo_ros.models.success_classifier import SuccessModel

    return SuccessModel.load(directory)
