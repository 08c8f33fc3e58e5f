"""What one gradient step keeps and computes, counted on tensors without numbers.

The network and its batch are on torch's meta device, which knows shapes alone: a model that fits no
memory here can be counted. Kept are the weights, their gradients, AdamW's two moments, a moving
average where there is one, and what the forward pass saves for the backward pass, which gives it
back while it makes the gradients. Computed are the products of matrices, two operations for a
multiplication and an addition; moved are the bytes that each operation reads and writes, as if
nothing stayed in a cache.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Footprint:
    """One gradient step. All but parameters and flops are bytes.

    workspace: the largest result of one operation, twice, for the backward pass holds a gradient of
    it beside what it computes of that; flops: of products; moved: read and written; accumulated:
    whether gradients of batches before are there in the forward pass.
    """

    parameters: int
    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    workspace: int
    flops: int
    moved: int
    accumulated: bool = False

    @property
    def fixed(self) -> int:
        """Bytes that are there all the time."""
        kept = self.weights + self.optimiser + self.average
        return kept + self.gradients if self.accumulated else kept

    @property
    def memory(self) -> int:
        """Bytes at the peak of the step."""
        made = 0 if self.accumulated else self.gradients
        return self.fixed + max(self.activations, made) + self.workspace

    def in_parts(self, count: int) -> "Footprint":
        """Of each of `count` processes that keep a part each: see `learning.sharding`."""
        return replace(
            self,
            weights=self.weights + self.weights // count,  # the own part, and all within a step
            gradients=self.gradients // count,
            optimiser=self.optimiser // count,
            average=self.average // count,
        )


def footprint(
    network: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    *,
    trained: Iterable[torch.nn.Parameter] | None = None,
    averaged: bool = False,
) -> Footprint:
    """Count one step of `loss`, whose batch is on the meta device as `network` is.

    trained: the parameters that are fitted (default: all); averaged: with a moving average.
    """
    fitted = list(network.parameters() if trained is None else trained)
    weights = sum(_bytes(t) for t in [*network.parameters(), *network.buffers()])
    gradients = sum(_bytes(p) for p in fitted)
    own = {t.untyped_storage()._cdata for t in [*network.parameters(), *network.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    network.train()
    flops, moved = FlopCounterMode(display=False), _Moved()
    with flops, moved:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss()
        activations = sum(storage.nbytes() for storage in saved.values())
        saved.clear()
        value.backward()
    return Footprint(
        parameters=sum(p.numel() for p in network.parameters()),
        weights=weights,
        gradients=gradients,
        optimiser=2 * gradients,
        average=weights if averaged else 0,
        activations=activations,
        workspace=2 * moved.largest,
        flops=flops.get_total_flops(),
        # AdamW reads weight, gradient and moments, and writes all but the gradient
        moved=moved.bytes + 7 * gradients,
    )


class _Moved(TorchDispatchMode):
    """Counts what operations read and write; one that only looks at its argument moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        places = {t.untyped_storage()._cdata for t in given}
        new = [t for t in made if t.untyped_storage()._cdata not in places]
        if new or func._schema.is_mutable:
            self.bytes += sum(_bytes(t) for t in [*given, *new])
            self.largest = max([self.largest, *(_bytes(t) for t in new)])
        return result


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
