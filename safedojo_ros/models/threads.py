"""How torch uses the processor, for commands that train, imagine or practise in batches."""

import os
from typing import Any

import torch

from safedojo_ros.core.errors import ConfigError


def use_processor(threads: int = 0) -> None:
    """Let torch have `threads` threads (0: its own choice), and the fast float32 products.

    With a GPU, products of matrices are computed in TF32, as convolutions are by default.

    On AMD processors with AVX-512 and bfloat16, precision "medium" sends products of matrices to
    oneDNN, whose kernels compute in float32 all the same there, at more than twice the rate of
    those that torch takes otherwise (Zen 5: 470 against 205 GFLOP/s on two cores). The fused
    attention makes many products too small for oneDNN and would be slower; it gives way to the
    plain one. On Intel's everything stays as it is: torch's own kernels are the faster ones (an
    update of the world model takes 0.19 instead of 0.23 seconds), and where there is AMX oneDNN
    would compute in bfloat16. The switches are shared with the GPU, so where there is one they
    are for it.
    """
    if threads:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        return
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in old releases
    exact = known.get("avx512_bf16", False) and not known.get("amx_tile", False)
    if exact and "Intel" not in known.get("cpu_name", ""):
        torch.set_float32_matmul_precision("medium")
        torch.backends.cuda.enable_flash_sdp(False)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for products of bfloat16 matrices: they are much faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def chosen_device(name: str) -> str:
    """`name`, or for "auto" the GPU where there is one; raises `ConfigError` for none."""
    own = _own_gpu() if name in ("auto", "cuda") else ""
    if own:
        return own
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            raise ConfigError(
                f"device is {name}, but torch sees {count} GPUs here; leave it at auto"
            )
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _own_gpu() -> str:
    """The GPU of this process where a launcher started several here; "" otherwise."""
    started, place = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), os.environ.get("LOCAL_RANK")
    if started == 1 or place is None or not torch.cuda.is_available():
        return ""
    count = torch.cuda.device_count()
    if started > count:
        raise ConfigError(
            f"{started} processes train here, but torch sees {count} GPUs; start {count}, or pass "
            "--device cpu"
        )
    return f"cuda:{place}"
