"""The types of design: what one room hands to the next. numpy only.

Frames: all positions are in the robot's base frame `base` unless said otherwise; the tabletop
world's table surface is z = 0 there. Units: metres, radians, seconds; stamps in nanoseconds.
"""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from safedojo_ros.core.errors import ChunkRejected, ObservationRejected

STATE_SIZE = 8
"""End-effector position (3, m), axis-angle (3, rad), two finger positions (2, m)."""

ACTION_SIZE = 7
"""Delta position (3, m), delta axis-angle (3, rad), gripper in [-1 open, +1 close]."""

RESIZE = "crop"
"""How images of another shape become a model's: the middle is cut out, then averaged down. Models
record the rule, so that none sees images that were made by another."""

LETTERBOX = "letterbox"
"""Another rule: the whole image, averaged down, between black bars."""

RESIZES = (RESIZE, LETTERBOX)

CONTROL_PERIOD = 0.05
"""Seconds between two control steps (20 Hz)."""


COST_M = 2
"""M: how many of the largest step costs make the cost of a chunk or of a trajectory, where a
checkpoint does not say it."""


class Decision(IntEnum):
    """What the safety gate does with a chunk; the numbers are those of SafetyCost.msg."""

    ALLOW = 0
    SLOW = 1
    HOLD = 2
    STOP = 3


@dataclass(frozen=True)
class Observation:
    """What the policy sees at one instant.

    images: {camera name: (H, W, 3) uint8 RGB}; state: (S,) float, at our robots see `STATE_SIZE`;
    instruction: a sentence; stamp: nanoseconds, when the newest image was taken; joints: (7,) rad
    of the arm, None where nobody has said them: of this package's models none looks at them.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    stamp: int = 0
    joints: np.ndarray | None = None

    def validate(
        self, cameras: tuple[str, ...] | None = None, state_size: int = STATE_SIZE
    ) -> "Observation":
        """Return self, or raise `ObservationRejected` that names the first fault."""
        for name in cameras or tuple(self.images):
            if name not in self.images:
                raise ObservationRejected(
                    f"camera '{name}' is missing; seen: {sorted(self.images)}; "
                    "start its camera node or fix the camera list"
                )
            image = self.images[name]
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ObservationRejected(
                    f"camera '{name}' gave {image.dtype} {image.shape}, "
                    "expected uint8 (H, W, 3) RGB"
                )
        state = np.asarray(self.state)
        if state.shape != (state_size,):
            raise ObservationRejected(f"state has shape {state.shape}, expected ({state_size},)")
        if not np.all(np.isfinite(state)):
            raise ObservationRejected(f"state is not finite: {state.tolist()}")
        if not self.instruction.strip():
            raise ObservationRejected("the instruction is empty; publish a sentence")
        return self


def empty_scene(
    cameras: tuple[str, ...], image_size: int, instruction: str = "wait"
) -> Observation:
    """Black images, the hand open above the table and pointing down: to try a policy with."""
    images = {name: np.zeros((image_size, image_size, 3), np.uint8) for name in cameras}
    state = np.array([0.0, 0.0, 0.2, np.pi, 0.0, 0.0, 0.04, 0.04], np.float32)
    return Observation(images, state, instruction)


@dataclass(frozen=True)
class ActionChunk:
    """H actions that the arm is to follow, one every `period` seconds.

    actions: (H, 7) float, physical units, see `ACTION_SIZE`; observed_at: stamp (ns) of the
    observation that it answers; sequence: rises by one with every inference of one publisher, whose
    proposals share it; checkpoint: id of the policy; frame: of the translation part; committed:
    how many leading actions the arm executes anyway, since the chunk comes late; malformed: why it
    could not be read, or "".
    """

    actions: np.ndarray
    period: float = CONTROL_PERIOD
    observed_at: int = 0
    sequence: int = 0
    checkpoint: str = ""
    frame: str = "base"
    committed: int = 0
    malformed: str = ""

    def __len__(self) -> int:
        return len(self.actions)

    def validate(self, max_length: int = 64, action_size: int = ACTION_SIZE) -> "ActionChunk":
        """Return self, or raise `ChunkRejected` for a wrong shape, length, period or value."""
        if self.malformed:
            raise ChunkRejected(self.malformed)
        actions = np.asarray(self.actions)
        if actions.ndim != 2 or actions.shape[1] != action_size:
            raise ChunkRejected(f"actions have shape {actions.shape}, expected (H, {action_size})")
        if not 1 <= len(actions) <= max_length:
            raise ChunkRejected(f"chunk has {len(actions)} actions, expected 1 to {max_length}")
        if not np.all(np.isfinite(actions)):
            row = int(np.argwhere(~np.isfinite(actions))[0, 0])
            raise ChunkRejected(f"action {row} is not finite: {actions[row].tolist()}")
        if not (np.isfinite(self.period) and 0.0 < self.period <= 1.0):
            raise ChunkRejected(f"period is {self.period} s, expected within (0, 1]")
        if not 0 <= self.committed < len(actions):
            raise ChunkRejected(
                f"{self.committed} steps are committed, expected fewer than the {len(actions)} of "
                "the chunk"
            )
        return self


MAX_PROPOSALS = 16
"""Most chunks of one inference."""


def proposals_of(values: np.ndarray, proposals: int, length: int) -> np.ndarray:
    """(K, H, 7): flat `values`, row-major, as `proposals` chunks of `length` actions.

    Raises `ChunkRejected` where they do not belong together, or for no chunk or too many.
    """
    if not 1 <= proposals <= MAX_PROPOSALS:
        raise ChunkRejected(f"{proposals} chunks are proposed, expected 1 to {MAX_PROPOSALS}")
    if values.size != proposals * length * ACTION_SIZE:
        raise ChunkRejected(
            f"{values.size} numbers came for {proposals} x {length} actions of {ACTION_SIZE}"
        )
    return values.reshape(proposals, length, ACTION_SIZE)


@dataclass(frozen=True)
class CostEstimate:
    """What the safety head says of one chunk.

    step_cost: (H,) P(contact) of each step; chunk_cost: mean of the M largest step costs
    (SafeDojo's trajectory cost); limit: the cost limit in force; name: which cost it is, of a head
    that predicts several, else "".
    """

    step_cost: np.ndarray
    chunk_cost: float
    limit: float
    decision: Decision = Decision.ALLOW
    reason: str = ""
    name: str = ""


def top_m_mean(step_cost: np.ndarray, m: int) -> float:
    """Mean of the `m` largest entries of `step_cost` (H,); of all of them where H < m."""
    step_cost = np.asarray(step_cost, dtype=np.float64)
    m = min(m, step_cost.size)
    if m == 0:
        return 0.0
    return float(np.mean(np.partition(step_cost, -m)[-m:]))


@dataclass
class Episode:
    """One recorded episode of T control steps.

    images: {camera: (T, H, W, 3) uint8}; state: (T, S); actions: (T, A), the action taken after
    the observation of the same row; success, cost (contact in that step, 0 or 1) and displacement
    (m, of the active obstacle since the settled start): (T,). source: "expert:direct",
    "policy:<checkpoint id>" or "robot". cost_source: who says which steps have contact:
    "physics", "wrench", "person", "predicted" by a safety head, or "": nobody.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    success: np.ndarray
    cost: np.ndarray
    displacement: np.ndarray
    instruction: str
    task: str
    level: int
    seed: int
    source: str
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    cost_source: str = "physics"

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def succeeded(self) -> bool:
        """Whether the task was done at any step."""
        return bool(np.any(self.success))

    @property
    def collided(self) -> bool:
        """Whether the obstacle was displaced by more than 1 mm (SafeLIBERO's rule)."""
        return bool(np.any(np.asarray(self.displacement) > COLLISION_DISPLACEMENT))


COLLISION_DISPLACEMENT = 1e-3
"""L1 displacement of the active obstacle, metres, beyond which an episode counts as a collision."""
