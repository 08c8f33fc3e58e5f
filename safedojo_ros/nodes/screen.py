"""Where the live view is drawn, and what can be drawn. No ROS."""

from collections.abc import Mapping
from typing import Protocol

import cv2
import numpy as np

DECISIONS = ("ALLOW", "SLOW", "HOLD", "STOP")
MODES = ("DISARMED", "ARMED", "RUNNING", "HOLD", "FAULT")


class Screen(Protocol):
    """Times are those of the messages, so that a slowed world is drawn at its own pace."""

    address: str

    def at(self, stamp: int) -> None:
        """What follows is of this time, ns."""

    def image(self, camera: str, image: np.ndarray) -> None:
        """Show (H, W, 3) uint8 RGB."""

    def jpeg(self, camera: str, coded: bytes) -> None:
        """Show a JPEG."""

    def arm(self, positions: Mapping[str, float]) -> None:
        """Show the arm with its joints at these positions (rad, m)."""

    def path(self, points: np.ndarray, colors: np.ndarray) -> None:
        """Show a chunk's path: points (N, 3) m, colours (N, 3) uint8."""

    def costs(self, steps: np.ndarray, cost: float, limit: float) -> None:
        """Show P(contact) of each step (H,), the chunk's cost and its limit."""

    def decision(self, name: str, reason: str) -> None:
        """Show what the gate says, of `DECISIONS`."""

    def mode(self, name: str, reason: str) -> None:
        """Show what the arm does, of `MODES`."""

    def checkpoint(self, kind: str, name: str, why: str) -> None:
        """Show what runs from now on; kind: policy or safety."""

    def latency(self, what: str, seconds: float) -> None:
        """Show how long policy or gate has computed."""

    def success(self, probability: float, threshold: float) -> None:
        """Show P(success) of what is seen, and from where on it counts as done."""

    def imagined(self, real: np.ndarray, imagined: np.ndarray) -> None:
        """Show an image (H, W, 3) uint8 beside what was imagined for its instant."""

    def say(self, text: str) -> None:
        """Show an instruction, or what became of a checkpoint."""

    def close(self) -> None:
        """Show nothing more."""


class WindowScreen:
    """One OpenCV window: the cameras side by side, cost and state below."""

    address = "the window 'safedojo'"

    def __init__(self) -> None:
        self._images: dict[str, np.ndarray] = {}
        self._line = ""
        self._cost = (0.0, 1.0)

    def at(self, stamp: int) -> None:
        """A window has no memory."""

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

    def jpeg(self, camera: str, coded: bytes) -> None:
        image = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            self.image(camera, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def arm(self, positions: Mapping[str, float]) -> None:
        """A window has no third dimension."""

    def path(self, points: np.ndarray, colors: np.ndarray) -> None:
        """See `arm`."""

    def costs(self, steps: np.ndarray, cost: float, limit: float) -> None:
        self._cost = (cost, limit)

    def decision(self, name: str, reason: str) -> None:
        """The bar of the cost says it."""

    def mode(self, name: str, reason: str) -> None:
        self._line = f"{name} {reason}"

    def checkpoint(self, kind: str, name: str, why: str) -> None:
        self._line = f"{kind} {name}"

    def latency(self, what: str, seconds: float) -> None:
        """See `at`."""

    def success(self, probability: float, threshold: float) -> None:
        self._line = f"P(success) {probability:.2f}, done from {threshold:.2f} on"

    def imagined(self, real: np.ndarray, imagined: np.ndarray) -> None:
        self.image("imagined", imagined)

    def say(self, text: str) -> None:
        self._line = text

    def close(self) -> None:
        cv2.destroyAllWindows()
