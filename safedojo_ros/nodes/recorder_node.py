"""Records every topic of the stack into MCAP bags, one for each episode.

Messages are taken as they come from the wire, never decoded, and written by a thread of their own
behind a bounded queue; what does not fit is dropped and counted by topic on /diagnostics.
`robot/enable` (std_msgs/Bool) begins an episode when it is pressed and ends it when released.
"""

import importlib
import os
import re
import sys
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.files import expand_home
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.bags.recorder import BagBounds, EpisodeBags, RecorderThread
from safedojo_ros.data.bags.retention import space_fault
from safedojo_ros.data.bags.schemas import SchemaBook
from safedojo_ros.data.bags.writer import COMPRESSIONS, Topic
from safedojo_ros.nodes.lifecycle import OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.stack.spinning import run_node

LOOK_PERIOD = 0.5
"""Seconds between two looks for new topics."""

DEPTH = 100
"""Messages of one topic that may wait in DDS while this node is busy."""

SETTINGS = (
    Setting("root", "~/.local/share/safedojo/bags", "Folder of the bags."),
    Setting(
        "topics",
        [".*"],
        "Regular expressions of topics, without the first slash, with or "
        "without this node's namespace.",
    ),
    Setting("exclude", [""], "Regular expressions of topics that are left out, the same."),
    Setting("enable_topic", "robot/enable", "Begins and ends an episode; empty: one bag for all."),
    Setting("linger", 1.0, "Recorded after an episode's end (s).", 0.0, 60.0),
    Setting("compression", "zstd", "Of the bags.", choices=tuple(COMPRESSIONS)),
    Setting("max_queue_mb", 64.0, "Messages that may wait for the disk (MB).", 0.1, 4096.0),
    Setting("max_bag_mb", 1024.0, "Size at which an episode goes on in a further bag (MB).", 0.1),
    Setting("total_gb", 0.0, "Of all bags, the oldest are removed (GB); 0: no bound.", 0.0),
    Setting("free_gb", 2.0, "Free disk below which nothing is recorded (GB).", 0.0),
)


class RecorderNode(DojoNode):
    """Finds topics and hands over bytes; what is written where is `data.bags.recorder`'s."""

    def __init__(self, **options: Any) -> None:
        super().__init__("recorder_node", SETTINGS, **options)
        self._thread: RecorderThread | None = None
        self._heard: dict[str, _Heard] = {}
        self._left_out: dict[str, str] = {}
        self._pressed = False

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Check the folder, the patterns and the disk."""
        self._wanted = [self._pattern("topics", text) for text in self.setting("topics")]
        exclude = [text for text in self.setting("exclude") if text]
        self._unwanted = [self._pattern("exclude", text) for text in exclude]
        enable = str(self.setting("enable_topic"))
        self._enable = self.resolve_topic_name(enable) if enable else ""
        root = expand_home(str(self.setting("root"))).absolute()
        self._bounds = BagBounds(
            root,
            max_bag=int(self.setting("max_bag_mb") * 1e6),
            total=int(self.setting("total_gb") * 1e9),
            free_floor=int(self.setting("free_gb") * 1e9),
            linger=float(self.setting("linger")),
            compression=self.setting("compression"),
        )
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"'root' {root} cannot be made: {error.strerror}") from None
        if not os.access(root, os.W_OK):
            raise ConfigError(f"'root' {root} cannot be written; choose another folder")
        prefixes = os.environ.get("AMENT_PREFIX_PATH", sys.prefix).split(os.pathsep)
        self._book = SchemaBook([Path(prefix) / "share" for prefix in prefixes if prefix])

    def _pattern(self, name: str, text: str) -> re.Pattern[str]:
        try:
            return re.compile(text)
        except re.error as error:
            raise ConfigError(f"'{name}': '{text}' is no regular expression: {error}") from None

    def activate(self) -> None:
        """Start the writer and listen."""
        fault = space_fault(self._bounds.root, self._bounds.free_floor)
        if fault:
            self.get_logger().warning(f"nothing is recorded: {fault}")
        self._thread = RecorderThread(
            EpisodeBags(self._bounds), int(self.setting("max_queue_mb") * 1e6)
        )
        self._pressed = False
        if not self._enable:
            self._thread.begin(self.now())
        self._look()
        self._timer = self.create_timer(LOOK_PERIOD, self._look)

    def deactivate(self) -> None:
        """Stop listening and make the open bag whole."""
        if self._thread is None:
            return
        self.destroy_timer(self._timer)
        for heard in self._heard.values():
            for subscription in heard.subscriptions.values():
                self.destroy_subscription(subscription)
        self._heard, self._left_out = {}, {}
        if not self._thread.close():
            self.get_logger().error("the disk is too slow: the last bag stays cut")
        self._thread = None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Which bag is written, what was dropped, and why nothing is recorded."""
        assert self._thread is not None
        counts, dropped = self._thread.counts, self._thread.dropped
        values: dict[str, Any] = {
            "root": self._bounds.root,
            "topics": len(self._heard),
            "bags": counts.bags,
            "messages": counts.messages,
            "waiting_kb": self._thread.waiting // 1000,
            "dropped": sum(dropped.values()),
            "not_written": counts.failed,
            "removed_bags": counts.removed,
        }
        values |= {f"dropped {name}": count for name, count in sorted(dropped.items())}
        values |= {f"left out {name}": why for name, why in sorted(self._left_out.items())}
        trouble = self._thread.failure or counts.refusal
        if trouble:
            return WARN, f"nothing is recorded: {trouble}", values
        if dropped:
            return WARN, f"{sum(dropped.values())} messages were dropped", values
        return OK, f"records {self._thread.name}" if self._thread.name else "waits", values

    # ---------------------------------------------------------------- listening

    def _look(self) -> None:
        """Listen to every wanted topic that has appeared, and anew where not all are heard."""
        for full, kinds in self.get_topic_names_and_types():
            if full in self._left_out or not self._wants(full):
                continue
            profiles = [info.qos_profile for info in self.get_publishers_info_by_topic(full)]
            if not profiles:
                continue
            try:
                self._listen(full, kinds[0], profiles)
            except (DatasetError, AttributeError, ImportError, ValueError) as error:
                self._left_out[full] = str(error)
                self.get_logger().warning(f"{full} is not recorded: {error}")

    def _wants(self, full: str) -> bool:
        if any(part.startswith("_") for part in full.split("/")):
            return False
        if full == self._enable:
            return True
        name, own = full.strip("/"), self.get_namespace().strip("/") + "/"
        names = (name, name.removeprefix(own))
        return any(p.fullmatch(n) for p in self._wanted for n in names) and not any(
            p.fullmatch(n) for p in self._unwanted for n in names
        )

    def _listen(self, full: str, kind: str, profiles: list[QoSProfile]) -> None:
        """Ask for no more than all publishers offer, and for what the latched ones have said.

        Subscriptions are added, never given up: what they have not delivered yet would be lost.
        """
        latched = [p for p in profiles if p.durability == DurabilityPolicy.TRANSIENT_LOCAL]
        heard = self._heard.setdefault(full, _Heard())
        for group in filter(None, (latched, profiles)):
            reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in group)
            remembered = len(latched) == len(group)
            if heard.hears(reliable, remembered, group is latched):
                continue
            schema = self._book.schema(kind)
            topic = Topic(full, schema, tuple(qos_fields(p) for p in profiles), bool(latched))
            profile = QoSProfile(
                reliability=ReliabilityPolicy.RELIABLE if reliable
                else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if remembered
                else DurabilityPolicy.VOLATILE,
                history=HistoryPolicy.KEEP_LAST,
                depth=DEPTH,
            )  # fmt: skip
            switch = full == self._enable and kind == "std_msgs/msg/Bool"
            take = partial(self._on_enable if switch else self._on_message, topic)
            heard.subscriptions[reliable, remembered] = self.create_subscription(
                message_class(kind), full, take, profile, raw=True
            )

    def _on_message(self, topic: Topic, data: bytes, info: dict[str, Any]) -> None:
        if self._thread is not None and self._heard[topic.name].is_new(info):
            number = info.get("publication_sequence_number")
            self._thread.message(topic, self.now(), data, number or 0)

    def _on_enable(self, topic: Topic, data: bytes, info: dict[str, Any]) -> None:
        if self._thread is None:
            return
        pressed, now = bool(deserialize_message(data, Bool).data), self.now()
        if pressed and not self._pressed:
            self._thread.begin(now)
        elif self._pressed and not pressed:
            self._thread.end(now)
        self._pressed = pressed
        self._on_message(topic, data, info)


@dataclass
class _Heard:
    """How a topic is listened to: {(reliable, latched) as asked for: the subscription}."""

    subscriptions: dict[tuple[bool, bool], Any] = field(default_factory=dict)
    _recent: deque[tuple[Any, Any]] = field(default_factory=lambda: deque(maxlen=4 * DEPTH))

    def hears(self, reliable: bool, latched: bool, before: bool) -> bool:
        """Whether publishers that offer no more than this are heard, and what they said before."""
        return any(r <= reliable and before <= d <= latched for r, d in self.subscriptions)

    def is_new(self, info: dict[str, Any]) -> bool:
        """Whether this message has not come by another subscription already."""
        message = (info.get("publication_sequence_number"), info.get("source_timestamp"))
        known = message in self._recent
        self._recent.append(message)
        return not known


def message_class(kind: str) -> Any:
    """The class of "package/msg/Name"; raises `ImportError` or `AttributeError`."""
    package, _, name = kind.replace("/msg/", "/").partition("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def qos_fields(profile: QoSProfile) -> dict[str, Any]:
    """A profile as rosbag2's metadata has it."""
    fields: dict[str, Any] = {
        "history": HistoryPolicy(profile.history).name.lower(),
        "depth": int(profile.depth),
        "reliability": ReliabilityPolicy(profile.reliability).name.lower(),
        "durability": DurabilityPolicy(profile.durability).name.lower(),
    }
    for name in ("deadline", "lifespan"):
        fields[name] = _duration(getattr(profile, name).nanoseconds)
    fields["liveliness"] = LivelinessPolicy(profile.liveliness).name.lower()
    fields["liveliness_lease_duration"] = _duration(profile.liveliness_lease_duration.nanoseconds)
    fields["avoid_ros_namespace_conventions"] = bool(profile.avoid_ros_namespace_conventions)
    return fields


def _duration(nanoseconds: int) -> dict[str, int]:
    return {"sec": nanoseconds // SECOND, "nsec": nanoseconds % SECOND}


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(RecorderNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
