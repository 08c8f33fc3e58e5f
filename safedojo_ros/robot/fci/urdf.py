"""The model that the emulated robot hands to its clients: kinematics and limits of an FR3.

It has no masses, so what clients derive from it (gravity, Coriolis torques) is zero.
"""

from functools import cache
from math import cos, sin

from safedojo_ros.robot.kinematics import DH_A, DH_ALPHA, DH_D, FLANGE
from safedojo_ros.robot.limits import FR3_JOINTS

EFFORT = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)


@cache
def fr3_urdf() -> str:
    """URDF text of links link0 to link8, joints joint1 to joint8; metres and radians."""
    limits, parts = FR3_JOINTS, []
    for i in range(9):
        parts.append(f'<link name="link{i}"/>')
    for i in range(7):
        # Craig's convention: turn and shift of the link before, then the joint's own
        y, z = round(-sin(DH_ALPHA[i]) * DH_D[i], 9), round(cos(DH_ALPHA[i]) * DH_D[i], 9)
        parts.append(
            f'<joint name="joint{i + 1}" type="revolute">'
            f'<origin rpy="{DH_ALPHA[i]:.16g} 0 0" xyz="{DH_A[i]:g} {y:g} {z:g}"/>'
            f'<parent link="link{i}"/><child link="link{i + 1}"/><axis xyz="0 0 1"/>'
            f'<limit effort="{EFFORT[i]}" lower="{limits.lower[i]}" upper="{limits.upper[i]}" '
            f'velocity="{limits.velocity[i]}"/>'
            f'<position_based_velocity_limits velocity_offset="{limits.offset[i]}" '
            f'deceleration_limit="{limits.deceleration[i]}"/></joint>'
        )
    parts.append(
        f'<joint name="joint8" type="fixed"><origin rpy="0 0 0" xyz="0 0 {FLANGE}"/>'
        '<parent link="link7"/><child link="link8"/></joint>'
    )
    return '<?xml version="1.0"?><robot name="fr3">' + "".join(parts) + "</robot>"
