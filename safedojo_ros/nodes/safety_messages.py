"""What the safety gate says of itself and of a chunk, as messages."""

from safedojo_ros.core.types import CostEstimate
from safedojo_ros.msg import SafetyCost, SafetyState
from safedojo_ros.nodes.conversion import BASE_FRAME, to_stamp
from safedojo_ros.robot.gate.gate import SafetyGate


def state_message(gate: SafetyGate, latency: float, stamp: int) -> SafetyState:
    """latency: seconds from picture to decision, computing left out; stamp: ns."""
    message = SafetyState(
        decision=int(gate.decision),
        mode=gate.mode,
        reason=gate.reason,
        last_sequence=gate.last_sequence,
        latency=latency,
    )
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    return message


def cost_message(
    sequence: int, estimate: CostEstimate, checkpoint: str, compute_time: float, stamp: int
) -> SafetyCost:
    """checkpoint: the id of the safety head; compute_time: its seconds; stamp: ns."""
    message = SafetyCost(
        sequence=sequence,
        checkpoint=checkpoint,
        step_cost=[float(v) for v in estimate.step_cost],
        chunk_cost=float(estimate.chunk_cost),
        limit=float(estimate.limit),
        decision=int(estimate.decision),
        reason=estimate.reason,
        compute_time=compute_time,
    )
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = BASE_FRAME
    return message
