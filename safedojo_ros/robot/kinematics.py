"""Where the arm's end-effector is, by the published Denavit-Hartenberg table of FR3 and Panda."""

import numpy as np

from safedojo_ros.core.rotation import matrix_of

# Franka documentation, "Robot and interface specifications": a (m), d (m), α (rad), Craig's
# convention, joints 1 to 7.
DH_A = np.array([0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088])
DH_D = np.array([0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0])
DH_ALPHA = np.array([0.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0]) * np.pi / 2
FLANGE = 0.107
"""Metres from the seventh joint to the flange."""

HAND_LENGTH = 0.1034
"""Metres from the flange to the point between the fingertips of the Franka Hand."""

HAND_ANGLE = -np.pi / 4
"""Radians by which the hand is turned about the flange's axis."""


def hand() -> np.ndarray:
    """(4, 4), from the flange to the end-effector of the Franka Hand."""
    pose = np.eye(4)
    pose[:3, :3] = matrix_of(np.array([0.0, 0.0, HAND_ANGLE]))
    pose[2, 3] = HAND_LENGTH
    return pose


class Kinematics:
    """Forward kinematics and Jacobian of the arm with a tool, in the frame of the arm's foot.

    flange_to_tool: (4, 4), the Franka Hand by default.
    """

    def __init__(self, flange_to_tool: np.ndarray | None = None) -> None:
        flange = np.eye(4)
        flange[2, 3] = FLANGE
        self._tool = flange @ (hand() if flange_to_tool is None else flange_to_tool)
        self._links = np.zeros((7, 4, 4))
        cosine, sine = np.cos(DH_ALPHA), np.sin(DH_ALPHA)
        self._links[:, 0, 3], self._links[:, 1, 3] = DH_A, -sine * DH_D
        self._links[:, 2, 3], self._links[:, 3, 3] = cosine * DH_D, 1.0
        self._links[:, 1, 2], self._links[:, 2, 2] = -sine, cosine
        self._cosine, self._sine = cosine, sine

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joint angles (7,) rad → rotation (3, 3), position (3,) m, Jacobian (6, 7).

        The Jacobian maps joint velocities to linear velocity (m/s) over angular velocity (rad/s).
        """
        c, s = np.cos(joints), np.sin(joints)
        links = self._links
        links[:, 0, 0], links[:, 0, 1] = c, -s
        links[:, 1, 0], links[:, 1, 1] = s * self._cosine, c * self._cosine
        links[:, 2, 0], links[:, 2, 1] = s * self._sine, c * self._sine
        frames = np.empty((7, 4, 4))
        here = links[0]
        frames[0] = here
        for i in range(1, 7):
            here = here @ links[i]
            frames[i] = here
        end = here @ self._tool
        jacobian = np.empty((6, 7))
        jacobian[3:] = ax, ay, az = frames[:, :3, 2].T
        x, y, z = (end[:3, 3] - frames[:, :3, 3]).T
        jacobian[0], jacobian[1], jacobian[2] = ay * z - az * y, az * x - ax * z, ax * y - ay * x
        return end[:3, :3], end[:3, 3], jacobian
