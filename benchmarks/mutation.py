"""Small faults are put into the code, one at a time, and the tests should see them.

`pip install -e '.[mutation]'`, then `python benchmarks/mutation.py runs/mutation` samples 300
mutants of `learning/`, `robot/` and `checkpoints/`, runs for each the tests that run its lines
(known from one run of all tests with coverage), and prints the survivors and the share that was
killed. Everything happens in copies of the tree. Results are appended to `results.jsonl` in the
named folder; a run that was interrupted goes on where it was. Tests that start ROS processes are
left out. Words, annotations and what is said to people are not mutated.
"""

import argparse
import ctypes
import difflib
import fcntl
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation import mutators

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "safedojo_ros"
ROOMS = ("learning", "robot", "checkpoints")
OPERATORS = (
    mutators.operator_name,
    mutators.operator_remove_unary_ops,
    mutators.operator_keywords,
    mutators.operator_swap_op,
    mutators.operator_if_exp,
)
SILENT = {"sleep", "print", "say", "log", "logging", "logger", "warnings", "report", "show", "repr"}
"""Calls of these, or of their methods, tell people something, or only take time."""
HABITS = {"dtype", "strict", "set_to_none", "encoding", "parents", "exist_ok", "daemon"}
"""Keywords whose loss a caller seldom sees."""
LIBRARIES = {"torch", "transformers", "diffusers", "scipy", "sklearn", "pyarrow", "hypothesis"}
"""Slow to import, and the same whatever the environment says; every fork has them."""
BUDGET = 45.0
"""Seconds of tests for one mutant, as measured without one."""


@dataclass(frozen=True)
class Mutant:
    """One change: `file` (relative), the statement's lines, what it was and is, the function."""

    file: str
    first: int
    last: int
    function: str
    before: str
    after: str
    text: str
    """The whole changed file."""

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same change of the same function, wherever its line has moved."""
        return self.file, self.function, self.before, self.after

    @property
    def name(self) -> str:
        return f"{self.file}:{self.first} {self.before} -> {self.after}"


# ---------------------------------------------------------------- mutants


def mutants_of(file: Path) -> list[Callable[[], Mutant | None]]:
    """What makes each mutant of a module; making one takes a while, and may give nothing."""
    source = file.read_text()
    wrapper = MetadataWrapper(cst.parse_module(source))
    places = wrapper.resolve(PositionProvider)
    parents = wrapper.resolve(ParentNodeProvider)
    found: list[Callable[[], Mutant | None]] = []
    for node in places:
        above = [node]
        while above[-1] in parents:
            above.append(parents[above[-1]])
        if not any(_unheard(one) for one in above):
            found += [
                partial(_mutant, file, wrapper.module, places, above, c) for c in _changes(node)
            ]
    return found


def _mutant(
    file: Path, module: cst.Module, places: Any, above: list[cst.CSTNode], changed: Any
) -> Mutant | None:
    """The mutant where the first of a chain of nodes is `changed`; None: it can't be compiled."""
    source, text = module.code, module.deep_replace(above[0], changed).code
    try:
        compile(text, str(file), "exec", dont_inherit=True)
    except SyntaxError:
        return None
    first, last = places[above[0]].start.line, places[above[0]].end.line
    statement = next((one for one in above if isinstance(one, cst.BaseSmallStatement)), above[0])
    names = [
        one.name.value for one in above[::-1] if isinstance(one, cst.FunctionDef | cst.ClassDef)
    ]
    inside = any(isinstance(one, cst.FunctionDef) for one in above[1:])
    inside &= not any(isinstance(one, cst.Parameters) for one in above)
    return Mutant(
        str(file.relative_to(ROOT)),
        first,
        max(last, places[statement].end.line),
        ".".join(names) if inside else "",
        *_difference(source, text),
        text,
    )


def _changes(node: cst.CSTNode) -> Iterator[Any]:
    for kind, operator in mutators.mutation_operators:
        if operator in OPERATORS and isinstance(node, kind):
            yield from operator(node)
    if isinstance(node, cst.Integer):
        yield node.with_changes(value=repr(node.evaluated_value + 1))
    elif isinstance(node, cst.Float):  # one more, or twice as much
        value = node.evaluated_value
        yield node.with_changes(value=repr(value + max(1.0, value)))
    elif isinstance(node, cst.Call):  # an argument that has a default is not passed on
        for number, argument in enumerate(node.args):
            if argument.keyword and argument.keyword.value not in HABITS:
                yield node.with_changes(args=[*node.args[:number], *node.args[number + 1 :]])
    elif isinstance(node, cst.If | cst.While) and not isinstance(node.test, cst.Comparison):
        inside = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inside))
    elif isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Pass()


def _unheard(node: cst.CSTNode) -> bool:
    """Whether what is below a node is for people or for tools: no test should depend on it."""
    if isinstance(node, cst.FunctionDef):
        return node.name.value in ("__repr__", "__str__")
    if isinstance(node, cst.Arg) and node.keyword is not None:
        return node.keyword.value in HABITS
    if isinstance(node, cst.Call):
        name = node.func
        while isinstance(name, cst.Attribute | cst.Call):
            if isinstance(name, cst.Attribute) and name.attr.value in SILENT:
                return True
            name = name.value if isinstance(name, cst.Attribute) else name.func
        return isinstance(name, cst.Name) and name.value.lstrip("_") in SILENT
    return isinstance(
        node,
        cst.Annotation | cst.Decorator | cst.Raise | cst.Assert | cst.FormattedString | cst.Import,
    )


def _difference(source: str, text: str) -> tuple[str, str]:
    lines = difflib.unified_diff(source.splitlines(), text.splitlines(), n=0, lineterm="")
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    before = " ".join(line[1:].strip() for line in changed if line[0] == "-")
    return before, " ".join(line[1:].strip() for line in changed if line[0] == "+")


def sample(rooms: list[str], number: int, seed: int) -> list[Mutant]:
    """So many mutants of the rooms, drawn evenly from all that there are."""
    files = [file for room in rooms for file in sorted((ROOT / PACKAGE / room).rglob("*.py"))]
    everything = [make for file in files for make in mutants_of(file)]
    random.Random(seed).shuffle(everything)
    made: dict[tuple[str, ...], Mutant] = {}
    for make in everything:
        if len(made) < number and (mutant := make()):
            made[mutant.key] = mutant
    print(f"{len(made)} of {len(everything)} mutants of {len(files)} files", flush=True)
    return [*made.values()]


# ---------------------------------------------------------------- copies and children


def copy_tree(target: Path) -> None:
    """The tree as it is, with what was built into it, without history and results."""
    shutil.rmtree(target, ignore_errors=True)
    kept = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    built = [*(ROOT / PACKAGE).glob("*.so")]
    built += [
        file for name in ("msg", "srv", "action") for file in (ROOT / PACKAGE / name).glob("*")
    ]
    for file in [ROOT / name for name in kept] + built:
        if file.is_file():
            copy = target / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)


def own_network() -> None:
    """Leave the machine's network for an empty one, where allowed: some tests serve fixed ports."""
    new_network, set_flags, up = 0x40000000, 0x8914, 1
    if ctypes.CDLL(None).unshare(new_network) == 0:
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up))


def run_child(tree: Path, work: Callable[[], int], limit: float) -> int | None:
    """The exit code of `work`, run in a fork of this process inside `tree`; None: out of time."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            own_network()
            os.chdir(tree)
            sys.path.insert(0, str(tree))
            os.environ["PYTHONPATH"] = f"{tree}:{os.environ.get('PYTHONPATH', '')}"
            output = os.open(tree.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def run_pytest(words: list[str], base: Path, plugins: list[Any] | None = None) -> int:
    """pytest's exit code, without its cache, below a folder of temporary files."""
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={base}", "--timeout=120"]
    return int(pytest.main([*options, *words], plugins=plugins or []))


# ---------------------------------------------------------------- which test sees which line


class Watcher:
    """A pytest plugin: which lines each test runs, how long it takes, whether it passes."""

    def __init__(self, tree: Path, rooms: list[str]) -> None:
        self.tree = tree
        self.coverage = coverage.Coverage(
            data_file=None, source=[str(tree / PACKAGE / room) for room in rooms]
        )
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """What a shared fixture runs, all tests of its file have run."""
        if fixturedef.scope == "function":
            return (yield)
        self.coverage.switch_context("shared")
        try:
            return (yield)
        finally:
            self.coverage.switch_context(request.node.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        if not report.passed:
            self.failed.add(name)

    def result(self) -> dict[str, Any]:
        """{"seconds": {test: s}, "lines": {file: {line: [tests]}}} of the tests that passed."""
        self.coverage.stop()
        data = self.coverage.get_data()
        seconds = {name: t for name, t in self.seconds.items() if name not in self.failed}
        lines: dict[str, dict[int, list[str]]] = {}
        for file in data.measured_files():
            here = {
                line: [*seconds] if "shared" in contexts else [c for c in contexts if c in seconds]
                for line, contexts in data.contexts_by_lineno(file).items()
            }
            if any(here.values()):
                lines[str(Path(file).relative_to(self.tree))] = here
        return {"seconds": seconds, "lines": lines}


def measure(tree: Path, test: str, rooms: list[str], out: Path) -> None:
    """Write to `out` which tests of a file see which lines."""

    def work() -> int:
        watcher = Watcher(tree, rooms)
        code = run_pytest([test], tree.with_suffix(".tmp"), [watcher])
        out.write_text(json.dumps(watcher.result()))
        return code

    code = run_child(tree, work, 1200.0)
    print(f"measured {test}: exit {code}", flush=True)
    if not out.exists():
        out.write_text(json.dumps({"seconds": {}, "lines": {}}))


def sees(file: Path, rooms: list[str]) -> bool:
    """Whether a test file imports of the rooms, and starts no stacks of processes."""
    text = file.read_text()
    stacks = ("running_stack", "subprocess", "Processes")
    if file.parent.name == "nodes" and any(word in text for word in stacks):
        return False
    return any(f"{PACKAGE}.{room}" in text for room in rooms)


class Selection:
    """The tests for a mutant, from what was measured of each test file."""

    def __init__(self, tree: Path, measured: dict[str, Path]) -> None:
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {}
        self.sources = {test: (tree / test).read_text() for test in measured}
        for path in measured.values():
            content = json.loads(path.read_text())
            self.seconds |= content["seconds"]
            for file, lines in content["lines"].items():
                here = self.lines.setdefault(file, {})
                for line, tests in lines.items():
                    here.setdefault(int(line), set()).update(tests)

    def tests(self, mutant: Mutant) -> list[str]:
        """Those that run its lines, in at most `BUDGET` seconds.

        Files that name the module come first, then quick ones. What runs at import, whoever runs
        anything of the module has run.
        """
        lines = self.lines.get(mutant.file, {})
        module = mutant.file.removesuffix(".py").replace("/", ".")
        naming = {test for test, text in self.sources.items() if module in text}
        if mutant.function:
            span = range(mutant.first, mutant.last + 1)
            seeing = set().union(*(lines.get(line, set()) for line in span))
        else:
            seeing = {name for name in self.seconds if name.split("::")[0] in naming}
            seeing = seeing.union(*lines.values())
        files: dict[str, list[str]] = {}
        for name in self.seconds:
            if name in seeing:
                files.setdefault(name.split("::")[0], []).append(name)
        cost = {file: sum(self.seconds[name] for name in names) for file, names in files.items()}
        chosen: list[str] = []
        total = 0.0
        for file in sorted(files, key=lambda file: (file not in naming, cost[file])):
            for name in sorted(files[file], key=lambda name: self.seconds[name]):
                total += self.seconds[name]
                if total < BUDGET or not chosen:
                    chosen.append(name)
        return chosen


# ---------------------------------------------------------------- the run


def try_mutant(tree: Path, mutant: Mutant, selection: Selection) -> dict[str, Any]:
    """Its record: "killed", "out of time", "survived", or "unseen" where no test runs it."""
    tests = selection.tests(mutant)
    record = {key: value for key, value in asdict(mutant).items() if key != "text"}
    if not tests:
        return record | {"outcome": "unseen", "tests": 0, "seconds": 0.0}
    expected = sum(selection.seconds[name] for name in tests)
    file, start = tree / mutant.file, time.monotonic()
    keep = file.with_suffix(".kept")
    os.replace(file, keep)
    try:
        file.write_text(mutant.text)
        code = run_child(
            tree, lambda: run_pytest(["-x", *tests], tree.with_suffix(".tmp")), 60 + 5 * expected
        )
    finally:
        os.replace(keep, file)
    outcome = {None: "out of time", 0: "survived"}.get(code, "killed")
    seconds = round(time.monotonic() - start, 1)
    return record | {"outcome": outcome, "tests": len(tests), "seconds": seconds}


def work_on(tree: Path, tasks: Any, work: Callable[[Path, Any], None]) -> None:
    while (task := tasks.get()) is not None:
        work(tree, task)


def share_out(trees: list[Path], tasks: list[Any], work: Callable[[Path, Any], None]) -> None:
    """Have a worker for each tree do the tasks, one after the other."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    for task in [*tasks, *[None] * len(trees)]:
        queue.put(task)
    workers = [context.Process(target=work_on, args=(tree, queue, work)) for tree in trees]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def load_libraries(tree: Path, tests: list[str], names: Path) -> None:
    """Import here what the tests import, without the package itself, so that forks have it."""

    def work() -> int:
        run_pytest(["--collect-only", *tests], tree.with_suffix(".tmp"))
        names.write_text("\n".join(n for n in sys.modules if n.split(".")[0] in LIBRARIES))
        return 0

    if not names.exists():
        run_child(tree, work, 600.0)
    for name in names.read_text().splitlines():
        with suppress(Exception):
            importlib.import_module(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of results and scratch copies")
    parser.add_argument("--rooms", nargs="+", default=[*ROOMS], help="folders of the package")
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    mutants = sample(options.rooms, options.mutants, options.seed)
    trees = [out / f"tree{number}" for number in range(options.workers)]
    for tree in trees:
        copy_tree(tree)

    files = [f for f in sorted((ROOT / "test").rglob("test_*.py")) if sees(f, options.rooms)]
    tests = [str(file.relative_to(ROOT)) for file in files]
    load_libraries(trees[0], tests, out / "modules.txt")
    rooms = [ROOT / PACKAGE / room for room in options.rooms]
    sources = b"".join(file.read_bytes() for room in rooms for file in sorted(room.rglob("*.py")))
    measured = {}
    for file, test in zip(files, tests, strict=True):
        key = hashlib.sha256(sources + file.read_bytes()).hexdigest()[:12]
        measured[test] = out / f"{file.stem}-{key}.json"
    todo = [(test, path) for test, path in measured.items() if not path.exists()]
    share_out(trees, todo, lambda tree, task: measure(tree, task[0], options.rooms, task[1]))

    selection = Selection(trees[0], measured)
    results = out / "results.jsonl"
    known = outcomes(results)
    untried = [mutant for mutant in mutants if mutant.key not in known]

    def work(tree: Path, mutant: Mutant) -> None:
        record = try_mutant(tree, mutant, selection)
        print(f"{record['outcome']:12}{record['seconds']:6} s  {mutant.name}", flush=True)
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")

    share_out(trees, untried, work)
    report(mutants, outcomes(results))


def outcomes(results: Path) -> dict[tuple[str, ...], str]:
    """What is recorded of each mutant, by its key."""
    lines = results.read_text().splitlines() if results.exists() else []
    records = [json.loads(line) for line in lines]
    return {(r["file"], r["function"], r["before"], r["after"]): r["outcome"] for r in records}


def report(mutants: list[Mutant], known: dict[tuple[str, ...], str]) -> None:
    """Print the survivors, and the share of the mutants that was killed, by room."""
    rooms: dict[str, list[bool]] = {}
    for mutant in sorted(mutants, key=lambda mutant: (mutant.file, mutant.first)):
        outcome = known[mutant.key]
        killed = outcome in ("killed", "out of time")
        for room in (mutant.file.split("/")[1], "all"):
            rooms.setdefault(room, []).append(killed)
        if not killed:
            print(f"{outcome}: {mutant.name}")
    for room, killed_ones in sorted(rooms.items()):
        share = sum(killed_ones) / len(killed_ones)
        print(f"{room}: {sum(killed_ones)} of {len(killed_ones)} killed, {share:.1%}")


if __name__ == "__main__":
    main()
