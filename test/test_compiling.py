"""Long trainings are compiled, in place and for as long as they last, where that can be done."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safedojo_ros.learning import compiling
from safedojo_ros.learning.compiling import LEAST_STEPS, compiled
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.progress import observed
from safedojo_ros.learning.training_run import TrainingRun

Function = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Function]]:
    """What `torch.compile` is asked for; it compiles nothing."""
    functions: list[Function] = []

    def keep(function: Function, **options: Any) -> Function:
        functions.append(function)
        return function

    monkeypatch.setattr(torch, "compile", keep)
    compiling.compiler_fault.cache_clear()
    yield functions
    compiling.compiler_fault.cache_clear()


def new_network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))


def train(network: torch.nn.Module, directory: Path | None = None, **change: Any) -> list[float]:
    losses: list[float] = []

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        x = torch.randn(16, 3, generator=generator)
        value = (network(x) - x.sum(1, keepdim=True)).square().mean()
        losses.append(value.item())
        return {"loss": value}

    config = dataclasses.replace(FitConfig(steps=6, save_every=2, warmup_steps=1), **change)
    run = None if directory is None else TrainingRun(directory, resume=True)
    fit("toy", network, loss, config, run, compile=[network])
    return losses


def test_a_short_training_is_not_compiled(asked: list[Function]) -> None:
    network = new_network()
    with compiled([network], LEAST_STEPS - 1):
        network(torch.ones(2, 3))
    assert asked == []


def test_what_is_in_parts_is_not_compiled_but_computes_in_bfloat16(
    asked: list[Function], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "multiplies_bfloat16", lambda device: True)
    network, x, said = new_network(), torch.ones(2, 3) / 3, list[str]()
    exact = network(x)
    with compiled([network], LEAST_STEPS, said.append, in_parts=True):
        half = network(x)
    assert asked == []
    assert said == ["trains uncompiled, which takes up to twice the time: weights are in parts"]
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.01
    assert torch.equal(network(x), exact)


def test_only_calls_that_want_gradients_are_compiled_and_afterwards_none(
    asked: list[Function], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def count(function: Function, **options: Any) -> Function:
        def counted(*args: Any) -> Any:
            calls.append("compiled")
            return function(*args)

        return counted

    monkeypatch.setattr(torch, "compile", count)
    network, x = new_network(), torch.ones(2, 3)
    names = list(network.state_dict())
    with compiled([network], LEAST_STEPS):
        calls.clear()
        with torch.no_grad():
            network(x)
        assert calls == []
        assert network(x).dtype == torch.float32
        assert calls == ["compiled"]
        assert list(network.state_dict()) == names
    network(x)
    assert calls == ["compiled"]
    assert "forward" not in vars(network)


def test_without_a_compiler_it_says_so_and_trains_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(function: Function, **options: Any) -> Function:
        raise RuntimeError("No working C++ compiler found\nand a page of details")

    monkeypatch.setattr(torch, "compile", fail)
    compiling.compiler_fault.cache_clear()
    plain = train(new_network())
    monkeypatch.setattr(compiling, "LEAST_STEPS", 1)
    assert train(new_network()) == plain
    said = [line for line in capsys.readouterr().out.splitlines() if "compile" in line]
    assert said == [
        "trains uncompiled, which takes up to twice the time: No working C++ compiler found"
    ]
    compiling.compiler_fault.cache_clear()


def test_compiled_it_learns_the_same_and_resumes_to_the_very_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiling.compiler_fault(torch.device("cpu")):
        pytest.skip("no C++ compiler")
    plain = train(new_network())
    monkeypatch.setattr(compiling, "LEAST_STEPS", 1)
    whole, parts = new_network(), new_network()
    assert train(whole, tmp_path / "whole") == pytest.approx(plain, rel=0.02)

    class Stopped(Exception):
        pass

    def stop(step: int, total: int | None, metrics: dict[str, float]) -> None:
        if step == 3 and total is not None:
            raise Stopped

    with observed(stop), pytest.raises(Stopped):
        train(parts, tmp_path / "parts")
    train(parts, tmp_path / "parts")
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
