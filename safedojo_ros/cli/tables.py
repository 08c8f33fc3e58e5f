"""Tables for the terminal: figures of an evaluation, counts of episodes, checkpoints."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from safedojo_ros.checkpoints.figures import figures_text
from safedojo_ros.checkpoints.manifest import KINDS, Manifest
from safedojo_ros.checkpoints.store.retention import pinned
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.data.lerobot.rows import EpisodeRow
from safedojo_ros.evaluation.protocol import LEVEL_NAMES, EvaluationReport, Figures
from safedojo_ros.evaluation.statistics import Estimate

LABEL_WIDTH = 16
"""Longest name of a task, characters, that need not be broken in a table."""


def figures_table(report: EvaluationReport) -> Table:
    """Cells, then levels, then everything; contact: steps an episode; moved: the obstacle, mm."""
    late = report.settings.get("latency")
    timing = "" if late is None else f", chunks {late} steps late" if late else ", instant play"
    title = f"{report.policy} on {report.world}{timing}, 95 % intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("task")
    table.add_column("level", no_wrap=True)
    for heading in ("n", "TSR %", "CAR %", "SSR %", "ETS", "contact", "moved"):
        table.add_column(heading, justify="right", no_wrap=True)
    labels = task_labels(sorted({task for task, _ in report.cells}))
    for (task, level), cell in report.cells.items():
        table.add_row(labels[task], LEVEL_NAMES[level], *_row(cell))
    table.add_section()
    for level, figures in report.levels.items():
        table.add_row("all", LEVEL_NAMES[level], *_row(figures))
    if len(report.levels) > 1:
        table.add_row("all", "all", *_row(report.overall))
    return table


def task_labels(tasks: list[str]) -> dict[str, str]:
    """What to call each task where there is little room: without the words that all begin and end
    with, and as words where that is still long.
    """
    parts = [task.split("_") for task in tasks]
    shortest = min(map(len, parts)) if len(parts) > 1 else 1
    begin, end = 0, 0
    while begin < shortest - 1 and len({part[begin] for part in parts}) == 1:
        begin += 1
    while end < shortest - 1 - begin and len({part[-1 - end] for part in parts}) == 1:
        end += 1
    labels = ["_".join(part[begin : len(part) - end]) for part in parts]
    words = [text if len(text) <= LABEL_WIDTH else text.replace("_", " ") for text in labels]
    return dict(zip(tasks, words, strict=True))


def _row(figures: Figures) -> list[str]:
    rates = [_percent(e) for e in (figures.tsr, figures.car, figures.ssr)]
    return [
        str(figures.episodes),
        *rates,
        f"{figures.ets.value:.0f}",
        f"{figures.contact_steps.value:.1f}",
        f"{1000 * figures.displacement.value:.1f}",
    ]


def _percent(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f} {100 * rate.low:.0f}-{100 * rate.high:.0f}"


def print_episodes(rows: list[EpisodeRow]) -> None:
    """Counts of successes, collisions and contacts by source and level."""
    table = Table(title="episodes")
    for heading in ("source", "level", "episodes", "successes", "collisions", "contacts", "steps"):
        side: JustifyMethod = "left" if heading == "source" else "right"
        table.add_column(heading, justify=side, overflow="fold")
    for source, level in sorted({(r.source, r.level) for r in rows}):
        cell = [r for r in rows if (r.source, r.level) == (source, level)]
        table.add_row(
            source,
            str(level),
            str(len(cell)),
            str(sum(r.success for r in cell)),
            str(sum(r.collided for r in cell)),
            str(sum(r.contact_steps > 0 for r in cell)),
            f"{sum(r.length for r in cell) / len(cell):.0f}",
        )
    Console().print(table)


def print_checkpoints(
    store: CheckpointStore, ships: Sequence[tuple[str, Manifest]], manifests: Sequence[Manifest]
) -> None:
    """What ships, each with its name, then what is in the store, newest first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="policies: TSR/CAR/SSR, %")
    for heading in ("kind", "name", "id", "preset", "MB", "figures"):
        table.add_column(heading, no_wrap=heading in ("kind", "id"))
    pins = {kind: pinned(store, kind) for kind in KINDS}

    def add(manifest: Manifest, name: str) -> None:
        preset, size = manifest.preset or "-", f"{manifest.size / 1e6:.1f}"
        figures = figures_text(manifest).replace("; ", "\n") or "-"
        cells = (manifest.kind, name, manifest.id, preset, size, figures)
        table.add_row(*(escape(cell) for cell in cells))

    for name, manifest in ships:
        add(manifest, name)
    table.add_section()
    for manifest in manifests:
        latest = store.latest(manifest.kind) == manifest.id
        marks = ["latest"] * latest + ["pinned"] * (manifest.id in pins[manifest.kind])
        add(manifest, " ".join(marks))
    Console().print(table)
    if not manifests:
        Console().print(f"{store.root} holds no checkpoints yet", soft_wrap=True)
