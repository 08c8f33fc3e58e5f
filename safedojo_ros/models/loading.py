"""From a verified checkpoint directory to the model it holds."""

from pathlib import Path

from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.policy import Policy
from safedojo_ros.models.safety_head import SafetyModel


def load_policy(directory: Path) -> Policy:
    """The policy of a checkpoint; raises `CheckpointError` that says what does not fit."""
    return PI0Policy.load(directory)


def load_safety(directory: Path) -> SafetyModel:
    """The safety model of a checkpoint; raises `CheckpointError` that says what does not fit."""
    return SafetyModel.load(directory)
