"""The figures of a recorded evaluation, and whether one policy did worse than another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safedojo_ros.checkpoints.manifest import Manifest

WITHOUT = ("batch", "gate")
"""Settings of an evaluation that do not change which episodes are played, or are its result."""
RATES = ("tsr", "car", "ssr")
Rates = tuple[float, float, float]
"""TSR, CAR and SSR, each within [0, 1]."""


@dataclass(frozen=True)
class Standing:
    """Two policies on the levels that both were evaluated at, by the same protocol and seeds.

    episodes: of each policy; new, old: rates over them.
    """

    levels: tuple[str, ...]
    episodes: int
    new: Rates
    old: Rates

    @property
    def worse(self) -> bool:
        """SSR is lower; or it is the same, and TSR is lower."""
        return (self.new[2], self.new[0]) < (self.old[2], self.old[0])


def recorded(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest keeps of a report of `safedojo evaluate --json`: all but each episode."""
    return {key: value for key, value in report.items() if key != "episodes"}


def is_report(content: Any) -> bool:
    """Whether this is a report that figures can be read from."""
    return isinstance(content, dict) and any(True for _ in _reports({"": content}))


def standing(new: Mapping[str, Any], old: Mapping[str, Any]) -> Standing | None:
    """How two manifests' evaluations compare; None where they have no episodes in common.

    They have where world, tasks and settings are the same, and a level with as many episodes.
    """
    for ours, here in _reports(new):
        for theirs, there in _reports(old):
            levels = [name for name in here if name in there and here[name][0] == there[name][0]]
            if levels and _protocol(ours) == _protocol(theirs):
                episodes = sum(here[name][0] for name in levels)
                return Standing(
                    tuple(levels), episodes, _pooled(here, levels), _pooled(there, levels)
                )
    return None


def figures_text(manifest: Manifest) -> str:
    """The figures that a manifest records, in a few words; "" where it has none.

    Of a policy TSR, CAR and SSR in percent for each level, of another kind what it was judged by.
    """
    for report, levels in _reports(manifest.evaluation):
        by_level = (
            f"{name} {'/'.join(f'{100 * rate:.0f}' for rate in rates)}"
            for name, (_, rates) in levels.items()
        )
        settings = report["settings"]
        where = [settings.get("split", "?"), settings.get("filter")]
        return "; ".join([*by_level, ", ".join(str(word) for word in where if word)])
    fidelity = manifest.fidelity
    if manifest.kind == "world_model" and isinstance(bars := fidelity.get("bars"), list):
        reached = sum(isinstance(bar, dict) and bar.get("passed") is True for bar in bars)
        return f"{reached} of {len(bars)} bars"
    name, value = "AUROC", fidelity.get("auroc")
    if manifest.kind == "success" and isinstance(real := fidelity.get("real"), dict):
        name, value = "F1", real.get("f1")
    return f"{name} {value:.3f}" if isinstance(value, float) else ""


def _reports(
    evaluation: Mapping[str, Any],
) -> Iterator[tuple[dict[str, Any], dict[str, tuple[int, Rates]]]]:
    """Each report in an evaluation, and {level: (episodes, rates)}; what is none is left out."""
    for report in evaluation.values():
        try:
            levels = {
                str(name): (int(row["episodes"]), _rates(row))
                for name, row in report["levels"].items()
            }
            if levels and isinstance(report["settings"], dict):
                yield report, levels
        except (KeyError, TypeError, ValueError, AttributeError):
            continue


def _rates(row: Mapping[str, Any]) -> Rates:
    tsr, car, ssr = (float(row[rate]["value"]) for rate in RATES)
    return tsr, car, ssr


def _protocol(report: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides which episodes are played."""
    settings = {k: v for k, v in report["settings"].items() if k not in WITHOUT}
    cells = report.get("cells")
    tasks = sorted({str(c.get("task")) for c in cells}) if isinstance(cells, list) else None
    return report.get("world", "tabletop"), tasks, settings


def _pooled(levels: Mapping[str, tuple[int, Rates]], names: list[str]) -> Rates:
    total = sum(levels[name][0] for name in names)
    sums = [sum(levels[n][0] * levels[n][1][i] for n in names) for i in range(len(RATES))]
    tsr, car, ssr = (round(value / max(1, total), 9) for value in sums)
    return tsr, car, ssr
