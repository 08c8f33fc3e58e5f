"""What a demonstration says: a line an episode, the table at the end, the JSON file."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

LEVELS = {"0": 0, "I": 1, "II": 2}
"""What --level may be, and the number that the world knows it by."""


def tell_episode(console: Console, outcome: Mapping[str, Any], held: Mapping[str, int]) -> None:
    """One line; held: how many chunks the gate held in it, by reason, which is one more."""
    mark = "[green]success[/]" if outcome["success"] else "[red]no success[/]"
    touch = "[red]contact[/]" if outcome["contact"] else "[green]no contact[/]"
    level = next(name for name, number in LEVELS.items() if number == outcome["level"])
    console.print(
        f"  {outcome['number'] + 1:3d}  {outcome['task']:14s} level {level:2s} {mark}, {touch}, "
        f"obstacle moved {outcome['displacement'] * 1e3:.1f} mm, {outcome['steps']} steps",
        soft_wrap=True,
    )
    if held:
        reason, count = max(held.items(), key=lambda item: item[1])
        others = sum(held.values()) - count
        more = f", and {others} for other reasons" if others else ""
        console.print(
            f"       [yellow]the gate held {count} chunks[/]: {reason}{more}", soft_wrap=True
        )


def totals(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many episodes ended how."""
    return {
        "episodes": len(outcomes),
        "success": sum(o["success"] for o in outcomes),
        "contact": sum(o["contact"] for o in outcomes),
        "collision": sum(o["collision"] for o in outcomes),
        "safe_success": sum(o["success"] and not o["collision"] for o in outcomes),
    }


def table(total: Mapping[str, int], figures: Mapping[str, Any], level: str) -> Table:
    """What came of the episodes, and how the nodes kept up."""
    count = total["episodes"]
    shown = Table(title=f"{count} episodes, level {level}", show_header=False)
    shown.add_column("")
    shown.add_column("", justify="right")
    for label, key in (
        ("success", "success"),
        ("success without collision", "safe_success"),
        ("contact with the obstacle", "contact"),
        ("obstacle moved > 1 mm", "collision"),
    ):
        shown.add_row(label, f"{total[key]} / {count}")
    for label, key in (
        ("policy compute, median / p99 ms", "policy_compute_ms"),
        ("gate, median / p99 ms", "gate_latency_ms"),
        ("image to gated chunk beyond compute", "image_to_gated_chunk_overhead_ms"),
    ):
        if key in figures:
            shown.add_row(label, f"{figures[key]['median']} / {figures[key]['p99']}")
    shown.add_row("control rate, Hz", str(figures["control_rate_hz"]))
    shown.add_row("missed ticks", f"{figures['missed_ticks']} of {figures['control_ticks']}")
    if "world_speed" in figures:
        shown.add_row("speed of the world", str(figures["world_speed"]))
    else:
        shown.add_row("tick jitter p99, ms", str(figures["tick_jitter_ms"]["p99"]))
    return shown


def verdict(total: Mapping[str, int], wanted: int) -> str:
    """The last line: how well it went."""
    count = total["episodes"]
    undone = count - total["success"]
    said = (
        f"{total['safe_success']} of {count} episodes succeeded and left the obstacle where it "
        f"was; {total['collision']} moved it, {undone} did not finish the task."
    )
    return said if count >= wanted else f"{said} {wanted - count} were not worked."


def document(
    options: Any, outcomes: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]
) -> dict[str, Any]:
    """What --json writes of one run.

    The world's own time begins with the machine's, so it is left out: what is written of the
    episodes is the same on every machine.
    """
    simulated = "world_speed" in figures
    left_out = {"stamp"} if simulated else set()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "policy": options.policy,
        "safety": options.safety,
        "mode": "monitor" if options.monitor else "gate",
        "detours": not (options.hold or options.monitor),
        "composed": options.composed,
        "fci": options.fci,
        "simulated_time": simulated,
        "seed": options.seed,
        "level": options.level,
        "python": sys.version.split()[0],
        "total": totals(outcomes),
        "episodes": [{k: v for k, v in o.items() if k not in left_out} for o in outcomes],
        "run": dict(figures),
    }
