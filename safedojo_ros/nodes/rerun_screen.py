"""rerun's viewer in the browser, laid out for one look at a working arm; or its recording. No ROS.

Left, what people and the policy see; right, the arm with the chunk's path coloured by cost. Below,
the chunk's cost against its limit and that of each step, how long policy and gate compute, and as
bands the gate's decision, the arm's state and the checkpoints that run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.rotation import matrix_of, quaternion_of
from safedojo_ros.nodes.stack.live_page import LivePage
from safedojo_ros.robot.description import OUTLINES, Joint, transforms

TIMELINE = "time"
BANDS: dict[str, dict[str, int]] = {
    "gate": {
        "ALLOW": 0x2E9E4FFF,
        "SLOW": 0xE0B020FF,
        "HOLD": 0xD95F30FF,
        "STOP": 0xB01030FF,
    },
    "arm": {
        "DISARMED": 0x707070FF,
        "ARMED": 0x3D7DCAFF,
        "RUNNING": 0x2A7F9EFF,
        "HOLD": 0x9060B0FF,
        "FAULT": 0x801848FF,
    },
    "policy": {},
    "head": {},
}
"""{entity: {state: colour}}, no colour of the gate being one of the arm; the last two show which
checkpoints run, and so every swap."""

OVERVIEW = "camera/overview"
COST_COLOUR, LIMIT_COLOUR = (217, 95, 48), (176, 16, 48)
BACKGROUND, GRID, ARM_COLOUR = (38, 42, 50), (80, 86, 98), (225, 225, 232)
"""Of the arm's view, whatever colours the browser prefers."""
EYE, EYE_TARGET = (0.65, -0.75, 0.7), (-0.22, 0.0, 0.25)
"""From where the arm is seen, m in the base frame."""

SHOWN = 20.0
"""Seconds that curves and bands reach back."""


class RerunScreen:
    """Serves the page for this machine alone, and keeps a recording where one is wanted."""

    def __init__(
        self,
        joints: Sequence[Joint],
        cameras: Sequence[str],
        record: Path | None = None,
        success: bool = False,
        imagined: bool = False,
    ) -> None:
        """joints: of the arm that is drawn; record: an .rrd file, beside the page; success and
        imagined: whether there is something to show of them."""
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
        rr.send_blueprint(layout(cameras, success, imagined))
        self._still()

    def close(self) -> None:
        self._rr.disconnect()
        self._live.close()

    def _still(self) -> None:
        """What never changes: colours, names and the arm's shapes."""
        rr = self._rr
        for entity, colours in BANDS.items():
            if not colours:
                continue
            names, values = list(colours), np.array(list(colours.values()), np.uint32)
            shown = rr.StateConfiguration(values=names, labels=names, colors=values)
            rr.log(entity, shown, static=True)
        for entity, name, colour in (
            ("safety/cost/chunk", "cost of the chunk", COST_COLOUR),
            ("safety/cost/limit", "limit", LIMIT_COLOUR),
            ("latency/policy", "policy", (61, 125, 202)),
            ("latency/gate", "gate", (46, 158, 79)),
            ("success/probability", "P(success)", (46, 158, 79)),
            ("success/threshold", "threshold", (112, 112, 112)),
        ):
            rr.log(entity, rr.SeriesLines(names=name, colors=colour, widths=2.0), static=True)
        for link, parts in OUTLINES.items():
            poses = [_capsule(np.array(one), np.array(other)) for one, other, _ in parts]
            shape = rr.Capsules3D(
                lengths=[length for length, _ in poses],
                radii=[radius for _, _, radius in parts],
                translations=[one for one, _, _ in parts],
                quaternions=[turn for _, turn in poses],
                colors=ARM_COLOUR,
                fill_mode="solid",
            )
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
        shape = self._rr.LineStrips3D(segments, colors=colors[1:], radii=0.008)
        self._rr.log("world/chunk", shape)

    def costs(self, steps: np.ndarray, cost: float, limit: float) -> None:
        rr = self._rr
        rr.log("safety/cost/chunk", rr.Scalars(cost))
        rr.log("safety/cost/limit", rr.Scalars(limit))
        if len(steps):
            rr.log("safety/steps", rr.BarChart(steps))

    def decision(self, name: str, reason: str) -> None:
        self._band("gate", name)
        if reason:
            self.say(f"gate {name}: {reason}")

    def mode(self, name: str, reason: str) -> None:
        self._band("arm", name)
        self.say(f"arm {name}: {reason}" if reason else f"arm {name}")

    def checkpoint(self, kind: str, name: str, why: str) -> None:
        self._band({"policy": "policy", "safety": "head"}[kind], name)
        self.say(f"{kind} {name}: {why}")

    def _band(self, entity: str, state: str) -> None:
        if self._said.get(entity) != state:
            self._said[entity] = state
            self._rr.log(entity, self._rr.StateChange(state=state))

    def latency(self, what: str, seconds: float) -> None:
        self._rr.log(f"latency/{what}", self._rr.Scalars(seconds * 1e3))

    def success(self, probability: float, threshold: float) -> None:
        self._rr.log("success/probability", self._rr.Scalars(probability))
        self._rr.log("success/threshold", self._rr.Scalars(threshold))

    def imagined(self, real: np.ndarray, imagined: np.ndarray) -> None:
        self._rr.log("imagined", self._rr.Image(np.hstack([real, imagined])))

    def say(self, text: str) -> None:
        kind = "".join(c for c in text if not c.isdigit())
        if self._said.get("log") != kind:  # a chunk after another is held for the same reason
            self._said["log"] = kind
            self._rr.log("log", self._rr.TextLog(text))


def layout(cameras: Sequence[str], success: bool = False, imagined: bool = False) -> Any:
    """The page: readable on a screen of 1280 x 800. success, imagined: with views of them."""
    import rerun.blueprint as rrb

    seen: list[Any] = [rrb.Spatial2DView(origin=f"camera/{name}", name=name) for name in cameras]
    edge = rrb.TimeRangeBoundary.cursor_relative
    if imagined:
        name = "a chunk ahead: real | imagined"
        seen = [rrb.Spatial2DView(origin="imagined", name=name), rrb.Tabs(*seen)]
    newest = rrb.TimeAxis(
        view_range=rrb.TimeRange(edge(seconds=-SHOWN), edge(seconds=SHOWN / 20.0))
    )
    arm = rrb.Spatial3DView(
        origin="world",
        name="arm and chunk, red: costly",
        background=BACKGROUND,
        line_grid=rrb.LineGrid3D(spacing=0.1, color=GRID),
        eye_controls=rrb.EyeControls3D(position=EYE, look_target=EYE_TARGET),
    )
    cost = rrb.TimeSeriesView(
        origin="safety/cost",
        name="cost of the chunk and its limit",
        axis_x=newest,
        axis_y=rrb.ScalarAxis(range=(0.0, 1.05)),
    )
    steps = rrb.BarChartView(
        origin="safety/steps",
        name="P(contact) of each step",
        plot_legend=rrb.PlotLegend(visible=False),
    )
    latency = rrb.TimeSeriesView(origin="latency", name="computing, ms", axis_x=newest)
    bands = rrb.StateTimelineView(
        origin="/",
        contents=[*BANDS],
        name="gate's decision, arm's state, checkpoints",
        time_view=newest,
    )
    curves = [cost]
    if success:
        curves.append(
            rrb.TimeSeriesView(
                origin="success",
                name="P(success)",
                axis_x=newest,
                axis_y=rrb.ScalarAxis(range=(0.0, 1.05)),
            )
        )
    body = rrb.TextLogColumns(timeline_columns=[], text_log_columns=["body"])
    why = rrb.TextLogView(origin="log", name="why", columns=body)
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(
                rrb.Spatial2DView(origin=OVERVIEW, name="overview"),
                rrb.Vertical(*seen),
                arm,
                column_shares=[4, 2, 4],
            ),
            rrb.Horizontal(rrb.Horizontal(*curves), steps, latency, column_shares=[4, 2, 2]),
            rrb.Horizontal(bands, why, column_shares=[5, 3]),
            row_shares=[17, 9, 11],
        ),
        rrb.TimePanel(timeline=TIMELINE, state="collapsed", play_state="following"),
        rrb.BlueprintPanel(state="hidden"),
        rrb.SelectionPanel(state="hidden"),
        auto_views=False,
    )


def _capsule(one: np.ndarray, other: np.ndarray) -> tuple[float, np.ndarray]:
    """Length (m) from one end (3,) to the other, and the quaternion x, y, z, w from z to there."""
    apart = other - one
    length = float(np.linalg.norm(apart))
    x, y, z = apart / length
    sine = float(np.hypot(x, y))
    axis = np.array([-y, x, 0.0]) / sine if sine > 1e-9 else np.array([1.0, 0.0, 0.0])
    turn = quaternion_of(axis * np.arctan2(sine, z))
    return length, turn[[1, 2, 3, 0]]


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) of a quaternion (4,), w first."""
    w, vector = float(quaternion[0]), quaternion[1:]
    length = float(np.linalg.norm(vector))
    if length < 1e-12:
        return np.eye(3)
    rotation: np.ndarray = matrix_of(vector / length * 2.0 * np.arctan2(length, w))
    return rotation
