"""Weights, gradients and optimiser states in parts, one on each process: FSDP 2.

Within a step the weights are whole on every process; a gradient is averaged, and all but the own
part of it dropped, as soon as its block has been passed backward.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from safedojo_ros.learning import processes


class Step(torch.nn.Module):
    """The loss of a network as a module, whose calls show FSDP where a step begins and ends."""

    def __init__(self, network: torch.nn.Module, loss: Any) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """See `fit.Loss`."""
        losses: dict[str, torch.Tensor] = self.loss(batch, generator)
        return losses


@contextmanager
def sharded(network: torch.nn.Module, average: torch.nn.Module | None, loss: Any) -> Iterator[Step]:
    """Inside, each process has its part of all parameters of both modules; afterwards all of them.

    Yields what computes the loss meanwhile. Parameters are other objects inside.
    """
    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (processes.count(),))
    before = [_Whole(module) for module in (network, average) if module is not None]
    step = Step(network, loss)
    for block in blocks(network):
        # whole until its backward pass: keys that a block puts into a cache are not seen by FSDP
        fully_shard(block, mesh=mesh, reshard_after_forward=False)
    fully_shard(step, mesh=mesh, reshard_after_forward=False)
    if average is not None:
        fully_shard(average, mesh=mesh)
    for module in before:
        module.free()
    yield step
    for module in before:
        module.restore()


def blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The outermost members of the lists of modules in `network`: what it is mostly made of."""
    found: list[torch.nn.Module] = []
    for child in network.children():  # without those that are None
        listed = isinstance(network, torch.nn.ModuleList)
        if not listed or isinstance(child, torch.nn.ModuleList):
            found += blocks(child)
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return found


class _Whole:
    """A network as it was: classes, hooks, and parameters without their numbers."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self.modules = [
            (module, module.__class__, {k: _copied(v) for k, v in module.__dict__.items()})
            for module in network.modules()
        ]
        self.parameters = list(network.named_parameters())
        self.strides = [parameter.stride() for _, parameter in self.parameters]
        for _, parameter in self.parameters:
            parameter.data = parameter.data.contiguous()  # as FSDP expects them

    def free(self) -> None:
        """Drop the numbers, which are sharded now."""
        for _, parameter in self.parameters:
            parameter.data = parameter.data.new_empty(0)

    def restore(self) -> None:
        """Undo the sharding."""
        parts = dict(self.network.named_parameters())
        for (name, parameter), stride in zip(self.parameters, self.strides, strict=True):
            full = whole(parts.pop(name).detach())
            empty = torch.empty_strided(full.shape, stride, dtype=full.dtype, device=full.device)
            parameter.data = empty.copy_(full)
        for module, kind, attributes in self.modules:
            training = module.training
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module.training = training


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list) else value


def whole(value: torch.Tensor) -> torch.Tensor:
    """All of `value`; where it is in parts every process has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its state, on the CPU where it was in parts; every process has to ask, the first is given."""
    state = module.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return state
    kept = {}
    for name, value in state.items():
        gathered = whole(value)
        if processes.number() == 0:
            kept[name] = gathered.cpu()
    return kept


def is_part(value: torch.Tensor) -> bool:
    """Whether this process has a part of `value` alone."""
    return isinstance(value, DTensor)


def own_part(value: torch.Tensor) -> torch.Tensor:
    """What this process has of `value`."""
    return value.to_local() if isinstance(value, DTensor) else value


def laid_out(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value`, kept as `like` is: in parts, or with its strides, which a fused step expects."""
    if isinstance(like, DTensor):
        here = value.to(like.device)
        return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)
