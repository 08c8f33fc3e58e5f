"""The live view: what the cameras see, where the chunk goes, what its predicted cost is.

In the browser through rerun where it is installed, else in a window of OpenCV.
"""

import sys
import time
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.msg import FrankaState, SafetyCost
from safedojo_ros.nodes.conversion import array_from_image
from safedojo_ros.nodes.lifecycle import IMAGES, IN_ORDER, LATCHED, NEWEST, OK, DojoNode, Setting
from safedojo_ros.nodes.stack.live_page import LivePage
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.viewers import missing_viewer, viewer

MODES = ("DISARMED", "ARMED", "RUNNING", "HOLD", "FAULT")

SETTINGS = (
    Setting("cameras", ["agentview", "wrist"], "Cameras to show."),
    Setting("rate", 10.0, "Images a second of each camera (Hz).", 0.5, 60.0),
)


class Screen(Protocol):
    """Where the view is drawn."""

    address: str

    def image(self, camera: str, image: np.ndarray) -> None:
        """Show (H, W, 3) uint8 RGB."""

    def path(self, points: np.ndarray, colors: np.ndarray) -> None:
        """Show a chunk's path: points (N, 3) m, colours (N, 3) uint8."""

    def place(self, position: np.ndarray) -> None:
        """Show where the end-effector is: (3,) m."""

    def cost(self, cost: float, limit: float) -> None:
        """Show the chunk cost and its limit."""

    def say(self, text: str) -> None:
        """Show the instruction or the arm's state."""

    def close(self) -> None:
        """Show nothing more."""


class RerunScreen:
    """rerun's viewer in the browser, from the installed wheel; this machine alone can open it."""

    def __init__(self) -> None:
        import rerun as rr

        self._rr, self._live = rr, LivePage()
        rr.init("safedojo")
        rr.connect_grpc(self._live.data)
        self.address = self._live.page

    def close(self) -> None:
        self._rr.disconnect()
        self._live.close()

    def image(self, camera: str, image: np.ndarray) -> None:
        self._rr.log(f"camera/{camera}", self._rr.Image(image))

    def path(self, points: np.ndarray, colors: np.ndarray) -> None:
        segments = np.stack([points[:-1], points[1:]], axis=1)
        self._rr.log("world/chunk", self._rr.LineStrips3D(segments, colors=colors[1:]))

    def place(self, position: np.ndarray) -> None:
        self._rr.log("world/end_effector", self._rr.Points3D([position], radii=0.008))

    def cost(self, cost: float, limit: float) -> None:
        self._rr.log("safety/chunk_cost", self._rr.Scalars(cost))
        self._rr.log("safety/limit", self._rr.Scalars(limit))

    def say(self, text: str) -> None:
        self._rr.log("log", self._rr.TextLog(text))


class WindowScreen:
    """One OpenCV window: the cameras side by side, cost and state below."""

    address = "the window 'safedojo'"

    def __init__(self) -> None:
        self._images: dict[str, np.ndarray] = {}
        self._line = ""
        self._cost = (0.0, 1.0)

    def image(self, camera: str, image: np.ndarray) -> None:
        self._images[camera] = cv2.resize(image, (384, 384), interpolation=cv2.INTER_NEAREST)
        shown = np.hstack([self._images[name] for name in sorted(self._images)])
        shown = cv2.copyMakeBorder(shown, 0, 48, 0, 0, cv2.BORDER_CONSTANT)
        share = min(1.0, self._cost[0] / max(self._cost[1], 1e-6))
        end = (int(share * shown.shape[1]), shown.shape[0] - 36)
        cv2.rectangle(shown, (0, shown.shape[0] - 48), end, (int(255 * share), 160, 60), -1)
        place = (8, shown.shape[0] - 12)
        cv2.putText(shown, self._line[:90], place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3)
        cv2.imshow("safedojo", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
        cv2.waitKey(1)

    def path(self, points: np.ndarray, colors: np.ndarray) -> None:
        """A window has no third dimension."""

    def place(self, position: np.ndarray) -> None:
        """See `path`."""

    def cost(self, cost: float, limit: float) -> None:
        self._cost = (cost, limit)

    def say(self, text: str) -> None:
        self._line = text

    def close(self) -> None:
        cv2.destroyAllWindows()


class ViewNode(DojoNode):
    """Hands what the stack publishes to a screen."""

    def __init__(self, **options: Any) -> None:
        super().__init__("view_node", SETTINGS, **options)
        self._screen: Screen | None = None
        self._listening: list[Any] = []
        self._shown: dict[str, float] = {}
        self._mode = -1

    def configure(self) -> None:
        """Open the screen."""
        if missing_viewer():
            raise ConfigError(missing_viewer())
        self._screen = RerunScreen() if viewer() == "rerun" else WindowScreen()
        self.get_logger().info(f"live view: {self._screen.address}")

    def activate(self) -> None:
        """Listen."""
        self._listening = [
            self.create_subscription(
                Image, f"camera/{name}/image_raw", partial(self._on_image, name), IMAGES
            )
            for name in self.setting("cameras")
        ]
        for kind, topic, take, qos in (
            (MarkerArray, "safety/markers", self._on_markers, NEWEST),
            (PoseStamped, "ee_pose", self._on_pose, NEWEST),
            (SafetyCost, "safety/cost", self._on_cost, IN_ORDER),
            (FrankaState, "franka/state", self._on_arm, NEWEST),
            (String, "instruction", self._on_instruction, LATCHED),
        ):
            self._listening.append(self.create_subscription(kind, topic, take, qos))

    def deactivate(self) -> None:
        """Stop listening."""
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        self._listening = []

    def cleanup(self) -> None:
        """Close the screen."""
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.close()

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Where the view is."""
        assert self._screen is not None
        return OK, self._screen.address, {}

    def _on_image(self, camera: str, message: Image) -> None:
        assert self._screen is not None
        now = time.monotonic()
        if now - self._shown.get(camera, 0.0) < 1.0 / float(self.setting("rate")):
            return
        self._shown[camera] = now
        try:
            self._screen.image(camera, array_from_image(message))
        except ObservationRejected as error:
            self.say(str(error))

    def _on_markers(self, message: MarkerArray) -> None:
        assert self._screen is not None
        for marker in message.markers:
            points = np.array([(p.x, p.y, p.z) for p in marker.points])
            colors = np.array([(c.r, c.g, c.b) for c in marker.colors])
            if len(points) > 1:
                self._screen.path(points, (colors * 255).astype(np.uint8))

    def _on_pose(self, message: PoseStamped) -> None:
        assert self._screen is not None
        place = message.pose.position
        self._screen.place(np.array([place.x, place.y, place.z]))

    def _on_cost(self, message: SafetyCost) -> None:
        assert self._screen is not None
        if np.isfinite(message.chunk_cost):
            self._screen.cost(float(message.chunk_cost), float(message.limit))

    def _on_arm(self, message: FrankaState) -> None:
        assert self._screen is not None
        if message.state != self._mode:
            self._mode = message.state
            self._screen.say(f"{MODES[message.state]} {message.reason}")

    def _on_instruction(self, message: String) -> None:
        assert self._screen is not None
        self._screen.say(message.data)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(ViewNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
