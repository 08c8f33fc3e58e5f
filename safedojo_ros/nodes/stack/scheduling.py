"""How soon and how long the system runs a process: niceness, real-time priority, parent."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1


def change_niceness(change: int, log: Callable[[str], Any]) -> None:
    """Add `change` to this thread's niceness; what the system refuses is said and left."""
    thread = threading.get_native_id()
    try:
        own = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, thread, max(-20, min(19, own + change)))
    except OSError as error:
        log(f"priority stays as it is: niceness {change:+d} is not allowed ({error.strerror})")


def end_with_parent(parent: int) -> None:
    """SIGTERM to this new process when its parent ends; ends it at once where that has happened."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(0)


def take_realtime_priority(priority: int) -> bool:
    """Run this thread (not those it starts) before all ordinary ones; False if not allowed."""
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except OSError:
        return False
    return True
