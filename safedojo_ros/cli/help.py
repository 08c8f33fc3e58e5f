"""Parsers that teach: help of one screen; wrong input is one line with the nearest known word."""

import argparse
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

WIDTH, HEIGHT = 80, 24
"""Columns and lines that a short help fits."""
COLUMN = 26
"""Where the texts of the options begin."""
COUNTS = ("batch", "chunks", "episodes", "execute", "image_size", "max_steps", "min_steps",
          "parallel", "proposals", "memory", "workers")  # fmt: skip
"""Options that are at least 1; every other number is at least 0."""
MOST = 1_000_000_000
MOST_OF = {"threads": 1024, "workers": 1024, "parallel": 1024}


def program() -> str:
    """What this command was started as: ./dojo, or safedojo."""
    return os.environ.get("SAFEDOJO_PROGRAM") or "safedojo"


def as_started(text: str) -> str:
    """`text` with the commands that it names as this one was started."""
    return re.sub(r"\bsafedojo (?=[a-z<])", lambda _: f"{program()} ", text)


def teach(parser: argparse.ArgumentParser, example: str, *shown: str) -> None:
    """Give a parser an example (what follows the program's name), and the options that its short
    help shows; none: all."""
    parser.example, parser.shown = example, shown  # type: ignore[attr-defined]


def number(kind: type, least: int, most: int = MOST) -> Callable[[str], Any]:
    """Reads a number of `kind`, from `least` to `most`."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"is '{text}', expected {what}") from None
        if not value >= least:  # a NaN is not
            raise argparse.ArgumentTypeError(f"is {text}, expected at least {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"is {text:.20}, expected at most {most}")
        return value

    read.__name__ = kind.__name__
    return read


class Full(argparse.RawDescriptionHelpFormatter):
    """The whole help, with defaults."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return with_default(action, action.help or "")


class FullHelp(argparse.Action):
    """--help-all."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(as_started(argparse.ArgumentParser.format_help(parser)))
        parser.exit()


class DojoParser(argparse.ArgumentParser):
    """See above; abbreviated options are not taken, so that a further option breaks no script."""

    def __init__(self, **options: Any) -> None:
        self.example, self.shown = "", tuple[str, ...]()
        self._given: list[str] = []
        options.setdefault("formatter_class", Full)
        super().__init__(allow_abbrev=False, **options)
        self.add_argument("--help-all", action=FullHelp, help="every option")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        for action in self._actions:
            if action.type in (int, float):
                least = int(action.dest in COUNTS)
                most = MOST_OF.get(action.dest, MOST)
                action.type = number(action.type, least, most)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, but for what is not known."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"'{rest[0]}' is not expected here")
        return found

    def error(self, message: str) -> Any:
        """One line, exit code 2."""
        known = [name for parser in self._chosen() for name in parser._option_string_actions]
        words = [w.partition("=")[0] for w in self._given if re.match(r"--?[A-Za-z]", w)]
        unknown = [word for word in words if word not in known]
        if unknown:
            long = [name for name in known if name.startswith("--")]
            message = f"unknown option '{unknown[0]}'{did_you_mean(unknown[0], long)}"
        message = re.sub(r"^argument ([^:]+):(?= is )", r"\1", message).removeprefix("argument ")
        line = " ".join(f"{self.prog}: {message} ('{self.prog} --help' explains)".split())
        self.exit(2, f"{line}\n")

    def _chosen(self) -> Iterable["argparse.ArgumentParser"]:
        """This parser, and those of the subcommands that were given."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from (p for name, p in action.choices.items() if name in self._given)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"is '{value}'{one_of(str(value), names)}")

    # ---------------------------------------------------------------- the short help

    def format_help(self) -> str:
        """At most `HEIGHT` lines of `WIDTH` columns; the last options give way."""
        about = (self.description or "").split("\n\n")[0]
        lines = [f"usage: {self.prog} {self._usage()}", ""]
        lines += textwrap.wrap(" ".join(as_started(about).split()), WIDTH)
        if self.example:
            lines += ["", *self._example(), ""]
        every = [a for a in self._actions if a.dest not in ("help", "help_all")]
        entries = {a: _entry(a) for a in every if not self.shown or a.required or self._is_shown(a)}
        for action in reversed(list(entries)):
            if len(lines) + sum(map(len, entries.values())) < HEIGHT:
                break
            if action.option_strings and not action.required:
                del entries[action]
        lines += [line for entry in entries.values() for line in entry]
        lines.append(f"  {'--help-all':<{COLUMN - 2}}every option, {len(every)} of them")
        return "\n".join(lines) + "\n"

    def _is_shown(self, action: argparse.Action) -> bool:
        return not action.option_strings or bool({*self.shown} & {*action.option_strings})

    def _usage(self) -> str:
        needed = [f"{a.option_strings[-1]} {_value(a)}" for a in self._actions
                  if a.required and a.option_strings]  # fmt: skip
        places = [_place(a) for a in self._actions if not a.option_strings]
        return " ".join([*places, *needed, "[options]"])

    def _example(self) -> list[str]:
        words = f"{program()} {self.example}"
        if len(words) <= WIDTH - 2:
            return [f"  {words}"]
        parts = textwrap.wrap(words, WIDTH - 8, break_on_hyphens=False, break_long_words=False)
        return [f"  {' ' * 4 * (n > 0)}{part}{' ' * (n < len(parts) - 1)}"
                f"{chr(92) * (n < len(parts) - 1)}" for n, part in enumerate(parts)]  # fmt: skip


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the end of a message, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def one_of(name: str, known: Sequence[str]) -> str:
    """The end of a message about `name`, which is none of `known`."""
    return f", expected one of {', '.join(known)}{did_you_mean(name, known)}"


def with_default(action: argparse.Action, text: str) -> str:
    """`text` with the option's default behind it, where it has one that can be said."""
    default = action.default
    unsaid = default is None or default is False or default in ("", (), [], argparse.SUPPRESS)
    if unsaid or not action.option_strings:
        return text
    said = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
    if "(default" in text:
        return text
    text = text.replace(f" ({said})", "")
    return f"{text} (default: {said.replace('%', '%%')})"


def _entry(action: argparse.Action) -> list[str]:
    """The lines of one option, or of a subcommand and its actions."""
    if isinstance(action, argparse._SubParsersAction):
        return [
            line
            for choice in action._choices_actions
            for line in _beside(choice.dest, _brief(choice.help or ""))
        ]
    names = ", ".join(action.option_strings)
    left = f"{names} {_value(action)}".strip() if names else _place(action)
    text = _brief(action.help or "")
    choices = [str(choice) for choice in action.choices or ()]
    if choices and not all(choice in text for choice in choices):
        text += f"{'; ' if text else ''}one of {', '.join(choices)}"
    return _beside(left, with_default(action, text).replace("%%", "%"))


def _beside(left: str, text: str) -> list[str]:
    lines = textwrap.wrap(as_started(text), WIDTH - COLUMN, break_on_hyphens=False) or [""]
    first = f"  {left:<{COLUMN - 2}}"
    if len(first) > COLUMN:
        return [first.rstrip(), *(" " * COLUMN + line for line in lines)]
    return [first + lines[0], *(" " * COLUMN + line for line in lines[1:])]


def _brief(text: str) -> str:
    """What stands before the first semicolon outside of brackets."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ";" and depth == 0:
            return text[:place]
    return text


def _value(action: argparse.Action) -> str:
    """How the value of an option is called."""
    if action.nargs == 0:
        return ""
    if action.metavar:
        return str(action.metavar)
    kind = getattr(action.type, "__name__", "")
    name = {"int": "N", "float": "X", "Path": "PATH"}.get(kind, "NAME")
    return f"{name} ..." if action.nargs in ("+", "*") else name


def _place(action: argparse.Action) -> str:
    """How a positional is written."""
    name = str(action.metavar or action.dest.upper())
    return {"?": f"[{name}]", "+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)
