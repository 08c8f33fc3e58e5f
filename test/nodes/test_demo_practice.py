"""`safedojo demo --practice`: real nodes, scripted models, a quick pipeline."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.action")

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli import demo
from safedojo_ros.cli.demo_practice import NO_EVIDENCE, PracticeDemo, compared, shown
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.data.bags.reader import BagReader, find_bags
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.nodes.stack.demo_observer import RunFigures

PROGRAM = Path(__file__).parent / "practice_with_a_fake_pipeline.py"


def practise(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROGRAM), "--headless", "--practice", "--episodes", "2"]
    command += ["--practice-dir", str(folder), "--json", str(folder / "out.json")]
    variables = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    variables.pop("ROS_DOMAIN_ID", None)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=280)


def test_the_loop_closes_with_the_same_episodes_before_and_after(tmp_path: Path) -> None:
    result = practise(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    before, after = document["before"], document["after"]
    assert [(e["number"], e["seed"], e["task"]) for e in before] == [
        (e["number"], e["seed"], e["task"]) for e in after
    ]
    assert len(before) == 2
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    practice = document["practice"]
    latest = CheckpointStore(folder / "store").latest("policy")
    assert practice["published"] == latest
    assert len(EpisodeReader(folder / "dataset")) >= 2
    bags = find_bags([folder / "bags"])
    reader = BagReader(bags[-1])
    played = {
        reader.decode(message).checkpoint
        for message in reader.messages()
        if message.topic == "arm/target"
    }
    assert latest in played, "the last episode was played by the new policy"
    assert NO_EVIDENCE.split(":")[0] in result.stdout
    assert document["evidence"] is False


class Trained:
    """A client whose goal has ended without a publication."""

    ready, rejected, feedback = True, False, None
    result = SimpleNamespace(published="", reason="the world model is worse than copying")

    def send(self, preset: str, data: list[str], base: str, publish: bool) -> None:
        self.sent = (preset, data, base, publish)


def test_a_gate_that_does_not_hold_ends_the_practice_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    parser = argparse.ArgumentParser()
    demo.configure(parser)
    folder = str(tmp_path)
    options = parser.parse_args(["--practice", "--policy", "base", "--practice-dir", folder])
    practice = PracticeDemo(options)
    practice._client = Trained()  # type: ignore[assignment]
    practice._observer = SimpleNamespace(figures=RunFigures())  # type: ignore[assignment]
    monkeypatch.setattr(practice, "_follow", lambda done: done())
    assert practice._train("dataset") == ""
    assert practice._client.sent == ("smoke", ["dataset"], "base", True)  # type: ignore[attr-defined]
    practice._summarise()
    assert practice._code() == 3
    shown = capsys.readouterr().out
    assert "nothing was published: the world model is worse than copying" in shown
    assert NO_EVIDENCE in shown


def test_an_unknown_preset_of_a_practice_is_refused_before_anything_starts(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    demo.configure(parser)
    options = parser.parse_args(["--practice", "--preset", "huge", "--practice-dir", str(tmp_path)])
    with pytest.raises(ConfigError, match="huge"):
        PracticeDemo(options)


def test_counts_are_shown_with_their_interval_and_paired_where_both_sides_were_worked() -> None:
    episode = {"success": True, "collision": True, "contact": True}
    safe = episode | {"collision": False, "contact": False}
    figures = compared([episode] * 10, [safe] * 10)
    assert figures["safe_success"]["before"] == [0, 10]
    assert figures["safe_success"]["after"] == [10, 10]
    assert figures["safe_success"]["p"] < 0.01
    assert figures["success"]["p"] == 1.0
    assert compared([episode], [])["success"]["p"] is None
    assert shown([8, 10]) == "8 / 10 = 80 % (49–94)"
    assert shown([0, 0]) == "not worked"
