"""Compiled forward and backward passes, for trainings that are long enough."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from safedojo_ros.learning.progress import Say
from safedojo_ros.models.threads import multiplies_bfloat16

LEAST_STEPS = 1000
"""Gradient steps from which compiling, which takes a minute or two, is worth its time."""


@contextmanager
def compiled(
    modules: Sequence[torch.nn.Module], steps: int, say: Say = print, in_parts: bool = False
) -> Iterator[None]:
    """Inside, calls of `modules` that want gradients are compiled, in a training of `steps`.

    They compute in bfloat16 where the device has instructions for it; weights, and results that
    are tensors, stay float32. So that a resumed training repeats a whole one, `steps` are those of
    the whole. Under `LEAST_STEPS`, and where nothing can be compiled (then it says so), the modules
    stay as they are. in_parts: their weights are sharded, so they are not compiled; the rest is the
    same.
    """
    with ExitStack() as undo:
        if modules and steps >= LEAST_STEPS:
            device = next(modules[0].parameters()).device
            why_not = "weights are in parts" if in_parts else compiler_fault(device)
            if why_not:
                say(f"trains uncompiled, which takes up to twice the time: {why_not}")
            else:
                say("compiles the network first, which takes a minute or two")
                undo.callback(torch.compiler.reset)  # it keeps the code of only so many modules
            for module in modules if in_parts or not why_not else ():
                module.forward = _fast(module.forward, device, not in_parts)
                undo.callback(delattr, module, "forward")  # uncovers that of its class
        yield


def _fast(forward: Callable[..., Any], device: torch.device, compiles: bool) -> Callable[..., Any]:
    """`forward`, compiled, in bfloat16 where that is faster, as long as gradients are wanted."""
    half, quick = multiplies_bfloat16(device), forward
    if compiles:
        quick = torch.compile(forward, options={"fallback_random": True})  # draws as uncompiled

    @functools.wraps(forward)
    def call(*args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            result = quick(*args, **options)
        return result.float() if isinstance(result, torch.Tensor) else result

    return call


@functools.cache
def compiler_fault(device: torch.device) -> str:
    """Why nothing can be compiled for `device`, found by trying; "" where it can."""
    try:
        torch.compile(lambda x: x * x + 1)(torch.ones(8, device=device))
    except Exception as fault:  # whatever the compiler lacks
        return str(fault).strip().splitlines()[0]
    return ""
