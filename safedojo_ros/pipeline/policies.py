"""From the name of a policy to the policy."""

from pathlib import Path
from typing import TYPE_CHECKING

from safedojo_ros.checkpoints.names import find_checkpoint, is_served
from safedojo_ros.core.types import empty_scene

if TYPE_CHECKING:
    from safedojo_ros.models.policy import ProposingPolicy


def open_policy(name: str, store: Path | None, device: str = "cpu") -> "ProposingPolicy":
    """The policy that acts under `name`: of a checkpoint, on a device that torch names or "auto",
    or of a server, which is asked once.

    Raises `CheckpointError`, `ConfigError` or `PolicyUnavailable`.
    """
    if is_served(name):
        from safedojo_ros.models.served.policy import open_served

        policy = open_served(name)
        policy.act([empty_scene(policy.cameras, policy.image_size)])
        return policy
    from safedojo_ros.models.loading import load_policy
    from safedojo_ros.models.threads import chosen_device

    return load_policy(find_checkpoint("policy", name, store)).to(chosen_device(device))
