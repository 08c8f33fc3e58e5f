"""Several processes train what one trains."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_together import Small

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning import fit as fitting
from safedojo_ros.learning import processes
from safedojo_ros.learning.training_run import METRICS_FILE, STATE_FILE, TrainingRun
from safedojo_ros.models import threads

TEST = Path(__file__).resolve().parent


Curve = list[tuple[int, float, float]]
"""Step, loss, gradient norm."""


def curve(directory: Path) -> Curve:
    rows = [json.loads(line) for line in (directory / METRICS_FILE).read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows]


def two_processes(directory: Path, die_at: int, shard: bool) -> str:
    """What they said; they are killed before step `die_at` is done."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = [str(TEST / "train_together.py"), str(directory), str(die_at), str(int(shard))]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *program],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TEST.parent)},
        capture_output=True,
        text=True,
    )
    return done.stderr


def same_curve(expected: Curve, seen: Curve, rel: float) -> None:
    assert len(expected) == len(seen)
    for one, other in zip(expected, seen, strict=True):
        assert other == pytest.approx(one, rel=rel)


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_as_one_and_one_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: bool
) -> None:
    monkeypatch.setattr(fitting, "RECORD_EVERY", 1)
    whole, rest, parts = Small(), Small(), tmp_path / "parts"
    whole.fit(tmp_path / "whole")
    expected = curve(tmp_path / "whole")
    said = two_processes(parts, 17, shard)
    assert "SIGKILL" in said or "-9" in said, said
    same_curve(expected[:17], curve(parts), 1e-4)
    states = sorted(path.name for path in parts.glob("training_state*"))
    assert states == [f"training_state.10.{n}-of-2.safetensors" for n in (1, 2)] or not shard
    again = tmp_path / "again"
    shutil.copytree(parts, again)
    rest.fit(parts, resume=True)
    assert [path.name for path in parts.glob("training_state*")] == [STATE_FILE]
    same_curve(expected[10:], curve(parts)[17:], 1e-3)
    pairs = zip(whole.average.parameters(), rest.average.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=1e-3, atol=1e-5)
    if shard:
        said = two_processes(again, -1, shard)
        same_curve(expected[10:], curve(again)[17:], 1e-3)
        for number in (0, 1):  # after the training each has all weights
            weights = load_file(again / f"average.{number}.safetensors")
            for name, value in whole.average.named_parameters():
                torch.testing.assert_close(weights[name], value.detach(), rtol=1e-3, atol=1e-5)


def test_a_part_of_the_state_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        values = {"step": torch.tensor(7)} if number == 1 else {}
        save_file(values, str(tmp_path / f"training_state.7.{number}-of-2.safetensors"))
    small, run = Small(), TrainingRun(tmp_path, resume=True)
    optimizer = torch.optim.AdamW(small.network.parameters())
    second = tmp_path / "training_state.7.2-of-2.safetensors"
    second.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"training_state\.7\.1-of-2.*cannot be read \(.*bring"):
        run.restore(small.network, optimizer)
    second.unlink()
    lacks = r"lacks training_state\.7\.2-of-2\.safetensors, a part of what it resumes from; bring"
    with pytest.raises(ConfigError, match=lacks):
        run.restore(small.network, optimizer)
    with pytest.raises(ConfigError, match="holds a training run; pass --resume"):
        TrainingRun(tmp_path, resume=False)
    run.close()


def test_batches_that_processes_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert list(processes.own_share(6)) == [3, 4, 5]
    with pytest.raises(ConfigError, match="2 processes share 3 batches a step; set the stage's ba"):
        processes.own_share(3)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="3 processes train here, but torch sees 2 GPUs"):
        threads.chosen_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert threads.chosen_device("auto") == "cuda:1"
