"""Simulated time: a node's turn within the world's control step, asked for and answered.

The world publishes `sim/turn` and waits for the answer on `sim/done`, both JSON in a String; see
`stack.turn_order`. Nobody asks where time is not simulated, and then nothing here does anything.
"""

import json
from collections.abc import Callable
from typing import Any

from std_msgs.msg import String

from safedojo_ros.nodes.lifecycle import IN_ORDER, DojoNode
from safedojo_ros.nodes.stack.turn_order import Turn


class Turns:
    """Listens for this node's turns until `close`.

    ready: whether all that the turn tells of has arrived; take: acts, and returns what the others
    must know. Call `look` after whatever may have made the node ready, and `again` with new words
    when something has changed without a further turn.
    """

    def __init__(
        self, node: DojoNode, ready: Callable[[Turn], bool], take: Callable[[Turn], dict[str, Any]]
    ) -> None:
        self.asked = False
        """Whether a world has ever given this node a turn."""
        self._node, self._ready, self._take = node, ready, take
        self._turn: Turn | None = None
        self._last: Turn | None = None
        self._done: Any = None
        if node.simulated:
            self._done = node.create_publisher(String, "sim/done", IN_ORDER)
            self._heard = node.create_subscription(String, "sim/turn", self._on_turn, IN_ORDER)

    def look(self) -> None:
        """Take the turn that waits, if the node is ready for it."""
        turn = self._turn
        if turn is not None and self._ready(turn):
            self._turn, self._last = None, turn
            self._say(turn, self._take(turn))

    def again(self, words: dict[str, Any]) -> None:
        """Answer the last turn once more."""
        if self._turn is None and self._last is not None:
            self._say(self._last, words)

    def close(self) -> None:
        """Take no more turns."""
        if self._done is not None:
            self._node.destroy_subscription(self._heard)
            self._node.destroy_publisher(self._done)
            self._done = None

    def _say(self, turn: Turn, words: dict[str, Any]) -> None:
        answer = {"node": turn["node"], "stamp": turn["stamp"], **words}
        self._done.publish(String(data=json.dumps(answer)))

    def _on_turn(self, message: String) -> None:
        turn = json.loads(message.data)
        if turn["node"] != self._node.get_name():
            return
        self.asked, self._turn = True, turn
        self._node.heard_at(turn["stamp"])
        self.look()
