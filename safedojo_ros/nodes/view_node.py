"""The live view: what the cameras see, where the arm and its chunk go, what the gate says of it.

In the browser through rerun where it is installed, else in a window of OpenCV.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.swap.hot_swap import check_rule, has_cameras
from safedojo_ros.core.errors import ChunkRejected, ConfigError, ObservationRejected
from safedojo_ros.core.files import expand_home
from safedojo_ros.core.types import Observation
from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk, CheckpointInfo, FrankaState, SafetyCost, SafetyState
from safedojo_ros.nodes.cell import CONTRACT, cell_contract
from safedojo_ros.nodes.conversion import (
    BASE_FRAME,
    array_from_image,
    chunk_from_message,
    to_nanoseconds,
)
from safedojo_ros.nodes.inputs import WINDOW_SETTINGS, ObservationInputs, window_config
from safedojo_ros.nodes.lifecycle import IMAGES, IN_ORDER, LATCHED, NEWEST, OK, DojoNode, Setting
from safedojo_ros.nodes.model_loading import DEVICE, limited
from safedojo_ros.nodes.rerun_screen import RerunScreen
from safedojo_ros.nodes.screen import DECISIONS, MODES, Screen, WindowScreen
from safedojo_ros.nodes.stack.registry import OVERVIEW
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.viewers import missing_viewer, open_page, viewer
from safedojo_ros.nodes.view_models import Imagined, ViewModels
from safedojo_ros.robot.description import arm_joints

SETTINGS = (
    CONTRACT,
    Setting("rate", 10.0, "Images a second of each camera (Hz).", 0.5, 60.0),
    Setting("robot_base", [-0.45, 0.0, 0.0], "The arm's foot in the base frame (x, y, z in m)."),
    Setting("browser", False, "Open the page in a browser, where there is a screen."),
    Setting("record", "", "Keep what is shown in this .rrd file, too; empty: no."),
    Setting("success", "", "Success classifier: shipped, latest, an id, a directory; empty: none."),
    DEVICE,
    Setting("threads", 1, "Threads of each model.", 1, 64),
    Setting("world_model", "", "World model, named in the same way; empty: none."),
    *WINDOW_SETTINGS,
)


SILENCE = 1.0
"""Seconds without a chunk that was let pass, after which another scene begins."""
ASKING = 0.25
"""Seconds between two questions to the success classifier."""


class ViewNode(DojoNode):
    """Hands what the stack publishes to a screen."""

    def __init__(self, **options: Any) -> None:
        super().__init__("view_node", SETTINGS, **options)
        self._screen: Screen | None = None
        self._listening: list[Any] = []
        self._shown: dict[str, float] = {}
        self._mode = -1
        self._stamp = 0
        """Of the newest message that has one, ns."""
        self._early: list[Callable[[Screen], None]] = []
        """What was heard before any message had a stamp."""
        self._models: ViewModels | None = None
        self._inputs: ObservationInputs | None = None

    def configure(self) -> None:
        """Open the screen."""
        if missing_viewer():
            raise ConfigError(missing_viewer())
        record, self._contract = str(self.setting("record")), cell_contract(self)
        success, world = self._load("success"), self._load("world_model")
        if success is not None or world is not None:
            self._models = ViewModels(success, world, self.get_logger().warning)
        if viewer() == "rerun":
            joints = arm_joints(BASE_FRAME, self.corner("robot_base"))
            path = expand_home(record) if record else None
            shown = success is not None, world is not None
            self._screen = RerunScreen(joints, self._contract.camera_names, path, *shown)
        elif record:
            raise ConfigError("a recording needs rerun; 'pip install rerun-sdk' brings it")
        else:
            self._screen = WindowScreen()
        opened = bool(self.setting("browser")) and open_page(self._screen.address)
        self.get_logger().info(f"live view{' opened' if opened else ''}: {self._screen.address}")

    def activate(self) -> None:
        """Listen."""
        topics = self._contract.topics
        self._listening = [
            self.create_subscription(
                Image, f"camera/{name}/image_raw", partial(self._on_image, name), IMAGES
            )
            for name in self._contract.camera_names
        ]
        for kind, topic, take, qos in (
            (MarkerArray, "safety/markers", self._on_markers, NEWEST),
            (CompressedImage, OVERVIEW, self._on_overview, IN_ORDER),
            (JointState, topics.arm or topics.joints, self._on_joints, NEWEST),
            (ActionChunk, "policy/action_chunk", self._on_chunk, IN_ORDER),
            (SafetyCost, "safety/cost", self._on_cost, IN_ORDER),
            (SafetyState, "safety/state", self._on_gate, NEWEST),
            (CheckpointInfo, "policy/checkpoint", self._on_checkpoint, LATCHED),
            (CheckpointInfo, "safety/checkpoint", self._on_checkpoint, LATCHED),
            (FrankaState, "franka/state", self._on_arm, NEWEST),
            (String, topics.instruction, self._on_instruction, LATCHED),
        ):
            self._listening.append(self.create_subscription(kind, topic, take, qos))
        if self._models is not None:
            self._observe()

    def deactivate(self) -> None:
        """Stop listening."""
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        self._listening, self._stamp = [], 0
        self._early.clear()
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
            self.destroy_timer(self._asking)

    def cleanup(self) -> None:
        """Close the screen, and forget the models."""
        if self._models is not None:
            self._models.close()
            self._models = None
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.close()

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Where the view is."""
        assert self._screen is not None
        return OK, self._screen.address, {}

    def _on_image(self, camera: str, message: Image) -> None:
        now = time.monotonic()
        if now - self._shown.get(camera, 0.0) < 1.0 / float(self.setting("rate")):
            return
        self._shown[camera] = now
        try:
            self._at(message).image(camera, array_from_image(message))
        except ObservationRejected as error:
            self.say(str(error))

    def _at(self, message: Any) -> Screen:
        """The screen, at the time of a message."""
        assert self._screen is not None
        stamp = to_nanoseconds(message.header.stamp)
        if stamp:
            self._stamp = stamp
            self._screen.at(stamp)
            while self._early:
                self._early.pop(0)(self._screen)
        return self._screen

    def _show(self, message: Any, show: Callable[[Screen], None]) -> None:
        """Show what may have no stamp, such as a latched word from before the world's clock began:
        at the newest time that is known."""
        stamp = message.header.stamp if hasattr(message, "header") else None
        if stamp is not None and (stamp.sec or stamp.nanosec):
            show(self._at(message))
        elif self._stamp and self._screen is not None:
            self._screen.at(self._stamp)
            show(self._screen)
        else:
            self._early.append(show)

    def _on_overview(self, message: CompressedImage) -> None:
        self._at(message).jpeg("overview", bytes(message.data))

    def _on_joints(self, message: JointState) -> None:
        now = time.monotonic()
        if now - self._shown.get("", 0.0) >= 1.0 / float(self.setting("rate")):
            self._shown[""] = now
            positions = dict(zip(message.name, message.position, strict=False))
            self._at(message).arm(positions)

    def _on_markers(self, message: MarkerArray) -> None:
        for marker in message.markers:
            points = np.array([(p.x, p.y, p.z) for p in marker.points])
            colors = np.array([(c.r, c.g, c.b) for c in marker.colors])
            if len(points) > 1 and marker.ns == "chunk":
                self._at(marker).path(points, (colors * 255).astype(np.uint8))

    def _on_chunk(self, message: ActionChunk) -> None:
        self._at(message).latency("policy", float(message.compute_time))

    def _on_cost(self, message: SafetyCost) -> None:
        if np.isfinite(message.chunk_cost):
            screen, steps = self._at(message), np.array(message.step_cost, np.float64)
            screen.costs(steps, float(message.chunk_cost), float(message.limit))
            screen.latency("gate", float(message.compute_time))

    def _on_gate(self, message: SafetyState) -> None:
        if message.decision < len(DECISIONS):
            self._at(message).decision(DECISIONS[message.decision], message.reason)

    def _on_arm(self, message: FrankaState) -> None:
        if message.state != self._mode and message.state < len(MODES):
            self._mode = message.state
            self._at(message).mode(MODES[message.state], message.reason)

    def _on_checkpoint(self, message: CheckpointInfo) -> None:
        kind, name, why = str(message.kind), str(message.id), str(message.reason)
        if message.active:
            self._show(message, lambda screen: screen.checkpoint(kind, name, why))
        else:
            self._show(message, lambda screen: screen.say(f"{kind} {name}: {why}"))

    def _on_instruction(self, message: String) -> None:
        text = f"instruction: {message.data}"
        self._show(message, lambda screen: screen.say(text))

    # ---------------------------------------------------------------- what models say of it

    def _load(self, kind: str) -> Any:
        """The model that the parameter `kind` names, or None."""
        name = str(self.setting(kind))
        if not name:
            return None
        from safedojo_ros.models.loading import load_success, load_world_model

        load = limited(self, {"success": load_success, "world_model": load_world_model}[kind])
        path = find_checkpoint(kind, name)
        manifest = read_manifest(path)
        has_cameras(self._contract.camera_names)(manifest)
        check_rule(manifest, self._contract.resize)
        return load(path)

    def _observe(self) -> None:
        """Collect what the models look at."""
        assert self._models is not None
        cameras, side = self._models.sees
        self._scene: Observation | None = None
        self._passed = 0
        self._ahead: list[Imagined] = []
        self._inputs = ObservationInputs(
            self,
            window_config(self, cameras, side, self._contract.resize),
            self._contract,
            on_instruction=self._forget_scene,
        )
        self._listening.append(
            self.create_subscription(ActionChunk, "safety/action_chunk", self._on_gated, IN_ORDER)
        )
        self._asking = self.create_timer(ASKING, self._ask_models)

    def _forget_scene(self) -> None:
        self._scene, self._ahead = None, []

    def _on_gated(self, message: ActionChunk) -> None:
        """Imagine what the gate has let pass."""
        assert self._models is not None
        assert self._inputs is not None
        window, world = self._inputs.window, self._models.world
        with suppress(ObservationRejected, ChunkRejected):
            chunk = chunk_from_message(message)
            now = window.at(to_nanoseconds(message.observed_at))
            if abs(now.stamp - self._passed) > SILENCE * SECOND:
                self._forget_scene()
            self._scene, self._passed = self._scene or now, now.stamp
            if world is not None:
                back = range(world.size.context - 2, -1, -1)
                steps = [
                    now.stamp - round(k * world.size.stride * chunk.period * SECOND) for k in back
                ]
                seen = [window.at(stamp) if window.knows(stamp) else now for stamp in steps]
                self._models.imagine(self._scene, seen, chunk.actions, chunk.period)

    def _ask_models(self) -> None:
        """Ask anew, and show what has been answered."""
        assert self._models is not None
        assert self._inputs is not None
        assert self._screen is not None
        window, screen = self._inputs.window, self._screen
        with suppress(ObservationRejected):
            self._models.classify(window.at(window.complete_stamp()))
        for answer in self._models.answers():
            if isinstance(answer, Imagined):
                self._ahead.append(answer)
            else:
                screen.at(answer.stamp)
                screen.success(answer.probability, answer.threshold)
        for answer in list(self._ahead):
            if window.complete_stamp() >= answer.stamp:
                self._ahead.remove(answer)
                with suppress(ObservationRejected):
                    camera, imagined = next(iter(answer.images.items()))
                    real = window.at(answer.stamp).images[camera]
                    screen.at(answer.stamp)
                    screen.imagined(cv2.resize(real, imagined.shape[1::-1]), imagined)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(ViewNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
