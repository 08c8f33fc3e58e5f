"""The moments of a data set that a person answers, and what becomes of the answers."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.relabel import relabel

REVIEWED = ("wrench", "predicted", "")
"""Sources of labels that a person is asked about; "": nobody has said anything."""


@dataclass(frozen=True)
class Moment:
    """Steps `first` to `end` (excluded) of the episode with this index in the set.

    contact: the label says that something is touched in all of them; else that nothing is in any,
    and they are the whole episode.
    """

    episode: int
    first: int
    end: int
    contact: bool


class Review:
    """Asks about every run of steps with a contact label, and once about an episode without any.

    As soon as all moments of an episode are answered it is saved, with source `person`. Raises
    `DatasetError` where the set cannot be read, or there is nothing to ask.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.reader = root, EpisodeReader(root)
        arrays = self.reader.load_arrays(images=False)
        self.labels = {
            index: arrays.cost[arrays.starts[index] : arrays.starts[index + 1]] > 0
            for index, row in enumerate(self.reader.rows)
            if row.cost_source in REVIEWED
        }
        self.moments = [m for i, label in self.labels.items() for m in moments_of(i, label)]
        if not self.moments:
            raise DatasetError(
                f"every contact label of {root} is by physics or a person; there is nothing to ask"
            )
        self.before = {index: label.copy() for index, label in self.labels.items()}
        self.answers: dict[int, bool] = {}
        self.saved: set[int] = set()
        self._episode = lru_cache(maxsize=2)(self.reader.__getitem__)

    @property
    def done(self) -> bool:
        """Whether every episode is saved."""
        return len(self.saved) == len(self.labels)

    @property
    def changed(self) -> int:
        """Steps of saved episodes that have another label than before."""
        return sum(int((self.labels[i] != self.before[i]).sum()) for i in self.saved)

    def answer(self, number: int, right: bool) -> None:
        """Whether the label of a moment is right; saves the episode when it was the last one.

        A wrong contact becomes none. Raises `DatasetError` for a wrong "no contact", which leaves
        open where there is one: `mark` says it.
        """
        moment = self._moment(number)
        label = self.labels[moment.episode]
        if moment.contact and right != label[moment.first : moment.end].any():
            label[moment.first : moment.end] = right
        if not moment.contact and not right:
            raise DatasetError("mark the steps with contact by the space bar, then press y")
        self.answers[number] = right
        mine = [n for n, each in enumerate(self.moments) if each.episode == moment.episode]
        if all(n in self.answers for n in mine):
            relabel(self.root, self.reader.rows[moment.episode], label, "person")
            self.saved.add(moment.episode)

    def mark(self, number: int, step: int, contact: bool) -> None:
        """Whether something is touched in one step of a moment's episode; an episode that is saved
        is saved again. Raises `DatasetError` for a step that it has not."""
        episode = self._moment(number).episode
        label = self.labels[episode]
        if not 0 <= step < len(label):
            raise DatasetError(f"step is {step}, the episode has {len(label)}")
        label[step] = contact
        if episode in self.saved:
            relabel(self.root, self.reader.rows[episode], label, "person")

    def state(self) -> dict[str, Any]:
        """What the page shows of all moments, as plain values."""
        return {
            "set": str(self.root),
            "moments": [
                {
                    "episode": self.reader.rows[moment.episode].number,
                    "source": self.reader.rows[moment.episode].cost_source or "nobody",
                    "first": moment.first,
                    "end": moment.end,
                    "contact": moment.contact,
                    "answer": self.answers.get(number),
                    "labels": self.labels[moment.episode].astype(int).tolist(),
                }
                for number, moment in enumerate(self.moments)
            ],
            "saved": len(self.saved),
            "episodes": len(self.labels),
        }

    def image(self, number: int, step: int) -> bytes:
        """PNG of what the cameras saw at a step of a moment's episode, side by side."""
        episode: Episode = self._episode(self._moment(number).episode)
        if not 0 <= step < len(episode):
            raise DatasetError(f"step is {step}, the episode has {len(episode)}")
        beside = np.concatenate([images[step] for images in episode.images.values()], axis=1)
        coded = cv2.imencode(".png", cv2.cvtColor(beside, cv2.COLOR_RGB2BGR))[1]
        return bytes(coded.tobytes())

    def _moment(self, number: int) -> Moment:
        if not 0 <= number < len(self.moments):
            raise DatasetError(f"moment is {number}, there are {len(self.moments)}")
        return self.moments[number]


def moments_of(episode: int, contact: np.ndarray) -> list[Moment]:
    """The runs of `contact` (T,) bool, or the whole episode where there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], contact.astype(int), [0]])))
    runs = [Moment(episode, int(a), int(b), True) for a, b in edges.reshape(-1, 2)]
    return runs or [Moment(episode, 0, len(contact), False)]
