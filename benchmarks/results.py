"""The tables of docs/results.md and README.md: what ships, alone and behind each filter.

    python benchmarks/results.py --out runs/results          # about an hour on one core

Each row is one `safedojo evaluate` with its defaults; its JSON stays in --out, and a row whose JSON
is there is not played again. Writes docs/results.json, the table in docs/results.md, and four of
its rows into README.md, with docs/results.png, a plot of them. `--plot` draws that plot alone anew.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from safedojo_ros.evaluation.plot import Dot, dot_chart, png

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BEGIN, END = "<!-- table: benchmarks/results.py -->", "<!-- end of the table -->"

PROTOCOL = ("--level", "0,I,II", "--episodes", "200", "--seed", "1000")
"""Evaluation seeds from offset 1000 on."""

FILTERS = {
    "": "alone",
    "cbf": "behind the CBF filter, obstacle seen in the images",
    "gate": "behind the gate, which holds",
    "detour": "behind the gate with detours",
}
ROWS = [
    ("base", ""),
    ("base", "cbf"),
    ("base", "detour"),
    ("safe", ""),
    ("safe", "cbf"),
    ("safe", "gate"),
    ("safe", "detour"),
]
README_ROWS = (("base", ""), ("base", "detour"), ("safe", ""), ("safe", "detour"))
LEVELS = ("0", "I", "II")


def main() -> int:
    """Play what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="directory of the rows' JSON files")
    what.add_argument("--plot", action="store_true", help="draw the table that README.md has")
    args = parser.parse_args()
    if args.plot:
        inside = (ROOT / "README.md").read_text().split(BEGIN)[1].split(END)[0]
        (DOCS / "results.png").write_bytes(plot(inside.strip()))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [(policy, name, played(args.out, policy, name)) for policy, name in ROWS]
    summary = {
        "command": " ".join(("safedojo evaluate", *PROTOCOL)),
        "machine": f"{platform.machine()}, {processor()}",
        "rows": [
            {"policy": policy, "filter": name or None, "levels": report["levels"]}
            for policy, name, report in rows
        ],
    }
    (DOCS / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_table(DOCS / "results.md", table(rows))
    shown = table([row for row in rows if row[:2] in README_ROWS])
    write_table(ROOT / "README.md", shown)
    (DOCS / "results.png").write_bytes(plot(shown))
    print(table(rows))
    return 0


def played(out: Path, policy: str, name: str) -> dict[str, Any]:
    """What `safedojo evaluate --json` wrote for this row; played first where it is missing."""
    path = out / f"{policy}{'-' + name if name else ''}.json"
    if not path.exists():
        command = [sys.executable, "-m", "safedojo_ros.cli.main", "evaluate", *PROTOCOL]
        command += ["--checkpoint", policy, "--json", str(path)]
        subprocess.run(command + (["--filter", name] if name else []), check=True)
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def write_table(path: Path, text: str) -> None:
    """Put `text` between the marks of a page."""
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def table(rows: list[tuple[str, str, dict[str, Any]]]) -> str:
    """Markdown: TSR, CAR and SSR at each level, TSR at Level 0, with 95 % intervals of the last."""
    lines = [
        "| Policy | 0: TSR | I: TSR / CAR | I: SSR | II: TSR / CAR | II: SSR |",
        "|---|---|---|---|---|---|",
    ]
    for policy, name, report in rows:
        cells = []
        for level in LEVELS:
            figures = report["levels"][level]
            tsr, car, ssr = (figures[key] for key in ("tsr", "car", "ssr"))
            if level != "0":
                cells.append(f"{tsr['value'] * 100:.0f} / {car['value'] * 100:.0f} %")
            last = ssr if level != "0" else tsr
            interval = f"{last['low'] * 100:.0f}–{last['high'] * 100:.0f}"
            cells.append(f"{last['value'] * 100:.0f} % ({interval})")
        lines.append(f"| `{policy}`, {FILTERS[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(text: str) -> bytes:
    """A PNG of what a table says at Levels I and II: CAR, and SSR with its interval."""
    found: dict[str, dict[str, list[Dot]]] = {"I": {}, "II": {}}
    for line in text.splitlines()[2:]:
        name, _, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for level, rates, ssr in zip(found, cells[::2], cells[1::2], strict=True):
            car = int(rates.split("/")[1].rstrip(" %"))
            value, low, high = map(int, re.findall(r"\d+", ssr))
            row = f"Level {level}: {name.replace('`', '')}"
            found[level][row] = [Dot("CAR: no collision", car),
                                 Dot("SSR: success without one", value, low, high)]  # fmt: skip
    title = "200 episodes a level, 95 % intervals of SSR"
    return png(dot_chart(title, "% of episodes", found["I"] | found["II"], (0, 105)))


def processor() -> str:
    """The processor's name, where Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
