"""Steps of a sweep's jobs, in a module of their own: a process that runs one imports no model."""

import os
import sys
import time
from pathlib import Path

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.pipeline.interruption import stop_on_signal


def write_and_end(path: Path, code: int) -> int:
    """Leaves a file, with how many threads it may use, and says something."""
    path.write_text(os.environ.get("OMP_NUM_THREADS", ""))
    sys.stdout.write(f"{path.name} was written\n")
    sys.stdout.flush()
    if code == 2:
        raise ConfigError("something is amiss")
    return code


def wait_for_a_signal(path: Path) -> int:
    """Saves on SIGTERM."""
    stop = stop_on_signal()
    path.write_text("waits")
    while not stop():
        time.sleep(0.01)
    path.write_text("saved")
    return 3
