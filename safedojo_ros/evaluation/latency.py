"""A policy as the robot executes it: every chunk comes late, while the arm moves on.

The protocol's worlds wait for a chunk; a robot does not. For `latency` control steps after an
observation the old chunk is executed; then the new one is joined as `robot.playback.playback` joins
it. Before the first chunk the arm stands still.
"""

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, Observation
from safedojo_ros.evaluation.filters.gate import GRIPPER_OPEN
from safedojo_ros.robot.playback.playback import PlaybackConfig, joined

if TYPE_CHECKING:
    import torch

    from safedojo_ros.models.policy import Policy


class LatePolicy:
    """`policy`, `latency` control steps late, with a new chunk every `execute` steps.

    An episode is identified by its generator. Raises `ConfigError` where a chunk ends before the
    next one comes.
    """

    def __init__(self, policy: "Policy", latency: int, execute: int | None = None) -> None:
        horizon = policy.chunk_length
        execute = min(execute or horizon - latency, horizon)
        if latency < 1 or latency >= execute or execute + latency > horizon:
            raise ConfigError(
                f"a latency of {latency} steps and {execute} steps between two inferences do not "
                f"fit a chunk of {horizon}: expected 1 <= latency < execute <= {horizon} - latency"
            )
        self.policy, self.latency, self.execute = policy, latency, execute
        self.checkpoint_id = policy.checkpoint_id
        self._rest: WeakKeyDictionary[torch.Generator, np.ndarray] = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def act(
        self, observations: list[Observation], generators: "list[torch.Generator] | None" = None
    ) -> np.ndarray:
        """(B, H, 7), the actions that are executed after the observations."""
        chunks = np.asarray(self.policy.act(observations, generators), dtype=np.float64)
        return np.stack(
            [
                self._executed(chunk, None if generators is None else generators[i])
                for i, chunk in enumerate(chunks)
            ]
        )

    def _executed(self, chunk: np.ndarray, episode: "torch.Generator | None") -> np.ndarray:
        rest = None if episode is None else self._rest.get(episode)
        if rest is None:
            rest = np.zeros((self.latency, ACTION_SIZE))
            rest[:, 6] = GRIPPER_OPEN
            executed = np.concatenate([rest, chunk])[: len(chunk)]
        else:
            whole = joined(chunk, rest, PlaybackConfig().blend_steps)
            executed = np.concatenate([rest, whole[self.latency :]])
        if episode is not None:
            self._rest[episode] = executed[self.execute : self.execute + self.latency]
        return executed
