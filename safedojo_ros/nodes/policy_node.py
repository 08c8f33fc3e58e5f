"""The policy: newest pictures, state and instruction in, action chunks out, without ever blocking.

Subscribes `camera/<name>/image_raw`, `joint_states`, `ee_pose`, `instruction`; publishes
`policy/action_chunk` and `policy/checkpoint` (latched); serves `policy/load_checkpoint` and
`policy/rollback`. The network runs in a worker thread; a new checkpoint is loaded in another and
taken over between two chunks.
"""

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from std_srvs.srv import Trigger

from safedojo_ros.checkpoints.hot_swap import HotSwap, fits_robot
from safedojo_ros.checkpoints.store import find_checkpoint
from safedojo_ros.core.errors import CheckpointError, ObservationRejected, SafeDojoError
from safedojo_ros.core.types import (
    ACTION_SIZE,
    CONTROL_PERIOD,
    MAX_DELTA_POSITION,
    MAX_DELTA_ROTATION,
    ActionChunk,
    Observation,
)
from safedojo_ros.msg import ActionChunk as ActionChunkMessage
from safedojo_ros.msg import CheckpointInfo
from safedojo_ros.nodes.chunk_schedule import ChunkSchedule
from safedojo_ros.nodes.conversion import BASE_FRAME, message_from_chunk
from safedojo_ros.nodes.lifecycle import (
    IN_ORDER,
    LATCHED,
    OK,
    WARN,
    DojoNode,
    Setting,
    change_niceness,
    run_node,
)
from safedojo_ros.nodes.observation_inputs import (
    WINDOW_SETTINGS,
    ObservationInputs,
    window_config,
)
from safedojo_ros.srv import LoadCheckpoint

ACTION_BOUND = np.array([MAX_DELTA_POSITION] * 3 + [MAX_DELTA_ROTATION] * 3 + [1.0])
CANARY_OBSERVATIONS = 4
"""On how many recent observations a new checkpoint is tried."""

SETTINGS = (
    Setting("checkpoint", "released", "Policy: released, latest, an id, or a directory."),
    Setting("store", "", "Folder of the checkpoint store; empty: the user's."),
    Setting("cameras", ["agentview", "wrist"], "Cameras that this robot has."),
    Setting("margin_steps", 2, "Steps between asking for a chunk and its latest use.", 0, 32),
    Setting("threads", 1, "Threads of the network.", 1, 64),
    Setting("niceness", 5, "Added to the niceness of the network's thread.", -20, 19),
    Setting("realtime_factor", 1.0, "Speed of the world; the whole stack needs the same.", 0.05, 4),
    *WINDOW_SETTINGS,
)


class PolicyLike(Protocol):
    """What this node needs of a policy; see `models.policy.Policy`."""

    checkpoint_id: str
    chunk_length: int
    cameras: tuple[str, ...]
    image_size: int

    def act(self, observations: list[Observation]) -> np.ndarray:
        """(B, H, 7) actions, metres and radians."""
        ...


def load_released_policy(path: Path) -> PolicyLike:
    """Load a verified checkpoint directory; torch is imported here and not earlier."""
    from safedojo_ros.models.loading import load_policy

    return load_policy(path)


class PolicyNode(DojoNode):
    """Asks the policy for the next chunk before the old one ends."""

    def __init__(
        self, load: Callable[[Path], PolicyLike] = load_released_policy, **options: Any
    ) -> None:
        """load: turns a verified checkpoint directory into a policy."""
        super().__init__("policy_node", SETTINGS, **options)
        self._load = load
        self._swap: HotSwap[PolicyLike] | None = None
        self._ours: list[Any] = []
        self._inputs: ObservationInputs | None = None
        self._worker: threading.Thread | None = None
        self._job = threading.Condition()
        self._observation: Observation | None = None
        self._working = self._ending = False
        self._sequence = 0
        self._refusal = self._announced = ""
        self._recent: list[Observation] = []
        self._compute_times: list[float] = []

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Load the checkpoint and try it, so that every fault of it shows before anything moves."""
        self._period = CONTROL_PERIOD / float(self.setting("realtime_factor"))
        root = self.setting("store")
        store = Path(root).expanduser() if root else None
        self._swap = HotSwap(
            self._load_limited,
            partial(find_checkpoint, "policy", store_root=store),
            canary=self._try,
            compatible=fits_robot(self.setting("cameras")),
        )
        try:
            self._policy = self._swap.start_with(self.setting("checkpoint"))
        except SafeDojoError:
            raise
        except Exception as error:  # whatever a broken checkpoint provokes
            raise CheckpointError(
                f"'{self.setting('checkpoint')}' cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        for warning in self._swap.current.warnings if self._swap.current else ():
            self.get_logger().warning(warning)
        self._chunks = self.create_publisher(ActionChunkMessage, "policy/action_chunk", IN_ORDER)
        self._infos = self.create_publisher(CheckpointInfo, "policy/checkpoint", LATCHED)
        self._ours = [
            (self.destroy_publisher, self._chunks),
            (self.destroy_publisher, self._infos),
            (
                self.destroy_service,
                self.create_service(LoadCheckpoint, "policy/load_checkpoint", self._on_load),
            ),
            (
                self.destroy_service,
                self.create_service(Trigger, "policy/rollback", self._on_rollback),
            ),
        ]
        self._announce("loaded at start", active=True)

    def activate(self) -> None:
        """Listen, and compute in a thread of its own."""
        self._schedule = ChunkSchedule(self._period, int(self.setting("margin_steps")))
        config = window_config(self, self._policy.cameras, self._policy.image_size)
        self._inputs = ObservationInputs(
            self, config, self._consider, lambda: self._schedule.restart()
        )
        self._ending = False
        self._worker = threading.Thread(target=self._work, name="policy", daemon=True)
        self._worker.start()
        self._watch = self.create_timer(0.2, self._look_after)

    def deactivate(self) -> None:
        """Stop listening and computing; a chunk that is being computed is dropped."""
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
            self.destroy_timer(self._watch)
        with self._job:
            self._ending, self._observation = True, None
            self._job.notify_all()
        if self._worker is not None:
            self._worker.join(timeout=5.0)
            self._worker = None

    def cleanup(self) -> None:
        """Forget the policy."""
        for destroy, entity in self._ours:
            destroy(entity)
        self._ours = []
        if self._swap is not None:
            self._swap.close()
            self._swap = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """What keeps the policy from acting, and how long it computes."""
        times = self._compute_times[-200:]
        values = {
            "checkpoint": self._policy.checkpoint_id,
            "chunks": self._sequence,
            "compute_median_ms": round(float(np.median(times)) * 1e3, 2) if times else "",
            "lead_steps": self._schedule.lead_steps,
            "swap": self._swap.reason if self._swap else "",
        }
        fault = self._fault()
        return (WARN, fault, values) if fault else (OK, "acting", values)

    # ---------------------------------------------------------------- observations

    def _fault(self) -> str:
        fault = self._inputs.window.fault(self.now()) if self._inputs else "not active"
        return fault or self._refusal

    def _consider(self) -> None:
        """After every picture and pose: is it time for a chunk, and is everything there?"""
        if self._inputs is None or self._working:
            return
        window = self._inputs.window
        stamp = window.complete_stamp()
        if not stamp or not self._schedule.due(stamp):
            return
        try:
            observation = window.newest(self.now())
        except ObservationRejected as error:
            self._note(str(error))
            return
        self._recent = [*self._recent[1 - CANARY_OBSERVATIONS :], observation]
        with self._job:
            self._observation, self._working = observation, True
            self._schedule.asked(observation.stamp, self._policy.chunk_length)
            self._job.notify()

    def _look_after(self) -> None:
        """Five times a second: say what is wrong, and what became of a swap."""
        fault = self._fault()
        self._note(fault)
        swap = self._swap
        if swap is None:
            return
        if swap.status == "failed" and swap.reason != self._announced:
            self._announced = swap.reason
            self.get_logger().error(swap.reason)
            self._announce(swap.reason, active=True)
        if fault and not self._working:
            self._take_ready()  # nothing is being played: this is a chunk boundary too

    def _note(self, fault: str) -> None:
        self.say(f"no chunk: {fault}" if fault else "")

    # ---------------------------------------------------------------- the worker thread

    def _work(self) -> None:
        change_niceness(int(self.setting("niceness")), self.get_logger().warning)
        while True:
            with self._job:
                self._job.wait_for(lambda: self._ending or self._observation is not None)
                if self._ending:
                    self._working = False
                    return
                observation, self._observation = self._observation, None
            assert observation is not None
            try:
                self._take_ready()
                self._compute(observation)
                self._refusal = ""
            except ObservationRejected as error:
                self._refusal = str(error)
            except Exception as error:  # a network that fails must not end the node
                self._refusal = f"the policy failed: {type(error).__name__}: {error}"
                self.get_logger().error(self._refusal)
            finally:
                self._working = False

    def _compute(self, observation: Observation) -> None:
        policy, started = self._policy, time.monotonic()
        actions = self._act(policy, observation)
        compute_time = time.monotonic() - started
        self._schedule.answered(compute_time)
        self._compute_times = [*self._compute_times[-999:], compute_time]
        if self._ending or not self.context.ok():
            return
        self._sequence += 1
        chunk = ActionChunk(
            actions,
            self._period,
            observation.stamp,
            self._sequence,
            policy.checkpoint_id,
            BASE_FRAME,
        )
        self._chunks.publish(message_from_chunk(chunk, self.now(), compute_time))

    def _act(self, policy: PolicyLike, observation: Observation) -> np.ndarray:
        """(H, 7), clipped to the action space as every world does; non-finite values stay."""
        actions = np.asarray(policy.act([observation]), dtype=np.float64)
        if actions.shape != (1, policy.chunk_length, ACTION_SIZE):
            raise CheckpointError(
                f"policy {policy.checkpoint_id} gave actions of shape {actions.shape}, "
                f"expected (1, {policy.chunk_length}, {ACTION_SIZE})"
            )
        return np.clip(actions[0], -ACTION_BOUND, ACTION_BOUND)

    # ---------------------------------------------------------------- checkpoints

    def _load_limited(self, path: Path) -> PolicyLike:
        """Load, then keep torch to its threads: two busy processes slow each other manyfold."""
        policy = self._load(path)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(self.setting("threads")))
        return policy

    def _try(self, policy: PolicyLike) -> None:
        """Canary and warm-up: finite chunks on recent observations, or on an empty scene."""
        side = policy.image_size
        blank = {name: np.zeros((side, side, 3), np.uint8) for name in policy.cameras}
        sentences = getattr(policy, "instructions", ()) or ("wait",)
        state = np.array([0.0, 0.0, 0.2, np.pi, 0.0, 0.0, 0.04, 0.04], np.float32)
        if self._swap is not None and self._swap.current is not None:
            running = self._swap.current.model
            if (policy.cameras, side) != (running.cameras, running.image_size):
                raise CheckpointError(
                    f"it needs pictures of {policy.cameras} at {side} px, the running policy "
                    f"{running.cameras} at {running.image_size} px; restart the node with it"
                )
        observations = [*self._recent] or [Observation(blank, state, sentences[0])]
        for observation in observations:
            try:
                actions = self._act(policy, observation)
            except ObservationRejected as error:
                raise CheckpointError(f"it refuses what the robot sees now: {error}") from None
            if not np.all(np.isfinite(actions)):
                raise CheckpointError("its actions are not finite")

    def _take_ready(self) -> None:
        ready = self._swap.take_ready() if self._swap is not None else None
        if ready is not None:
            self._policy = ready
            self._announce("swapped in between two chunks", active=True)

    def _on_load(
        self, request: LoadCheckpoint.Request, response: LoadCheckpoint.Response
    ) -> LoadCheckpoint.Response:
        if self._swap is None:
            response.message = "the node is not configured"
            return response
        response.accepted, response.message = self._swap.request(request.name or "latest")
        self.get_logger().info(response.message)
        return response

    def _on_rollback(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        try:
            if self._swap is None:
                raise CheckpointError("the node is not configured")
            self._policy = self._swap.rollback()
        except SafeDojoError as error:
            response.message = str(error)
            return response
        response.success, response.message = True, self._swap.reason
        self._schedule.restart()
        self._announce(self._swap.reason, active=True)
        return response

    def _announce(self, reason: str, active: bool) -> None:
        swap = self._swap
        if swap is None or swap.current is None:
            return
        info = CheckpointInfo(kind="policy", id=swap.current.id, reason=reason, active=active)
        info.header.stamp = self.get_clock().now().to_msg()
        info.parent = swap.current.manifest.parent or ""
        info.previous = swap.previous.id if swap.previous else ""
        self._infos.publish(info)
        self.get_logger().info(f"policy {info.id}: {reason}")


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(PolicyNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
