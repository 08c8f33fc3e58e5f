"""Episodes in which an expert takes over from a policy: HG-DAgger (Kelly et al. 2019)."""

from typing import TYPE_CHECKING

import numpy as np

from safedojo_ros.core.types import Episode
from safedojo_ros.evaluation.play import play
from safedojo_ros.evaluation.recording import record_rest
from safedojo_ros.worlds.world import Scene, Style

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy
    from safedojo_ros.worlds.vector import VectorWorld

TAKEOVER_STEPS = 80
"""Most control steps of the policy before the expert takes over."""

TAKEOVER_STREAM = 0xDA66


def record_takeover(
    policy: "Policy",
    vector: "VectorWorld",
    scenes: list[Scene],
    styles: list[Style],
    noise: float = 0.0,
    execute: int | None = None,
) -> list[Episode]:
    """The steps of an expert of each style after a random number of chunks of `policy`.

    The policy executes at least one chunk and at most `TAKEOVER_STEPS` steps; then the expert
    finishes. Only the expert's steps are kept: each chunk of labels is one plan, not a series of
    corrections. Where the policy's episode ended before, there is no episode. `policy` may be
    behind a filter.
    """
    seeds = [scene.seed for scene in scenes]
    most = max(1, TAKEOVER_STEPS // min(execute or policy.chunk_length, policy.chunk_length))
    streams = [np.random.default_rng([TAKEOVER_STREAM, seed]) for seed in seeds]
    left = np.array([int(stream.integers(1, most + 1)) for stream in streams])
    ended = np.zeros(len(scenes), dtype=bool)
    for step in play(policy, vector, vector.reset(scenes), seeds, execute):
        left[step.running] -= 1
        ended[step.running] = step.over[step.running]
        step.over |= left == 0
        vector.leave(step.over)
    episodes = []
    for i in np.flatnonzero(~ended).tolist():
        world = vector.worlds[i]
        world.render_images = True
        source = f"takeover:{policy.checkpoint_id}:{styles[i]}"
        episodes.append(record_rest(world, styles[i], seeds[i], noise, source))
        world.render_images = False
    return episodes
