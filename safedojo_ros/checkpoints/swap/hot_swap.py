"""A model is replaced while it works: loaded beside, tried, taken over between two chunks."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from safedojo_ros.checkpoints.manifest import Manifest, read_manifest
from safedojo_ros.checkpoints.names import is_served
from safedojo_ros.checkpoints.provenance import package_warnings
from safedojo_ros.core.errors import CheckpointError, SafeDojoError
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, RESIZE, STATE_SIZE

T = TypeVar("T")


class Accepted(NamedTuple):
    """Answer to a request: whether it is being worked on, and a sentence."""

    accepted: bool
    reason: str


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A model in memory. `seconds`: from the request until it was ready."""

    model: T
    manifest: Manifest
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def id(self) -> str:
        """The checkpoint's id."""
        return self.manifest.id


class HotSwap(Generic[T]):
    """Owns the current model, the previous one for `rollback`, and the thread that loads the next.

    The owner calls `take_ready` at every chunk boundary: it never blocks on a load. A request that
    fails at any stage changes nothing; `status` becomes "failed" and `reason` says why. While one
    request is being worked on, only the newest later one is kept. status: idle, loading, ready,
    waiting (for what the checkpoint requires), active or failed.
    """

    def __init__(
        self,
        load: Callable[[Path], T],
        find: Callable[[str], Path],
        canary: Callable[[T], None] | None = None,
        compatible: Callable[[Manifest], None] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        waits: Callable[[Manifest], str] | None = None,
        forget: Callable[[T], None] | None = None,
        serve: Callable[[str], tuple[T, Manifest]] | None = None,
    ) -> None:
        """Set up; nothing is loaded yet.

        find: name → verified directory (`CheckpointStore.resolve` or `find_checkpoint`, with the
        kind bound); compatible: raises when the checkpoint does not fit this robot; canary: warms
        the new model up on recent observations and raises when its output is not fit to be played;
        waits: what must happen before a model that is ready may be taken, or "" (quick, and
        without a call back into this object); forget: frees what a model holds when `take_ready`
        leaves it for good; serve: the model of a name that `is_served`, and a manifest of no files.
        """
        self._load, self._find = load, find
        self._canary, self._compatible, self._clock = canary, compatible, clock
        self._waits, self._forget, self._serve = waits, forget, serve
        self.current: Loaded[T] | None = None
        self.previous: Loaded[T] | None = None
        self.status = "idle"
        self.reason = "nothing has been requested"
        self.refused: dict[str, str] = {}
        """{id: why} of checkpoints that `reject` left."""
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._pending: tuple[str, int] | None = None
        self._ready: Loaded[T] | None = None
        self._generation = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def candidate(self) -> Loaded[T] | None:
        """What has passed all checks and has not been taken yet."""
        return self._ready

    def start_with(self, name: str) -> T:
        """Load the first model in the calling thread; raises what finding or loading raises."""
        loaded = self._prepare(name, self._clock())
        with self._lock:
            self.current, self.previous, self._ready = loaded, None, None
            self.status, self.reason = "active", f"{loaded.id} is active"
        return loaded.model

    def request(self, name: str = "latest") -> Accepted:
        """Start loading `name` beside the running model; returns at once.

        Asking for the running one by its id drops every open request.
        """
        with self._lock:
            if self._closed:
                return Accepted(False, "shutting down")
            if self.current is not None and name == self.current.id:
                self._drop_requests()
                self.status, self.reason = "active", f"{name} is active already"
                return Accepted(True, self.reason)
            replaced = self._pending
            self._pending = (name or "latest", self._clock())
            self._generation += 1
            self.status, self.reason = "loading", f"loading '{name or 'latest'}'"
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hot-swap", daemon=True)
                self._thread.start()
        note = f" (instead of '{replaced[0]}')" if replaced else ""
        return Accepted(True, f"loading '{name or 'latest'}'{note}")

    def take_ready(self, proven: bool = True) -> T | None:
        """The new model, once, if one has passed all checks; it is then the current one.

        proven: whether the current one is fit to be rolled back to; else the previous one stays.
        """
        with self._lock:
            if self._ready is None:
                return None
            what = self._waits(self._ready.manifest) if self._waits is not None else ""
            if what:
                if self.status in ("ready", "waiting"):
                    self.status, self.reason = "waiting", f"{self._ready.id} waits: {what}"
                return None
            left = self.current
            if proven or self.previous is None:
                left, self.previous = self.previous, self.current
            if left is not None and self._forget is not None:
                self._forget(left.model)
            self.current, self._ready = self._ready, None
            if self.status in ("ready", "waiting"):
                self.status, self.reason = "active", f"{self.current.id} is active"
            return self.current.model

    def rollback(self) -> T:
        """Go back to the previous model at once and drop every open request.

        Raises `CheckpointError` when there is none. The model that was left is forgotten.
        """
        with self._lock:
            return self._go_back("")

    def reject(self, why: str) -> T:
        """As `rollback`, and remember in `refused` that the model that was left is not fit."""
        with self._lock:
            left = self.current
            model = self._go_back(f": {why}")
            assert left is not None
            self.refused[left.id] = why
            return model

    def _go_back(self, because: str) -> T:
        if self.previous is None or self.current is None:
            raise CheckpointError("there is no previous checkpoint to roll back to")
        left, self.current, self.previous = self.current, self.previous, None
        self._drop_requests()
        self.status = "active"
        self.reason = f"rolled back from {left.id} to {self.current.id}{because}"
        return self.current.model

    def _drop_requests(self) -> None:
        self._pending = self._ready = None
        self._generation += 1

    def wait(self, timeout: float) -> bool:
        """Block until no request is being worked on; False after `timeout` seconds."""
        with self._done:
            return self._done.wait_for(lambda: self._thread is None, timeout)

    def close(self) -> None:
        """Take no more requests; a running load ends by itself and is dropped."""
        with self._lock:
            self._closed = True
            self._drop_requests()

    def _work(self) -> None:
        while True:
            with self._done:
                if self._pending is None:
                    self._thread = None
                    self._done.notify_all()
                    return
                (name, since), self._pending = self._pending, None
                generation = self._generation
            loaded: Loaded[T] | None = None
            try:
                loaded = self._prepare(name, since)
                failure = ""
            except Exception as error:  # whatever a broken checkpoint provokes must not go further
                known = isinstance(error, SafeDojoError)
                failure = str(error) if known else f"{type(error).__name__}: {error}"
            with self._lock:
                if generation != self._generation:
                    continue  # a newer request, a rollback or close came meanwhile
                if loaded is not None:
                    self._ready = loaded
                    self.status = "ready"
                    self.reason = f"{loaded.id} is ready for the next chunk"
                else:
                    self.status = "failed"
                    self.reason = f"'{name}' was not taken: {failure}"

    def _prepare(self, name: str, since: int) -> Loaded[T]:
        if self._serve is not None and is_served(name):
            model, manifest = self._serve(name)
            self._check(manifest)
        else:
            path = self._find(name)
            manifest = read_manifest(path)
            self._check(manifest)
            model = self._load(path)
        if self._canary is not None:
            self._canary(model)
        seconds = (self._clock() - since) / 1e9
        return Loaded(model, manifest, tuple(package_warnings(manifest)), seconds)

    def _check(self, manifest: Manifest) -> None:
        if self._compatible is not None:
            self._compatible(manifest)


def free_weights(model: Any) -> None:
    """Empty the tensors of a torch model's `network` at once, or leave the server that computes it.

    The garbage collector finds such networks late, and never those that a node has frozen.
    """
    if hasattr(model, "close"):
        model.close()
    network: Any = getattr(model, "network", None)
    if hasattr(network, "parameters"):
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.new_empty(0)


def has_cameras(cameras: Sequence[str]) -> Callable[[Manifest], None]:
    """A check for models of any kind: all cameras that they look at exist."""

    def check(manifest: Manifest) -> None:
        wanted = manifest.spec.get("cameras")
        if not wanted or any(camera not in cameras for camera in wanted):
            raise CheckpointError(
                f"checkpoint {manifest.id} needs cameras {wanted}, this robot has {list(cameras)}"
            )

    return check


def check_rule(manifest: Manifest, resize: str) -> None:
    """Raise `CheckpointError` for a model whose images were made to fit by another rule than that
    of the cell's contract; "": by any."""
    seen = manifest.spec.get("resize", RESIZE)
    if resize and seen != resize:
        raise CheckpointError(
            f"checkpoint {manifest.id} saw images made to fit by {seen!r:.40}, the contract of "
            f"this cell says resize '{resize}'; run it with a contract that says {seen!r:.40}"
        )


def fits_robot(
    cameras: Sequence[str],
    period: float = CONTROL_PERIOD,
    state_size: int = STATE_SIZE,
    action_size: int = ACTION_SIZE,
    resize: str = "",
) -> Callable[[Manifest], None]:
    """A `compatible` check for policies and safety heads: these cameras exist, and sizes, period,
    statistics fit. resize: the cell's rule, which a checkpoint must have seen; "": any."""

    def check(manifest: Manifest) -> None:
        spec = manifest.spec
        expected = {"state_size": state_size, "action_size": action_size}
        for key, value in expected.items():
            if spec.get(key) != value:
                raise CheckpointError(
                    f"checkpoint {manifest.id} has {key} {spec.get(key)}, this robot needs {value}"
                )
        for key, meaning in {"actions": "ee_delta", "frame": "base"}.items():
            if spec.get(key, meaning) != meaning:
                seen = f"{spec[key]!r:.40}"
                raise CheckpointError(
                    f"checkpoint {manifest.id} has {key} {seen}, this robot takes {meaning}"
                )
        has_cameras(cameras)(manifest)
        if abs(float(spec.get("period", period)) - period) > 0.01 * period:
            raise CheckpointError(
                f"checkpoint {manifest.id} acts every {spec['period']} s, "
                f"this robot every {period:g} s"
            )
        if manifest.files:  # a server normalises by itself, and its address says the rule
            check_rule(manifest, resize)
            _check_statistics(manifest, {"state": state_size, "action": action_size})

    return check


def _check_statistics(manifest: Manifest, sizes: dict[str, int]) -> None:
    """Normalisation must hold finite statistics of the right length for state and action."""
    for part, size in sizes.items():
        statistics: Any = manifest.normalisation.get(part)
        if not isinstance(statistics, dict) or not statistics:
            raise CheckpointError(
                f"checkpoint {manifest.id} has no normalisation of '{part}'; publish it with one"
            )
        for name, values in statistics.items():
            try:
                array = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError):
                array = np.array([np.nan])
            if (array.ndim and array.shape != (size,)) or not np.all(np.isfinite(array)):
                raise CheckpointError(
                    f"checkpoint {manifest.id}: normalisation '{part}.{name}' is not "
                    f"{size} finite numbers"
                )
