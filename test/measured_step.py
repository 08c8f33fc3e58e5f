"""Peak memory of a few real gradient steps, measured in a process of its own.

    python test/measured_step.py STAGE PRESET BATCH

prints how many bytes the process grew by, from after a step of a smallest network, which loads what
torch loads once, to the peak of two steps: beside the second are the moments that the first made.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from safedojo_ros.learning import training_stages as stages
from safedojo_ros.learning.fit import fit
from safedojo_ros.models.threads import multiplies_bfloat16
from safedojo_ros.pipeline.recipe import Recipe, read_recipe

SENTENCES = ("put the red cube on the plate", "put the can in the basket")


def stage(name: str, preset: str, batch: int, device: str) -> stages.TrainingStage:
    """A stage of a preset, with another batch; products as this processor computes them."""
    recipe: Recipe = read_recipe(preset)
    autoencoder = recipe.autoencoder
    fast = multiplies_bfloat16(torch.device("cpu"))

    def small(config: Any) -> Any:
        return replace(config, batch_size=batch, steps=2, warmup_steps=0)

    if name == "policy":
        return stages.policy_stage(small(recipe.policy), SENTENCES, fast, device)
    if name == "autoencoder":
        return stages.autoencoder_stage(small(autoencoder), fast, device)
    if name == "world_model":
        return stages.world_model_stage(small(recipe.world_model), autoencoder, device)
    if name == "safety":
        return stages.safety_stage(small(recipe.safety), autoencoder, device)
    return stages.success_stage(small(recipe.success), SENTENCES, device)


def train(made: stages.TrainingStage) -> None:
    """Some steps of the one training loop."""
    fit(
        made.name,
        made.network,
        lambda step, generator: {"loss": made.loss()},
        made.config,
        parameters=made.trained,
        average=AveragedModel(made.network) if made.averaged else None,
    )


def resident(what: str) -> int:
    """Bytes of this process: VmRSS now, or VmHWM at most since the peak was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    raise KeyError(what)


def main() -> None:
    """See above."""
    name, preset, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    train(stage(name, "smoke", 2, "cpu"))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    train(stage(name, preset, batch, "cpu"))
    sys.stdout.write(f"{resident('VmHWM') - before}\n")


if __name__ == "__main__":
    main()
