"""What models say beside the live view: P(success) now, and what a chunk was imagined to bring.

They compute in a thread that stands back for everything else, of the newest question alone; where
it is slower than the robot, there are fewer answers and no waiting. No ROS.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.types import Observation
from safedojo_ros.nodes.stack.scheduling import change_niceness

if TYPE_CHECKING:
    from safedojo_ros.models.success_classifier import SuccessModel
    from safedojo_ros.models.world_model import WorldModel

NICENESS = 10


@dataclass(frozen=True)
class Success:
    """P(the task is done) in the frame of `stamp` (ns), and the threshold of the classifier."""

    stamp: int
    probability: float
    threshold: float


@dataclass(frozen=True)
class Imagined:
    """{camera: (S, S, 3) uint8} as imagined for the instant `stamp` (ns), a chunk ahead."""

    stamp: int
    images: dict[str, np.ndarray]


Question = Callable[[], Success | Imagined]


class ViewModels:
    """Either model may be None. Ask from one thread, and take the answers there with `answers`."""

    def __init__(
        self,
        success: "SuccessModel | None",
        world: "WorldModel | None",
        warn: Callable[[str], None],
    ) -> None:
        """warn: told why there is no answer, once for each reason."""
        self.success, self.world = success, world
        self._warn, self._warned = warn, set[str]()
        self._found: deque[Success | Imagined] = deque(maxlen=16)
        self._asked: dict[str, Question] = {}
        self._job, self._ending = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="view models", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Compute nothing more."""
        with self._job:
            self._ending = True
            self._job.notify()
        self._thread.join(timeout=5.0)

    @property
    def sees(self) -> tuple[tuple[str, ...], int]:
        """The cameras that the models look at, and the side of their images (pixels)."""
        if self.world is not None:
            return self.world.cameras, self.world.autoencoder.size.image_size
        assert self.success is not None
        return self.success.cameras, self.success.image_size

    def answers(self) -> list[Success | Imagined]:
        """What has been computed since the last call."""
        return [self._found.popleft() for _ in range(len(self._found))]

    def classify(self, observation: Observation) -> None:
        """Ask for P(success)."""
        if self.success is not None:
            self._ask("success", lambda: self._success(observation))

    def imagine(
        self, first: Observation, seen: Sequence[Observation], actions: np.ndarray, period: float
    ) -> None:
        """Ask what the chunk brings.

        first: of the scene; seen: the newest `context` − 1 ones, the last at the chunk's start;
        actions: (H, 7), metres and radians; period: s between two of them.
        """
        if self.world is not None:
            self._ask("future", lambda: self._future(first, seen, actions, period))

    def _ask(self, kind: str, question: Question) -> None:
        with self._job:
            self._asked[kind] = question
            self._job.notify()

    def _work(self) -> None:
        change_niceness(NICENESS, self._warn)
        while True:
            with self._job:
                self._job.wait_for(lambda: self._ending or self._asked)
                if self._ending:
                    return
                question = self._asked.pop(next(iter(self._asked)))
            try:
                self._found.append(question())
            except ObservationRejected as error:  # of this one; the view goes on
                if str(error) not in self._warned:
                    self._warned.add(str(error))
                    self._warn(str(error))

    def _success(self, observation: Observation) -> Success:
        from safedojo_ros.models.images import stack_images

        model = self.success
        assert model is not None
        images = stack_images([observation], model.cameras, model.image_size)
        probability = float(model.probability(images, [observation.instruction])[0])
        return Success(observation.stamp, probability, model.threshold)

    def _future(
        self, first: Observation, seen: Sequence[Observation], actions: np.ndarray, period: float
    ) -> Imagined:
        import torch

        from safedojo_ros.models.images import stack_images, to_uint8

        world = self.world
        assert world is not None
        length = world.size.chunk_length
        if len(actions) != length:
            raise ObservationRejected(
                f"the chunks have {len(actions)} actions, the world model imagines {length}"
            )
        side = world.autoencoder.size.image_size
        device = world.device
        clip = stack_images([first, *seen], world.cameras, side)[None]
        context = world.encode(clip.to(device))
        state = torch.from_numpy(np.asarray(seen[-1].state, np.float32))[None]
        chunk = torch.from_numpy(actions.astype(np.float32))[None]
        shape = (1, world.size.future, *context.shape[2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        frames, _ = world.imagine(
            context,
            world.scales.state.normalise(state).to(device),
            world.scales.action.normalise(chunk).to(device),
            noise.to(device),
        )
        images = to_uint8(world.decode(frames[:, -1:])[0, 0]).cpu().numpy()
        ahead = round(length * period * 1e9)
        return Imagined(seen[-1].stamp + ahead, dict(zip(world.cameras, images, strict=True)))
