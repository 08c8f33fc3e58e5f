"""What a recipe takes before it runs: parameters, memory and time of every training stage.

The model of time: a gradient step takes as long as its products at `USED` of the device's rate, or
as its bytes at the device's bandwidth, whichever is longer; that is what bounds it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.tabletop.tasks import TASKS

if TYPE_CHECKING:
    from safedojo_ros.learning.footprint import Footprint
    from safedojo_ros.pipeline.recipe import Recipe

GB = 10**9
USED = 0.6
"""Share of the rate of large products that a step's products reach."""


@dataclass(frozen=True)
class Device:
    """What computes. products: floating-point operations a second, in large products; bandwidth:
    bytes a second; memory: bytes; bfloat16: whether products are computed in it."""

    name: str
    products: float
    bandwidth: float
    memory: float
    bfloat16: bool


H200 = Device("H200, by its data sheet", 989e12, 4.8e12, 141e9, bfloat16=True)


@dataclass(frozen=True)
class Plan:
    """What would compute. Raises `ConfigError` for a number out of range."""

    gpus: int = 0
    """GPUs, as an H200's data sheet has them, that share every batch (default: this machine's
    processor, measured for a second)"""
    memory: float | None = None
    """GB that each has (default: an H200's 141, or this machine's)"""

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise ConfigError(f"--gpus is {self.gpus}, expected 0 or more")
        if self.memory is not None and not self.memory > 0:
            raise ConfigError(f"--memory is {self.memory:g} GB, expected more than 0")

    def device(self) -> Device:
        """What computes each share of a batch."""
        device = H200 if self.gpus else this_processor()
        memory = device.memory if self.memory is None else self.memory * GB
        return Device(device.name, device.products, device.bandwidth, memory, device.bfloat16)


@dataclass(frozen=True)
class StagePlan:
    """One stage. batch: samples of a step on one device; footprint: of that; seconds: the whole
    stage; bound: "compute" or "bandwidth"; fits: whether a device's memory holds it; largest:
    the batch that would fit."""

    name: str
    steps: int
    batch: int
    footprint: "Footprint"
    seconds: float
    bound: str
    fits: bool
    largest: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"memory": self.footprint.memory}


def plan(recipe: "Recipe", asked: Plan, device: Device | None = None) -> list[StagePlan]:
    """All training stages of `recipe`; device: default, what `asked` says."""
    from dataclasses import replace

    from safedojo_ros.learning import training_stages as stages

    device = device or asked.device()
    share = max(1, asked.gpus)
    sentences = [task.instruction for task in TASKS.values()]

    def shared(config: Any) -> Any:
        return replace(config, batch_size=-(-config.batch_size // share))

    policy, autoencoder = shared(recipe.policy), shared(recipe.autoencoder)
    every = [
        stages.policy_stage(policy, sentences, device.bfloat16),
        stages.autoencoder_stage(autoencoder, device.bfloat16),
        stages.world_model_stage(shared(recipe.world_model), recipe.autoencoder),
        stages.safety_stage(shared(recipe.safety), recipe.autoencoder),
        stages.success_stage(shared(recipe.success), sentences),
    ]
    made = []
    for stage in every:
        counted = stage.footprint()
        if stage.config.shard and share > 1:
            counted = counted.in_parts(share)
        made.append(_planned(stage.name, stage.config, counted, device))
    return made


def _planned(name: str, config: Any, counted: "Footprint", device: Device) -> StagePlan:
    times = {
        "compute": counted.flops / (USED * device.products),
        "bandwidth": counted.moved / device.bandwidth,
    }
    bound = max(times, key=lambda what: times[what])
    growing = counted.activations + counted.workspace
    left = device.memory - counted.fixed
    return StagePlan(
        name,
        config.steps,
        config.batch_size,
        counted,
        config.steps * times[bound],
        bound,
        counted.memory <= device.memory,
        max(0, int(left * config.batch_size / growing)),
    )


def this_processor() -> Device:
    """This machine's processor, with torch's present threads; takes about a second."""
    import torch

    from safedojo_ros.models.threads import multiplies_bfloat16

    bfloat16 = multiplies_bfloat16(torch.device("cpu"))
    a = torch.ones(1024, 1024, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    data = torch.zeros(2**24)
    return Device(
        f"this processor, {torch.get_num_threads()} threads",
        2 * 1024**3 / _quickest(lambda: a @ a),
        2 * 4 * len(data) / _quickest(lambda: data.add_(1.0)),
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        bfloat16,
    )


def _quickest(work: Callable[[], Any]) -> float:
    """Seconds of the quickest of some runs."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
