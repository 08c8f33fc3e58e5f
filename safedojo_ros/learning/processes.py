"""The processes of one training, as `accelerate launch` or `torchrun` starts them.

They share the batches of a gradient step. Each holds all weights and the first alone writes, unless
the stage is sharded, see `learning.sharding`.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from safedojo_ros.core.errors import ConfigError

if TYPE_CHECKING:  # commands ask for the number of a process before they need torch
    import torch


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """Of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def own_share(batches: int) -> range:
    """Numbers of a step's batches that this process takes; raises `ConfigError` for unequal
    shares."""
    processes = count()
    if batches % processes:
        raise ConfigError(
            f"{processes} processes share {batches} batches a step; set the stage's "
            f"batches_per_step to a multiple of {processes}, or start fewer processes"
        )
    each = batches // processes
    return range(number() * each, (number() + 1) * each)


def mean(every: "list[dict[str, torch.Tensor]]") -> "dict[str, torch.Tensor]":
    """The mean of each metric, without gradient."""
    import torch

    if len(every) == 1:
        return {name: value.detach() for name, value in every[0].items()}
    return {name: torch.stack([one[name].detach() for one in every]).mean() for name in every[0]}


def meet() -> None:
    """Wait for all processes, once `Together` has been made."""
    if count() > 1:
        import torch

        torch.distributed.barrier()


class Together:
    """What keeps the processes of a training alike; with one process it does nothing."""

    def __init__(self, device: "torch.device") -> None:
        self._accelerator = None
        if count() > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=device.type == "cpu")

    def average(self, tensors: "Iterable[torch.Tensor]") -> None:
        """Replace each by its mean over the processes, in one message; all have the same ones."""
        if self._accelerator is None:
            return
        import torch

        some = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in some])
        flat = self._accelerator.reduce(flat, reduction="mean")
        for tensor, part in zip(some, flat.split([t.numel() for t in some]), strict=True):
            tensor.copy_(part.view_as(tensor))
