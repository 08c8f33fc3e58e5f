"""The table of docs/reference/faults.md, from the tests: `python test/fault_table.py` writes it.

A test that shows what a fault leads to is marked
`@pytest.mark.fault("arm", "the enable switch is released", "holds; a person arms again")`; the
faults of the simulated day (`benchmarks/day.py`) are rows as they are.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
BENCHMARKS = TESTS.parent / "benchmarks"
DOCUMENT = TESTS.parent / "docs" / "reference" / "faults.md"
BEGIN, END = "<!-- table: test/fault_table.py -->", "<!-- end of the table -->"
PARTS = ("images", "policy", "gate", "arm", "watchdog", "robot", "checkpoints", "data")
"""In the order of the chain, from the image to the motor."""


class Fault(NamedTuple):
    """A row: where the fault is met, what it is, what it leads to, and which test shows that."""

    part: str
    what: str
    then: str
    test: str


def faults(folder: Path = TESTS) -> list[Fault]:
    """What the tests are marked with. Raises `ValueError` for a mark that is no row."""
    found = [row for file in sorted(folder.rglob("test_*.py")) for row in _of(file, folder)]
    found += _of_the_day()
    return sorted(found, key=lambda row: (PARTS.index(row.part), row.what, row.test))


def _of_the_day() -> Iterator[Fault]:
    sys.path.append(str(BENCHMARKS))
    from day import FAULTS

    for fault in FAULTS:
        resumes = "a person lets it go on" if fault.person else "it goes on with the cause gone"
        then = f"stands within {fault.within:g} s; {resumes}"
        yield Fault("arm", fault.name, then, "test_hostile.py")


def _of(file: Path, folder: Path) -> Iterator[Fault]:
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in (c for decorator in node.decorator_list for c in ast.walk(decorator)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                words = [ast.literal_eval(argument) for argument in call.args]
                if len(words) != 3 or words[0] not in PARTS or call.keywords:
                    raise ValueError(f"{file.name}: {node.name}: {words} is no part, fault, effect")
                part, what, then = words
                yield Fault(part, what, then, f"{file.relative_to(folder)}::{node.name}")


def table(rows: list[Fault]) -> str:
    """Markdown; rows of one fault and effect share a line."""
    lines = ["| Where | Fault | What happens | Test |", "|---|---|---|---|"]
    tests: dict[tuple[str, str, str], list[str]] = {}
    for part, what, then, test in rows:
        tests.setdefault((part, what, then), []).append(f"`{test}`")
    lines += [f"| {' | '.join(fault)} | {', '.join(names)} |" for fault, names in tests.items()]
    return "\n".join(lines)


def with_table(text: str) -> str:
    """`text` with the table of today between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the document has no '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n{table(faults())}\n{END}{after}"


def main() -> int:
    """Write the table into the document."""
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
