"""From end-effector targets to joint set-points: damped least squares on a kinematic reference."""

import mujoco
import numpy as np

from safedojo_ros.worlds.tabletop.scene import HOME_JOINTS, JOINT_LOWER, JOINT_UPPER

DAMPING = 0.03
POSTURE_GAIN = 0.05
MAX_JOINT_STEP = 0.25
"""Largest change of a joint reference per control step, radians."""


class ArmReference:
    """Keeps a target pose and the joint angles that reach it (both in the base frame).

    The reference moves in a copy of the data of its own, so physics never leaks into it.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._site = model.site("tcp").id
        self._jacobian = np.zeros((6, model.nv))
        self.joints = HOME_JOINTS.copy()
        self.position = np.zeros(3)
        self.quaternion = np.array([1.0, 0.0, 0.0, 0.0])

    def copy(self) -> "ArmReference":
        """One that moves on its own."""
        other = ArmReference(self._model)
        mujoco.mj_copyData(other._data, self._model, self._data)
        other.joints, other.position = self.joints.copy(), self.position.copy()
        other.quaternion = self.quaternion.copy()
        return other

    def place(self, joints: np.ndarray) -> None:
        """Put the reference at `joints` (7,) rad and take its pose as the target."""
        self.joints = joints.astype(np.float64).copy()
        self._forward()
        self.position = self._data.site_xpos[self._site].copy()
        mujoco.mju_mat2Quat(self.quaternion, self._data.site_xmat[self._site])

    def solve(self, iterations: int) -> None:
        """Move the joint reference towards the target pose."""
        for _ in range(iterations):
            error = np.zeros(6)
            error[:3] = self.position - self._data.site_xpos[self._site]
            here = np.zeros(4)
            mujoco.mju_mat2Quat(here, self._data.site_xmat[self._site])
            local = np.zeros(3)
            mujoco.mju_subQuat(local, self.quaternion, here)
            error[3:] = self._data.site_xmat[self._site].reshape(3, 3) @ local
            mujoco.mj_jacSite(
                self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site
            )
            jacobian = self._jacobian[:, :7]
            gram = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
            posture = POSTURE_GAIN * (HOME_JOINTS - self.joints)
            step = posture + jacobian.T @ np.linalg.solve(gram, error - jacobian @ posture)
            step = np.clip(step, -MAX_JOINT_STEP, MAX_JOINT_STEP)
            self.joints = np.clip(self.joints + step, JOINT_LOWER + 0.02, JOINT_UPPER - 0.02)
            self._forward()

    def reached(self) -> np.ndarray:
        """Position (3,) m that the joint reference reaches."""
        return self._data.site_xpos[self._site].copy()

    def _forward(self) -> None:
        self._data.qpos[:7] = self.joints
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
