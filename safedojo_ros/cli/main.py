"""The `safedojo` command."""

import argparse
import io
import sys
from collections.abc import Sequence

from safedojo_ros.cli.commands import COMMANDS, command_parser
from safedojo_ros.cli.damage import damage_printed
from safedojo_ros.core.errors import LEFT_OUT, SafeDojoError

DESCRIPTION = """\
Vision-language-action policies on a Franka arm, gated by a learned safety head
and made safer by practice in an imagined world."""

EPILOG = """\
to see it move:
  safedojo demo                                 camera, policy, gate and arm as ROS 2 nodes
to make a policy of your own:
  safedojo collect --help                       1. episodes
  safedojo train --help                         2. policy, autoencoder, safety head
  safedojo evaluate --help                      3. what it can do and what it touches
if anything is amiss:
  safedojo doctor                               each fault with the command that mends it

'safedojo <command> --help' explains a command. A known fault is one line on stderr
and exit code 2; code 4: done, but damaged data was named and left out."""


def build_parser() -> argparse.ArgumentParser:
    """The top-level parser; it knows the commands' names and summaries, not their options."""
    width = max(len(command.name) for command in COMMANDS)
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="safedojo",
        description=f"{DESCRIPTION}\n\ncommands:\n{listing}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="safedojo <command> [options]",
    )
    parser.add_argument("command", choices=[c.name for c in COMMANDS], help=argparse.SUPPRESS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0 done, 2 a fault that the message explains, 3 a bar that `validate` found missed, 4 done
    without the damaged data that was named.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know every character
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    if not given:
        parser.print_help()
        return 0
    # Only the first word is parsed here: the rest, --help included, is the command's.
    command = parser.parse_args(given[:1]).command
    try:
        args = command_parser(next(c for c in COMMANDS if c.name == command)).parse_args(given[1:])
        with damage_printed() as lines:
            code = int(args.run(args))
        if lines:
            said = f"{len(lines)} damaged files or episodes were left out (see above)"
            print(f"safedojo {command}: {said}", file=sys.stderr)
        return code or (LEFT_OUT if lines else 0)
    except SafeDojoError as error:
        print(f"safedojo {command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"safedojo {command}: {error}; 'safedojo doctor' tells what to do", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
