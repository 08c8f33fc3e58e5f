"""Workers as processes of this machine."""

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from safedojo_ros.evaluation.workers.spread import Answer, Died, Failed, Make, Worker

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ProcessCrew:
    """One process a worker, each computing with one thread. They end with this process."""

    def __init__(self, make: Make) -> None:
        # bytes, not the object: torch would share its tensors through files otherwise
        self._make = pickle.dumps(make)
        self._context = multiprocessing.get_context("spawn")
        self.processes: dict[int, Any] = {}
        self._lines: dict[int, Connection] = {}
        self._busy: set[int] = set()

    def start(self, worker: int) -> None:
        """See `Crew.start`."""
        line, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        with one_thread():
            process.start()
        theirs.close()
        self.processes[worker], self._lines[worker] = process, line

    def give(self, worker: int, batch: Any) -> None:
        """See `Crew.give`."""
        self._busy.add(worker)
        with suppress(OSError):  # its end is seen by `wait`
            self._lines[worker].send_bytes(pickle.dumps(batch))

    def wait(self) -> list[tuple[int, Answer]]:
        """See `Crew.wait`."""
        of = {self._lines[worker]: worker for worker in self._busy}
        heard = [of[line] for line in wait(list(of))]  # type: ignore[index]
        self._busy -= set(heard)
        return [(worker, self._heard(worker)) for worker in sorted(heard)]

    def _heard(self, worker: int) -> Answer:
        try:
            answer: Answer = pickle.loads(self._lines[worker].recv_bytes())
            return answer
        except (EOFError, OSError):
            process = self.processes[worker]
            process.join()
            self._lines[worker].close()
            return Died(how_it_ended(process.exitcode))

    def share(self, value: Any) -> Callable[[], Any]:
        """See `Crew.share`."""
        return partial(pickle.loads, pickle.dumps(value))

    def close(self) -> None:
        """See `Crew.close`."""
        for process in self.processes.values():
            process.terminate()
        for worker, process in self.processes.items():
            process.join()
            self._lines[worker].close()


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"{name}, which the system sends where memory is short" if code == -9 else name
    return f"signal {-code}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, a started process computes with one thread: several would slow each other."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(line: Connection, make: bytes) -> None:
    """Play what comes through `line` until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter ends this process
    worker = Worker(lambda: pickle.loads(make)())
    while True:
        try:
            batch = line.recv_bytes()
        except (EOFError, OSError):
            return
        answer = worker.answer(pickle.loads(batch))
        try:
            data = pickle.dumps(answer)
        except Exception as error:
            data = pickle.dumps(Failed(TypeError(str(error)), str(answer)))
        line.send_bytes(data)
