"""DROID's convention: the arm's joints in, joint velocities out, at 15 Hz.

Its policies give shares of 0.2 rad a step for each joint, and a gripper that is shut at 1. Here the
joints' path becomes steps of the end-effector, by the arm's forward kinematics, at this stack's
rate. The arm then follows the path with joints of its own choice.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from safedojo_ros.core.errors import ObservationRejected, PolicyUnavailable
from safedojo_ros.core.rotation import small_turn_between
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, Observation
from safedojo_ros.robot.kinematics import Kinematics

JOINTS = 7
MAX_STEP = 0.2
"""Radians of a joint that a velocity of 1 is, in one of DROID's steps."""
FINGERS_OPEN = 0.08
"""Metres between the fingers of the open hand, DROID's 0."""
GRIPPER_SHUT = 0.5
"""DROID's own client closes the gripper beyond this."""


@dataclass(frozen=True)
class DroidKeys:
    """See `keys.Keys`. period: seconds between two of the server's actions."""

    images: tuple[str, ...] = ("observation/exterior_image_1_left", "observation/wrist_image_left")
    period: float = 1 / 15

    def question(self, observation: Observation, cameras: tuple[str, ...]) -> dict[str, Any]:
        """See `Keys.question`; raises `ObservationRejected` where the joints are not known."""
        if observation.joints is None:
            raise ObservationRejected(
                "keys 'droid' need the arm's seven joints; here nobody says them: use the policy "
                "node, with fr3_joint1 to fr3_joint7 in joint_states"
            )
        asked: dict[str, Any] = {
            key: np.ascontiguousarray(observation.images[name])
            for key, name in zip(self.images, cameras, strict=True)
        }
        width = float(np.abs(observation.state[6:8]).sum())
        shut = np.clip(1.0 - width / FINGERS_OPEN, 0.0, 1.0)
        return asked | {
            "observation/joint_position": np.asarray(observation.joints, np.float64),
            "observation/gripper_position": np.array([shut], np.float64),
            "prompt": observation.instruction,
        }

    def actions(self, given: np.ndarray, observation: Observation) -> np.ndarray:
        """See `Keys.actions`; as many as fit into the time of the server's."""
        if given.shape[1] != JOINTS + 1:
            raise PolicyUnavailable(
                f"it gives actions of {given.shape[1]} numbers, keys 'droid' expect {JOINTS + 1}"
            )
        assert observation.joints is not None
        # as DROID's robot does: too fast a step keeps its direction
        largest = np.abs(given[:, :JOINTS]).max(1, keepdims=True)
        steps = given[:, :JOINTS] / np.maximum(largest, 1.0) * MAX_STEP
        path = observation.joints + np.concatenate([np.zeros((1, JOINTS)), steps.cumsum(0)])
        ticks = np.arange(int(len(given) * self.period / CONTROL_PERIOD + 1e-9) + 1)
        places = ticks * CONTROL_PERIOD / self.period
        arm, poses = Kinematics(), []
        for place in places:
            before = min(int(place), len(given) - 1)
            joints = path[before] + (place - before) * (path[before + 1] - path[before])
            poses.append(arm.forward(joints)[:2])
        chunk = np.zeros((len(poses) - 1, ACTION_SIZE))
        for row, ((turned, at), (turned_next, there)) in enumerate(
            zip(poses, poses[1:], strict=False)
        ):
            chunk[row, :3], chunk[row, 3:6] = there - at, small_turn_between(turned, turned_next)
        rows = np.minimum(np.ceil(places[1:]).astype(int) - 1, len(given) - 1)
        chunk[:, 6] = np.where(given[rows, JOINTS] > GRIPPER_SHUT, 1.0, -1.0)
        return chunk
