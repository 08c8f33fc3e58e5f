"""The plan counts what a gradient step takes, without taking it."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import measured_step
import pytest
import torch

from safedojo_ros.cli import plan as command
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning.footprint import footprint
from safedojo_ros.pipeline.plan import GB, H200, USED, Plan, plan
from safedojo_ros.pipeline.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]


def test_a_small_network_is_counted_as_by_hand() -> None:
    with torch.device("meta"):
        layers = [torch.nn.Linear(100, 50, bias=False), torch.nn.SiLU()]
        network = torch.nn.Sequential(*layers, torch.nn.Linear(50, 10, bias=False))
    batch = torch.zeros(8, 100, device="meta")
    counted = footprint(network, lambda: network(batch).sum(), averaged=True)
    weights = 4 * (100 * 50 + 50 * 10)
    assert counted.parameters == 5500
    assert (counted.weights, counted.gradients, counted.average) == (weights, weights, weights)
    assert counted.optimiser == 2 * weights
    # the batch, and what goes into and out of the SiLU
    assert counted.activations == 4 * 8 * (100 + 50 + 50)
    # the gradients are made as the activations are given back
    kept = counted.weights + counted.optimiser + counted.average
    assert counted.gradients > counted.activations
    assert counted.memory == kept + counted.gradients + counted.workspace
    later = replace(counted, accumulated=True)
    assert later.memory == counted.memory + counted.activations
    # forward; backward by the weights of both layers, and by the input of the second
    assert counted.flops == 2 * 8 * (2 * 5000 + 3 * 500)


GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes the C library return what is freed, so that what is measured is what is needed."""


@pytest.mark.parametrize(("stage", "batch"), [("policy", 64), ("world_model", 16), ("success", 96)])
def test_memory_is_within_a_fifth_of_what_training_takes(stage: str, batch: int) -> None:
    command = [sys.executable, str(ROOT / "test/measured_step.py"), stage, "tiny", str(batch)]
    environment = os.environ | GIVES_BACK
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    measured = int(done.stdout.split()[-1])
    expected = measured_step.stage(stage, "tiny", batch, "meta").footprint().memory
    assert expected == pytest.approx(measured, rel=0.2)


def test_what_does_not_fit_is_said_with_the_batch_that_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    path = tmp_path / "plan.json"
    options = ["--preset", "smoke", "--gpus", "1", "--json", str(path)]
    assert command.run(parser.parse_args(options)) == 0
    stages = json.loads(path.read_text())
    names = ["policy", "autoencoder", "world model", "safety head", "success classifier"]
    assert [stage["name"] for stage in stages] == names
    needed = max(stage["memory"] for stage in stages)
    short = 0.9 * needed / GB
    assert command.run(parser.parse_args([*options, "--memory", str(short)])) == 3
    said = capsys.readouterr().out
    assert f" GB of {short:.1f}; a batch of " in said
    assert "would fit" in said


def test_several_gpus_share_a_batch_and_each_holds_the_weights() -> None:
    recipe = read_recipe("smoke")
    one, two = (plan(recipe, Plan(gpus), H200) for gpus in (1, 2))
    for whole, half in zip(one, two, strict=True):
        assert half.batch == -(-whole.batch // 2)
        assert half.footprint.weights == whole.footprint.weights
        assert half.footprint.activations < whole.footprint.activations
        times = {
            "compute": whole.footprint.flops / (USED * H200.products),
            "bandwidth": whole.footprint.moved / H200.bandwidth,
        }
        assert whole.seconds == pytest.approx(whole.steps * max(times.values()))
        assert times[whole.bound] == max(times.values())


def test_sharded_stages_keep_a_part_of_all_but_a_steps_weights() -> None:
    one, four = (plan(read_recipe("smoke", o), Plan(4), H200) for o in ([], ["policy.shard=true"]))
    whole, part = one[0].footprint, four[0].footprint
    assert part.weights == whole.weights + whole.weights // 4
    assert part.optimiser == whole.optimiser // 4
    assert part.average == whole.average // 4
    assert part.activations == whole.activations
    assert four[1] == one[1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"gpus": -1}, "--gpus is -1, expected 0"), ({"memory": 0.0}, "--memory is 0 GB, expected m")],
)
def test_what_cannot_compute_is_refused(asked: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**asked)
