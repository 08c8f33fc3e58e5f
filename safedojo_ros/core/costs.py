"""Costs beside contact, each by a name, with limits of its own.

Contact with what must not be touched is the first cost of every safety head. Others are registered
before a head is trained; the head predicts them, too, and its checkpoint keeps names and limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safedojo_ros.core.config import check_ranges, from_mapping
from safedojo_ros.core.errors import ConfigError

CONTACT = "contact"
"""Name of the first cost."""
MOST_COSTS = 8
"""Beside contact."""


@dataclass(frozen=True)
class CostLimit:
    """What a checkpoint keeps of a cost beside contact."""

    name: str
    limit: float = 0.2
    """Chunk cost that the gate keeps it under, (0, 1)."""
    share: float = 0.1
    """Share of the imagined episodes that practice allows to have it, [0, 1]."""
    threshold: float = 0.5
    """Step cost above which an episode counts as one that has it, [0, 1]; training finds it."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name == CONTACT:
            raise ConfigError(
                f"name of a cost is '{self.name}', expected letters, digits and _, and not "
                f"'{CONTACT}', which is the first cost already",
                "name",
            )
        check_ranges(self, limit="(0, 1)", share="[0, 1]", threshold="[0, 1]")


@dataclass(frozen=True)
class Cost:
    """A cost of one's own, which `add_cost` registers."""

    name: str
    """In reasons, metrics and checkpoints: letters, digits and _."""
    label: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """State (T, S) and actions (T, A) of an episode, physical → (T,), above 0 where a step has the
    cost; the state is that before the action."""
    limit: float = CostLimit.limit
    """Chunk cost that the gate keeps it under, (0, 1)."""
    share: float = CostLimit.share
    """Share of the imagined episodes that practice allows to have it, [0, 1]."""

    @property
    def limits(self) -> CostLimit:
        """What a head that is trained on it begins with."""
        return CostLimit(self.name, self.limit, self.share)


COSTS: dict[str, Cost] = {}
"""The registered costs, in the order in which heads predict them after contact."""


def add_cost(cost: Cost) -> None:
    """Register it.

    Raises `ConfigError` for a name that is taken or is none, or for limits out of range.
    """
    _ = cost.limits
    if cost.name in COSTS:
        raise ConfigError(f"there is a cost '{cost.name}' already")
    if len(COSTS) == MOST_COSTS:
        raise ConfigError(f"there are {MOST_COSTS} costs already, the most that a head predicts")
    COSTS[cost.name] = cost


def labelled(
    names: Sequence[str], state: np.ndarray, actions: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """(N, O) bool: which steps have which of the registered costs `names`.

    state: (N, S); actions: (N, A), physical; starts: (E + 1,) first step of each episode. Raises
    `ConfigError` for a cost that is not registered, or a label of another shape.
    """
    found = np.zeros((len(state), len(names)), dtype=bool)
    for column, name in enumerate(names):
        if name not in COSTS:
            raise ConfigError(
                f"cost '{name}' is not registered; call add_cost first, as where it was trained"
            )
        for first, end in zip(starts[:-1], starts[1:], strict=True):
            label = np.asarray(COSTS[name].label(state[first:end], actions[first:end]))
            if label.shape != (end - first,):
                raise ConfigError(
                    f"the label of cost '{name}' has shape {label.shape}, expected "
                    f"({end - first},), one for each step"
                )
            found[first:end, column] = label > 0
    return found


@dataclass(frozen=True)
class _Listed:
    costs: tuple[CostLimit, ...]


def read_limits(config: Mapping[str, Any]) -> tuple[CostLimit, ...]:
    """The "costs" of a checkpoint's config.json, none where it has none; raises `ConfigError`."""
    limits = from_mapping(_Listed, {"costs": config.get("costs", ())}).costs
    names = [each.name for each in limits]
    if len(set(names)) < len(names) or len(names) > MOST_COSTS:
        raise ConfigError(f"costs are {names}, expected at most {MOST_COSTS} different names")
    return limits
