"""A stack in one process, but for its watchdog.

`python -m safedojo_ros.nodes.stack.composed demo --ros-args ...` runs it, and
`... composed demo --without policy_node --ros-args ...` all but one node of it.

Each node has an executor thread of its own. The processes share nothing in the default way of
running; here a network's long computation can hold the interpreter, so the control tick is less
even. For trying out and for debugging.
"""

import importlib
import sys

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.registry import DEMO, ROBOT, TRAIN
from safedojo_ros.nodes.stack.spinning import run_together

WITHOUT = "--without"
STACKS = {stack.name: stack for stack in (DEMO, ROBOT, TRAIN)}


def main(arguments: list[str] | None = None) -> int:
    """Run the named stack until SIGINT."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in STACKS:
        raise ConfigError(f"name a stack: {', '.join(STACKS)}")
    stack, rest = STACKS[given[0]], given[1:]
    if rest[:1] == [WITHOUT]:
        stack, rest = stack.without(rest[1]), rest[2:]
    entries = [entry for entry in stack.nodes if not entry.alone]
    return run_together(
        [getattr(importlib.import_module(entry.module), entry.factory) for entry in entries],
        rest,
    )


if __name__ == "__main__":
    sys.exit(main())
