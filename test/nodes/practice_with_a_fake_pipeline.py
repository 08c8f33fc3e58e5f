"""`safedojo demo --practice` with scripted models and a training that takes no time.

Run as a program. As `pipeline` it speaks the pipeline's protocol and publishes for real; otherwise
it is the demonstration, with short episodes and itself as the trainer's pipeline.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from running_stack import SCRIPTED, publish_scripted

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli import demo, demo_run
from safedojo_ros.cli.demo_practice import PracticeDemo
from safedojo_ros.data.lerobot.reader import EpisodeReader


def pipeline(words: list[str]) -> int:
    """Publish a policy that moves at another speed."""
    parser = argparse.ArgumentParser()
    for name in ("--preset", "--base"):
        parser.add_argument(name)
    for name in ("--out", "--store", "--data"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True)
    episodes = len(EpisodeReader(args.data))
    line = {"time": 0, "stage": "practice", "step": 1, "total": 1, "metrics": {"reward": 0.5}}
    (args.out / "progress.jsonl").write_text(json.dumps(line) + "\n")
    store = CheckpointStore(args.store)
    published = publish_scripted(store, args.out / "model", "policy", speed=0.006)
    result = {"published": published, "reason": f"practised on {episodes} episodes"}
    (args.out / "result.json").write_text(json.dumps(result))
    return 0


class QuickPractice(PracticeDemo):
    """Episodes of two seconds, and this file as the pipeline; patient with a loaded machine."""

    conversion = ("--max-gap", "0.6", "--min-steps", "2")

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        store = CheckpointStore(self._folder / "store")
        arguments.policy = publish_scripted(store, self._folder / "base", "policy", speed=0.005)
        arguments.safety = publish_scripted(store, self._folder / "head", "safety")

    def _write_parameters(self, folder: Path) -> Path:
        file = super()._write_parameters(folder)
        self._parameters["sim_node"] |= {"max_steps": 40}
        self._parameters["policy_node"] |= {"probation_chunks": 0}
        command = [sys.executable, str(Path(__file__).resolve()), "pipeline"]
        self._parameters["trainer_node"] |= {"command": command, "idle": False}
        self._parameters["safety_node"]["store"] = str(self._folder / "store")
        self._save_parameters()
        return file

    def _build(self, folder: Path) -> Any:
        processes = super()._build(folder)
        for name in ("policy_node", "safety_node"):
            processes.child(name).command = [sys.executable, str(SCRIPTED), name]
        return processes


if __name__ == "__main__":
    demo_run.START_TIME = 240.0  # a loaded machine makes this slow, not red
    if sys.argv[1:2] == ["pipeline"]:
        sys.exit(pipeline(sys.argv[2:]))
    options = argparse.ArgumentParser()
    demo.configure(options)
    sys.exit(QuickPractice(options.parse_args(sys.argv[1:])).run())
