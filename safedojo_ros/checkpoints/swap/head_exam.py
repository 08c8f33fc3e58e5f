"""The exam of a safety head: does it tell chunks with contact from those without?

A new head is examined by its own contact examples and by those of the head that runs, since nobody
should choose the own exam alone; and it must not set free what the running head has just held,
unless the running head's own examples say that it knows better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safedojo_ros.core.contact_examples import ContactExamples
from safedojo_ros.core.costs import CONTACT
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Observation, top_m_mean


@dataclass(frozen=True)
class ExamBars:
    """What a head must reach."""

    auroc: float = 0.8
    """Area under the ROC curve of the chunk cost."""
    recall: float = 0.6
    """Share of the chunks with contact that reach its cost limit, which are held."""
    alarms: float = 0.5
    """Share of the free chunks that may reach it."""
    worse: float = 0.15
    """How far AUROC and recall may lie under the running head's, on the running head's examples."""
    held: int = 4
    """Chunks that the running head has held lately, from which on the newcomer is asked ..."""
    freed: float = 0.5
    """... and the share of them that it may set free."""


@dataclass(frozen=True)
class Marks:
    """What a head made of contact examples; see `ExamBars`."""

    auroc: float
    recall: float
    alarms: float

    def __str__(self) -> str:
        return f"AUROC {self.auroc:.2f}, recall {self.recall:.0%}, false alarms {self.alarms:.0%}"


BARS = ExamBars()
MAX_COST_M = 64
"""Steps of the longest chunk."""


def marks(model: Any, examples: ContactExamples, limit: float) -> Marks:
    """Let a head judge examples; raises `CheckpointError` where it gives no probabilities.

    model: with `cost_m`, and `costs_of` or `step_cost`; limit: of the chunk cost.
    """
    count, length = examples.chunks.shape[:2]
    if hasattr(model, "costs_of"):
        answers = model.costs_of(examples)
    else:
        seen = [examples.observation(number) for number in range(count)]
        answers = model.step_cost(seen, examples.chunks)
    costs = np.asarray(answers, dtype=np.float64)
    if costs.shape != (count, length) or not np.all((costs >= 0.0) & (costs <= 1.0)):
        raise CheckpointError("its costs of contact examples are not probabilities for every step")
    cost = np.array([top_m_mean(each, model.cost_m) for each in costs])
    touched, free = cost[examples.contact], cost[~examples.contact]
    above = (touched[:, None] > free).mean() + 0.5 * (touched[:, None] == free).mean()
    return Marks(float(above), float((touched >= limit).mean()), float((free >= limit).mean()))


def check_marks(found: Marks, whose: str, bars: ExamBars = BARS) -> None:
    """Raise `CheckpointError` for marks under the bars."""
    if found.auroc < bars.auroc or found.recall < bars.recall or found.alarms > bars.alarms:
        raise CheckpointError(
            f"it does not tell contacts apart on {whose} contact examples: {found}; the bars are "
            f"{bars.auroc:.2f}, {bars.recall:.0%} and at most {bars.alarms:.0%}"
        )


def check_costs(model: Any, expected: Sequence[str]) -> None:
    """Raise `CheckpointError` unless a head predicts the costs that a cell expects beside contact,
    and no others; expected: their names, none where any will do."""
    names = _names(model)
    if expected and sorted(names) != sorted(expected):
        raise CheckpointError(
            f"it predicts {', '.join([CONTACT, *names])}, the contract of this cell expects "
            f"{', '.join([CONTACT, *expected])}; train a head on these, or correct its 'costs'"
        )


def examine_first(model: Any, limit: float, bars: ExamBars = BARS) -> str:
    """The head that a node begins with; a warning where it brings no examples, or "".

    There is nothing to compare it with, and whoever starts a node has chosen it. Raises
    `CheckpointError` where it fails by its own examples.
    """
    _check_numbers(model, limit)
    examples = getattr(model, "examples", None)
    if examples is None:
        return "the safety head brings no contact examples that say whether it knows contacts"
    check_marks(marks(model, examples, limit), "its own", bars)
    return ""


def examine(
    model: Any,
    limit: float,
    running: Any | None,
    running_limit: float,
    held: Sequence[tuple[Observation, np.ndarray]],
    bars: ExamBars = BARS,
) -> None:
    """Raise `CheckpointError` unless `model` may follow `running`.

    limit, running_limit: cost limits that would be and are in force; held: the observations and
    (H, 7) actions of the newest chunks that the running head held.
    """
    _check_numbers(model, limit)
    lost = [each for each in _names(running) if each not in _names(model)]
    if lost:
        raise CheckpointError(
            f"it does not predict {', '.join(lost)}, which the running head keeps under its limit; "
            "train it with this cost, or restart the node with it"
        )
    own = getattr(model, "examples", None)
    if own is None:
        raise CheckpointError(
            "it brings no contact examples to be examined by; train it with this version, or "
            "restart the node with it"
        )
    check_marks(marks(model, own, limit), "its own", bars)
    theirs, knows_better = getattr(running, "examples", None), False
    if theirs is not None and theirs.chunk_length == own.chunk_length:
        new, old = marks(model, theirs, limit), marks(running, theirs, running_limit)
        check_marks(new, "the running head's", bars)
        if min(new.auroc - old.auroc, new.recall - old.recall) < -bars.worse:
            raise CheckpointError(
                f"it knows contacts worse than the running head, on whose examples it has {new}; "
                f"the running head has {old}"
            )
        knows_better = new.auroc >= old.auroc and new.recall >= old.recall
    if knows_better or len(held) < bars.held:
        return
    freed = sum(_chunk_cost(model, seen, actions) < limit for seen, actions in held)
    if freed > bars.freed * len(held):
        raise CheckpointError(
            f"{freed} of the last {len(held)} chunks that the running head held are free for it, "
            "and no contact example says that it knows better"
        )


def _check_numbers(model: Any, limit: float) -> None:
    """What the gate needs of a head, whoever loaded it."""
    if not 1 <= model.cost_m <= MAX_COST_M or not 0.0 < limit < 1.0:
        raise CheckpointError(
            f"its cost_m is {model.cost_m} and the cost limit {limit}, expected within "
            f"[1, {MAX_COST_M}] and (0, 1)"
        )


def _names(model: Any | None) -> list[str]:
    """Of the costs beside contact."""
    return [each.name for each in getattr(model, "others", ())]


def _chunk_cost(model: Any, seen: Observation, actions: np.ndarray) -> float:
    costs = np.asarray(model.step_cost([seen], actions[None]), dtype=np.float64)[0]
    return top_m_mean(costs, model.cost_m)
