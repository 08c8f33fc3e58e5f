"""The world's time on /clock: no faster than real time, and no faster than the nodes can follow.

A step is taken when every node of `stack.turn_order` has had its turn in the last one. An idle
machine keeps real time so; a busy one is slower.
"""

import json
import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rosgraph_msgs.msg import Clock as ClockMessage
from std_msgs.msg import String

from safedojo_ros.core.units import SECOND
from safedojo_ros.nodes.conversion import to_stamp
from safedojo_ros.nodes.lifecycle import IN_ORDER, DojoNode
from safedojo_ros.nodes.stack.turn_order import Turn, TurnOrder, TurnRejected, read

POLL = 0.005
"""Seconds between two looks at whether a step is due; also by how much it may be late."""

REPEAT = 0.1
"""Seconds after which a world that waits for more than its nodes' turns asks them once more."""


class WorldClock:
    """Begins with the machine's time, so that it never goes back where a world is started again."""

    def __init__(
        self,
        node: DojoNode,
        period: float,
        members: tuple[str, ...],
        step: Callable[[], Turn | None],
        goes_on: Callable[[TurnOrder], bool],
    ) -> None:
        """period: s, of a step and at least between two; members: nodes that have turns; step: what
        happens at the new `now`, returns what the nodes must know of it, None at the end; goes_on:
        whether the next step may follow what the nodes have said."""
        self.now = time.time_ns()
        """The world's time, ns."""
        self._node, self._period, self._step, self._goes_on = node, period, step, goes_on
        self._order = TurnOrder(members)
        self._facts: Turn | None = {}
        self._next_at = self._asked_at = 0.0
        self._clock = node.create_publisher(ClockMessage, "/clock", IN_ORDER)
        self._turns = node.create_publisher(String, "sim/turn", IN_ORDER)
        self._done = node.create_subscription(String, "sim/done", self._on_done, IN_ORDER)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(POLL, self.look, clock=steady)

    @property
    def missing(self) -> str:
        """Who has turns and does not answer, or ""."""
        return ", ".join(sorted(self._order.missing))

    def close(self) -> None:
        """Time stands still."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._done)
        self._node.destroy_publisher(self._turns)
        self._node.destroy_publisher(self._clock)

    def look(self) -> None:
        """Take the next step if it is due."""
        now = time.monotonic()
        if self._facts is None:
            return
        late, turns = self._order.give_up(now)
        if late:
            self._node.get_logger().warning(
                f"time goes on without {', '.join(late)}: no answer to {self._facts}"
            )
        self._ask(turns)
        if self._facts and not self._order.over:
            return
        if self._facts and not self._goes_on(self._order):
            if now - self._asked_at > REPEAT:
                self._begin(now)
        elif now >= self._next_at:
            self._next_at = max(self._next_at + self._period, now)
            self.now += round(self._period * SECOND)
            self._clock.publish(ClockMessage(clock=to_stamp(self.now)))
            self._facts = self._step()
            if self._facts is not None:
                self._begin(time.monotonic())

    def _begin(self, now: float) -> None:
        assert self._facts is not None
        self._asked_at = now
        self._ask(self._order.begin(self.now, self._facts, now))

    def _ask(self, turns: list[Turn]) -> None:
        for turn in turns:
            self._turns.publish(String(data=json.dumps(turn)))

    def _on_done(self, message: String) -> None:
        try:
            said = read(message.data)
        except TurnRejected as error:
            self._node.say(f"sim/done: {error}; only nodes that have turns may publish there")
            return
        self._ask(self._order.answer(said, time.monotonic()))
        self.look()
