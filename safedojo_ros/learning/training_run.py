"""The directory of a training: its state to resume from, and its metrics."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import claim, replacing
from safedojo_ros.learning import processes
from safedojo_ros.learning.progress import report

STATE_FILE = "training_state.safetensors"
METRICS_FILE = "metrics.jsonl"

_live: "list[TrainingRun]" = []
"""The run that is being trained, if any."""


def training_now() -> bool:
    """Whether a run has been restored and not closed."""
    return bool(_live)


class TrainingRun:
    """A directory with training_state.safetensors, metrics.jsonl and TensorBoard events.

    The state (step, weights, optimizer) is replaced atomically, so a killed run resumes from the
    last save. Of several processes all restore, but the first alone writes. Raises `ConfigError`
    when the directory holds a run and `resume` is false, or another process trains there; `close`
    lets others in.
    """

    def __init__(self, directory: Path, resume: bool) -> None:
        self.directory = directory
        if self.begun and not resume:
            raise ConfigError(f"{directory} holds a training run; pass --resume or another --out")
        self._writes = processes.number() == 0
        if self._writes:
            self._claim = claim(directory)
            self._events = SummaryWriter(str(directory / "tensorboard"))
        self._started = time.monotonic()

    @property
    def begun(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.directory / STATE_FILE).exists()

    def restore(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Fill both from the saved state; returns the step to resume from, 0 without a state."""
        _live[:] = [self]
        if not self.begun:
            return 0
        tensors = load_file(str(self.directory / STATE_FILE))
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        module.load_state_dict(weights)
        state: dict[int, dict[str, torch.Tensor]] = {}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                parameter = parameters[int(index)]
                if value.shape == parameter.shape:  # laid out alike, as a fused step expects
                    value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return int(tensors["step"].item())

    def save(self, step: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replace the saved state by this one."""
        if not self._writes:
            return
        tensors = {f"model.{k}": v.detach().clone() for k, v in module.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer.{index}.{name}"] = value.detach().clone().contiguous()
        tensors["step"] = torch.tensor(step)
        path = self.directory / STATE_FILE
        with replacing(path) as partial:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, str(partial))

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line of metrics, and write TensorBoard scalars."""
        if not self._writes:
            return
        row: dict[str, Any] = {"step": step, "seconds": round(time.monotonic() - self._started, 1)}
        with (self.directory / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | metrics) + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        report(step, None, metrics)

    def close(self) -> None:
        """Flush the TensorBoard events; the training is over."""
        _live.clear()
        if not self._writes:
            return
        self._events.close()
        self._claim.close()
