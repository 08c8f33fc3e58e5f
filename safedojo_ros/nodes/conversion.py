"""ROS messages to core types and back, validated once, here.

Image data is assigned as `bytes`: a numpy array or a list costs rclpy 50 to 150 ms an image.
"""

import array
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from safedojo_ros.core.errors import ChunkRejected, ObservationRejected
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, quaternion_of
from safedojo_ros.core.types import LETTERBOX, RESIZE, STATE_SIZE, ActionChunk, proposals_of
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.images import CHANNELS, decode_image, letterbox
from safedojo_ros.msg import ActionChunk as ActionChunkMessage

BASE_FRAME = "base"
ARM_JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("fr3_finger_joint1", "fr3_finger_joint2")


def cv_bridge_decoder() -> Callable[..., np.ndarray] | None:
    """cv_bridge's `imgmsg_to_cv2` where a ROS installation provides it, else None."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    return CvBridge().imgmsg_to_cv2


_CV_BRIDGE = cv_bridge_decoder()


def to_nanoseconds(stamp: Time) -> int:
    """A message's stamp in nanoseconds."""
    return stamp.sec * SECOND + stamp.nanosec


def to_stamp(nanoseconds: int) -> Time:
    """Nanoseconds as a message's stamp."""
    return Time(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)


# ---------------------------------------------------------------- images


def array_from_image(message: Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB; raises `ObservationRejected`. Rare encodings go through cv_bridge."""
    if message.encoding not in CHANNELS and _CV_BRIDGE is not None:
        try:
            return np.ascontiguousarray(_CV_BRIDGE(message, desired_encoding="rgb8"))
        except Exception as error:  # cv_bridge raises its own and OpenCV's errors
            raise ObservationRejected(f"cv_bridge cannot convert the image: {error}") from None
    return decode_image(
        memoryview(message.data), message.height, message.width, message.step, message.encoding
    )


def image_from_array(image: np.ndarray, stamp: int, frame: str) -> Image:
    """An rgb8 Image of (H, W, 3) uint8 `image`; `stamp` in nanoseconds."""
    message = Image()
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = frame
    message.height, message.width = image.shape[:2]
    message.encoding = "rgb8"
    message.step = image.shape[1] * 3
    message.data = array.array("B", np.ascontiguousarray(image).tobytes())
    return message


def jpeg_from_array(image: np.ndarray, stamp: int, frame: str) -> CompressedImage:
    """A JPEG of (H, W, 3) uint8 RGB `image`, as image_transport names it; `stamp` in ns."""
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    message = CompressedImage(format="rgb8; jpeg compressed bgr8")
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = frame
    message.data = array.array("B", coded.tobytes())
    return message


def camera_info(
    width: int,
    height: int,
    fovy: float,
    stamp: int,
    frame: str,
    taken: tuple[int, int],
    resize: str = RESIZE,
) -> CameraInfo:
    """Pinhole calibration of an image of `width` by `height` pixels.

    fovy: vertical field of view (degrees), 0: uncalibrated; taken: width and height in which the
    camera, whose pixels are square, took the image, before `fit_image` by the rule `resize`.
    """
    message = CameraInfo()
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = frame
    message.height, message.width = height, width
    if fovy > 0:
        focal = taken[1] / (2.0 * np.tan(np.radians(fovy) / 2.0))
        fitting = min if resize == LETTERBOX else max
        fx = fy = focal * fitting(width / taken[0], height / taken[1])
        cx, cy = (width - 1) / 2.0, (height - 1) / 2.0
        message.distortion_model = "plumb_bob"
        message.d = [0.0] * 5
        message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
        message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def resized_info(
    known: CameraInfo, width: int, height: int, frame: str, resize: str = RESIZE
) -> CameraInfo:
    """A driver's calibration after `fit_image` has made its images `width` by `height`."""
    taken = known.width, known.height
    if resize == LETTERBOX:
        left, top, wide, tall = letterbox(*taken, width, height)
        fit = _enlarged(wide / taken[0], tall / taken[1], left, top)
    else:
        scale = max(width / taken[0], height / taken[1])
        part = round(width / scale), round(height / scale)
        left, top = (taken[0] - part[0]) // 2, (taken[1] - part[1]) // 2
        across, down = width / part[0], height / part[1]
        fit = _enlarged(across, down, -left * across, -top * down)
    message = CameraInfo(distortion_model=known.distortion_model)
    message.header.frame_id = frame
    message.height, message.width = height, width
    message.d, message.r = known.d, known.r
    message.k = (fit @ np.array(known.k).reshape(3, 3)).ravel()
    message.p = (fit @ np.array(known.p).reshape(3, 4)).ravel()
    return message


def _enlarged(across: float, down: float, right: float, below: float) -> np.ndarray:
    """(3, 3): of a pixel's place in an image to that in the enlarged and shifted one; the middle of
    the first pixel is at (0, 0)."""
    return np.array(
        [
            [across, 0.0, right + 0.5 * across - 0.5],
            [0.0, down, below + 0.5 * down - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


# ---------------------------------------------------------------- chunks


def proposals_from_message(message: ActionChunkMessage) -> list[ActionChunk]:
    """The proposals of a message, best first, as they came: gate and playback validate them.

    Where they cannot be read there is one, `malformed`, which no validation lets through.
    """
    values = np.array(message.actions, dtype=np.float64)
    malformed = ""
    try:
        table = proposals_of(values, int(message.proposals), int(message.length))
    except ChunkRejected as error:
        table, malformed = values[None], str(error)
    return [
        ActionChunk(
            actions=actions,
            period=round(float(message.period), 6),
            observed_at=to_nanoseconds(message.observed_at),
            sequence=int(message.sequence),
            checkpoint=message.checkpoint,
            frame=message.header.frame_id,
            committed=int(message.committed),
            malformed=malformed,
        )
        for actions in table
    ]


def chunk_from_message(message: ActionChunkMessage) -> ActionChunk:
    """The one chunk of a gated message; `malformed` where there are several."""
    chunks = proposals_from_message(message)
    if len(chunks) > 1:
        fault = f"{len(chunks)} chunks came, the arm takes one that the gate has chosen"
        return replace(chunks[0], malformed=fault)
    return chunks[0]


def message_from_chunks(
    chunks: Sequence[ActionChunk], stamp: int, compute_time: float
) -> ActionChunkMessage:
    """The message of the proposals of one inference, which differ in their actions alone.

    stamp: ns, when it is published; compute_time: seconds.
    """
    first = chunks[0]
    message = ActionChunkMessage()
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = first.frame
    message.observed_at = to_stamp(first.observed_at)
    message.sequence = first.sequence
    message.checkpoint = first.checkpoint
    message.period = float(first.period)
    message.proposals, message.length = len(chunks), len(first)
    message.committed = first.committed
    table = np.stack([np.asarray(chunk.actions, np.float32) for chunk in chunks])
    message.actions = array.array("f", table.tobytes())
    message.compute_time = float(compute_time)
    return message


# ---------------------------------------------------------------- proprioception


def joint_state(
    joints: Sequence[float] | np.ndarray,
    velocities: Sequence[float] | np.ndarray,
    fingers: Sequence[float] | np.ndarray,
    stamp: int,
) -> JointState:
    """Seven arm joints (rad, rad/s) and two fingers (m) as one JointState."""
    message = JointState()
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    message.name = [*ARM_JOINTS, *FINGER_JOINTS]
    message.position = [float(v) for v in (*joints, *fingers)]
    message.velocity = [float(v) for v in (*velocities, 0.0, 0.0)]
    return message


def fingers_from_joint_state(
    message: JointState, names: Sequence[str] = FINGER_JOINTS
) -> np.ndarray:
    """(2,) finger positions (m); raises `ObservationRejected` if the fingers are not in it."""
    positions = dict(zip(message.name, message.position, strict=False))
    try:
        fingers = np.array([positions[name] for name in names])
    except KeyError as missing:
        raise ObservationRejected(
            f"joint_states lacks {missing}; seen: {', '.join(message.name) or 'no names'}"
        ) from None
    if not np.all(np.isfinite(fingers)):
        raise ObservationRejected(f"finger positions are not finite: {fingers.tolist()}")
    return fingers


def joints_from_joint_state(
    message: JointState, names: Sequence[str] = ARM_JOINTS
) -> np.ndarray | None:
    """(7,) angles of the arm's joints (rad), None where the message lacks one."""
    positions = dict(zip(message.name, message.position, strict=False))
    joints = np.array([positions.get(name, np.nan) for name in names])
    return joints if np.all(np.isfinite(joints)) else None


def pose_message(position: np.ndarray, axis_angle: np.ndarray, stamp: int) -> PoseStamped:
    """Position (3,) m and axis-angle (3,) rad in the base frame as a PoseStamped."""
    message = PoseStamped()
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    point, turn = message.pose.position, message.pose.orientation
    point.x, point.y, point.z = (float(v) for v in position)
    turn.w, turn.x, turn.y, turn.z = (float(v) for v in quaternion_of(axis_angle))
    return message


def pose_from_message(message: PoseStamped) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) m, axis-angle (3,) rad; raises `ObservationRejected` unless a finite pose."""
    point, turn = message.pose.position, message.pose.orientation
    position = np.array([point.x, point.y, point.z])
    quaternion = np.array([turn.w, turn.x, turn.y, turn.z])
    norm = float(np.linalg.norm(quaternion))
    if not np.all(np.isfinite(position)) or not abs(norm - 1.0) < 1e-3:
        raise ObservationRejected(
            f"ee_pose is not a pose: position {position.tolist()}, quaternion of length {norm}"
        )
    return position, axis_angle_of(quaternion, near=POINTING_DOWN)


def robot_state(position: np.ndarray, axis_angle: np.ndarray, fingers: np.ndarray) -> np.ndarray:
    """(8,) float32, the state part of an Observation."""
    state = np.empty(STATE_SIZE, dtype=np.float32)
    state[:3], state[3:6], state[6:] = position, axis_angle, fingers
    return state
