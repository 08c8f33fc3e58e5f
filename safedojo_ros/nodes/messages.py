"""What the safety gate says of itself and of a chunk, as messages."""

from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from safedojo_ros.core.types import CostEstimate
from safedojo_ros.msg import SafetyCost, SafetyState
from safedojo_ros.nodes.conversion import BASE_FRAME, to_stamp
from safedojo_ros.robot.gate.gate import SafetyGate


def state_message(gate: SafetyGate, latency: float, stamp: int) -> SafetyState:
    """latency: seconds from image to decision, computing left out; stamp: ns."""
    message = SafetyState(
        decision=int(gate.decision),
        mode=gate.mode,
        reason=gate.reason,
        last_sequence=gate.last_sequence,
        latency=latency,
    )
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    return message


def cost_message(
    sequence: int, estimate: CostEstimate, checkpoint: str, compute_time: float, stamp: int
) -> SafetyCost:
    """checkpoint: the id of the safety head; compute_time: its seconds; stamp: ns."""
    message = SafetyCost(
        sequence=sequence,
        checkpoint=checkpoint,
        step_cost=[float(v) for v in estimate.step_cost],
        chunk_cost=float(estimate.chunk_cost),
        limit=float(estimate.limit),
        decision=int(estimate.decision),
        reason=estimate.reason,
        compute_time=compute_time,
    )
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    return message


def path_markers(
    start: np.ndarray, actions: np.ndarray, step_cost: np.ndarray, limit: float, header: Any
) -> MarkerArray:
    """The path of a chunk from `start` (3,) m: green where it costs nothing, red from the limit."""
    line = Marker(header=header, ns="chunk", id=0, type=Marker.LINE_STRIP, action=Marker.ADD)
    line.scale.x, line.pose.orientation.w, line.color.a = 0.006, 1.0, 1.0
    places = np.vstack([start, start + np.cumsum(actions[:, :3], axis=0)])
    costs = np.concatenate([step_cost[:1], step_cost])
    for place, cost in zip(places, costs, strict=True):
        danger = min(1.0, float(cost) / max(limit, 1e-6))
        line.points.append(Point(x=float(place[0]), y=float(place[1]), z=float(place[2])))
        line.colors.append(ColorRGBA(r=danger, g=1.0 - danger, b=0.1, a=1.0))
    return MarkerArray(markers=[line])


def decision_marker(
    place: np.ndarray, decision: str, cost: float, limit: float, header: Any
) -> Marker:
    """The gate's decision and the chunk's cost in words, above `place` (3,) m."""
    text = Marker(header=header, ns="decision", id=0, type=Marker.TEXT_VIEW_FACING)
    text.action, text.scale.z, text.pose.orientation.w = Marker.ADD, 0.03, 1.0
    point = text.pose.position
    point.x, point.y, point.z = float(place[0]), float(place[1]), float(place[2]) + 0.1
    text.text = f"{decision}  cost {cost:.2f}, limit {limit:.2f}"
    good = decision == "ALLOW"
    text.color = ColorRGBA(r=0.3 if good else 1.0, g=1.0 if good else 0.6, b=0.2, a=1.0)
    return text
