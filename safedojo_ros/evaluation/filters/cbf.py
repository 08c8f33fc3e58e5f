"""The AEGIS-like baseline at run time: a policy behind a CBF filter, with seen or true obstacles.

Seen: the obstacle's place comes from the `agentview` image, by colour, as an obstacle that no
model was trained on would have to be described to such a filter; where none is seen, nothing is
filtered. True: from the world's own geometry, an oracle that shows what the filter itself can do.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.filters.barrier import CbfConfig, Obstacle, filtered_chunk
from safedojo_ros.worlds.tabletop.scene import THINGS, compile_scene
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from safedojo_ros.models.policy import ProposingPolicy
    from safedojo_ros.worlds.vector import ChunkOutcome, VectorWorld

CAMERA = "agentview"
COLOURS = {
    "carton": ((0.2, 0.6, 0.9), 0.06),
    "bottle": ((0.05, 0.3, 0.12), 0.08),
    "thermos": ((0.55, 0.1, 0.55), 0.05),
}
"""{obstacle: (its telling colour, height of the middle of that colour above the table, metres)}."""

OTHER_COLOURS = (
    (0.85, 0.1, 0.1), (0.1, 0.25, 0.9), (0.95, 0.95, 0.9), (0.72, 0.5, 0.25), (0.9, 0.6, 0.1),
    (0.1, 0.7, 0.2), (0.95, 0.9, 0.1), (0.55, 0.55, 0.58), (0.25, 0.25, 0.25),
)  # fmt: skip
LEAST_PIXELS = 12
"""Of an obstacle in sight there are 15 and more; mixed pixels at other objects' edges are at
most 11 (60 seeds, all levels)."""
LEAST_SATURATION = 0.25


def seen_obstacle(image: np.ndarray) -> Obstacle | None:
    """The obstacle in an `agentview` image (S, S, 3) uint8; None where none is seen."""
    pixels = image.astype(np.float64) + 1.0
    shares = pixels / pixels.sum(-1, keepdims=True)
    known = np.array([colour for colour, _ in COLOURS.values()] + list(OTHER_COLOURS))
    known = known / known.sum(-1, keepdims=True)
    nearest = np.linalg.norm(shares[:, :, None] - known, axis=-1).argmin(-1)
    vivid = 1.0 - pixels.min(-1) / pixels.max(-1) > LEAST_SATURATION
    counts = [int(np.sum((nearest == k) & vivid)) for k in range(len(COLOURS))]
    best = int(np.argmax(counts))
    if counts[best] < LEAST_PIXELS:
        return None
    name = list(COLOURS)[best]
    rows, columns = np.nonzero((nearest == best) & vivid)
    centre = np.array([np.median(columns) + 0.5, np.median(rows) + 0.5]) / len(image)
    thing = THINGS[name]
    x, y = on_plane(centre, COLOURS[name][1])
    origin, _ = camera_pose()
    back = np.array([x, y]) - origin[:2]
    x, y = np.array([x, y]) + thing.radius * back / np.linalg.norm(back)  # its front was seen
    return Obstacle(float(x), float(y), thing.radius, thing.height)


def on_plane(place: np.ndarray, height: float) -> tuple[float, float]:
    """(x, y) m at `height` above the table of a `place` in the image, from 0 to 1 each way."""
    origin, axes = camera_pose()
    model = compile_scene("groceries", None)
    half = np.tan(np.radians(float(model.camera(CAMERA).fovy[0])) / 2)
    ray = axes @ np.array([(2 * place[0] - 1) * half, (1 - 2 * place[1]) * half, -1.0])
    reach = (height - origin[2]) / ray[2]
    return float(origin[0] + reach * ray[0]), float(origin[1] + reach * ray[1])


@cache
def camera_pose() -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) m and axes (3, 3) as columns, right, up and backwards, of the camera."""
    model = compile_scene("groceries", None)
    index = model.camera(CAMERA).id
    return model.cam_pos0[index].copy(), model.cam_mat0[index].reshape(3, 3).copy()


def true_obstacle(world: World) -> Obstacle | None:
    """The obstacle where the tabletop has it; None where there is none.

    Raises `ConfigError` for another world, whose obstacles' shapes are not known here.
    """
    if not isinstance(world, TabletopWorld):
        raise ConfigError("the CBF filter knows the tabletop's obstacles only")
    if not world.obstacle:
        return None
    thing, place = THINGS[world.obstacle], world.thing_position(world.obstacle)
    return Obstacle(float(place[0]), float(place[1]), thing.radius, thing.height)


class CbfPolicy:
    """A policy whose chunks pass the filter, obstacles as seen in the images it is given."""

    def __init__(self, policy: "ProposingPolicy", config: CbfConfig | None = None) -> None:
        self.policy, self.config = policy, config
        self.checkpoint_id = f"{policy.checkpoint_id}+cbf"

    def __getattr__(self, name: str) -> Any:
        if name == "policy":  # not there yet: it is being copied to a worker
            raise AttributeError(name)
        return getattr(self.policy, name)

    def act(
        self, observations: list[Observation], generators: "list[torch.Generator] | None" = None
    ) -> np.ndarray:
        """(B, H, 7); see `models.policy.Policy.act`."""
        return self.propose(observations, generators)[:, 0]

    def propose(
        self,
        observations: list[Observation],
        generators: "list[torch.Generator] | None" = None,
        count: int = 1,
        committed: "Sequence[np.ndarray] | None" = None,
    ) -> np.ndarray:
        """(B, K, H, 7); see `models.policy.ProposingPolicy.propose`. What is committed stays."""
        result = np.array(self.policy.propose(observations, generators, count, committed))
        places = {id(o): i for i, o in reversed(list(enumerate(observations)))}
        for i in sorted(places.values()):  # one that is given twice is filtered once
            observation = observations[i]
            obstacle = seen_obstacle(observation.images[CAMERA])
            if obstacle is None:
                continue
            known = 0 if committed is None else len(committed[i])
            for chunk in result[i]:
                state = np.array(observation.state)
                state[:3] += chunk[:known, :3].sum(0)
                chunk[known:] = filtered_chunk(state, chunk[known:], obstacle, self.config)
        return result[[places[id(observation)] for observation in observations]]


class CbfWorld:
    """Worlds before which every chunk passes the filter, obstacles as they truly stand."""

    def __init__(self, vector: "VectorWorld", config: CbfConfig | None = None) -> None:
        self.vector, self.config = vector, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vector, name)

    def step(self, chunks: np.ndarray, steps: int | None = None) -> "ChunkOutcome":
        """See `VectorWorld.step`."""
        result = np.array(chunks, dtype=np.float64)[:, :steps]
        for i, world in enumerate(self.vector.worlds):
            obstacle = true_obstacle(world)
            if obstacle is not None:
                result[i] = filtered_chunk(world.state(), result[i], obstacle, self.config)
        return self.vector.step(result)
