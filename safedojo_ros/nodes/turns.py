"""Simulated time: a node's turn within the world's control step, asked for and answered.

The world publishes `sim/turn` and waits for the answer on `sim/done`, both JSON in a String; see
`stack.turn_order`. Nobody asks where time is not simulated, and then nothing here does anything.
"""

import json
from collections.abc import Callable
from typing import Any

from std_msgs.msg import String

from safedojo_ros.nodes.lifecycle import IN_ORDER, DojoNode
from safedojo_ros.nodes.stack.turn_order import Turn, TurnRejected, read

STAMP = "stamp"
"""Key of when a status was said (ns), in a message that has no stamp of its own."""


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
        self._heard: list[tuple[int, Callable[[], object]]] = []
        self._done: Any = None
        if node.simulated:
            self._done = node.create_publisher(String, "sim/done", IN_ORDER)
            self._listening = node.create_subscription(String, "sim/turn", self._on_turn, IN_ORDER)

    def hear(self, rank: int, take: Callable[[], object]) -> None:
        """Call `take` for a message: now, or where turns are given when the next one is taken.

        Then those of the lowest rank come first, so that it does not matter which of several topics
        is the faster one.
        """
        if self.asked:
            self._heard.append((rank, take))
        else:
            take()

    def look(self) -> None:
        """Take the turn that waits, if the node is ready for it."""
        turn = self._turn
        if turn is not None and self._ready(turn):
            self._turn, self._last = None, turn
            heard, self._heard = sorted(self._heard, key=lambda item: item[0]), []
            for _, take in heard:
                take()
            self._say(turn, self._take(turn))

    def again(self, words: dict[str, Any]) -> None:
        """Answer the last turn once more."""
        if self._turn is None and self._last is not None:
            self._say(self._last, words)

    def close(self) -> None:
        """Take no more turns."""
        if self._done is not None:
            self._node.destroy_subscription(self._listening)
            self._node.destroy_publisher(self._done)
            self._done = self._turn = None

    def _say(self, turn: Turn, words: dict[str, Any]) -> None:
        answer = {"node": turn["node"], "stamp": turn["stamp"], **words}
        self._done.publish(String(data=json.dumps(answer)))

    def _on_turn(self, message: String) -> None:
        try:
            turn = read(message.data, "pose", "images", "enabled")
        except TurnRejected as error:
            self._node.say(f"sim/turn: {error}; only the world may publish there")
            return
        if turn["node"] != self._node.get_name():
            return
        turn.setdefault("before", {})
        self.asked, self._turn = True, turn
        self._node.heard_at(turn["stamp"])
        self.look()
