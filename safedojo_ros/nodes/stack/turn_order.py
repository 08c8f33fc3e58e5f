"""Whose turn it is within one control step of simulated time. No ROS, injected time.

The world's time stands still until every node that acts has had its turn: watchdog and policy,
then the gate, then the arm. So a slow machine misses no turn. And a turn says what has been
published before it, in this step and in the last one: a node takes its turn only when it has heard
all of that, so that the speed of messages changes nothing either.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from safedojo_ros.core.errors import SafeDojoError

PATIENCE = 10.0
"""Seconds for which a node that is computing on a starved machine, or has died, is waited for; then
time goes on without it until it answers again."""

ORDER = (("watchdog_node", "policy_node"), ("safety_node",), ("franka_node",))
"""The nodes that act; those beside each other have their turns at once."""

Turn = dict[str, Any]
"""`node` and `stamp` (ns), what the world has done in this step, what the earlier ones have said in
it, and under `before` what all have said in the last one; see `FIELDS`."""

FIELDS: Mapping[str, type] = {
    "node": str,
    "stamp": int,  # ns, the world's time
    # the world
    "pose": bool,  # whether the arm's state is published in this step
    "images": bool,  # whether every camera's image is
    "enabled": bool,  # whether the enable switch is pressed
    "scene": int,  # ns, when this episode was laid out; 0 before the first
    "instruction": str,  # of this episode; "" before the first
    "before": dict,
    # watchdog_node
    "watched": bool,  # whether it has published its state
    "fine": bool,  # whether that is OK
    # policy_node
    "proposed": int,  # sequence of its newest chunk
    # safety_node
    "judged": int,  # sequence of the newest chunk that it has judged
    "forwarded": int,  # sequence of the newest chunk that it has published
    "head": str,  # its checkpoint
    # franka_node
    "armed": bool,
    "sent": bool,  # whether it has published a target
    "acted": int,  # ns, stamp of its newest state
}
"""What turns and answers may hold."""


class TurnRejected(SafeDojoError):
    """What was said on `sim/turn` or `sim/done` is not in the words of `FIELDS`."""


def read(text: str, *needed: str) -> Turn:
    """A turn, or an answer to one, from JSON; raises `TurnRejected`, also without the `needed`."""
    try:
        words = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TurnRejected(f"it is not JSON: {error}") from None
    _check(words, ("node", "stamp", *needed))
    return dict(words)


def _check(words: Any, needed: Sequence[str] = ()) -> None:
    if not isinstance(words, dict):
        raise TurnRejected(f"it is {type(words).__name__}, expected an object")
    for name in needed:
        if name not in words:
            raise TurnRejected(f"it has no '{name}'")
    for name, value in words.items():
        kind = FIELDS.get(name, type(value))
        if type(value) is not kind or (type(value) is int and not 0 <= value < 2**63):
            raise TurnRejected(f"its '{name}' is {value!r:.40}, expected {kind.__name__}")
        if name == "before":
            _check(value)


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
        """What all nodes said in this step."""

    def begin(self, stamp: int, facts: Mapping[str, Any], now: float) -> list[Turn]:
        """The first turns of the step at `stamp` (ns); facts: what the world has done; now: s."""
        self.answers, self._asked = {}, {}
        self._facts = {"stamp": stamp, **facts, "before": self._answered}
        self._answered = {}
        return self._next(now)

    def answer(self, said: Mapping[str, Any], now: float) -> list[Turn]:
        """The turns that follow from what a node said: its `node`, the `stamp` and its own words.

        A node that answers anything is there (again). An answer to an earlier step changes nothing.
        """
        name = said["node"]
        if name not in self._members:
            return []
        self.missing.discard(name)
        if said["stamp"] != self._facts.get("stamp") or name not in self._asked:
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
