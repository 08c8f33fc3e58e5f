"""Demonstrations: the frames that a policy imitates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from safedojo_ros.core.contract import Contract
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import RESIZE
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all, steps_ahead

APPROACH = 12
"""Steps before the gripper opens or closes that decide whether a grasp holds."""


@dataclass
class Demonstrations:
    """Frames of all episodes, in memory.

    images: (N, cameras, H, W, 3) uint8; state: (N, S) and actions: (N, A) physical, those to
    imitate; executed: (N, A), what the robot did; sentence: (N,) index into instructions; ends:
    (N,) index after the last frame of the episode that is imitated, which is that of the first
    success, if any; imitated: (M,) the frames that are imitated; contract, resize: see
    `FrameArrays`.
    """

    images: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    executed: torch.Tensor
    sentence: torch.Tensor
    ends: torch.Tensor
    imitated: torch.Tensor
    instructions: list[str]
    cameras: tuple[str, ...]
    contract: Contract | None = None
    resize: str = RESIZE

    def __post_init__(self) -> None:
        self._next = self.next_changes()

    @staticmethod
    def read(sources: Sequence[Source], only_safe: bool = False) -> "Demonstrations":
        """Read data sets; labels are the expert's own actions, without noise, where they are
        recorded.

        only_safe: imitate no episode with a contact or a displacement.
        """
        readers = open_all(sources)
        if only_safe and any(not row.cost_source for reader in readers for row in reader.rows):
            raise DatasetError(
                f"{[str(s) for s in sources]} do not say which steps have contact; name the column "
                "in the contract, labels.cost, or leave only_safe out"
            )
        frames = load_frames(readers)
        lengths = np.diff(frames.starts)
        instructions = sorted({row.instruction for row in frames.rows})
        index = np.array([instructions.index(row.instruction) for row in frames.rows])
        ends = imitated_ends(frames.success, frames.starts[1:])[frames.episode]
        safe = np.array([not row.touched for row in frames.rows])
        if only_safe and not safe.any():
            raise DatasetError(
                f"no episode in {[str(s) for s in sources]} is without contact; collect some "
                "with --style safe, or leave only_safe out"
            )
        imitated = np.repeat(safe | (not only_safe), lengths) & (np.arange(len(ends)) < ends)
        return Demonstrations(
            torch.from_numpy(frames.images),
            torch.from_numpy(frames.state),
            torch.from_numpy(frames.extra.get("clean_action", frames.actions)),
            torch.from_numpy(frames.actions),
            torch.from_numpy(index[frames.episode]),
            torch.from_numpy(ends),
            torch.from_numpy(np.flatnonzero(imitated)),
            instructions,
            readers[0].cameras,
            frames.contract,
            frames.resize,
        )

    def chunk_rows(self, frames: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (B, H) of the steps from each frame on, and which of them exist (B, H)."""
        rows, exists = steps_ahead(frames.numpy(), self.ends[frames].numpy(), length)
        return torch.from_numpy(rows), torch.from_numpy(exists)

    def emphasised(self, repeats: int) -> "Demonstrations":
        """The same with the last `APPROACH` steps before the gripper opens or closes imitated
        `repeats` times."""
        left = self._next[self.imitated] - self.imitated
        changes = self._next[self.imitated] < self.ends[self.imitated] - 1
        near = self.imitated[(left <= APPROACH) & changes]
        return replace(self, imitated=torch.cat([self.imitated, near.repeat(repeats - 1)]))

    def next_changes(self) -> torch.Tensor:
        """(N,) the frame where the gripper will open or close next, that frame included, or else
        the last one that is imitated."""
        closed = self.actions[:, -1] > 0
        before = torch.cat([closed[:1], closed[:-1]])
        first = torch.cat([torch.ones(1, dtype=torch.bool), self.ends[1:] != self.ends[:-1]])
        changes = torch.where(first, closed, closed != before).nonzero()[:, 0]
        rows = torch.arange(len(closed))
        none = torch.tensor([len(closed)])
        following = torch.cat([changes, none])[torch.searchsorted(changes, rows)]
        return torch.minimum(following, self.ends - 1)

    def places(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 3, 3) m: where the gripper is, where it will open or close next, and the way there.

        Hindsight: the demonstrations know it, so nobody has to mark an object.
        """
        here = self.state[frames, :3]
        there = self.state[self._next[frames], :3]
        return torch.stack([here, there, there - here], 1)


def imitated_ends(success: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(E,) row after the step of each episode's first success, or after its last step.

    success: (N,) bool, after each step; ends: (E,) row after each episode's last step.
    """
    first = np.append(np.flatnonzero(success), len(success))
    starts = np.append(0, ends[:-1])
    return np.minimum(first[np.searchsorted(first, starts)] + 1, ends).astype(np.int64)
