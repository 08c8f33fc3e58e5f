"""Several processes train what one trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_together import CONFIG, Small

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.learning import fit as fitting
from safedojo_ros.learning import processes
from safedojo_ros.learning.training_run import METRICS_FILE
from safedojo_ros.models import threads

TEST = Path(__file__).resolve().parent


def curve(directory: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (directory / METRICS_FILE).read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows]


def test_two_processes_train_as_one_and_one_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "RECORD_EVERY", 1)
    whole, rest, parts = Small(), Small(), tmp_path / "parts"
    whole.fit(tmp_path / "whole")
    expected = curve(tmp_path / "whole")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = [str(TEST / "train_together.py"), str(parts), "17"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *program],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TEST.parent)},
        capture_output=True,
        text=True,
    )
    assert "SIGKILL" in done.stderr or "-9" in done.stderr, done.stderr
    before = curve(parts)
    assert len(before) == 17
    for one, two in zip(expected, before, strict=False):
        assert two == pytest.approx(one, rel=1e-4)
    rest.fit(parts, resume=True)
    after = curve(parts)[17:]
    assert [step for step, *_ in after] == list(range(11, CONFIG.steps + 1))
    for one, two in zip(expected[10:], after, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    pairs = zip(whole.average.parameters(), rest.average.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


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
