"""Batches of episodes, spread over workers.

A worker is made once, holds its policy and worlds, and takes one batch at a time. What it answers
must depend on the batch alone; then neither the number of workers nor a worker that dies changes a
result: a dead one is replaced, and its batch is played again.
"""

import heapq
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from safedojo_ros.core.errors import SafeDojoError, WorkerLost

Play = Callable[[Any], Any]
"""What a worker does with a batch."""
Make = Callable[[], Play]
"""Makes `Play` on the worker; it is pickled to get there, with all that it holds."""

TRIES = 3
"""Workers that one batch may end before it is given up."""
AHEAD = 2
"""Batches for each worker that may be played before the one whose result is waited for."""


@dataclass(frozen=True)
class Done:
    """A batch was played."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """A batch, or making the worker, raised `error`; text: its traceback on the worker."""

    error: Exception
    text: str


@dataclass(frozen=True)
class Died:
    """A worker is no more; why: what is known of it."""

    why: str


Answer = Done | Failed | Died


class Crew(Protocol):
    """Workers of one kind, numbered from 0."""

    def start(self, worker: int) -> None:
        """Start the worker, in place of a dead one of this number."""
        ...

    def give(self, worker: int, batch: Any) -> None:
        """Let an idle worker play `batch`; a dead one is reported by `wait`."""
        ...

    def wait(self) -> list[tuple[int, Answer]]:
        """Wait until a worker has answered or died; those that have, each once a batch."""
        ...

    def share(self, value: Any) -> Callable[[], Any]:
        """What gives `value` on a worker; it is part of batches, and sent no more than needed."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class Worker:
    """What runs on a worker; made with the first batch, so that a fault in it is an answer."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._play: Play | None = None

    def answer(self, batch: Any) -> Done | Failed:
        """What playing `batch` gives or raises."""
        try:
            if self._play is None:
                self._play = self._make()
            return Done(self._play(batch))
        except Exception as error:  # the other side raises it
            return Failed(error, traceback.format_exc())


def spread(
    crew: Crew, batches: Sequence[Any], workers: int, started: bool = False
) -> Iterator[Any]:
    """The result of each batch, in order; started: the workers have played other batches before.

    Raises what a batch raised, `WorkerLost` for one that ends every worker it is given to, after
    the results of all batches before it.
    """
    count = min(workers, len(batches))
    idle, left = deque(range(count)), list(range(len(batches)))  # left is a heap
    playing: dict[int, int] = {}
    answers: dict[int, Done | Failed] = {}
    ended: Counter[int] = Counter()
    for worker in range(0 if started else count):
        crew.start(worker)
    for following in range(len(batches)):
        while following not in answers:
            while idle and left and left[0] < following + AHEAD * count:
                worker = idle.popleft()
                playing[worker] = heapq.heappop(left)
                crew.give(worker, batches[playing[worker]])
            for worker, answer in crew.wait():
                number = playing.pop(worker)
                idle.append(worker)
                if isinstance(answer, Died):
                    crew.start(worker)
                    ended[number] += 1
                    if ended[number] < TRIES:
                        heapq.heappush(left, number)
                        continue
                    what = f"batch {number + 1} of {len(batches)}"
                    answer = _given_up(what, answer)
                answers[number] = answer
        yield _result(answers.pop(following))


def _given_up(what: str, death: Died) -> Failed:
    return Failed(
        WorkerLost(
            f"{what} ended {TRIES} workers, the last by {death.why}; fewer --workers or a smaller "
            "--batch need less memory"
        ),
        "",
    )


def _result(answer: Done | Failed) -> Any:
    if isinstance(answer, Done):
        return answer.result
    if isinstance(answer.error, SafeDojoError):
        raise answer.error
    raise RuntimeError(f"a worker failed:\n{answer.text}") from answer.error
