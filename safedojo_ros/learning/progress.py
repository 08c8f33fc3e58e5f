"""How far long work is: a bar for people, and observers that are told the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Observer = Callable[[int, int | None, dict[str, float]], None]
"""Is told (step, total or None, metrics) of whatever is trained or played."""

Say = Callable[[str], None]
"""Is given sentences for people, `print` by default."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Inside, `observer` is told of every step that a bar shows and of all metrics."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def report(step: int, total: int | None, metrics: dict[str, float]) -> None:
    """Tell the observers."""
    for observer in _observers:
        observer(step, total, metrics)


@contextmanager
def progress_bar(what: str, done: int, total: int) -> Iterator[Callable[..., None]]:
    """A bar; call what it yields with (step, text) after each step."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(what, total=total, completed=done, note="")

        def show(step: int, note: str = "") -> None:
            progress.update(task, completed=step, note=note)
            report(step, total, {})

        yield show
