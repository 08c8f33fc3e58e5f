"""A policy that a server computes, behind the protocol of `models.policy`. No torch.

The server draws its own noise and keeps its own normalisation; it knows neither what is committed
nor any log-probabilities.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from safedojo_ros.core.bounds import within_bounds
from safedojo_ros.core.errors import PolicyUnavailable
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, RESIZE, STATE_SIZE, Observation
from safedojo_ros.models.served.address import MAX_STEPS, PREFIX, ServedAddress, parse_address
from safedojo_ros.models.served.connection import PolicyConnection
from safedojo_ros.models.served.keys import KEYS

if TYPE_CHECKING:
    import torch

ACTIONS = "actions"
"""Where openpi's servers put the chunk."""


class ServedPolicy:
    """One server. chunk_length: of its last answer, 0 before the first.

    Every call raises `PolicyUnavailable` where the server gives no chunk that can be executed; the
    next call tries again.
    """

    longest_delay = 0
    instructions: tuple[str, ...] = ()

    def __init__(self, address: ServedAddress, resize: str = RESIZE) -> None:
        """resize: of the cell, where the address says none; see `core.types.RESIZES`."""
        self.address, self.keys = address, KEYS[address.keys]
        self.checkpoint_id = f"{PREFIX}{address.url}"
        self.cameras, self.image_size = address.cameras, address.image_size
        self.resize, self.chunk_length = address.resize or resize, 0
        self.connection = PolicyConnection(address.url, address.timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has a connection of its own."""
        return ServedPolicy, (self.address, self.resize), {"chunk_length": self.chunk_length}

    def act(
        self,
        observations: list[Observation],
        generators: "list[torch.Generator] | None" = None,
    ) -> np.ndarray:
        """(B, H, 7) actions; see `models.policy.Policy.act`. The generators are not used."""
        return self.propose(observations)[:, 0]

    def propose(
        self,
        observations: list[Observation],
        generators: "list[torch.Generator] | None" = None,
        count: int = 1,
        committed: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """(B, K, H, 7) actions, K the smaller of `count` and the address's proposals.

        See `models.policy.ProposingPolicy.propose`. An observation that is given twice is asked
        about once.
        """
        answers: dict[int, np.ndarray] = {}
        for observation in observations:
            if id(observation) not in answers:
                chunks = [self._ask(observation) for _ in range(min(count, self.address.proposals))]
                answers[id(observation)] = np.stack(chunks)
        return np.stack([answers[id(observation)] for observation in observations])

    def spec(self) -> dict[str, Any]:
        """Inputs and outputs, as a checkpoint's manifest has them."""
        return {
            "cameras": list(self.cameras),
            "image_size": self.image_size,
            "resize": self.resize,
            "state_size": STATE_SIZE,
            "action_size": ACTION_SIZE,
            "chunk_length": self.chunk_length,
            "period": CONTROL_PERIOD,
        }

    def close(self) -> None:
        """Leave the server."""
        self.connection.close()

    def _ask(self, observation: Observation) -> np.ndarray:
        """(H, 7), within bounds."""
        question = self.keys.question(observation.validate(self.cameras), self.cameras)
        before = self.connection.connections
        answer = self.connection.ask(question)
        if self.connection.connections > before:
            self.chunk_length = 0  # another policy may answer now
        try:
            chunk = self.keys.actions(_checked(answer), observation)
        except PolicyUnavailable as error:
            raise PolicyUnavailable(f"policy server {self.address.url}: {error}") from None
        chunk = within_bounds(chunk[: self.address.steps or None])
        if not 1 <= len(chunk) <= MAX_STEPS or len(chunk) < self.address.steps:
            raise PolicyUnavailable(
                f"policy server {self.address.url}: it gives chunks of {len(chunk)} actions, "
                f"expected {self.address.steps or 1} to {MAX_STEPS}; set steps=N in the address"
            )
        if self.chunk_length not in (0, len(chunk)):
            raise PolicyUnavailable(
                f"policy server {self.address.url}: its chunk has {len(chunk)} actions, the one "
                f"before {self.chunk_length}"
            )
        self.chunk_length = len(chunk)
        return chunk


def _checked(answer: dict[str, Any]) -> np.ndarray:
    """(N, A) float64, finite: the actions of a server's answer; raises `PolicyUnavailable`."""
    if ACTIONS not in answer:
        known = ", ".join(str(key) for key in list(answer)[:8]) or "nothing"
        raise PolicyUnavailable(f"its answer has no '{ACTIONS}', it has {known}")
    given = answer[ACTIONS]
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
        raise PolicyUnavailable(f"its actions are a {type(given).__name__}, expected numbers")
    if given.ndim != 2:
        raise PolicyUnavailable(f"its actions have shape {given.shape}, expected two axes")
    actions = np.asarray(given, np.float64)
    if not np.all(np.isfinite(actions)):
        row = int(np.argwhere(~np.isfinite(actions))[0, 0])
        raise PolicyUnavailable(f"its action {row} is not finite: {actions[row].tolist()}")
    return actions


def open_served(name: str, resize: str = RESIZE) -> ServedPolicy:
    """The policy that a name stands for; nothing is asked yet. Raises `ConfigError`.

    resize: of the cell, where the name says none.
    """
    return ServedPolicy(parse_address(name), resize)
