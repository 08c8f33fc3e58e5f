"""Interrupts long work between two steps, so that it can be resumed."""

import signal
import threading
from collections.abc import Callable
from typing import Any


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; the next call resumes from the last save."""


def interrupt_on_signal() -> Callable[[int], None]:
    """SIGTERM and SIGINT raise `Interrupted`; a second one kills.

    During a training it is raised by the returned function, which is to be called after each step;
    `learning.fit` then saves that step. Otherwise it is raised at once.
    """
    asked = threading.Event()

    def handle(number: int, frame: Any) -> None:
        from safedojo_ros.learning.training_run import training_now

        signal.signal(number, signal.SIG_DFL)
        asked.set()
        if not training_now():
            raise Interrupted

    def between(step: int) -> None:
        if asked.is_set():
            raise Interrupted

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)
    return between


def stop_on_signal() -> Callable[[], bool]:
    """True once SIGINT or SIGTERM has come; a second one ends the process as usual."""
    asked = threading.Event()

    def handle(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(number, signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)
    return asked.is_set
