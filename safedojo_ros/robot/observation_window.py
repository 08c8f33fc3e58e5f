"""The newest images, state and instruction as one checked observation. No ROS, injected time.

Policy and safety node share it, so that both say the same about a camera that stops, freezes or
changes, about a silent arm, and about an instruction that cannot be one.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.core.types import RESIZE, Observation
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.images import fit_image
from safedojo_ros.robot.gate.freshness import FUTURE_TOLERANCE
from safedojo_ros.robot.image_watch import ImageWatch


@dataclass(frozen=True)
class WindowConfig:
    """What counts as a usable observation."""

    cameras: tuple[str, ...]
    image_size: int
    """Side of the square images that the model wants, pixels."""
    resize: str = RESIZE
    """How images of another shape become square ones; see `core.types.RESIZES`."""
    max_age: float = 0.1
    """Seconds after which an image or the arm's state is stale: at 20 Hz one control period after
    the next one was due. Slower or later cameras need more."""
    max_skew: float = 0.03
    """Seconds that the images and the state of one observation may lie apart."""
    frozen_frames: int = 8
    """So many images in a row that show the same ..."""
    frozen_motion: float = 0.1
    """... while the end-effector moved this far (m) mean a frozen camera. The fixed
    camera of the tabletop sees nothing of an episode's first 9 cm; others may need less."""
    max_instruction: int = 200
    """Longest instruction, characters."""
    memory: int = 40
    """How many observations are kept for `at`."""

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras are {self.cameras}, expected distinct names")


@dataclass
class _CameraState:
    """What is known of one camera."""

    stamp: int = 0
    heard_at: int = 0
    kind: tuple[int, int, str] | None = None
    fault: str = ""
    watch: ImageWatch = field(default_factory=ImageWatch)


class ObservationWindow:
    """Feed it what arrives; it hands out observations or raises `ObservationRejected`."""

    def __init__(self, config: WindowConfig) -> None:
        self.config = config
        self.instruction = ""
        self._instruction_fault = "no instruction has been heard yet"
        self._cameras = {name: _CameraState() for name in config.cameras}
        self._images: dict[str, deque[tuple[int, np.ndarray]]] = {
            name: deque(maxlen=config.memory) for name in config.cameras
        }
        self._states: deque[tuple[int, np.ndarray]] = deque(maxlen=config.memory)
        self._joints: deque[tuple[int, np.ndarray]] = deque(maxlen=config.memory)
        self._now = 0

    # ---------------------------------------------------------------- what arrives

    def add_image(
        self, camera: str, image: np.ndarray, stamp: int, now: int, encoding: str = "rgb8"
    ) -> None:
        """Take an (H, W, 3) uint8 image; a faulty one is remembered as the camera's fault."""
        self._watch_clock(now)
        known = self._cameras[camera]
        known.heard_at = now
        kind = (image.shape[1], image.shape[0], encoding)
        if known.kind is None:
            known.kind = kind
        if kind != known.kind:
            known.fault = (
                f"changed from {_kind(known.kind)} to {_kind(kind)}; "
                "set it back, or deactivate and activate this node"
            )
            return
        ahead = (stamp - now) / SECOND
        if ahead > FUTURE_TOLERANCE:
            known.fault = f"gives stamps {ahead:.2f} s in the future; synchronise the clocks"
            return
        if stamp <= known.stamp:
            known.fault = "sends images whose stamp does not advance"
            return
        if (stamp - known.stamp) / SECOND > self.config.max_age:
            known.watch = ImageWatch()  # it has been restarted, or nobody listened
        known.stamp, known.fault = stamp, ""
        side = self.config.image_size
        resized = fit_image(image, side, side, self.config.resize)
        known.watch.see(resized, stamp, self._states)
        self._images[camera].append((stamp, resized))

    def reject_image(self, camera: str, reason: str, now: int) -> None:
        """A message of this camera could not be read at all."""
        self._cameras[camera].heard_at, self._cameras[camera].fault = now, reason

    def add_state(self, state: np.ndarray, stamp: int) -> None:
        """Take the arm's state (8,), validated by the caller."""
        if not self._states or stamp > self._states[-1][0]:
            self._states.append((stamp, state))
            for known in self._cameras.values():
                known.watch.follow(self._states)

    def add_joints(self, joints: np.ndarray, stamp: int) -> None:
        """Take the arm's joints (7,), rad, where it says them; validated by the caller."""
        if not self._joints or stamp > self._joints[-1][0]:
            self._joints.append((stamp, joints))

    def set_instruction(self, text: str) -> bool:
        """Take an instruction; returns whether it is a new, usable one."""
        limit = self.config.max_instruction
        cleaned = " ".join(text.split())
        fault = ""
        if not cleaned:
            fault = "the instruction is empty; publish a sentence"
        elif len(cleaned) > limit:
            fault = f"the instruction has {len(cleaned)} characters, the limit is {limit}"
        elif not cleaned.isprintable():
            fault = "the instruction holds unprintable characters"
        changed = not fault and (cleaned != self.instruction or bool(self._instruction_fault))
        self._instruction_fault = fault
        if not fault:
            self.instruction = cleaned
        return changed

    # ---------------------------------------------------------------- what is handed out

    def fault(self, now: int) -> str:
        """Why no observation can be made now, or ""."""
        self._watch_clock(now)
        if self._instruction_fault:
            return self._instruction_fault
        for name, camera in self._cameras.items():
            age = (now - camera.stamp) / SECOND
            if camera.fault:
                return f"camera '{name}' {camera.fault}"
            if not camera.stamp:
                return f"camera '{name}' has not been heard yet"
            if age > self.config.max_age:
                silence = (now - camera.heard_at) / SECOND
                what = "has stopped" if silence > self.config.max_age else "sends old images"
                limit = f"max_age is {self.config.max_age:g} s"
                return f"camera '{name}' {what}: its newest image is {age:.2f} s old, {limit}"
            watch = camera.watch
            if watch.blank:
                return f"camera '{name}' shows one colour; uncover it, or check light and exposure"
            if watch.count >= self.config.frozen_frames and watch.moved > self.config.frozen_motion:
                return (
                    f"camera '{name}' is frozen: {watch.count} images show the same while the arm "
                    f"moved {100 * watch.moved:.0f} cm; move something before it, or restart it"
                )
        if not self._states:
            return "the arm's state has not been heard yet"
        age = (now - self._states[-1][0]) / SECOND
        if age > self.config.max_age:
            return f"the arm's state is {age:.2f} s old, max_age is {self.config.max_age:g} s"
        return ""

    @property
    def reshapes(self) -> bool:
        """Whether a camera's images are not square, so that the rule decides what is seen."""
        kinds = [camera.kind for camera in self._cameras.values() if camera.kind]
        return any(width != height for width, height, _ in kinds)

    @property
    def state_stamp(self) -> int:
        """Stamp (ns) of the arm's newest state, or 0."""
        return self._states[-1][0] if self._states else 0

    def complete_stamp(self) -> int:
        """Stamp (ns) of the newest instant of which all images and the state are here, or 0."""
        newest = [images[-1][0] if images else 0 for images in self._images.values()]
        newest.append(self._states[-1][0] if self._states else 0)
        skew = self.config.max_skew * SECOND
        if min(newest) and max(newest) - min(newest) <= skew:
            return min(newest[:-1])
        return 0

    def newest(self, now: int) -> Observation:
        """The newest observation; raises `ObservationRejected` with the window's fault."""
        fault = self.fault(now)
        if fault:
            raise ObservationRejected(fault)
        stamp = min(images[-1][0] for images in self._images.values())
        return self.at(stamp)

    def knows(self, stamp: int) -> bool:
        """Whether the observation of the instant `stamp` (ns) is in the memory."""
        try:
            self.at(stamp)
        except ObservationRejected:
            return False
        return True

    def at(self, stamp: int) -> Observation:
        """The observation of the instant `stamp` (ns); raises if it is not in the memory."""
        images = {name: self._nearest(images, stamp, f"an image of '{name}'")
                  for name, images in self._images.items()}  # fmt: skip
        state = self._nearest(self._states, stamp, "the arm's state")
        joints = None
        with suppress(ObservationRejected):  # few models need them
            joints = self._nearest(self._joints, stamp, "the arm's joints")
        seen = Observation(images, state, self.instruction, stamp, joints)
        return seen.validate(self.config.cameras)

    def forget(self) -> None:
        """Forget images and states, after the world was reset or the clock went back."""
        for name in self._cameras:
            self._cameras[name] = _CameraState()
            self._images[name].clear()
        self._states.clear()
        self._joints.clear()

    # ---------------------------------------------------------------- inside

    def _watch_clock(self, now: int) -> None:
        """A clock that goes back (a reset, a bag in a loop, NTP) leaves nothing that is new."""
        if now < self._now:
            self.forget()
        self._now = now

    def _nearest(self, items: deque[tuple[int, np.ndarray]], stamp: int, what: str) -> np.ndarray:
        found = min(items, key=lambda item: abs(item[0] - stamp), default=None)
        if found is None or abs(found[0] - stamp) > self.config.max_skew * SECOND:
            raise ObservationRejected(
                f"{what} within {self.config.max_skew * 1000:.0f} ms of the observation is missing"
            )
        return found[1]


def _kind(kind: tuple[int, int, str]) -> str:
    return f"{kind[0]}x{kind[1]} {kind[2]}"
