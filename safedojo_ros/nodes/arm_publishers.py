"""Who publishes what the arm obeys, and whether a simulated world speaks beside a real robot."""

from typing import Any

from safedojo_ros.nodes.lifecycle import DojoNode
from safedojo_ros.robot.playback.control_loop import ControlLoop

UNKNOWN = "a node that the graph does not name yet"
"""A publisher is known before the name of its node."""


class ArmPublishers:
    """Tells the control loop what the graph knows; the loop decides what follows."""

    def __init__(self, node: DojoNode, loop: ControlLoop) -> None:
        self._node, self._loop = node, loop
        self._unnamed: set[str] = set()

    def matched(self, topic: str, event: Any) -> None:
        """A publisher of a topic that the arm obeys has come or gone."""
        names = self._publishers_of(topic)
        self._loop.matched(
            topic, int(event.current_count), int(event.total_count_change), names, self._node.now()
        )
        self._unnamed.discard(topic)
        if UNKNOWN in names:
            self._unnamed.add(topic)

    def learn_names(self) -> None:
        """A publisher is matched before the graph knows its node."""
        for topic in list(self._unnamed):
            names = self._publishers_of(topic)
            if UNKNOWN not in names:
                self._loop.named(topic, names)
                self._unnamed.discard(topic)

    def heard(self, topic: str, info: dict[str, Any]) -> None:
        """A message of a topic that the arm obeys has come."""
        self._loop.heard(topic, info.get("publication_sequence_number"), self._node.now())

    def find_simulation(self) -> None:
        """A real robot never moves while a simulated world speaks in the same graph."""
        spoken = [
            topic
            for topic, _ in self._node.get_topic_names_and_types()
            if "/sim/" in topic and self._node.count_publishers(topic)
        ]
        fault = ""
        if self._node.count_publishers("/clock"):
            spoken.append("/clock")
        if spoken:
            fault = (
                f"a simulated world publishes {spoken[0]} beside a real robot; end it, or give it "
                "another ROS_DOMAIN_ID"
            )
        self._loop.guard("graph", fault, self._node.now())

    def _publishers_of(self, topic: str) -> str:
        """The names of a topic's publishing nodes."""
        publishers = self._node.get_publishers_info_by_topic(topic)
        return ", ".join(
            sorted(
                UNKNOWN
                if "UNKNOWN" in p.node_name
                else f"{p.node_namespace.rstrip('/')}/{p.node_name}"
                for p in publishers
            )
        )
