"""The `safedojo` command."""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import metadata

from safedojo_ros.cli.commands import COMMANDS, command_parser
from safedojo_ros.cli.damage import damage_printed
from safedojo_ros.cli.help import as_started, did_you_mean, program
from safedojo_ros.cli.options import check_checkpoints, check_files
from safedojo_ros.core.errors import LEFT_OUT, SafeDojoError

HELP = """\
usage: safedojo <command> [options]

A learned gate around a robot's policy, and practice in an imagined world.

{commands}

'safedojo <command> --help' explains a command, --help-all every option of it.
Exit: 0 done, 1 not all of it, 2 a fault, 3 a missed bar, 4 damage left out.
"""


def help_text() -> str:
    """The commands, on one screen."""
    width = max(len(command.name) for command in COMMANDS)
    commands = "\n".join(f"  {c.name:<{width}}  {c.summary}" for c in COMMANDS)
    return as_started(HELP.format(commands=commands))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 done, 2 a fault that the message explains, 3 a bar that `validate` found missed, 4 done
    without the damaged data that was named.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know every character
    first, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if first in ("-h", "--help", "--help-all"):
        sys.stdout.write(help_text())
        return 0
    if first == "--version":
        print(f"safedojo {metadata.version('safedojo_ros')}")
        return 0
    command = next((c for c in COMMANDS if c.name == first), None)
    if command is None:
        own = ("test", "libero") if program() == "./dojo" else ()  # the script's own words
        near = did_you_mean(first, [*(c.name for c in COMMANDS), *own])
        return failed("", f"no command '{first}'{near or f'; {program()} --help lists them'}")
    args = argparse.Namespace()
    try:
        args = command_parser(command).parse_args(rest)
        check_files(args)
        check_checkpoints(args)
        with damage_printed() as lines:
            code = int(args.run(args))
        if lines:
            failed(first, f"{len(lines)} damaged files or episodes were left out (see above)")
        return code or (LEFT_OUT if lines else 0)
    except SystemExit as end:  # a parser has said it, or shown its help
        return int(end.code or 0)
    except SafeDojoError as error:
        return failed(first, str(error))
    except ModuleNotFoundError as error:
        return failed(first, f"{error}; 'safedojo doctor' tells what to do")
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return failed(first, f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        kept = f"; what was saved is in {args.out}, --resume goes on" if "resume" in args else ""
        failed(first, f"interrupted{kept}")
        return 130


def failed(command: str, message: str) -> int:
    """Say what is wrong in one line; returns 2."""
    name = f"{program()} {command}".strip()
    print(f"{name}: {as_started(' '.join(message.split()))}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
