"""A small training for several processes: `torchrun ... train_together.py DIRECTORY DIE_AT SHARD`.

The last process is killed before its batches of step DIE_AT; SHARD is 1 for weights in parts. A run
in DIRECTORY goes on. At the end each process writes all average weights, average.RANK.safetensors.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from safedojo_ros.learning import fit as fitting
from safedojo_ros.learning import processes
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.training_run import TrainingRun

CONFIG = FitConfig(
    steps=30, batch_size=8, batches_per_step=4, learning_rate=0.05, warmup_steps=5, save_every=10
)


class Sum(torch.nn.Module):
    """x (B, 3) → (B, 1), with dropout and running statistics; one layer is not used."""

    def __init__(self) -> None:
        super().__init__()
        # before a normalisation a bias has no effect, and a gradient of nothing but rounding
        self.first = torch.nn.Linear(3, 16, bias=False)
        self.norm = torch.nn.Sequential(torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2))
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(16, 5), torch.nn.Linear(5, 1)])
        self.unused = torch.nn.Linear(1, 1)

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """Not `forward`: losses call what they like of a network."""
        hidden = self.norm(self.first(x))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Small:
    """Fits `Sum`; its average follows."""

    def __init__(self, die_at: int = -1) -> None:
        torch.manual_seed(0)
        self.network = Sum()
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.die_at = die_at

    def loss(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if batch // CONFIG.batches_per_step == self.die_at and processes.number():
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(CONFIG.batch_size, 3, generator=generator)
        loss = (self.network.answer(x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss, "twice": 2 * loss}

    def fit(self, directory: Path, resume: bool = False, shard: bool = False) -> None:
        """Train in `directory`, with a line of metrics for every step."""
        fitting.RECORD_EVERY = 1
        run = TrainingRun(directory, resume)
        config = replace(CONFIG, shard=shard)
        fit("small", self.network, self.loss, config, run, average=self.average)


if __name__ == "__main__":
    directory, small = Path(sys.argv[1]), Small(int(sys.argv[2]))
    small.fit(directory, resume=True, shard=sys.argv[3] == "1")
    save_model(small.average, str(directory / f"average.{processes.number()}.safetensors"))
