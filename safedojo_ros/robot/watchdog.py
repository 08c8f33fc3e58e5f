"""Deadlines by name: who must be heard how often, and who has fallen silent."""

from collections.abc import Mapping

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.units import SECOND


class Watchdog:
    """`feed` it whenever a source is heard; `late` lists the ones that are overdue, in sentences.

    A source that was never heard is late from the beginning.
    """

    def __init__(self, deadlines: Mapping[str, float]) -> None:
        """deadlines: {name: seconds}."""
        for name, seconds in deadlines.items():
            if not 0 < seconds < float("inf"):
                raise ConfigError(f"deadline of '{name}' is {seconds} s, expected more than 0")
        self._deadlines = dict(deadlines)
        self._heard: dict[str, int] = {}

    def feed(self, name: str, now_ns: int) -> None:
        """Note that `name` was heard now. Raises `ConfigError` for an unknown name."""
        if name not in self._deadlines:
            known = ", ".join(self._deadlines)
            raise ConfigError(f"no deadline is known for '{name}'; known: {known}")
        self._heard[name] = now_ns

    def silence(self, name: str, now_ns: int) -> float:
        """Seconds since `name` was heard; infinite if never, or if the clock went back."""
        heard = self._heard.get(name)
        if heard is None or now_ns < heard:
            return float("inf")
        return (now_ns - heard) / SECOND

    def late(self, now_ns: int) -> list[str]:
        """One sentence for each overdue source, in the order of the deadlines."""
        sentences = []
        for name, deadline in self._deadlines.items():
            silence = self.silence(name, now_ns)
            if silence <= deadline:
                continue
            if name not in self._heard:
                sentences.append(f"'{name}' has not been heard yet")
            elif silence == float("inf"):
                sentences.append(f"'{name}' was last heard in the future: the clock went back")
            else:
                sentences.append(
                    f"'{name}' has been silent for {silence:.2f} s, the deadline is {deadline:g} s"
                )
        return sentences
