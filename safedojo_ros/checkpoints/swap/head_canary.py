"""The canary of a safety head: a new one judges the chunks that the running one has just judged."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Observation


def judge_head(
    model: Any,
    recent: Iterable[tuple[Observation, np.ndarray]],
    cameras: tuple[str, ...],
    image_size: int,
    deadline: float,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Raise `CheckpointError` unless `model` gives probabilities, in time, for all `recent` chunks.

    recent: observations with the (H, 7) actions that answered them; cameras, image_size: of the
    observations that this node keeps; deadline: longest that judging may take, s; clock: seconds.
    """
    wanted = (
        tuple(getattr(model, "cameras", cameras)),
        int(getattr(model, "image_size", image_size)),
    )
    if wanted != (cameras, image_size):
        raise CheckpointError(
            f"it needs pictures of {wanted[0]} at {wanted[1]} px, this node keeps {cameras} at "
            f"{image_size} px; restart the node with it"
        )
    seconds = []
    for observation, actions in recent:
        started = clock()
        costs = np.asarray(model.step_cost([observation], actions[None]))
        seconds.append(clock() - started)
        if costs.shape != (1, len(actions)) or not np.all((costs >= 0.0) & (costs <= 1.0)):
            raise CheckpointError(
                f"its costs are not {len(actions)} probabilities but {costs.tolist()!s:.100}"
            )
    if seconds and min(seconds) > deadline:
        raise CheckpointError(f"judging takes {min(seconds):.3f} s, the deadline is {deadline:g} s")
