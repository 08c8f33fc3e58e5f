"""What `safedojo bag-to-dataset` prints about what it has converted."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from safedojo_ros.data.bags.conversion import ConversionReport, all_findings
from safedojo_ros.data.bags.free_motion import MARGIN, FreeMotion, false_alarms
from safedojo_ros.evaluation.plot import Curve, line_chart, png

REPORT = "bag_to_dataset.json"
ALARMS = "free_motion.png"
SHOWN = 40
"""Most findings that are printed; the report has all."""


def calibrate(wrenches: np.ndarray) -> FreeMotion:
    """The limits of free motion, printed with the share of wrenches (N, 6) that they would call a
    contact falsely; raises `DatasetError` for too few."""
    free = FreeMotion.of(wrenches)
    alarms = float(false_alarms(wrenches, np.array([MARGIN]))[0])
    print(f"free motion: {free}; false alarms: {alarms:.2%} of its wrenches, see {ALARMS}")
    return free


def write_alarms(wrenches: np.ndarray, path: Path) -> None:
    """A PNG: the share of false alarms by how far the limits lie beyond free motion."""
    margins = np.linspace(0.0, 1.0, 21)
    alarms = 100.0 * false_alarms(wrenches, margins)
    chosen = Curve("chosen", [100 * MARGIN] * 2, [0.0, float(alarms.max()) or 1.0], dashed=True)
    curve = Curve("a tenth by the others' limits", (100 * margins).tolist(), alarms.tolist())
    figure = line_chart(
        "False alarms of contact by the wrench",
        "limits beyond free motion, % of its reach",
        "wrenches of free motion, %",
        [curve, chosen],
    )
    path.write_bytes(png(figure))


def show(report: ConversionReport, console: Console) -> None:
    """A row for each take, then the findings."""
    table = Table(title=f"{report.bags} bags, {report.messages} messages")
    for heading in ("recording", "success", "steps", "contact steps", "dropped"):
        table.add_column(heading, overflow="fold")
    for take in report.takes:
        table.add_row(
            take.bag,
            {None: "not known", True: "yes", False: "no"}[take.success],
            " + ".join(map(str, take.episodes)) or "none",
            f"{take.contact_steps} ({take.cost_source})" if take.cost_source else "not known",
            "; ".join(take.dropped),
        )
    console.print(table)
    for bag, fault in report.broken.items():
        console.print(f"{bag}: {fault}", markup=False, soft_wrap=True)
    for misfit in report.misfits:
        console.print(misfit, markup=False, soft_wrap=True)
    if report.unread:
        unread = ", ".join(f"{topic} ({count})" for topic, count in sorted(report.unread.items()))
        console.print(f"not read: {unread}", markup=False, highlight=False, soft_wrap=True)
    for topic in report.other_targets:
        console.print(f"{topic} is of another robot; --namespace says which", markup=False)
    findings = list(all_findings(report))
    for finding in findings[:SHOWN]:
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    if len(findings) > SHOWN:
        console.print(f"... and {len(findings) - SHOWN} more: see {REPORT}")
