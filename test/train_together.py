"""A small training for several processes: `torchrun ... train_together.py DIRECTORY DIE_AT`.

The last process is killed before its batches of step DIE_AT.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from safedojo_ros.learning import fit as fitting
from safedojo_ros.learning import processes
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.training_run import TrainingRun

CONFIG = FitConfig(
    steps=30, batch_size=8, batches_per_step=4, learning_rate=0.05, warmup_steps=5, save_every=10
)


class Small:
    """Fits a sum, with dropout and running statistics; one layer is not used."""

    def __init__(self, die_at: int = -1) -> None:
        torch.manual_seed(0)
        # before a normalisation a bias has no effect, and a gradient of nothing but rounding
        layers = [
            torch.nn.Linear(3, 16, bias=False),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(0.2),
        ]
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1), torch.nn.Linear(1, 1))
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.die_at = die_at

    def loss(self, batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if batch // CONFIG.batches_per_step == self.die_at and processes.number():
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(CONFIG.batch_size, 3, generator=generator)
        loss = (self.network[:-1](x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss, "twice": 2 * loss}

    def fit(self, directory: Path, resume: bool = False) -> None:
        """Train in `directory`, with a line of metrics for every step."""
        fitting.RECORD_EVERY = 1
        run = TrainingRun(directory, resume)
        fit("small", self.network, self.loss, CONFIG, run, average=self.average)


if __name__ == "__main__":
    Small(int(sys.argv[2])).fit(Path(sys.argv[1]))
