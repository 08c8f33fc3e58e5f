"""How soon the system runs a thread: niceness and real-time priority."""

import os
import threading
from collections.abc import Callable
from typing import Any


def change_niceness(change: int, log: Callable[[str], Any]) -> None:
    """Add `change` to this thread's niceness; what the system refuses is said and left."""
    thread = threading.get_native_id()
    try:
        own = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, thread, max(-20, min(19, own + change)))
    except OSError as error:
        log(f"priority stays as it is: niceness {change:+d} is not allowed ({error.strerror})")


def take_realtime_priority(priority: int) -> bool:
    """Run this thread (not those it starts) before all ordinary ones; False if not allowed."""
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except OSError:
        return False
    return True
