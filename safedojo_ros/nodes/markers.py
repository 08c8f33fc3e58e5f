"""What RViz shows of a judged chunk."""

from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray


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
