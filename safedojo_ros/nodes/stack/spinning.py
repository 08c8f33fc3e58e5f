"""Runs nodes until SIGINT or SIGTERM, each in a thread of its own, and ends them in order.

Signals are heard by the main thread, which only waits: no callback is cut short, and the context
is valid until the last node is destroyed. (rclpy's own handlers shut the context down and trigger
guard conditions from a further thread, also after they were destroyed, which ends in SIGSEGV.)
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from types import FrameType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.nodes.lifecycle import DojoNode
from safedojo_ros.nodes.stack.ros_environment import prepare_environment

ENDINGS = (signal.SIGINT, signal.SIGTERM)

GRACE = 2.0
"""Seconds that a node which is still starting, or a thread that a node has left behind, may take
to end; what lies in a long computation cannot be interrupted."""


class NodeThread(threading.Thread):
    """One node from its making to its end."""

    def __init__(self, factory: Callable[[], DojoNode], over: Callable[[], None]) -> None:
        """over: called in this thread when the node is gone."""
        super().__init__(daemon=True)
        self._factory, self._over = factory, over
        self._lock = threading.Lock()
        self._executor: SingleThreadedExecutor | None = None
        self._leaving = False
        self.started = False
        """Whether the node has been configured and activated, or has failed to."""
        self.failed = False
        """Whether an exception has ended it."""

    def run(self) -> None:
        """Make the node, start it, spin it until `end`, destroy it."""
        self.failed = True
        try:
            node = self._factory()
            self.name = node.get_name()
            try:
                self._work(node)
            finally:
                self.started = True
                node.shut_down()
                node.destroy_node()
            self.failed = False
        finally:
            self.started = True
            self._over()

    def end(self) -> None:
        """Ask the node to end after the callback that runs now; it is not waited for."""
        with self._lock:
            self._leaving = True
            if self._executor is not None:
                self._executor.create_task(lambda: None)  # so that it stops waiting

    def _work(self, node: DojoNode) -> None:
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        with self._lock:
            self._executor = executor
        try:
            node.start()
            self.started = True
            gc.collect()
            gc.freeze()
            while not self._leaving:
                executor.spin_once()
        finally:
            with self._lock:  # nobody wakes an executor that is being destroyed
                self._executor = None
            executor.shutdown()


def run_node(factory: Callable[[], DojoNode], arguments: Sequence[str] | None = None) -> int:
    """The `main` of every node: environment, rclpy, spin until SIGINT or SIGTERM."""
    return run_together([factory], arguments)


def run_together(
    factories: Sequence[Callable[[], DojoNode]], arguments: Sequence[str] | None = None
) -> int:
    """All nodes in this process until SIGINT or SIGTERM; 1 if an exception ended one, else 0.

    2, with a line on stderr, where what surrounds the process cannot work.

    A thread each, so that a long callback of one node never delays a control tick of another.
    """
    try:
        prepare_environment()
    except SafeDojoError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    news: SimpleQueue[int] = SimpleQueue()

    def on_signal(number: int, frame: FrameType | None) -> None:
        news.put(number)

    for number in ENDINGS:
        signal.signal(number, on_signal)
    rclpy.init(
        args=list(arguments) if arguments is not None else None,
        signal_handler_options=SignalHandlerOptions.NO,
    )
    threads = [NodeThread(factory, lambda: news.put(0)) for factory in factories]
    for thread in threads:
        thread.start()
    running = len(threads)
    while running and not news.get():
        running -= 1
    for thread in threads:
        thread.end()
    _await_end(threads)
    gc.unfreeze()
    gc.collect()  # with the nodes go the DDS threads, which must not see static destructors run
    rclpy.try_shutdown()
    return int(any(thread.failed for thread in threads))


def _await_end(threads: Sequence[NodeThread]) -> None:
    """Until every node is destroyed; ends the process where that, or other work, does not end."""
    deadline = time.monotonic() + GRACE
    while any(t.is_alive() for t in threads):
        if time.monotonic() > deadline and any(not t.started for t in threads):
            _leave_at_once(0)
        time.sleep(0.01)
    deadline = time.monotonic() + GRACE
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    for thread in others:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        _leave_at_once(int(any(thread.failed for thread in threads)))


def _leave_at_once(code: int) -> None:
    """End the process under threads that compute: the interpreter's own end would crash them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
