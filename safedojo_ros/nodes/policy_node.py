"""The policy: newest images, state and instruction in, action chunks out, without ever blocking.

Subscribes `camera/<name>/image_raw`, and by the contract `joint_states`, `ee_pose`, `instruction`;
to know what judges its chunks, `safety/checkpoint` and `safety/cost`; and to know what the arm
executes while it computes, `safety/action_chunk` and `franka/state`. Publishes
`policy/action_chunk`, several proposals in one message, and `policy/checkpoint` (latched); serves
`policy/load_checkpoint` and `policy/rollback`. The network runs in a worker thread; a new
checkpoint is loaded in another, taken over between two chunks, and left again if it breaks its
bars.

Where time is simulated a chunk is published `LATENCY_STEPS` after its observation, however long
computing takes, and what is drawn depends on the observation alone.
"""

import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.checkpoints.manifest import Manifest
from safedojo_ros.checkpoints.names import DEFAULT_POLICY, find_checkpoint
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap, fits_robot, free_weights
from safedojo_ros.checkpoints.swap.policy_canary import PolicyCanary
from safedojo_ros.checkpoints.swap.probation import Bars
from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.errors import (
    CheckpointError,
    ChunkRejected,
    ObservationRejected,
    PolicyUnavailable,
)
from safedojo_ros.core.files import expand_home
from safedojo_ros.core.types import (
    ACTION_SIZE,
    CONTROL_PERIOD,
    MAX_PROPOSALS,
    RESIZE,
    ActionChunk,
    Observation,
)
from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk as ActionChunkMessage
from safedojo_ros.msg import CheckpointInfo, FrankaState, SafetyCost
from safedojo_ros.nodes.cell import CONTRACT, gated_contract
from safedojo_ros.nodes.checkpoint_exchange import (
    SWAP_SETTINGS,
    CheckpointExchange,
    first_model,
)
from safedojo_ros.nodes.conversion import (
    BASE_FRAME,
    chunk_from_message,
    message_from_chunks,
    to_nanoseconds,
)
from safedojo_ros.nodes.inputs import (
    WINDOW_SETTINGS,
    ObservationInputs,
    window_config,
)
from safedojo_ros.nodes.lifecycle import IN_ORDER, LATCHED, NEWEST, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.model_loading import (
    DEVICE,
    PolicyLike,
    SafetyLike,
    limited,
    load_policy_directory,
    load_safety_directory,
    open_served_policy,
)
from safedojo_ros.nodes.stack.scheduling import change_niceness
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.turn_order import Turn
from safedojo_ros.nodes.turns import Turns
from safedojo_ros.robot.gate.judge import PROPOSALS
from safedojo_ros.robot.playback.committed import CommittedActions
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS, MARGIN_STEPS, ChunkSchedule

SETTINGS = (
    Setting("checkpoint", DEFAULT_POLICY,
            "Policy: safe, base, latest, an id, a directory, openpi:ws://HOST:PORT."),
    Setting("store", "", "Folder of the checkpoint store; empty: the user's."),
    CONTRACT,
    Setting("proposals", PROPOSALS, "Chunks of one inference that the gate may choose from.", 1,
            MAX_PROPOSALS),
    Setting("margin_steps", MARGIN_STEPS, "Steps between asking for a chunk and its latest use.", 0,
            32),
    DEVICE,
    Setting("threads", 1, "Threads of the network.", 1, 64),
    Setting("niceness", 5, "Added to the niceness of the network's thread.", -20, 19),
    Setting("realtime_factor", 1.0, "Speed of the world; the whole stack needs the same.", 0.05, 4),
    Setting("follow", "off", "Take over what latest moves to.", choices=("off", "latest")),
    Setting("saturation", 0.5, "Share of steps that a new policy may spend at limits.", 0.0, 1.0),
    Setting("cost_margin", 0.2, "How far its predicted cost may exceed the old one's.", 0.0, 1.0),
    Setting("canary_cost", True, "Load the safety head here too, to compare before a swap."),
    *SWAP_SETTINGS,
    *WINDOW_SETTINGS,
)  # fmt: skip


class PolicyNode(DojoNode):
    """Asks the policy for the next chunk before the old one ends."""

    def __init__(
        self,
        load: Callable[[Path], PolicyLike] = load_policy_directory,
        load_head: Callable[[Path], SafetyLike] = load_safety_directory,
        **options: Any,
    ) -> None:
        """load, load_head: turn a verified checkpoint directory into a policy or safety head."""
        super().__init__("policy_node", SETTINGS, **options)
        self._load, self._load_head = load, load_head
        self._exchange: CheckpointExchange[PolicyLike] | None = None
        self._ours: list[Any] = []
        self._inputs: ObservationInputs | None = None
        self._worker: threading.Thread | None = None
        self._job = threading.Condition()
        self._observation: Observation | None = None
        self._committed = np.zeros((0, ACTION_SIZE))
        """What the arm executes from the observation on, until its chunk comes."""
        self._working = self._ending = False
        self._gated_heard = self._arm_at = 0
        """The newest gated chunk's sequence, and when the arm spoke last (ns)."""
        self._coming: ActionChunkMessage | None = None
        """Simulated time: computed, and not to be published yet."""
        self._sequence = self._proposed = 0
        self._refusal = ""
        self._swap: HotSwap[PolicyLike] | None = None
        self._costs: deque[SafetyCost] = deque(maxlen=100)
        """What the safety head said of chunks; the worker has not read it yet."""
        self._head = ""
        """The safety head that the safety node has announced."""

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Load the checkpoint and try it, so that every fault of it shows before anything moves."""
        self._period = CONTROL_PERIOD / float(self.setting("realtime_factor"))
        self._latency = round(LATENCY_STEPS * self._period * SECOND)
        root = self.setting("store")
        self._store = expand_home(root) if root else None
        bars = Bars(
            chunks=int(self.setting("probation_chunks")),
            latency_ratio=float(self.setting("latency_ratio")),
            saturation=float(self.setting("saturation")),
            cost_margin=float(self.setting("cost_margin")),
        )
        compare = bool(self.setting("canary_cost"))
        self._canary = PolicyCanary(
            bars, self._first, self._find_head if compare else None, self.get_logger().warning
        )
        self._contract = gated_contract(self)
        self._swap = HotSwap(
            limited(self, self._load),
            partial(find_checkpoint, "policy", store_root=self._store),
            canary=self._try,
            compatible=self._fits,
            waits=self._mismatch,
            forget=free_weights,
            serve=partial(open_served_policy, resize=self._contract.resize),
        )
        first_model(self._swap, self.setting("checkpoint"), self.get_logger().warning)
        self._schedule = ChunkSchedule(self._period, int(self.setting("margin_steps")))
        self._chunks = self.create_publisher(ActionChunkMessage, "policy/action_chunk", IN_ORDER)
        costs = self.create_subscription(SafetyCost, "safety/cost", self._on_cost, IN_ORDER)
        self._gated = CommittedActions(self._period)
        self._ours = [(self.destroy_publisher, self._chunks), (self.destroy_subscription, costs)]
        self._exchange = CheckpointExchange(
            self, "policy", self._swap, bars, lambda: self._schedule.restart()
        )
        self._exchange.announce("loaded at start")

    def activate(self) -> None:
        """Listen, and compute in a thread of its own."""
        assert self._exchange is not None
        self._schedule = ChunkSchedule(self._period, int(self.setting("margin_steps")))
        policy = self._policy
        rule = getattr(policy, "resize", RESIZE)
        config = window_config(self, policy.cameras, policy.image_size, rule)
        self._inputs = ObservationInputs(
            self, config, self._contract, self._consider, lambda: self._schedule.restart()
        )
        self._ending, self._coming = False, None
        self._turns = Turns(self, self._ready, self._take_turn)
        self._computed = self.create_guard_condition(self._turns.look)
        kinds: tuple[tuple[Any, str, Any, Any], ...] = (
            (CheckpointInfo, "safety/checkpoint", self._on_head, LATCHED),
            (ActionChunkMessage, "safety/action_chunk", self._on_gated, IN_ORDER),
            (FrankaState, "franka/state", self._on_arm, NEWEST),
        )
        self._listening = [self.create_subscription(*kind) for kind in kinds]
        self._worker = threading.Thread(target=self._work, name="policy", daemon=True)
        self._worker.start()
        self._watch = self.create_timer(0.2, self._look_after)
        if self.setting("follow") == "latest":
            self._exchange.follow_latest(self.setting("store"))

    def deactivate(self) -> None:
        """Stop listening and computing; a chunk that is being computed is dropped."""
        if self._exchange is not None:
            self._exchange.stop_following()
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
            for subscription in self._listening:
                self.destroy_subscription(subscription)
            self._turns.close()
            self.destroy_timer(self._watch)
        with self._job:
            self._ending, self._observation = True, None
            self._job.notify_all()
        if self._worker is not None:
            self._worker.join(timeout=5.0)
            self._worker = None
            self.destroy_guard_condition(self._computed)

    def cleanup(self) -> None:
        """Forget the policy."""
        for destroy, entity in self._ours:
            destroy(entity)
        self._ours = []
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        if self._swap is not None:
            for left in (self._swap.current, self._swap.previous):
                if left is not None:
                    free_weights(left.model)
        self._swap = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """What keeps the policy from acting, and how long it computes."""
        times = list(self._canary.seconds)
        values = {
            "checkpoint": self._policy.checkpoint_id,
            "chunks": self._sequence,
            "compute_median_ms": round(float(np.median(times)) * 1e3, 2) if times else "",
            "steps_ahead": self._schedule.steps_ahead,
            "steps_late": self._gated.latency,
            "swap": self._swap.reason if self._swap else "",
            "on_probation": bool(self._exchange and self._exchange.probation),
            "safety_head": self._head,
        }
        fault = self._fault()
        return (WARN, fault, values) if fault else (OK, "acting", values)

    # ---------------------------------------------------------------- observations

    def _fault(self) -> str:
        fault = self._inputs.window.fault(self.now()) if self._inputs else "not active"
        return fault or self._refusal

    def _consider(self) -> None:
        """After every image and pose: is it time for a chunk, and is everything there?"""
        if not self._turns.asked:  # else in a turn, knowing what the arm does
            self._ask()
        if self._inputs is not None:
            self._turns.look()

    def _ask(self) -> None:
        if self._inputs is None or self._working or self._coming is not None:
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
        with self._job:
            self._observation, self._working = observation, True
            self._asked_at = observation.stamp
            self._committed = self._gated.after(observation.stamp, self._policy.chunk_length - 1)
            self._schedule.asked(observation.stamp, self._policy.chunk_length)
            self._job.notify()

    def _look_after(self) -> None:
        """Five times a second: say what is wrong, and what became of a swap."""
        fault = self._fault()
        self._note(fault)
        if self._exchange is None:
            return
        self._exchange.report()
        if fault and not self._working:
            self._take_ready()  # nothing is being executed: this is a chunk boundary too

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
                committed = self._committed
            assert observation is not None
            try:
                self._check_costs()
                self._take_ready()
                self._refusal = self._compute(observation, committed)
            except ObservationRejected as error:
                self._refusal = str(error)
            except PolicyUnavailable as error:
                self._refusal = str(error)
                self._schedule.restart()  # as soon as it answers again
            except Exception as error:  # a network that fails must not end the node
                self._refusal = f"the policy failed: {type(error).__name__}: {error}"
                self.get_logger().error(self._refusal)
            finally:
                self._working = False
                if self.simulated and not self._ending:
                    self._computed.trigger()

    def _compute(self, observation: Observation, committed: np.ndarray) -> str:
        """Compute and publish a chunk; returns why there is none, or "".

        A model on probation that breaks a bar is left before its chunk is published, and the old
        one answers the same observation.
        """
        assert self._exchange is not None
        policy, probation = self._policy, self._exchange.probation
        committed = committed[: policy.longest_delay]
        if self._swap is not None and self._swap.current is not None:
            mismatch = self._mismatch(self._swap.current.manifest)
            if mismatch:
                self._schedule.restart()
                return f"policy {policy.checkpoint_id}: {mismatch}"
        started = time.monotonic()
        try:
            proposed = self._propose(policy, observation, committed)
            compute_time = time.monotonic() - started
            fault = probation.chunk(compute_time, np.concatenate(proposed)) if probation else ""
        except ObservationRejected:
            raise
        except Exception as error:
            if self._exchange.check(f"it failed: {type(error).__name__}: {error}"):
                return self._after_going_back(observation, committed)
            raise
        if probation is not None and self._exchange.check(fault):
            return self._after_going_back(observation, committed)
        late = (LATENCY_STEPS - 1) * self._period
        self._schedule.answered(late if self.simulated else compute_time)
        self._canary.played(observation, proposed[0], compute_time)
        if self._ending or not self.context.ok():
            return ""
        self._sequence += 1
        chunks = [
            ActionChunk(
                actions,
                self._period,
                observation.stamp,
                self._sequence,
                policy.checkpoint_id,
                BASE_FRAME,
                len(committed),
            )
            for actions in proposed
        ]
        if self.simulated:
            self._coming = message_from_chunks(
                chunks, observation.stamp + self._latency, compute_time
            )
        else:
            self._chunks.publish(message_from_chunks(chunks, self.now(), compute_time))
        return ""

    # ---------------------------------------------------------------- simulated time

    def _ready(self, turn: Turn) -> bool:
        """Whether this step's observation is here, what gate and arm did in the last one is known,
        and the chunk of now is computed."""
        assert self._inputs is not None
        before = turn["before"]
        if not self._inputs.heard(turn) or before.get("head", "") not in ("", self._head):
            return False
        if before.get("forwarded", 0) > self._gated_heard or before.get("acted", 0) > self._arm_at:
            return False
        with self._job:
            asked = self._asked_at if self._working else None
        return asked is None or turn["stamp"] < asked + self._latency

    def _take_turn(self, turn: Turn) -> Turn:
        coming = self._coming
        if coming is not None and to_nanoseconds(coming.header.stamp) <= turn["stamp"]:
            self._chunks.publish(coming)
            self._proposed, self._coming = int(coming.sequence), None
        self._ask()
        return {"proposed": self._proposed}

    def _after_going_back(self, observation: Observation, committed: np.ndarray) -> str:
        self._canary.forget()
        return self._compute(observation, committed)

    def _first(self, policy: PolicyLike, observation: Observation) -> np.ndarray:
        """(H, 7), the first proposal: what the canary compares."""
        first: np.ndarray = self._propose(policy, observation, np.zeros((0, ACTION_SIZE)))[0]
        return first

    def _propose(
        self, policy: PolicyLike, observation: Observation, committed: np.ndarray
    ) -> np.ndarray:
        """(K, H, 7), clipped to the action space as every world does; non-finite values stay."""
        if self.simulated:
            seed_by(observation)
        count = int(self.setting("proposals"))
        proposed = policy.propose([observation], count=count, committed=[committed])
        actions = np.asarray(proposed, dtype=np.float64)
        given = actions.shape[1] if actions.ndim > 1 else 0
        wanted = (1, min(max(given, 1), count), policy.chunk_length, ACTION_SIZE)
        if actions.shape != wanted:
            raise CheckpointError(
                f"policy {policy.checkpoint_id} gave actions of shape {actions.shape}, "
                f"expected {wanted}"
            )
        return within_bounds(actions[0])

    # ---------------------------------------------------------------- checkpoints

    @property
    def _policy(self) -> PolicyLike:
        assert self._swap is not None
        assert self._swap.current is not None
        return self._swap.current.model

    def _fits(self, manifest: Manifest) -> None:
        """Raise `CheckpointError` where a policy does not fit this cell and the images at hand."""
        fits_robot(self._contract.camera_names, resize=self._contract.resize)(manifest)
        rule, inputs = manifest.spec.get("resize", RESIZE), self._inputs
        if inputs is not None and inputs.window.reshapes and rule != inputs.window.config.resize:
            raise CheckpointError(
                f"policy {manifest.id} sees wide images made square by '{rule}', this node makes "
                f"them by '{inputs.window.config.resize}' while it is active; start it with that "
                "policy"
            )

    def _mismatch(self, manifest: Manifest) -> str:
        """Why this policy may not act now: it requires another safety head; or ""."""
        needed = manifest.requires.get("safety", self._head)
        if needed == self._head:
            return ""
        return f"it requires safety head {needed}, the safety node runs {self._head or 'none yet'}"

    def _on_head(self, info: CheckpointInfo) -> None:
        if self._head != info.id:
            self._head = info.id
            self._schedule.restart()
            self._turns.look()

    def _on_gated(self, message: ActionChunkMessage) -> None:
        self._gated_heard = int(message.sequence)
        self._turns.hear(0, partial(self._take_gated, message))
        self._turns.look()

    def _take_gated(self, message: ActionChunkMessage) -> None:
        with suppress(ChunkRejected):
            chunk = chunk_from_message(message).validate()
            self._gated.forwarded(chunk, to_nanoseconds(message.header.stamp))

    def _on_arm(self, message: FrankaState) -> None:
        moves, stamp = message.state == FrankaState.RUNNING, to_nanoseconds(message.header.stamp)
        self._arm_at = stamp
        self._turns.hear(1, lambda: self._gated.arm(moves, stamp))
        self._turns.look()

    def _on_cost(self, message: SafetyCost) -> None:
        self._costs.append(message)

    def _try(self, policy: PolicyLike) -> None:
        running = self._swap.current if self._swap is not None else None
        try:
            self._canary.judge(policy, running.model if running else None, self._head)
        except PolicyUnavailable as error:
            if running is not None:
                raise
            self.get_logger().warning(f"{error}; the arm holds until it answers")

    def _find_head(self, identifier: str) -> SafetyLike:
        return self._load_head(find_checkpoint("safety", identifier, self._store))

    def _take_ready(self) -> None:
        """Take over a new policy if one is ready; its measurements begin anew."""
        if self._exchange is not None and self._exchange.take_ready(
            self._canary.reference, self._sequence
        ):
            self._canary.forget()

    def _check_costs(self) -> None:
        """What the safety head said since the last chunk."""
        assert self._exchange is not None
        while self._costs:
            message, probation = self._costs.popleft(), self._exchange.probation
            head, cost, limit = message.checkpoint, float(message.chunk_cost), float(message.limit)
            self._canary.judged(head, cost)
            if probation is not None and self._exchange.check(
                probation.cost(int(message.sequence), head, cost, limit)
            ):
                self._canary.forget()


def seed_by(observation: Observation) -> None:
    """Let what torch draws next depend on the observation alone."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    seed = zlib.crc32(observation.state.tobytes())
    for name in sorted(observation.images):
        seed = zlib.crc32(np.ascontiguousarray(observation.images[name]).tobytes(), seed)
    torch.manual_seed(seed)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(PolicyNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
