"""rerun's viewer in the browser, laid out for one look at a working arm; or its recording. No ROS.

Left, what people and the policy see; right, the arm with the chunk's path coloured by cost. Below,
the chunk's cost against its limit and that of each step, the gate's and the arm's states as bands,
and how long policy and gate compute.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.rotation import matrix_of
from safedojo_ros.nodes.stack.live_page import LivePage
from safedojo_ros.robot.description import OUTLINES, Joint, transforms

TIMELINE = "time"
BANDS = {
    "safety/gate": {
        "ALLOW": 0x2E9E4FFF,
        "SLOW": 0xE0B020FF,
        "HOLD": 0xD95F30FF,
        "STOP": 0xB01030FF,
    },
    "robot/arm": {
        "DISARMED": 0x707070FF,
        "ARMED": 0x3D7DCAFF,
        "RUNNING": 0x2E9E4FFF,
        "HOLD": 0xD95F30FF,
        "FAULT": 0xB01030FF,
    },
}
"""{entity: {state: colour}}."""

OVERVIEW = "camera/overview"


class RerunScreen:
    """Serves the page for this machine alone, and keeps a recording where one is wanted."""

    def __init__(
        self, joints: Sequence[Joint], cameras: Sequence[str], record: Path | None = None
    ) -> None:
        """joints: of the arm that is drawn; record: an .rrd file, beside the page."""
        import rerun as rr

        self._rr, self._joints = rr, list(joints)
        self._said: dict[str, str] = {}
        self._live = LivePage()
        self.address = self._live.page
        rr.init("safedojo")
        sinks: list[Any] = [rr.GrpcSink(self._live.data)]
        if record is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            sinks.append(rr.FileSink(str(record)))
        rr.set_sinks(*sinks)
        rr.send_blueprint(layout(cameras))
        self._still()

    def close(self) -> None:
        self._rr.disconnect()
        self._live.close()

    def _still(self) -> None:
        """What never changes: colours, names and the arm's shapes."""
        rr = self._rr
        for entity, colours in BANDS.items():
            names, values = list(colours), np.array(list(colours.values()), np.uint32)
            shown = rr.StateConfiguration(values=names, labels=names, colors=values)
            rr.log(entity, shown, static=True)
        for entity, name, colour in (
            ("safety/cost/chunk", "cost of the chunk", (217, 95, 48)),
            ("safety/cost/limit", "limit", (176, 16, 48)),
            ("latency/policy", "policy", (61, 125, 202)),
            ("latency/gate", "gate", (46, 158, 79)),
        ):
            rr.log(entity, rr.SeriesLines(names=name, colors=colour), static=True)
        for link, parts in OUTLINES.items():
            strips = [[one, other] for one, other, _ in parts]
            radii = [radius for _, _, radius in parts]
            shape = rr.LineStrips3D(strips, radii=radii, colors=(225, 225, 232))
            rr.log(f"world/arm/{link}", shape, static=True)

    def at(self, stamp: int) -> None:
        self._rr.set_time(TIMELINE, timestamp=np.datetime64(stamp, "ns"))

    def image(self, camera: str, image: np.ndarray) -> None:
        self._rr.log(f"camera/{camera}", self._rr.Image(image))

    def jpeg(self, camera: str, coded: bytes) -> None:
        image = self._rr.EncodedImage(contents=coded, media_type="image/jpeg")
        self._rr.log(f"camera/{camera}", image)

    def arm(self, positions: Mapping[str, float]) -> None:
        rr = self._rr
        poses: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for found in transforms(self._joints, positions):
            rotation, place = poses.get(found.parent, (np.eye(3), np.zeros(3)))
            poses[found.child] = (
                rotation @ _matrix(found.quaternion),
                place + rotation @ found.place,
            )
            if found.child in OUTLINES:
                turned, there = poses[found.child]
                rr.log(f"world/arm/{found.child}", rr.Transform3D(translation=there, mat3x3=turned))

    def path(self, points: np.ndarray, colors: np.ndarray) -> None:
        segments = np.stack([points[:-1], points[1:]], axis=1)
        shape = self._rr.LineStrips3D(segments, colors=colors[1:], radii=0.004)
        self._rr.log("world/chunk", shape)

    def costs(self, steps: np.ndarray, cost: float, limit: float) -> None:
        rr = self._rr
        rr.log("safety/cost/chunk", rr.Scalars(cost))
        rr.log("safety/cost/limit", rr.Scalars(limit))
        if len(steps):
            rr.log("safety/steps", rr.BarChart(steps))

    def decision(self, name: str, reason: str) -> None:
        self._band("safety/gate", name)
        if reason:
            self.say(f"gate {name}: {reason}")

    def mode(self, name: str, reason: str) -> None:
        self._band("robot/arm", name)
        self.say(f"arm {name}: {reason}" if reason else f"arm {name}")

    def _band(self, entity: str, state: str) -> None:
        if self._said.get(entity) != state:
            self._said[entity] = state
            self._rr.log(entity, self._rr.StateChange(state=state))

    def latency(self, what: str, seconds: float) -> None:
        self._rr.log(f"latency/{what}", self._rr.Scalars(seconds * 1e3))

    def say(self, text: str) -> None:
        kind = "".join(c for c in text if not c.isdigit())
        if self._said.get("log") != kind:  # a chunk after another is held for the same reason
            self._said["log"] = kind
            self._rr.log("log", self._rr.TextLog(text))


def layout(cameras: Sequence[str]) -> Any:
    """The page: readable on a screen of 1280 x 800."""
    import rerun.blueprint as rrb

    seen = [rrb.Spatial2DView(origin=f"camera/{name}", name=name) for name in cameras]
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(
                rrb.Spatial2DView(origin=OVERVIEW, name="overview"),
                rrb.Vertical(*seen),
                rrb.Spatial3DView(origin="world", name="arm and chunk, red: costly"),
                column_shares=[4, 2, 4],
            ),
            rrb.Horizontal(
                rrb.TimeSeriesView(origin="safety/cost", name="cost of the chunk and its limit"),
                rrb.BarChartView(origin="safety/steps", name="P(contact) of each step"),
                rrb.TimeSeriesView(origin="latency", name="computing, ms"),
                column_shares=[4, 2, 2],
            ),
            rrb.Horizontal(
                rrb.StateTimelineView(
                    origin="/", contents=[*BANDS], name="the gate's decision, the arm's state"
                ),
                rrb.TextLogView(origin="log", name="why"),
                column_shares=[5, 3],
            ),
            row_shares=[5, 3, 2],
        ),
        rrb.TimePanel(timeline=TIMELINE, state="collapsed"),
        rrb.BlueprintPanel(state="hidden"),
        rrb.SelectionPanel(state="hidden"),
        auto_views=False,
    )


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) of a quaternion (4,), w first."""
    w, vector = float(quaternion[0]), quaternion[1:]
    length = float(np.linalg.norm(vector))
    if length < 1e-12:
        return np.eye(3)
    rotation: np.ndarray = matrix_of(vector / length * 2.0 * np.arctan2(length, w))
    return rotation
