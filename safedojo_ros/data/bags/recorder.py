"""Records messages into one bag for each episode, within bounds, beside a working robot.

`EpisodeBags` decides and writes; `RecorderThread` puts a bounded queue in front of it, so that
whoever hears the messages never waits for the disk. No ROS in it.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.data.bags.retention import (
    bag_name,
    bag_number,
    own_bags,
    remove_oldest,
    space_fault,
)
from safedojo_ros.data.bags.writer import BagWriter, Compression, Topic

LATCHED_MESSAGES = 16
"""Most latched messages of a topic that a new bag begins with."""

FLUSH_PERIOD = 1.0
"""Seconds after which what was heard is with the operating system, whatever happens to us."""


@dataclass(frozen=True)
class BagBounds:
    """root: folder of the bags; sizes in bytes; linger: seconds recorded after an episode."""

    root: Path
    max_bag: int = 2**30
    total: int = 0
    """Of all bags together, the one in progress included; the oldest go. 0: no bound."""
    free_floor: int = 2 * 10**9
    linger: float = 1.0
    compression: Compression = "zstd"

    def __post_init__(self) -> None:
        if self.total and self.total < 2 * self.max_bag:
            raise ConfigError(
                f"all bags may take {self.total / 1e6:.0f} MB, one {self.max_bag / 1e6:.0f} MB; "
                "expected room for two at least"
            )


@dataclass
class RecorderCounts:
    """What has been done so far."""

    bags: int = 0
    messages: int = 0
    failed: int = 0
    """Messages of an episode that could not be written."""
    removed: int = 0
    refusal: str = ""
    """Why nothing is recorded now, "" while all is well."""


@dataclass
class EpisodeBags:
    """`begin` and `end` episodes, `take` messages, `look_after` the open bag once a second."""

    bounds: BagBounds
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    free: Callable[[Path], int] | None = None
    counts: RecorderCounts = field(default_factory=RecorderCounts)
    _writer: BagWriter | None = None
    _latched: dict[str, list[tuple[Topic, int, bytes]]] = field(default_factory=dict)
    """{name: (topic, number, message)}, the newest of each of its publishers."""
    _recording: bool = False
    _ends_at: float | None = None
    _flushed_at: float = 0.0
    _number: int = 0

    def begin(self, stamp: int) -> None:
        """An episode begins at `stamp` (ns): a bag of its own, latched messages first."""
        self._close("the next episode began")
        self._recording, self._ends_at = True, None
        self._open(stamp)

    def end(self, stamp: int) -> None:
        """The episode is over; for `linger` seconds its last words are still taken."""
        if self._recording:
            self._ends_at = self.clock() + self.bounds.linger

    def take(self, topic: Topic, stamp: int, data: bytes, number: int = 0) -> None:
        """One message; it is written if an episode goes on.

        number: of its publisher's messages on this topic, counted from 1; 0: not known.
        """
        if topic.latched:
            self._keep(topic, number, data)
        self.look_after()
        if not self._recording:
            return
        if self._writer is None:
            self.counts.failed += 1
            return
        self._write(topic, stamp, data)
        if self._writer is not None and self._writer.size >= self.bounds.max_bag:
            self._close("the bag was full; it goes on in the next")
            self._open(stamp)

    def look_after(self) -> None:
        """Flush, watch the disk, and close what has ended; does nothing most of the time."""
        now = self.clock()
        if self._ends_at is not None and now >= self._ends_at:
            self._close("the episode ended")
            self._recording, self._ends_at = False, None
        if now - self._flushed_at < FLUSH_PERIOD:
            return
        self._flushed_at = now
        if self._writer is None:
            return
        fault = self._space_fault()
        if fault:
            self._close(fault)
            self.counts.refusal = fault
            return
        try:
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Make the open bag whole."""
        self._close("the recorder was stopped")
        self._recording, self._ends_at = False, None

    @property
    def name(self) -> str:
        """Of the open bag, "" between episodes."""
        return self._writer.folder.name if self._writer is not None else ""

    # ---------------------------------------------------------------- inside

    def _open(self, stamp: int) -> None:
        fault = self._space_fault()
        if fault:
            self.counts.refusal = fault
            return
        if self.bounds.total:
            room = self.bounds.total - self.bounds.max_bag
            self.counts.removed += len(remove_oldest(self.bounds.root, room))
        self._number = max(self._number, _last_number(self.bounds.root)) + 1
        text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self.wall()))
        folder = self.bounds.root / bag_name(self._number, text)
        try:
            self._writer = BagWriter(folder, self.bounds.compression)
        except (OSError, DatasetError) as error:
            self.counts.refusal = f"{folder} cannot be written: {error}"
            return
        self.counts.bags += 1
        self.counts.refusal = ""
        for topic, _, data in [one for kept in self._latched.values() for one in kept]:
            self._write(topic, stamp, data)

    def _keep(self, topic: Topic, number: int, data: bytes) -> None:
        """Remember a latched message, in the place of its publisher's last one.

        Nothing but its number says whose it is: where two publishers have come as far, both of
        their messages stay.
        """
        kept = self._latched.setdefault(topic.name, [])
        before = [one for one in kept if not number or one[1] == number - 1]
        if len(before) == 1:
            kept.remove(before[0])
        kept.append((topic, number, data))
        del kept[:-LATCHED_MESSAGES]

    def _write(self, topic: Topic, stamp: int, data: bytes) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(topic, stamp, data)
            self.counts.messages += 1
        except OSError as error:
            self._give_up(error)

    def _close(self, why: str) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close({"ended": why})
        except OSError as error:
            writer.abandon()
            self.counts.refusal = f"{writer.folder} stays cut: {error.strerror}"

    def _give_up(self, error: OSError) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abandon()
            self.counts.refusal = f"{writer.folder} stays cut: {error.strerror}"

    def _space_fault(self) -> str:
        if self.free is None:
            return space_fault(self.bounds.root, self.bounds.free_floor)
        return space_fault(self.bounds.root, self.bounds.free_floor, self.free)


@dataclass(frozen=True)
class _Message:
    topic: Topic
    stamp: int
    data: bytes
    number: int


@dataclass(frozen=True)
class _Edge:
    """begin: an episode begins, else it ends."""

    begin: bool
    stamp: int


class RecorderThread:
    """`message`, `begin` and `end` return at once; the thread writes.

    Where the disk is slower than the messages, the newest are dropped and counted by topic.
    """

    def __init__(self, bags: EpisodeBags, max_queue: int) -> None:
        """max_queue: bytes that may wait."""
        self._bags, self._max_queue = bags, max_queue
        self._items: deque[_Message | _Edge] = deque()
        self._waiting = 0
        self._wake = threading.Condition()
        self._stopping = False
        self.dropped: Counter[str] = Counter()
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> RecorderCounts:
        """What has been done so far."""
        return self._bags.counts

    @property
    def name(self) -> str:
        """Of the open bag."""
        return self._bags.name

    @property
    def waiting(self) -> int:
        """Bytes in the queue."""
        return self._waiting

    def message(self, topic: Topic, stamp: int, data: bytes, number: int = 0) -> bool:
        """Hand over one message, see `EpisodeBags.take`; False: it was dropped."""
        with self._wake:
            if self._waiting + len(data) > self._max_queue:
                self.dropped[topic.name] += 1
                return False
            self._items.append(_Message(topic, stamp, data, number))
            self._waiting += len(data)
            self._wake.notify()
        return True

    def begin(self, stamp: int) -> None:
        """An episode begins."""
        self._edge(_Edge(True, stamp))

    def end(self, stamp: int) -> None:
        """The episode is over."""
        self._edge(_Edge(False, stamp))

    def close(self, timeout: float = 10.0) -> bool:
        """Write what waits and make the open bag whole; False if that took too long."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _edge(self, edge: _Edge) -> None:
        with self._wake:
            self._items.append(edge)
            self._wake.notify()

    def _run(self) -> None:
        try:
            while True:
                with self._wake:
                    if not self._items and not self._stopping:
                        self._wake.wait(FLUSH_PERIOD / 4)
                    item = self._items.popleft() if self._items else None
                    if isinstance(item, _Message):
                        self._waiting -= len(item.data)
                if isinstance(item, _Message):
                    self._bags.take(item.topic, item.stamp, item.data, item.number)
                elif item is not None:
                    (self._bags.begin if item.begin else self._bags.end)(item.stamp)
                else:
                    self._bags.look_after()
                    if self._stopping:
                        break
            self._bags.close()
        except Exception as error:  # the node says so; the robot works on
            self.failure = f"the recorder's thread ended: {error!r}"


def _last_number(root: Path) -> int:
    return max((bag_number(bag) for bag in own_bags(root)), default=0)
