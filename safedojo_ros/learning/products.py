"""Products of matrices in bfloat16, where the processor multiplies it faster than float32.

Weights, sums over them, norms and activations stay float32: on a CPU they are as slow in bfloat16,
or slower, so that `torch.autocast` gains nothing there (`benchmarks/updates.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn import functional

from safedojo_ros.models.threads import multiplies_bfloat16


@contextmanager
def fast_products(module: torch.nn.Module, faster: bool | None = None) -> Iterator[None]:
    """Linear maps and convolutions of `module` multiply in bfloat16 meanwhile; the results are
    float32. Nothing changes where that is no faster (default: as the device of `module` has it)."""
    weights = next(module.parameters(), None)
    swapped = []
    if faster is None:
        faster = weights is not None and multiplies_bfloat16(weights.device)
    if faster:
        for part in module.modules():
            if type(part) is torch.nn.Linear:
                part.forward = partial(_linear, part)  # type: ignore[method-assign]
            elif type(part) is torch.nn.Conv2d and part.padding_mode == "zeros":
                part.forward = partial(_convolution, part)  # type: ignore[method-assign]
            else:
                continue
            swapped.append(part)
    try:
        yield
    finally:
        for part in swapped:
            del part.forward


def _linear(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    product = functional.linear(x.bfloat16(), layer.weight.bfloat16()).float()
    return product if layer.bias is None else product + layer.bias


def _convolution(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    bias = None if layer.bias is None else layer.bias.bfloat16()
    return functional.conv2d(
        x.bfloat16(),
        layer.weight.bfloat16(),
        bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    ).float()
