"""Does a topic that the arm obeys have one publisher, and still the same one? No ROS."""

from safedojo_ros.core.units import SECOND

CROSSED = SECOND
"""Nanoseconds for which two publishers that were heard in turns count as both being there."""


class OnePublisher:
    """Knows how many publishers a topic has, and whether what is heard comes from one of them.

    Who was killed stays in the graph for some seconds, so a count alone does not tell two from one
    that came back. But a publisher numbers what it sends: a number that is not greater than the
    last one is another publisher's.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.count = 0
        self._number: int | None = None
        self._numbered = False
        self._crossed_at: int | None = None

    def matched(self, count: int, came: int) -> str:
        """The graph has changed: `count` publishers, `came` of them new. Why that must not be, or
        ""."""
        before, self.count = self.count, count
        if count == 0 and before:
            return f"the publisher of {self.topic} went away"
        if came and count == 1 and before:
            return f"the publisher of {self.topic} was replaced"
        if came and count > 1:
            return f"{self.topic} has {count} publishers"
        return ""

    def heard(self, number: int | None, now_ns: int) -> str:
        """A message with its publisher's `number` was heard (None: the middleware gives none)."""
        last, self._number = self._number, number
        if number is None:
            return ""
        self._numbered = True
        if last is None or number > last:
            return ""
        self._crossed_at = now_ns
        return f"another publisher is heard on {self.topic}"

    def several(self, now_ns: int) -> str:
        """Why nobody may trust the topic now, or "": more than one publisher speaks."""
        if self.count < 2:
            return ""
        lately = self._crossed_at is not None and 0 <= now_ns - self._crossed_at <= CROSSED
        return f"{self.topic} has {self.count} publishers" if lately or not self._numbered else ""
