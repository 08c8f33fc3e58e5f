"""Runs nodes on demand in forks of one process, so that a start costs no imports.

Reads a line of JSON for each run, [module, arguments]; answers with the number of the process, and
when it has ended with its exit code, negative for a signal.
"""

import importlib
import json
import os
import sys


def answer(number: int) -> None:
    """Write one line at once, so that no fork inherits it."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> int:
    """Answer requests until the input ends; in a fork, run the node."""
    for line in iter(sys.stdin.readline, ""):
        name, arguments = json.loads(line)
        module = importlib.import_module(name)
        process = os.fork()
        if process == 0:
            sys.argv[1:] = arguments
            return int(module.main())
        answer(process)
        answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
