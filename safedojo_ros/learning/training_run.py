"""The directory of a training: its state to resume from, and its metrics."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import claim, replacing
from safedojo_ros.learning import processes, sharding
from safedojo_ros.learning.progress import report

STATE_FILE = "training_state.safetensors"
PART = re.compile(r"training_state\.(\d+)\.(\d+)-of-(\d+)\.safetensors")
"""A part of a sharded state: steps done, number of the part from 1, how many there are."""
METRICS_FILE = "metrics.jsonl"

_live: "list[TrainingRun]" = []
"""The run that is being trained, if any."""


def training_now() -> bool:
    """Whether a run has been restored and not closed."""
    return bool(_live)


class TrainingRun:
    """A directory with training_state.safetensors, metrics.jsonl and TensorBoard events.

    The state (step, weights, optimizer) is replaced atomically, so a killed run resumes from the
    last save. Of several processes all restore, but the first alone writes; where the state is
    sharded each writes its part, training_state.STEP.N-of-M.safetensors, and any number of
    processes resumes from them. Raises `ConfigError` when the directory holds a run and `resume` is
    false, or another process trains there; `close` lets others in.
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
        return any(self.directory.glob("training_state*.safetensors"))

    def restore(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Fill both from the saved state; returns the step to resume from, 0 without a state.

        Raises `ConfigError` for a state that lacks a part or cannot be read.
        """
        _live[:] = [self]
        if not self.begun:
            return 0
        own, step = module.state_dict(), 0
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        weights: dict[str, torch.Tensor] = {}
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _read(self._newest()):
            kind, _, name = key.partition(".")
            if kind == "step":
                step = int(value)
            elif kind == "model":
                alike = name in own and value.shape == own[name].shape
                weights[name] = sharding.laid_out(value, own[name]) if alike else value
            else:
                index, _, name = name.partition(".")
                parameter = parameters[int(index)]
                if value.shape == parameter.shape:
                    value = sharding.laid_out(value, parameter)
                state.setdefault(int(index), {})[name] = value
        module.load_state_dict(weights)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return step

    def save(self, step: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replace the saved state by this one; where it is sharded all processes have to."""
        tensors = {f"model.{k}": v.detach() for k, v in module.state_dict().items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": v.detach() for name, v in values.items()}
        tensors["step"] = torch.tensor(step)
        name, count = STATE_FILE, 1
        if any(sharding.is_part(value) for value in tensors.values()):
            count = processes.count()
            name = _part_name(step, processes.number() + 1, count)
        if not self._writes:
            tensors = {k: v for k, v in tensors.items() if sharding.is_part(v)}
        if tensors:
            with replacing(self.directory / name) as partial:
                own = {k: sharding.own_part(v).cpu().clone() for k, v in tensors.items()}
                save_file({k: v.contiguous() for k, v in own.items()}, str(partial))
        if count > 1:
            processes.meet()  # now all parts are there
        if self._writes:
            for key, parts in self._states().items():
                if key != (step, count):
                    for path in parts.values():
                        path.unlink(missing_ok=True)

    def _states(self) -> dict[tuple[int, int], dict[int, Path]]:
        """{(steps done, number of parts): {number of the part: file}}, some of them incomplete."""
        states: dict[tuple[int, int], dict[int, Path]] = {}
        for path in sorted(self.directory.glob("training_state*.safetensors")):
            if match := PART.fullmatch(path.name):
                step, number, count = map(int, match.groups())
                states.setdefault((step, count), {})[number] = path
            elif path.name == STATE_FILE:
                states[int(dict(_read([path], "step"))["step"]), 1] = {1: path}
        return states

    def _newest(self) -> list[Path]:
        """The files of the newest state that is whole."""
        states = sorted(self._states().items())
        for (_, count), parts in reversed(states):
            if len(parts) == count:
                return [parts[number] for number in range(1, count + 1)]
        (step, count), parts = states[-1]
        lost = min(set(range(1, count + 1)) - set(parts))
        raise ConfigError(
            f"{self.directory} lacks {_part_name(step, lost, count)}, a part of what it resumes "
            "from; bring it back, or train anew with another --out"
        )

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


def _part_name(step: int, number: int, count: int) -> str:
    return f"training_state.{step}.{number}-of-{count}.safetensors"


def _read(parts: list[Path], only: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor) of a state, or of those called `only`; what all parts have is joined."""
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, "pt")) for path in parts]
            there = [set(file.keys()) for file in files]
        except SafetensorError as error:
            names = ", ".join(path.name for path in parts)
            raise ConfigError(
                f"{parts[0].parent}: {names} cannot be read ({error}); bring back what was saved, "
                "or train anew with another --out"
            ) from None
        for name in sorted(there[0]):
            if only in ("", name):
                some = [
                    file.get_tensor(name)
                    for file, names in zip(files, there, strict=True)
                    if name in names
                ]
                yield name, torch.cat(some) if len(some) > 1 else some[0]
