"""Workers as actors of Ray: on this machine, or on all of a cluster."""

import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from safedojo_ros.core.errors import ConfigError, WorkerLost
from safedojo_ros.evaluation.workers.spread import Answer, Died, Done, Failed, Make, Worker

LOCAL = "local"
STORE_BYTES = 256 * 2**20
"""Object store of a Ray of our own; the results of a few batches are in it at a time."""
PATIENCE = 5.0
"""Seconds for which an address may be silent."""
SHAPING = ("safedojo_ros", "torch", "numpy", "mujoco")
"""Packages whose versions change results."""


class RayCrew:
    """Actors, each with one processor. What `make` holds travels once, through the object store.

    address: "local" for a Ray of our own, which ends with `close`; or HOST:PORT of a running one.
    Raises `ConfigError` where it does not answer or has fewer processors than `workers`.
    """

    def __init__(self, make: Make, address: str, workers: int) -> None:
        import ray

        self._ray: Any = ray
        _connect(address, workers)
        try:
            self._check_processors(address, workers)
            self._make = ray.put(make)
            self._actor: Any = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        except BaseException as error:
            ray.shutdown()
            raise _explained(error) from None
        self.actors: dict[int, Any] = {}
        self._playing: dict[Any, int] = {}

    def start(self, worker: int) -> None:
        """See `Crew.start`."""
        if worker in self.actors:
            self._ray.kill(self.actors[worker])
        self.actors[worker] = self._actor.remote([self._make], installed())

    def give(self, worker: int, batch: Any) -> None:
        """See `Crew.give`."""
        self._playing[self.actors[worker].answer.remote(batch)] = worker

    def wait(self) -> list[tuple[int, Answer]]:
        """See `Crew.wait`."""
        ready, _ = self._ray.wait(list(self._playing))
        return [(self._playing.pop(reference), self._heard(reference)) for reference in ready]

    def _heard(self, reference: Any) -> Answer:
        try:
            answer: Done | Failed = self._ray.get(reference)
            return answer
        except self._ray.exceptions.RayError as error:
            text = str(error)
            if "No module named 'safedojo_ros'" in text:
                lacking = ConfigError(
                    f"a worker of Ray has no safedojo_ros; install {installed()} on every machine"
                )
                return Failed(lacking, text)
            explained = _explained(error)
            if isinstance(explained, WorkerLost):
                return Failed(explained, text)
            return Died(f"{type(error).__name__} ({' '.join(text.split())[:200]})")

    def share(self, value: Any) -> Callable[[], Any]:
        """See `Crew.share`: it is in Ray's object store once, and in that of each machine."""
        try:
            return partial(_fetched, [self._ray.put(value)])
        except self._ray.exceptions.RayError as error:
            raise _explained(error) from None

    def close(self) -> None:
        """See `Crew.close`."""
        for actor in self.actors.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._ray.shutdown()

    def _check_processors(self, address: str, workers: int) -> None:
        there = int(self._ray.cluster_resources().get("CPU", 0))
        if there < workers:
            raise ConfigError(
                f"--workers is {workers}, Ray at {address} has {there} processors; ask for fewer "
                "or add machines"
            )


class _Actor:
    """One worker. make: in a list, so that Ray does not fetch it before the version is checked."""

    def __init__(self, make: list[Any], expected: str) -> None:
        def checked() -> Any:
            import ray

            here = installed()
            if here != expected:
                raise ConfigError(
                    f"a worker of Ray on {socket.gethostname()} has {here}, this machine "
                    f"{expected}; install the same on both"
                )
            return ray.get(make[0])()

        self._worker = Worker(checked)

    def answer(self, batch: Any) -> Done | Failed:
        """See `Worker.answer`."""
        return self._worker.answer(batch)


def _fetched(reference: list[Any]) -> Any:
    """What lies in the object store; reference: in a list, as for `_Actor`."""
    import ray

    return ray.get(reference[0])


@cache
def installed() -> str:
    """The versions that change results, and a digest of this package's sources."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    names = [f"{name} {metadata.version(name)}" for name in SHAPING]
    return f"{', '.join(names)}, sources {digest.hexdigest()[:8]}"


def check_address(address: str) -> None:
    """Raise `ConfigError` for what is no address, or where Ray is not installed."""
    host, _, port = address.rpartition(":")
    if address != LOCAL and not (host and port.isdigit() and 0 < int(port) < 2**16):
        raise ConfigError(f"--ray is '{address}', expected local or HOST:PORT of a running Ray")
    try:
        metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "--ray needs Ray, which is not installed; pip install 'ray>=2.40,<3' or "
            "'safedojo_ros[scale]'"
        ) from None


def _connect(address: str, workers: int) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"num_cpus": workers, "num_gpus": 0, "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), PATIENCE).close()
        except OSError as error:
            raise ConfigError(
                f"no Ray answers at {address} ({error.strerror or error}); start one there with "
                "'ray start --head', or pass --ray local"
            ) from None
    at_end = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray has no class of its own for what keeps it from starting
        ray.shutdown()
        raise WorkerLost(f"Ray at {address}: {' '.join(str(error).split())[:300]}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_end)  # Ray puts its own in its place


def _explained(error: BaseException) -> BaseException:
    """`error`, or what to do about it where Ray's object store is full."""
    import ray

    full = (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)
    if isinstance(error, full) or "ObjectStoreFullError" in str(error):
        return WorkerLost(
            "Ray's object store is full; fewer --workers or a smaller --batch need less, or start "
            "Ray with a larger --object-store-memory"
        )
    return error
