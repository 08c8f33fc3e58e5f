"""The safety gate: judges every action chunk before it may reach the arm.

Subscribes the observation's topics and `policy/action_chunk`; publishes `safety/action_chunk`
(gated), `safety/cost`, `safety/chunk_cost` (bare, for plots), `safety/state` (steadily and at
every decision, before the chunk it belongs to), `safety/markers` and `safety/checkpoint` (latched);
serves `safety/set_mode` (true: gate, false: monitor), `safety/recover` (after STOP),
`safety/load_checkpoint` and `safety/rollback`. A new safety head is taken over between two chunks.
Forbidden zones, boxes and a point cloud, are checked beside the head: see `robot.gate.zones`.

Not safety-rated: emergency stop, enabling device and force limits belong to the robot's controller
and its cell.
"""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from std_msgs.msg import Float32, String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint
from safedojo_ros.checkpoints.swap.head_canary import judge_head
from safedojo_ros.checkpoints.swap.head_exam import check_costs, examine, examine_first
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap, fits_robot, free_weights
from safedojo_ros.checkpoints.swap.probation import Bars, Reference
from safedojo_ros.core.costs import CONTACT, CostLimit
from safedojo_ros.core.errors import (
    ConfigError,
    ObservationRejected,
)
from safedojo_ros.core.files import expand_home
from safedojo_ros.core.types import CONTROL_PERIOD, COST_M, Decision, Observation
from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk as ActionChunkMessage
from safedojo_ros.msg import CheckpointInfo, SafetyCost, SafetyState
from safedojo_ros.nodes.cell import CONTRACT, gated_contract
from safedojo_ros.nodes.checkpoint_exchange import (
    SWAP_SETTINGS,
    CheckpointExchange,
    first_model,
)
from safedojo_ros.nodes.conversion import (
    message_from_chunks,
    proposals_from_message,
    to_nanoseconds,
)
from safedojo_ros.nodes.forbidden_zones import ZONE_SETTINGS, ForbiddenZones
from safedojo_ros.nodes.inputs import (
    WINDOW_SETTINGS,
    ObservationInputs,
    window_config,
)
from safedojo_ros.nodes.lifecycle import IN_ORDER, LATCHED, NEWEST, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.messages import (
    cost_message,
    decision_marker,
    path_markers,
    state_message,
)
from safedojo_ros.nodes.model_loading import (
    DEVICE,
    SafetyLike,
    limited,
    load_safety_directory,
    scene_memory,
)
from safedojo_ros.nodes.stack.scheduling import change_niceness
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.turn_order import Turn
from safedojo_ros.nodes.turns import Turns
from safedojo_ros.robot.gate.detour import DETOUR_RATIO, MEMORY
from safedojo_ros.robot.gate.freshness import FreshnessConfig
from safedojo_ros.robot.gate.gate import MODES, GateConfig, GateResult, SafetyGate
from safedojo_ros.robot.gate.judge import Asked, Judge, SeveralCosts

PATIENCE = 0.03
"""Seconds that a chunk may wait here for the images it was computed from."""
CANARY_CHUNKS = 4
"""On how many recent chunks a new safety head is tried."""
HELD_CHUNKS = 8
"""Of how many chunks that the running head held it must say what it thinks."""

SETTINGS = (
    Setting("checkpoint", SHIPPED, "Safety head: shipped, latest, an id, a directory; empty: "
            "none, and every chunk is held in gate mode."),
    Setting("store", "", "Folder of the checkpoint store; empty: the user's."),
    CONTRACT,
    Setting("mode", "gate", "gate enforces, monitor only reports.", choices=MODES),
    Setting("cost_limit", 0.0, "Limit of a chunk's contact cost; 0: the checkpoint's own.",
            0.0, 1.0),
    Setting("slow_ratio", 0.6, "SLOW from this share of the limit on.", 0.01, 1.0),
    Setting("detour_ratio", DETOUR_RATIO, "From this share of the limit on, at the latest from "
            "SLOW on, take a detour around what a chunk would touch, if one passes; 0: never.",
            0.0, 1.0),
    Setting("memory", MEMORY, "Frames of a scene that the head judges by; 1: the newest "
            "alone. An instruction or a silence begins another scene.", 1, 64),
    Setting("stop_cost", 0.98, "STOP from this cost of contact on; above 1: never by itself.",
            0.05, 2.0),
    Setting("deadline", 0.2, "Longest that judging a chunk may take (s).", 0.005, 2.0),
    Setting("silence", 1.0, "Time without a chunk after which the gate reports it (s).", 0.1, 60.0),
    DEVICE,
    Setting("threads", 1, "Threads of the network.", 1, 64),
    Setting("niceness", 0, "Added to the niceness of the judging thread.", -20, 19),
    Setting("realtime_factor", 1.0, "Speed of the world; the whole stack needs the same.", 0.05, 4),
    Setting("follow", "off", "Take over what latest moves to, or what the policy requires.",
            choices=("off", "latest", "policy")),
    *ZONE_SETTINGS,
    *SWAP_SETTINGS,
    *WINDOW_SETTINGS,
)  # fmt: skip


class SafetyNode(DojoNode):
    """Converts, measures the time, and leaves every decision to `robot.gate.gate`."""

    def __init__(
        self, load: Callable[[Path], SafetyLike] = load_safety_directory, **options: Any
    ) -> None:
        """load: turns a verified checkpoint directory into a safety head."""
        super().__init__("safety_node", SETTINGS, **options)
        self._load = load
        self._judge = Judge(SafetyGate())
        self._swap: HotSwap[SafetyLike] | None = None
        self._exchange: CheckpointExchange[SafetyLike] | None = None
        self._recent: deque[tuple[Observation, np.ndarray]] = deque(maxlen=CANARY_CHUNKS)
        self._held: deque[tuple[Observation, np.ndarray]] = deque(maxlen=HELD_CHUNKS)
        self._asked_for = ""
        self._ours: list[Any] = []
        self._inputs: ObservationInputs | None = None
        self._zones: ForbiddenZones | None = None
        self._latency = 0.0
        self._forwarded = self._scene = 0
        self._compute_times: deque[float] = deque(maxlen=200)

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Load the safety head and build the gate."""
        self._period = CONTROL_PERIOD / float(self.setting("realtime_factor"))
        root = self.setting("store")
        store = expand_home(root) if root else None
        self._contract = gated_contract(self)
        self._swap = HotSwap(
            limited(self, self._load),
            partial(find_checkpoint, "safety", store_root=store),
            canary=self._try,
            compatible=fits_robot(self._contract.camera_names, resize=self._contract.resize),
            forget=free_weights,
        )
        if self.setting("checkpoint"):
            first_model(self._swap, self.setting("checkpoint"), self.get_logger().warning)
        else:
            self.get_logger().warning("no safety head: every chunk is held in gate mode")
        path, topic = self.setting("zones"), self.setting("point_cloud")
        if topic and not path:
            raise ConfigError("parameter 'point_cloud' needs 'zones', a file with [points]")
        self._zones = ForbiddenZones(self, path, topic) if path else None
        config = GateConfig(
            mode=self.setting("mode"),
            cost_m=self._model.cost_m if self._model else COST_M,
            slow_ratio=float(self.setting("slow_ratio")),
            stop_cost=float(self.setting("stop_cost")),
            detour_ratio=float(self.setting("detour_ratio")),
            freshness=FreshnessConfig(period=self._period),
        )
        frames = int(self.setting("memory"))
        remember = None if frames == 1 else partial(scene_memory, frames=frames)
        # simulated time waits for the gate, so that it is never late
        deadline = float("inf") if self.simulated else float(self.setting("deadline"))
        self._judge = Judge(SafetyGate(config), remember, deadline)
        size = int(getattr(self._model, "image_size", 0) or self._contract.image_size)
        cameras = tuple(getattr(self._model, "cameras", ()) or self._contract.camera_names)
        self._window = window_config(self, cameras, size, self._contract.resize)
        self._gated = self.create_publisher(ActionChunkMessage, "safety/action_chunk", IN_ORDER)
        self._costs = self.create_publisher(SafetyCost, "safety/cost", IN_ORDER)
        self._bare = self.create_publisher(Float32, "safety/chunk_cost", IN_ORDER)
        self._states = self.create_publisher(SafetyState, "safety/state", NEWEST)
        self._markers = self.create_publisher(MarkerArray, "safety/markers", NEWEST)
        publishers = (self._gated, self._costs, self._bare, self._states, self._markers)
        self._ours = [(self.destroy_publisher, p) for p in publishers]
        for kind, name, answer in (
            (SetBool, "safety/set_mode", self._on_mode),
            (Trigger, "safety/recover", self._on_recover),
        ):
            self._ours.append((self.destroy_service, self.create_service(kind, name, answer)))
        bars = Bars(
            chunks=int(self.setting("probation_chunks")),
            latency_ratio=float(self.setting("latency_ratio")),
        )
        self._exchange = CheckpointExchange(self, "safety", self._swap, bars, self._renew)
        self._exchange.announce("loaded at start")
        if self.setting("follow") == "policy":
            policies = self.create_subscription(
                CheckpointInfo, "policy/checkpoint", self._on_policy, LATCHED
            )
            self._ours.append((self.destroy_subscription, policies))

    def activate(self) -> None:
        """Listen and judge."""
        change_niceness(int(self.setting("niceness")), self.get_logger().warning)
        self._heard_at = self.now()
        self._waiting: ActionChunkMessage | None = None
        self._inputs = ObservationInputs(self, self._window, self._contract, self._on_input)
        if self._zones is not None:
            self._zones.listen()
        self._listening = [
            self.create_subscription(
                ActionChunkMessage, "policy/action_chunk", self._on_chunk, IN_ORDER
            ),
            self.create_subscription(
                String, self._contract.topics.instruction, self._on_instruction, LATCHED
            ),
        ]
        self._turns = Turns(self, self._ready, self._take_turn)
        self._timer = self.create_timer(self._period, self._on_time)
        if self.setting("follow") == "latest" and self._exchange is not None:
            self._exchange.follow_latest(self.setting("store"))

    def deactivate(self) -> None:
        """Judge nothing more: no chunk passes, and the arm holds for want of a state."""
        if self._exchange is not None:
            self._exchange.stop_following()
        if self._inputs is None:
            return
        self._inputs.close()
        self._inputs = None
        if self._zones is not None:
            self._zones.close()
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        self._turns.close()
        self.destroy_timer(self._timer)

    def cleanup(self) -> None:
        """Forget the safety head, and the scene."""
        self._judge.begin_scene()
        for destroy, entity in self._ours:
            destroy(entity)
        self._ours = []
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        self._swap = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """The gate's decision and how long judging takes."""
        gate, times = self._judge.gate, list(self._compute_times)
        values = {
            "mode": gate.mode,
            "decision": gate.decision.name,
            "checkpoint": self._model_id,
            "limit": self._limit,
            "other_limits": ", ".join(f"{each.name} {each.limit:g}" for each in self._others),
            "image_limits": str(getattr(self._model, "seen", None) or "none: any image is judged"),
            "compute_median_ms": round(float(np.median(times)) * 1e3, 2) if times else "",
            "latency_ms": round(self._latency * 1e3, 2),
            "swap": self._swap.reason if self._swap else "",
            "on_probation": bool(self._exchange and self._exchange.probation),
        }
        if gate.decision == Decision.ALLOW:
            return OK, f"{gate.mode}: ALLOW", values
        return WARN, f"{gate.mode}: {gate.decision.name}, {gate.reason}", values

    # ---------------------------------------------------------------- checkpoints

    @property
    def _model(self) -> SafetyLike | None:
        current = self._swap.current if self._swap is not None else None
        return current.model if current is not None else None

    @property
    def _model_id(self) -> str:
        current = self._swap.current if self._swap is not None else None
        return current.id if current is not None else ""

    @property
    def _limit(self) -> float:
        """The parameter's cost limit, or else that of the safety head."""
        return self._limit_of(self._model)

    @property
    def _others(self) -> Sequence[CostLimit]:
        """Costs that the safety head predicts beside contact."""
        return self._model.others if isinstance(self._model, SeveralCosts) else ()

    def _limit_of(self, model: SafetyLike | None) -> float:
        return float(self.setting("cost_limit")) or (model.cost_limit if model else 0.5)

    def _try(self, model: SafetyLike) -> None:
        """Canary, warm-up and exam: it answers in time, and tells contacts apart."""
        check_costs(model, self._contract.costs)
        limit = self._limit_of(model)
        if self._exchange is None:  # the head that the node begins with
            warning = examine_first(model, limit)
            if warning:
                self.get_logger().warning(warning)
            return
        if self._inputs is not None:
            window = self._inputs.window.config
            deadline = float(self.setting("deadline"))
            judge_head(model, list(self._recent), window.cameras, window.image_size, deadline)
        examine(model, limit, self._model, self._limit, list(self._held))

    def _take_ready(self) -> None:
        """Between two chunks: take over a new safety head if one is ready."""
        if self._exchange is not None and self._exchange.take_ready(
            self._reference, self._judge.gate.last_sequence
        ):
            self._renew()

    def _reference(self) -> Reference:
        times = list(self._compute_times)
        return Reference(float(np.median(times)) if times else None)

    def _renew(self) -> None:
        """Another safety head judges now."""
        self._compute_times.clear()
        self._held.clear()
        if self._model is not None:
            self._judge.gate.config = replace(self._judge.gate.config, cost_m=self._model.cost_m)

    def _on_policy(self, info: CheckpointInfo) -> None:
        """The policy, or one that waits to be taken over, requires a safety head: get it."""
        swap, exchange = self._swap, self._exchange
        if swap is None or exchange is None or info.requires in ("", self._model_id):
            self._asked_for = ""
            return
        if info.requires == self._asked_for:
            return
        self._asked_for = info.requires
        if swap.previous is not None and swap.previous.id == info.requires:
            exchange.go_back()
        else:
            swap.request(info.requires)

    # ---------------------------------------------------------------- judging

    def _on_chunk(self, message: ActionChunkMessage) -> None:
        """Judge at once, or as soon as the observation that the chunk answers is here too."""
        if self._waiting is not None:
            self._decide(self._waiting)
        self.heard_at(to_nanoseconds(message.header.stamp))
        self._waiting, self._waiting_since = message, self.now()
        self._on_input()

    def _on_input(self) -> None:
        if not self._turns.asked:  # else a chunk is judged in a turn, with all of its images
            self._judge_waiting()
        if self._inputs is not None:
            self._turns.look()

    def _judge_waiting(self) -> None:
        if self._waiting is None or self._inputs is None:
            return
        waited = (self.now() - self._waiting_since) / SECOND
        observed_at = to_nanoseconds(self._waiting.observed_at)
        if self._inputs.window.knows(observed_at) or not 0.0 <= waited <= PATIENCE:
            message, self._waiting = self._waiting, None
            self._decide(message)

    def _decide(self, message: ActionChunkMessage) -> None:
        self._take_ready()
        proposals = proposals_from_message(message)
        observe = partial(self._observe, proposals[0].observed_at)
        survey = None if self._zones is None else self._zones.check
        result, asked = self._judge.decide(
            proposals, observe, self._model, self._limit, self.now, survey
        )
        now = self._heard_at = self.now()
        computed = asked.seconds + float(message.compute_time)
        self._latency = (now - result.judged.observed_at) / SECOND - computed
        if not self._turns.asked:  # else once, at the end of the turn
            self._publish_state()
        if result.forwarded is not None:
            compute_time = float(message.compute_time)
            self._gated.publish(message_from_chunks([result.forwarded], now, compute_time))
            self._forwarded = int(result.forwarded.sequence)
        self._publish_cost(result, asked.seconds)
        if asked.fault:
            self.get_logger().error(asked.fault)
        if result.decision == Decision.ALLOW and not result.reason:
            self.say("")
        else:
            self._log(result.decision, result.reason)
        self._check_head(result, asked)

    def _observe(self, stamp: int) -> Observation:
        """The observation of `stamp` (ns); raises `ObservationRejected`."""
        if self._inputs is None:
            raise ObservationRejected("the safety node is not active")
        window = self._inputs.window
        fault = window.fault(self.now())
        if fault:
            raise ObservationRejected(fault)
        return window.at(stamp)

    def _check_head(self, result: GateResult, asked: Asked) -> None:
        """Remember what the head did; leave one on probation that failed."""
        if asked.answered and asked.observation is not None:
            judged = asked.observation, result.chosen.actions
            self._compute_times.append(asked.seconds)
            self._recent.append(judged)
            contact = result.proposed.name in ("", CONTACT)  # what the exam of heads is about
            if contact and result.proposed.chunk_cost >= result.proposed.limit:
                self._held.append(judged)
        if self._exchange is None:
            return
        fault, probation = asked.fault, self._exchange.probation
        if probation is not None and asked.answered and not fault:
            fault = probation.chunk(asked.seconds)
        if self._exchange.check(fault):
            self._renew()

    def _on_instruction(self, _: String) -> None:
        if not self._turns.asked:  # else the turn says when another scene begins
            self._judge.begin_scene()

    def _ready(self, turn: Turn) -> bool:
        """Whether this step's observation is here, and what the policy proposed."""
        assert self._inputs is not None
        waiting = 0 if self._waiting is None else int(self._waiting.sequence)
        heard = max(waiting, self._judge.gate.last_sequence)
        return self._inputs.heard(turn) and heard >= turn.get("proposed", 0)

    def _take_turn(self, turn: Turn) -> Turn:
        scene = turn.get("scene", self._scene)
        if scene != self._scene:
            self._scene = scene
            self._judge.begin_scene()
        self._look_after()
        return {
            "judged": self._judge.gate.last_sequence,
            "forwarded": self._forwarded,
            "head": self._model_id,
        }

    def _on_time(self) -> None:
        if not self._turns.asked:
            self._look_after()

    def _look_after(self) -> None:
        """Every control period: hold as soon as the observation is not usable, and say why."""
        assert self._inputs is not None
        self._judge_waiting()
        if self._exchange is not None:
            self._exchange.report()
        now = self.now()
        fault = self._inputs.window.fault(now)
        if not fault and self._zones is not None:
            fault = self._zones.fault(now)
        silence = (now - self._heard_at) / SECOND
        if not fault and silence > float(self.setting("silence")):
            fault = f"no chunk for {silence:.1f} s"
            self._judge.forget()
        if fault:
            self._log(self._judge.gate.silence(fault), fault)
            self._take_ready()  # nothing is being judged
        self._publish_state()

    def _log(self, decision: Decision, reason: str) -> None:
        self.say(f"{decision.name}: {reason}")

    # ---------------------------------------------------------------- publishing

    def _publish_state(self) -> None:
        self._states.publish(state_message(self._judge.gate, self._latency, self.now()))

    def _publish_cost(self, result: GateResult, seconds: float) -> None:
        """The cost of what the policy proposed, and the path of what was judged."""
        chunk, step_cost = result.judged, result.estimate.step_cost
        message = cost_message(chunk.sequence, result.proposed, self._model_id, seconds, self.now())
        self._costs.publish(message)
        if len(step_cost):
            self._bare.publish(Float32(data=message.chunk_cost))
        if self._markers.get_subscription_count():
            assert self._inputs is not None
            markers = self._zones.markers(message.header) if self._zones is not None else []
            if len(step_cost):
                start = self._inputs.window.at(chunk.observed_at).state[:3]
                actions, limit = chunk.actions, self._limit
                path = path_markers(start, actions, step_cost, limit, message.header)
                markers += path.markers
                markers.append(
                    decision_marker(
                        start,
                        result.decision.name,
                        float(result.proposed.chunk_cost),
                        limit,
                        message.header,
                    )
                )
            self._markers.publish(MarkerArray(markers=markers))

    # ---------------------------------------------------------------- services

    def _on_mode(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._judge.gate.set_mode("gate" if request.data else "monitor")
        response.success, response.message = True, f"mode is {self._judge.gate.mode}"
        self.get_logger().warning(response.message)
        return response

    def _on_recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._judge.gate.recover()
        self._judge.forget()
        response.success, response.message = True, self._judge.gate.reason
        self.get_logger().info(response.message)
        return response


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(SafetyNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
