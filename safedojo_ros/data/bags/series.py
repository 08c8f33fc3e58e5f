"""Values with stamps: the newest at an instant, gaps between them, and clocks that jump."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from safedojo_ros.core.units import SECOND

SILENCE = "nothing was heard on any topic"


@dataclass(frozen=True)
class Finding:
    """Something amiss on `topic` at `at` (ns): what, for a person to read."""

    topic: str
    at: int
    what: str

    def __str__(self) -> str:
        return f"{self.at / SECOND:.3f} {self.topic}: {self.what}"


@dataclass
class Series:
    """What one topic said; stamps (ns) rise strictly."""

    topic: str
    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, stamp: int, value: Any) -> None:
        """Append; a stamp that does not advance is a repetition and is left out."""
        if not self.stamps or stamp > self.stamps[-1]:
            self.stamps.append(stamp)
            self.values.append(value)

    def newest(self, instants: np.ndarray) -> np.ndarray:
        """Index of the newest value not later than each of `instants` (N,) ns; -1: none yet."""
        stamps = np.array(self.stamps, dtype=np.int64)
        return np.searchsorted(stamps, instants, side="right") - 1

    def ages(self, instants: np.ndarray) -> np.ndarray:
        """(N,) s since the newest value not later than each instant; infinite before the first."""
        index = self.newest(instants)
        stamps = np.array([0, *self.stamps], dtype=np.int64)
        age = (np.asarray(instants) - stamps[index + 1]) / SECOND
        return np.where(index < 0, np.inf, age)

    def gaps(self, first: int, last: int, bound: float) -> list[Finding]:
        """Every silence of more than `bound` s until `last` (ns), from `first` or the value before.

        Where nothing had been heard at `first` at all, that is one, however short.
        """
        stamps = np.array(self.stamps, dtype=np.int64)
        before = stamps[stamps <= first][-1:]
        inside = stamps[(stamps > first) & (stamps < last)]
        edges = np.concatenate([before, inside, [last]])
        found = []
        if not len(before):
            late = f"nothing before {(int(edges[0]) - first) / SECOND:.3f} s later"
            found.append(Finding(self.topic, first, late if len(inside) else "nothing at all"))
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            silence = (int(end) - int(begin)) / SECOND
            if silence > bound:
                found.append(Finding(self.topic, int(begin), f"nothing for {silence:.3f} s"))
        return found


class Heard(Protocol):
    """heard_at: ns."""

    @property
    def heard_at(self) -> int: ...


Message = TypeVar("Message", bound=Heard)


def in_order(messages: Iterable[Message], window: float) -> Iterator[Message]:
    """By the time at which they were heard, where they are out of order by at most `window` s.

    One that is later than that begins anew: the clock went back.
    """
    span, newest = int(window * SECOND), 0
    waiting: list[tuple[int, int, Message]] = []
    for number, message in enumerate(messages):
        if message.heard_at < newest - span:
            while waiting:
                yield heapq.heappop(waiting)[2]
            newest = 0
        newest = max(newest, message.heard_at)
        heapq.heappush(waiting, (message.heard_at, number, message))
        while waiting[0][0] < newest - span:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


@dataclass
class ClockWatch:
    """Notices clocks that jump, from messages in the order in which they were recorded.

    bound: seconds by which a stamp may advance more than the time at which it was heard, and of
    silence on all topics together.
    """

    bound: float = 0.12
    tolerance: float = 0.005
    """Seconds that messages may have changed places on their way, or that publishers of one topic
    may be apart."""
    _heard_at: int | None = None
    _last: dict[str, tuple[int, int]] = field(default_factory=dict)

    def see(self, topic: str, heard_at: int, stamp: int | None = None) -> str:
        """Take one message; returns which clock jumped, or ""; after a jump all begins anew."""
        fault = self._fault(topic, heard_at, stamp)
        if fault:
            self.forget()
        self._heard_at = max(heard_at, self._heard_at or heard_at)
        if stamp is not None:
            before = self._last.get(topic, (heard_at, stamp))
            self._last[topic] = max(before, (heard_at, stamp), key=lambda known: known[1])
        return fault

    def forget(self) -> None:
        """What follows has nothing to do with what was seen."""
        self._heard_at = None
        self._last.clear()

    def _fault(self, topic: str, heard_at: int, stamp: int | None) -> str:
        if self._heard_at is not None:
            passed = (heard_at - self._heard_at) / SECOND
            if passed < -self.tolerance:
                return f"the recorder's clock went back by {-passed:.3f} s"
            if passed > self.bound:
                return (
                    f"{SILENCE} for {passed:.3f} s: the clock was set forward, or all stood still"
                )
        if stamp is None or topic not in self._last:
            return ""
        heard_before, stamp_before = self._last[topic]
        advanced = (stamp - stamp_before) / SECOND
        passed = (heard_at - heard_before) / SECOND
        if advanced < -self.tolerance:
            return f"its clock went back by {-advanced:.3f} s"
        if advanced - passed > self.bound:
            return f"its clock went forward by {advanced - passed:.3f} s"
        return ""
