"""The loop that fits a network resumes exactly, saves when interrupted, does what it is told."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.fit import FitConfig, Loss, fit, learning_rate_factor
from safedojo_ros.learning.progress import observed
from safedojo_ros.learning.training_run import METRICS_FILE, TrainingRun, training_now
from safedojo_ros.pipeline.interruption import Interrupted, interrupt_on_signal

CONFIG = FitConfig(steps=30, batch_size=8, learning_rate=0.05, warmup_steps=5, save_every=10)


class Toy:
    """Fits a line through the origin, with dropout; its average follows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(3, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)]
        self.network = torch.nn.Sequential(*layers)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.losses: list[float] = []

    def loss(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = torch.randn(CONFIG.batch_size, 3, generator=generator)
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        return {"loss": loss, "twice": 2 * loss}

    def fit(self, config: FitConfig, directory: Path, resume: bool = False, **more: Any) -> None:
        run = TrainingRun(directory, resume)
        fit("toy", self.network, self.loss, config, run, average=self.average, **more)

    def weights(self) -> list[torch.Tensor]:
        return [*self.network.state_dict().values(), *self.average.state_dict().values()]


def at_step(step: int, act: Callable[[], None]) -> Callable[[int, int | None, Any], None]:
    """An observer that acts once the bar shows `step`."""

    def look(seen: int, total: int | None, metrics: dict[str, float]) -> None:
        if seen == step and total is not None:
            act()

    return look


def stop() -> None:
    raise Interrupted


@pytest.mark.parametrize("interrupted_after", [1, 10, 17])
def test_an_interrupted_run_resumes_to_the_very_weights_of_a_whole_one(
    tmp_path: Path, interrupted_after: int
) -> None:
    whole, first, second = Toy(), Toy(), Toy()
    whole.fit(CONFIG, tmp_path / "whole")
    with observed(at_step(interrupted_after, stop)), pytest.raises(Interrupted):
        first.fit(CONFIG, tmp_path / "parts")
    second.fit(CONFIG, tmp_path / "parts", resume=True)
    assert first.losses + second.losses == whole.losses
    for one, other in zip(second.weights(), whole.weights(), strict=True):
        assert torch.equal(one, other)
    assert np.mean(whole.losses[-5:]) < 0.5 * np.mean(whole.losses[:5])


def test_a_killed_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    whole, killed, again = Toy(), Toy(), Toy()
    whole.fit(CONFIG, tmp_path / "whole")

    def fail(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if step == 17:
            raise MemoryError
        return killed.loss(step, generator)

    run = TrainingRun(tmp_path / "killed", resume=False)
    with pytest.raises(MemoryError):
        fit("toy", killed.network, fail, CONFIG, run, average=killed.average)
    assert not training_now()
    again.fit(CONFIG, tmp_path / "killed", resume=True)
    assert again.losses == whole.losses[10:]


def test_a_signal_within_a_training_saves_the_step_and_then_interrupts(tmp_path: Path) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    toy = Toy()

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.loss(step, generator)

    try:
        between = interrupt_on_signal()
        run = TrainingRun(tmp_path, resume=False)
        with (
            observed(lambda step, total, metrics: between(step)),
            pytest.raises(Interrupted),
        ):
            fit("toy", toy.network, loss, CONFIG, run)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not training_now()
    assert len(toy.losses) == 2
    again = TrainingRun(tmp_path, resume=True)
    assert again.restore(toy.network, torch.optim.AdamW(toy.network.parameters())) == 2
    again.close()


def test_a_directory_with_a_run_is_not_used_by_accident(tmp_path: Path) -> None:
    Toy().fit(CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="pass --resume or another --out"):
        Toy().fit(CONFIG, tmp_path)


def test_metrics_are_recorded_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    toy = Toy()
    toy.fit(CONFIG, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 30]
    assert [row["loss"] for row in rows] == [toy.losses[19], toy.losses[29]]
    assert rows[0]["twice"] == pytest.approx(2 * rows[0]["loss"])
    assert rows[0]["learning_rate"] == 0.05 * learning_rate_factor(19, 5, 30)
    smooth = toy.losses[0]
    for loss in toy.losses[1:20]:
        smooth = 0.98 * smooth + 0.02 * loss
    assert rows[0]["smooth_loss"] == pytest.approx(smooth)


def test_what_is_left_after_every_save_is_asked_for_there(tmp_path: Path) -> None:
    toy, steps = Toy(), list[int]()
    toy.fit(CONFIG, tmp_path, saved=lambda weights: steps.append(len(toy.losses)))
    assert steps == [10, 20, 30]


def test_only_the_parameters_that_are_given_are_fitted() -> None:
    toy = Toy()
    before = [value.clone() for value in toy.network.state_dict().values()]
    fit("toy", toy.network, toy.loss, CONFIG, parameters=toy.network[2].parameters())
    same = [
        torch.equal(*pair) for pair in zip(before, toy.network.state_dict().values(), strict=True)
    ]
    assert same == [True, True, False, False]


def first_change(config: FitConfig, loss: Loss, network: torch.nn.Linear) -> float:
    before = network.weight.detach().clone()
    fit("toy", network, loss, dataclasses.replace(config, steps=1))
    return (network.weight - before).abs().max().item()


def test_the_gradient_is_clipped_and_the_weights_decay() -> None:
    seen: list[float] = []

    def steep(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        network.weight.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad)))
        return {"loss": 1e3 * network.weight.sum()}

    network = torch.nn.Linear(1, 1, bias=False)
    clipped = FitConfig(steps=3, gradient_clip=0.5, warmup_steps=0)
    norms: list[float] = []
    step_of = torch.optim.AdamW.step

    def watched(optimizer: torch.optim.AdamW, *more: Any) -> Any:
        norms.append(float(network.weight.grad.norm()))  # type: ignore[union-attr]
        return step_of(optimizer, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        fit("toy", network, steep, clipped)
    assert seen[0] == 1e3
    assert norms == pytest.approx([0.5] * 3, rel=1e-4)
    flat: Loss = lambda step, generator: {"loss": 0.0 * network.weight.sum()}  # noqa: E731
    decaying = FitConfig(learning_rate=0.1, weight_decay=0.3, warmup_steps=0)
    weight = network.weight.abs().item()
    assert first_change(decaying, flat, network) == pytest.approx(0.1 * 0.3 * weight, rel=1e-4)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 10, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [{"steps": -1}, {"batch_size": 0}, {"learning_rate": -0.1}, {"gradient_clip": 0.0}]
    + [{"save_every": 0}, {"warmup_steps": -1}, {"weight_decay": -1.0}, {"seed": -1}],
)
def test_what_is_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        FitConfig(**change)
