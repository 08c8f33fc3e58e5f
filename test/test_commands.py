"""The command line: options are declared once, explained, and the fields of what a stage takes."""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from safedojo_ros.cli.commands import COMMANDS, command_parser
from safedojo_ros.cli.options import add_options, from_options
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.pipeline.collect import Collection
from safedojo_ros.pipeline.evaluate import Evaluation
from safedojo_ros.pipeline.filters import RunTimeFilter
from safedojo_ros.pipeline.scenes import level_numbers
from safedojo_ros.pipeline.training import TrainSuccess, TrainWorldModel
from safedojo_ros.pipeline.validate import Validation
from safedojo_ros.worlds import registry

ROOT = Path(__file__).resolve().parents[1]
CLI = ROOT / "safedojo_ros" / "cli"
NAMES = [command.name for command in COMMANDS]
SHARED = ("preset", "set", "resume", "device", "threads", "store", "publish", "half")


def parsers(name: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a command, and those of its subcommands."""
    parser = command_parser(next(command for command in COMMANDS if command.name == name))
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def options(name: str) -> list[argparse.Action]:
    found = [a for p in parsers(name) for a in p._actions if a.option_strings]
    return [a for a in found if a.dest not in ("help", "help_all")]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name: str) -> None:
    assert not [action.option_strings for action in options(name) if not action.help]


def test_what_commands_share_is_the_same_in_each() -> None:
    seen: dict[str, set[tuple[object, ...]]] = {}
    for name in set(NAMES) - {"demo"}:  # its preset is the quickest
        for action in options(name):
            if action.dest in SHARED:
                what = (str(action.default), action.type, type(action), action.metavar)
                seen.setdefault(action.dest, set()).add(what)
    assert set(seen) == set(SHARED)
    assert not {dest: kinds for dest, kinds in seen.items() if len(kinds) > 1}
    assert {default for default, *_ in seen["device"]} == {"auto"}


def test_the_names_and_the_help_of_commands_need_no_torch() -> None:
    program = (
        "import argparse, importlib, sys\n"
        f"for name in {[name.replace('-', '_') for name in NAMES]!r}:\n"
        "    module = importlib.import_module(f'safedojo_ros.cli.{name}')\n"
        "    module.configure(argparse.ArgumentParser())\n"
        "print(sorted({'torch', 'rclpy', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@dataclass(frozen=True)
class Nested:
    """Options of its own."""

    share: float = 0.5
    """of something, 100 % at most"""


@dataclass(frozen=True)
class Task:
    """Every kind of field."""

    out: Path
    """a folder"""
    data: tuple[Path, ...] = ()
    """some
    folders"""
    levels: tuple[int, ...] = field(default=(), metadata={"parse": level_numbers})
    """by comma"""
    most: int | None = None
    """a number, or none"""
    style: Literal["direct", "safe"] = "direct"
    """one of two"""
    only_safe: bool = False
    """a switch"""
    nested: Nested = field(default_factory=Nested)


def test_a_dataclass_is_filled_from_its_options() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Task)

    def parsed(*words: str) -> Task:
        return from_options(Task, parser.parse_args(["--out", "o", *words]))

    assert parsed() == Task(Path("o"))
    words = ["--data", "a", "b", "--levels", "0,II", "--most", "3", "--style", "safe"]
    words += ["--only-safe", "--share", "0.25"]
    assert parsed(*words) == Task(
        Path("o"), (Path("a"), Path("b")), (0, 2), 3, "safe", True, Nested(0.25)
    )
    assert "some folders" in parser.format_help()
    assert "100 % at most" in parser.format_help()
    for wrong in (["--style", "other"], ["--most", "x"], []):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong if not wrong else ["--out", "o", *wrong])
    with pytest.raises(ConfigError, match="unknown level 'IV'"):
        parsed("--levels", "IV")


def test_an_option_that_would_do_nothing_is_refused() -> None:
    out, data = Path("o"), (Path("d"),)
    for wrong in (
        lambda: Collection(out, execute=4),
        lambda: Collection(out, batch=4),
        lambda: Collection(out, direct_share=0.5),
        lambda: Collection(out, policy="latest", style="safe"),
        lambda: Evaluation(policy="expert:safe", film=out),
        lambda: Evaluation(policy="expert:safe", latency=3),
        lambda: Evaluation(policy="expert:safe", instant=True),
        lambda: Evaluation(instant=True, latency=1),
        lambda: Evaluation("latest-but-one", policy="expert:safe"),
        lambda: Evaluation(policy="expert:safe", filter=RunTimeFilter("gate")),
        lambda: RunTimeFilter(memory=4),
        lambda: RunTimeFilter("cbf", safety="latest"),
        lambda: RunTimeFilter("gate", detour_ratio=0.3),
        lambda: TrainWorldModel(data=data, out=out, start="latest", safety="latest"),
        lambda: TrainSuccess(data=data, out=out, played=out),
        lambda: Validation(data=data, out=out, measured=(out,)),
    ):
        with pytest.raises(ConfigError, match="^--"):
            wrong()
    Collection(out, policy="latest", take_over=True, style="safe")
    RunTimeFilter("detour", "shipped", 2, 8, 0.3)


def documented() -> list[tuple[str, str]]:
    """(command, its options) of every line in README and docs that runs one."""
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
    shown = [block for text in texts for block in re.findall(r"```.*?\n(.*?)```", text, re.S)]
    lines = "\n".join(shown).replace("\\\n", " ").splitlines()
    found = [re.match(r"\s*(?:\./dojo|safedojo) ([a-z-]+) ([^#|]*)", line) for line in lines]
    return [(m[1], m[2]) for m in found if m and m[1] in NAMES]


def test_every_documented_command_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.OWN, "reach", "")  # docs/how-to/own-world.md registers it
    wrong = []
    for name, words in documented():
        try:
            next(parsers(name)).parse_args(shlex.split(words))
        except SystemExit:
            wrong.append((name, words, capsys.readouterr().err.splitlines()[-1]))
    assert not wrong
    assert {"collect", "train", "evaluate", "practice"} <= {name for name, _ in documented()}


def test_a_command_file_only_parses_calls_and_prints() -> None:
    long = {
        path.name: lines
        for path in CLI.glob("*.py")
        if (lines := len(path.read_text().splitlines())) >= 120
    }
    no_commands = {"help.py", "options.py"}  # what all of them share
    assert set(long) <= {"demo_run.py", "demo_practice.py", "doctor.py"} | no_commands
