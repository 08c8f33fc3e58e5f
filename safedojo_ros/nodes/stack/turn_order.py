"""Whose turn it is within one control step of simulated time. No ROS, injected time.

The world's time stands still until every node that acts has had its turn: watchdog and policy,
then the gate, then the arm. So a slow machine misses no turn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

PATIENCE = 10.0
"""Seconds for which a node that is computing on a starved machine, or has died, is waited for; then
time goes on without it until it answers again."""

ORDER = (("watchdog_node", "policy_node"), ("safety_node",), ("franka_node",))
"""The nodes that act; those beside each other have their turns at once."""

Turn = dict[str, Any]
"""`node` and `stamp` (ns), what the world has done in this step, and what the earlier ones said."""


def members(without: str = "") -> list[str]:
    """All of `ORDER` but the node `without`."""
    return [name for group in ORDER for name in group if name != without]


class TurnOrder:
    """`begin` a step, hand its turns out, and tell it of every answer."""

    def __init__(self, members: Sequence[str], patience: float = PATIENCE) -> None:
        """members: of `ORDER`, those that are there."""
        self.answers: dict[str, Turn] = {}
        """What each node said in this step."""
        self.missing: set[str] = set(members)
        """Who is not waited for, since it was not heard, or not for `patience` seconds."""
        self._members, self._patience = set(members), patience
        self._facts: Turn = {}
        self._asked: dict[str, float] = {}
        self._answered: Turn = {}

    def begin(self, stamp: int, facts: Mapping[str, Any], now: float) -> list[Turn]:
        """The first turns of the step at `stamp` (ns); facts: what the world has done; now: s."""
        self.answers, self._asked = {}, {}
        self._facts = {"stamp": stamp, **facts}
        self._answered = {}
        return self._next(now)

    def answer(self, said: Mapping[str, Any], now: float) -> list[Turn]:
        """The turns that follow from what a node said: its `node`, the `stamp` and its own words.

        A node that answers anything is there (again). An answer to an earlier step changes nothing.
        """
        name = str(said.get("node"))
        if name not in self._members:
            return []
        self.missing.discard(name)
        if said.get("stamp") != self._facts.get("stamp") or name not in self._asked:
            return []
        words = {key: value for key, value in said.items() if key not in ("node", "stamp")}
        self.answers[name] = words
        self._answered |= words
        return self._next(now)

    def give_up(self, now: float) -> tuple[list[str], list[Turn]]:
        """Who is waited for no longer, and the turns that follow from that."""
        late = [n for n in self._open() if now - self._asked[n] > self._patience]
        self.missing |= set(late)
        return late, self._next(now) if late else []

    @property
    def over(self) -> bool:
        """Whether every node that is there has had its turn."""
        return bool(self._facts) and not self._open() and self._asked.keys() >= self._members

    def _open(self) -> list[str]:
        """Who has been asked, is there, and has not answered."""
        return [n for n in self._asked if n not in self.answers and n not in self.missing]

    def _next(self, now: float) -> list[Turn]:
        turns: list[Turn] = []
        for group in ORDER:
            if self._open():
                break
            for name in group:
                if name in self._members and name not in self._asked:
                    self._asked[name] = now
                    turns.append({"node": name, **self._facts, **self._answered})
        return turns
