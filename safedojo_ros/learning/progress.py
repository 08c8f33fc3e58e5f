"""Progress of long work: a bar for people, and calls of observers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safedojo_ros.learning import processes

Observer = Callable[[int, int | None, dict[str, float]], None]
"""Called with (step, total or None, metrics) during every training and recording."""

Say = Callable[[str], None]
"""Called with sentences for people; `print` by default."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Inside, `observer` is called at every step that a bar shows and with all metrics."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def report(step: int, total: int | None, metrics: dict[str, float]) -> None:
    """Call the observers."""
    for observer in _observers:
        observer(step, total, metrics)


@contextmanager
def progress_bar(what: str, done: int, total: int) -> Iterator[Callable[..., None]]:
    """A bar, of the first process; call what it yields with (step, text) after each step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, disable=processes.number() > 0) as progress:
        task = progress.add_task(what, total=total, completed=done, note="")

        def show(step: int, note: str = "") -> None:
            progress.update(task, completed=step, note=note)
            report(step, total, {})

        yield show
