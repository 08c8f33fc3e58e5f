"""How a node changes its model while it works: topic, services, following, probation.

The same for the policy and the safety head: publishes `<kind>/checkpoint` (latched), serves
`<kind>/load_checkpoint` and `<kind>/rollback`, follows the store's `latest` if asked to, and goes
back by itself from a model that breaks its bars in its first chunks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from std_srvs.srv import Trigger

from safedojo_ros.checkpoints.names import user_store
from safedojo_ros.checkpoints.swap.follow import Follower
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap
from safedojo_ros.checkpoints.swap.probation import Bars, Probation, Reference
from safedojo_ros.core.errors import CheckpointError, SafeDojoError
from safedojo_ros.msg import CheckpointInfo
from safedojo_ros.nodes.lifecycle import LATCHED, DojoNode, Setting
from safedojo_ros.srv import LoadCheckpoint

T = TypeVar("T")

SWAP_SETTINGS = (
    Setting("follow_period", 0.1, "How often `latest` is looked at while followed (s).", 0.01, 60),
    Setting("probation_chunks", 20, "Chunks that a new model is watched for; 0: none.", 0, 10_000),
    Setting("latency_ratio", 3.0, "It may compute so many times as long as the old one.", 1.0, 100),
)


class CheckpointExchange(Generic[T]):
    """A node's `HotSwap` with everything around it that speaks ROS.

    `take_ready` and `check` are for the thread that uses the model.
    """

    def __init__(
        self,
        node: DojoNode,
        kind: str,
        swap: HotSwap[T],
        bars: Bars,
        on_rollback: Callable[[], None] = lambda: None,
    ) -> None:
        """on_rollback: called after the service has gone back."""
        self.swap, self.bars = swap, bars
        self.probation: Probation | None = None
        self._node, self._kind, self._on_rollback = node, kind, on_rollback
        self._reference = Reference()
        self._announced = ""
        self._follower: Follower | None = None
        self._infos = node.create_publisher(CheckpointInfo, f"{kind}/checkpoint", LATCHED)
        self._services = [
            node.create_service(LoadCheckpoint, f"{kind}/load_checkpoint", self._on_load),
            node.create_service(Trigger, f"{kind}/rollback", self._on_trigger),
        ]

    def follow_latest(self, root: str) -> None:
        """Ask for whatever `latest` moves to in the store at `root`; "": the user's."""
        store = user_store(Path(root) if root else None)
        running = self.swap.current.id if self.swap.current else ""
        self._follower = Follower(
            lambda: store.latest(self._kind),
            self.swap.request,
            lambda name: self.swap.refused.get(name, ""),
            self.announce,
            running,
        )
        self._follower.start(float(self._node.setting("follow_period")))

    def stop_following(self) -> None:
        """Leave `latest` alone."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def close(self) -> None:
        """Give back what was made; the swap takes no more requests."""
        self.stop_following()
        self.swap.close()
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_publisher(self._infos)

    # ---------------------------------------------------------------- between two chunks

    def take_ready(self, reference: Callable[[], Reference], since: int) -> bool:
        """Take a model over if one is ready; whether one was.

        reference: what the running one did; since: the sequence of its last chunk.
        """
        if self.swap.candidate is None:
            return False
        proven = self.probation is None
        known = reference() if proven else self._reference
        if self.swap.take_ready(proven) is None:
            self.report()
            return False
        self._reference = known
        self.probation = Probation(self.bars, known, since) if self.bars.chunks else None
        self.announce("swapped in between two chunks")
        return True

    def check(self, fault: str) -> bool:
        """What follows from a word of the probation; True if the old model is back."""
        if self.probation is None:
            return False
        if not fault:
            if self.probation.over:
                words, self.probation = self.probation.summary, None
                self.announce(f"kept: {words}")
            return False
        self.probation = None
        try:
            self.swap.reject(fault)
        except CheckpointError as error:
            self._node.get_logger().error(f"{fault}, but {error}")
            return False
        self._node.get_logger().error(self.swap.reason)
        self.announce(self.swap.reason)
        return True

    def go_back(self) -> None:
        """To the previous model by request; raises `CheckpointError` when there is none."""
        self.swap.rollback()
        self.probation = None
        self.announce(self.swap.reason)
        self._on_rollback()

    # ---------------------------------------------------------------- what others hear

    def report(self) -> None:
        """Announce a request that failed or waits, once."""
        swap = self.swap
        if swap.status in ("failed", "waiting") and swap.reason != self._announced:
            if swap.status == "failed":
                self._node.get_logger().error(swap.reason)
            self.announce(swap.reason)

    def announce(self, reason: str) -> None:
        """Publish what runs, and why."""
        current, candidate, previous = self.swap.current, self.swap.candidate, self.swap.previous
        if current is None:
            return
        self._announced = reason
        info = CheckpointInfo(kind=self._kind, id=current.id, reason=reason, active=True)
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.parent = current.manifest.parent or ""
        info.previous = previous.id if previous else ""
        info.requires = (candidate or current).manifest.requires.get("safety", "")
        self._infos.publish(info)
        self._node.get_logger().info(f"{self._kind} {info.id}: {reason}")

    def _on_load(
        self, request: LoadCheckpoint.Request, response: LoadCheckpoint.Response
    ) -> LoadCheckpoint.Response:
        response.accepted, response.message = self.swap.request(request.name or "latest")
        self._node.get_logger().info(response.message)
        return response

    def _on_trigger(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self.go_back()
        except SafeDojoError as error:
            response.message = str(error)
            return response
        response.success, response.message = True, self.swap.reason
        return response


def first_model(swap: HotSwap[T], name: str, log: Callable[[str], Any]) -> T:
    """Load what the node begins with; whatever a broken one provokes is a `CheckpointError`."""
    try:
        model = swap.start_with(name)
    except SafeDojoError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"'{name}' cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    for warning in swap.current.warnings if swap.current else ():
        log(warning)
    return model
