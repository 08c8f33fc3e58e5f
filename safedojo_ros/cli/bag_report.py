"""What `safedojo bag-to-dataset` prints about what it has converted."""

from rich.console import Console
from rich.table import Table

from safedojo_ros.data.bags.conversion import ConversionReport, all_findings

REPORT = "bag_to_dataset.json"
SHOWN = 40
"""Most findings that are printed; the report has all."""


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
