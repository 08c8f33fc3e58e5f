"""Prints which damaged data a command left out."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def damage_printed() -> Iterator[list[str]]:
    """Prints what the data rooms leave out, each line once; yields the lines."""
    lines: list[str] = []

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = " ".join(record.getMessage().split())
            if line not in lines:
                lines.append(line)
                print(line, file=sys.stderr)

    printer, log = Printer(logging.WARNING), logging.getLogger("safedojo_ros.data")
    log.addHandler(printer)
    try:
        yield lines
    finally:
        log.removeHandler(printer)
