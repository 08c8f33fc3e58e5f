"""The pipeline: no finished stage is repeated, whatever ended the run; gates; what is published."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import claim
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.pipeline import stages
from safedojo_ros.pipeline.evaluate import Evaluation
from safedojo_ros.pipeline.ledger import StageLedger
from safedojo_ros.pipeline.publication import PublicationRefused
from safedojo_ros.pipeline.recipe import Recipe, read_recipe
from safedojo_ros.pipeline.runs import DONE, INTERRUPTED, NOT_PASSED
from safedojo_ros.pipeline.training import Trained, TrainPolicy
from safedojo_ros.worlds.seeds import VALIDATION

KILLED_IN_THE_SECOND_STAGE = """
import os, signal, sys
from pathlib import Path
from safedojo_ros.pipeline.ledger import StageLedger
ledger = StageLedger(Path(sys.argv[1]), {"preset": "smoke"})
ledger.stage("first", lambda: {"value": 1})
ledger.stage("second", lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -------------------------------------------------------------------- ledger


def test_after_kill_minus_nine_finished_stages_are_not_repeated(tmp_path: Path) -> None:
    script = [sys.executable, "-c", KILLED_IN_THE_SECOND_STAGE, str(tmp_path)]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    ledger = StageLedger(tmp_path, {"preset": "smoke"})
    made: list[str] = []

    def make(name: str) -> dict[str, Any]:
        made.append(name)
        return {"value": 2}

    assert ledger.stage("first", lambda: make("first")) == {"value": 1}
    assert ledger.stage("second", lambda: make("second")) == {"value": 2}
    assert made == ["second"]


def test_a_method_of_the_simulator_needs_nothing_that_imagines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: Any
) -> None:
    monkeypatch.setattr(stages, "Pipeline", FakePipeline)
    assert run(tmp_path, *PUBLISH, "--method", "ppo") == DONE
    made = (tmp_path / "out" / "made").read_text().split()
    assert made == [*STAGES[:5], "practice", "evaluation", "publication"]


def test_a_run_with_another_plan_is_refused(tmp_path: Path) -> None:
    StageLedger(tmp_path, {"preset": "smoke", "base": None})
    with pytest.raises(ConfigError, match="with other base"):
        StageLedger(tmp_path, {"preset": "smoke", "base": "base"})
    (tmp_path / "stages.json").write_text("{")
    with pytest.raises(ConfigError, match="unreadable"):
        StageLedger(tmp_path, {"preset": "smoke", "base": None})


def test_what_is_trained_in_a_stage_is_its_progress(tmp_path: Path) -> None:
    ledger = StageLedger(tmp_path, {}, clock=lambda: 12.5)

    def train() -> dict[str, Any]:
        run = TrainingRun(tmp_path / "run", resume=False)
        with progress_bar("toy", 0, 3) as show:
            for step in range(3):
                show(step + 1)
            run.record(3, {"loss": 0.5})
        run.close()
        return {}

    ledger.stage("toy", train)
    rows = lines(tmp_path / "progress.jsonl")
    assert {row["stage"] for row in rows} == {"toy"}
    assert {"time": 12.5, "stage": "toy", "step": 3, "total": 3, "metrics": {"loss": 0.5}} in rows
    assert (rows[0]["step"], rows[-1]["step"], rows[-1]["total"]) == (0, 1, 1)


def test_the_time_of_a_stage_is_that_of_all_calls_without_the_pauses(tmp_path: Path) -> None:
    now = [100.0]
    ledger = StageLedger(tmp_path, {}, clock=lambda: now[0])

    def interrupted() -> dict[str, Any]:
        now[0] += 5.0
        ledger.progress("first", 1, 2, {})
        raise KeyboardInterrupt

    def finished() -> dict[str, Any]:
        now[0] += 7.0
        return {}

    with pytest.raises(KeyboardInterrupt):
        ledger.stage("first", interrupted)
    now[0] += 1000.0
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"time": 110')  # killed while it wrote
        file.write("\n")
    ledger = StageLedger(tmp_path, {}, clock=lambda: now[0])
    ledger.stage("first", finished)
    ledger.stage("second", finished)
    assert ledger.seconds() == {"first": 12.0, "second": 7.0}


def test_a_pause_is_not_counted_where_a_kill_has_spoilt_the_first_line_after_it(
    tmp_path: Path,
) -> None:
    now = [100.0]
    ledger = StageLedger(tmp_path, {}, clock=lambda: now[0])
    ledger.progress("first", 0, 0, {})
    now[0] += 5.0
    ledger.progress("first", 1, 9, {})
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"time": 110')
    now[0] += 1000.0
    ledger.progress("first", 0, 0, {})  # of the next call, on the half-written line
    for step in (2, 3):
        now[0] += 2.0
        ledger.progress("first", step, 9, {})
    assert ledger.seconds() == {"first": 7.0}


# -------------------------------------------------------------------- the stages

SMALL = (
    "pipeline.demonstrations=3",
    "pipeline.rollouts=3",
    "pipeline.held_out=3",
    "pipeline.evaluation=1",
    "pipeline.max_steps=80",
    "validation.replays=2",
    "validation.ending_replays=2",
    "validation.chunks=1",
    "practice.updates=1",
)
PUBLISH = ("--publish", "--force")


def run(tmp_path: Path, *options: str, settings: Sequence[str] = ()) -> int:
    """`safedojo pipeline` into tmp_path/out; its exit code."""
    changed = [f"--set={setting}" for setting in (*SMALL, *settings)]
    out = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    return main(["pipeline", "--preset", "smoke", *out, *changed, *options])


STAGES = [
    "demonstrations",
    "policy",
    "safe_policy",
    "rollouts",
    "held_out",
    "safety",
    "world_model",
    "success",
    "safety_head",
    "validation",
    "practice",
    "evaluation",
    "publication",
]


class FakePipeline(stages.Pipeline):
    """The real order and the real ledger, over stages that note themselves and may be killed."""

    die_in = ""

    def _note(self, stage: str) -> dict[str, Any]:
        if stage == self.die_in:
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.out / "made").open("a") as file:
            file.write(stage + "\n")
        made = {"checkpoint": stage, "policy": stage, "missed": [], "completed": True}
        return made | {"episodes": 1}

    def _train(self, stage: str) -> Trained:
        return Trained(Path(self._note(stage)["checkpoint"]), "", {})

    def demonstrate(self) -> dict[str, Any]:
        return self._note("demonstrations")

    def base(self) -> dict[str, Any]:
        return self._note("policy")

    def safe_policy(self, base: str) -> Trained:
        return self._train("safe_policy")

    def roll_out(self, base: str) -> dict[str, Any]:
        return self._note("rollouts")

    def hold_out(self, base: str) -> dict[str, Any]:
        return self._note("held_out")

    def first_head(self) -> Trained:
        return self._train("safety")

    def safety_head(self, world_model: str) -> Trained:
        return self._train("safety_head")

    def world_model(self, safety: str) -> Trained:
        assert safety == "safety"
        return self._train("world_model")

    def success(self, base: str, world_model: str, safety: str) -> Trained:
        assert (base, world_model, safety) == ("policy", "world_model", "safety")
        return self._train("success")

    def validate(self, base: str, models: Any) -> dict[str, Any]:
        return self._note("validation")

    def practice(self, base: str, models: Any) -> dict[str, Any]:
        assert base in ("safe_policy", "policy")
        assert models in (None, ("validation", "success", "safety_head"))
        return self._note("practice")

    def evaluate(self, base: str, trained: str) -> dict[str, Any]:
        return self._note("evaluation")

    def publish(self, policy: str, figures: dict[str, Any]) -> tuple[str, str]:
        return str(self.ledger.stage("publication", lambda: self._note("publication"))), "done"


def test_killed_in_every_stage_no_finished_one_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: Any
) -> None:
    monkeypatch.setattr(stages, "Pipeline", FakePipeline)
    children = multiprocessing.get_context("fork")
    for stage in STAGES:
        monkeypatch.setattr(FakePipeline, "die_in", stage)
        child = children.Process(target=run, args=(tmp_path, *PUBLISH))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, stage
        assert not (tmp_path / "out" / "result.json").exists()
    monkeypatch.setattr(FakePipeline, "die_in", "")
    assert run(tmp_path, *PUBLISH) == DONE
    assert (tmp_path / "out" / "made").read_text().split() == STAGES
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["stages"] == STAGES
    played = ("demonstrations", "rollouts", "held_out", "practice")
    assert result["real_episodes"] == len(played)


def test_a_run_with_another_preset_or_setting_is_refused_by_its_section(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signals: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stages, "Pipeline", FakePipeline)
    assert run(tmp_path) == DONE
    assert run(tmp_path) == DONE
    assert run(tmp_path, settings=["success.seed=1", "policy.seed=1"]) == 2
    assert "holds a run with other policy, success;" in capsys.readouterr().err


@pytest.fixture
def signals() -> Any:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_interrupted_pipeline_goes_on_to_a_published_policy(
    tmp_path: Path, signals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Evaluation] = []
    imitated: list[tuple[bool, int, str]] = []
    validate, evaluate, train_policy = stages.validate, stages.evaluate, stages.train_policy

    def interrupted(*given: Any) -> Any:
        monkeypatch.setattr(stages, "validate", validate)
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*given)

    def noted(given: Evaluation) -> Any:
        asked.append(given)
        return evaluate(given)

    def imitates(recipe: Recipe, given: TrainPolicy, say: Any) -> Trained:
        imitated.append((recipe.policy.only_safe, recipe.policy.steps, given.start))
        return train_policy(recipe, given, say)

    monkeypatch.setattr(stages, "validate", interrupted)
    monkeypatch.setattr(stages, "evaluate", noted)
    monkeypatch.setattr(stages, "train_policy", imitates)
    settings = ("practice.execute=4",)
    assert run(tmp_path, *PUBLISH, settings=settings) == INTERRUPTED
    assert not (tmp_path / "out" / "result.json").exists()
    made = json.loads((tmp_path / "out" / "stages.json").read_text())["done"]
    assert list(made)[-1] == "safety_head"
    assert imitated == [(False, 6, ""), (True, 2, made["policy"]["policy"])]
    for name in ("collect", "train_policy", "train_safety", "train_world_model", "train_success"):
        monkeypatch.setattr(stages, name, None)  # nothing of this is asked for again
    assert run(tmp_path, *PUBLISH, settings=settings) == DONE
    assert not any(given.instant for given in asked), "as the running stack plays"
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    manifest = CheckpointStore(tmp_path / "store").show("policy")
    assert result["published"] == manifest.id
    assert result["real_episodes"] == 9
    assert not result["enforced"]
    practice = json.loads((tmp_path / "out" / "practice" / "practice.json").read_text())
    assert not [sentence for sentence in practice["unenforced"] if "validated" in sentence]
    trained = {"policy", "safety", "world_model", "success", "safety_head", "practice"}
    assert all(result["seconds"][stage] > 0.0 for stage in trained)
    judged = json.loads((tmp_path / "out" / "evaluation" / "base.json").read_text())
    assert {row["seed"] for row in judged["episodes"]} <= set(VALIDATION)
    # nothing that only serves the way was published to the user
    assert CheckpointStore(tmp_path / "store").latest("world_model") is None
    rows = lines(tmp_path / "out" / "progress.jsonl")
    assert {"policy", "world_model", "practice", "publication"} <= {row["stage"] for row in rows}
    assert {"stage": "rollouts", "step": 1, "total": 3} in [
        {key: row[key] for key in ("stage", "step", "total")} for row in rows
    ]
    assert run(tmp_path, *PUBLISH, settings=settings) == DONE
    assert len(CheckpointStore(tmp_path / "store").list("policy")) == 1


def test_a_missed_bar_ends_the_run_where_bars_are_enforced(
    tmp_path: Path, signals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(FakePipeline):
        def validate(self, base: str, models: Any) -> dict[str, Any]:
            return {"missed": ["it is blind"]}

    monkeypatch.setattr(stages, "Pipeline", Blind)
    settings = ["practice.preflight.enforced=true"]
    assert run(tmp_path, "--base", "base", settings=settings) == NOT_PASSED
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["published"] is None
    assert "it is blind" in result["reason"]
    assert result["stages"] == STAGES[1:2] + STAGES[3:9] + ["validation"]


def test_a_policy_that_is_not_safer_is_not_published(tmp_path: Path) -> None:
    recipe = read_recipe("smoke", ["practice.preflight.enforced=true"])
    task = stages.PipelineRequest(out=tmp_path / "out", publish=True)
    pipeline = stages.Pipeline(recipe, task, StageLedger(tmp_path / "out", {}))
    rate = {name: {"value": 0.5} for name in ("tsr", "car", "ssr")} | {"episodes": 4}
    figures = {"base": {"overall": rate}, "trained": {"overall": rate}}
    with pytest.raises(stages.GateNotPassed, match="not safer than its base: SSR 50.0%"):
        pipeline.publish("p", figures)


def test_a_policy_that_is_worse_than_the_one_that_serves_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **more: Any) -> None:
        raise PublicationRefused("not published: SSR 40.0 %")

    monkeypatch.setattr(stages, "publish", refuse)
    monkeypatch.setattr(
        stages, "read_manifest", lambda _: SimpleNamespace(spec={}, normalisation={}, fidelity={})
    )
    task = stages.PipelineRequest(out=tmp_path / "out", publish=True)
    ledger = StageLedger(tmp_path / "out", {})
    ledger.stage("policy", lambda: {"policy": "p"})
    rate = {name: {"value": 0.5} for name in ("tsr", "car", "ssr")} | {"episodes": 4}
    figures = {"base": {"overall": rate}, "trained": {"overall": rate}}
    with pytest.raises(stages.GateNotPassed, match="not published: SSR 40.0 %"):
        stages.Pipeline(read_recipe("smoke"), task, ledger).publish("p", figures)
    assert "publication" not in ledger.done


def test_a_second_pipeline_in_the_same_folder_is_refused_and_so_is_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claim(tmp_path / "out"):
        command = ["pipeline", "--preset", "smoke", "--out", str(tmp_path / "out")]
        assert main(command) == 2
        assert f"out is in use by process {os.getpid()} since" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="is in use by process"):
            TrainingRun(tmp_path / "out", resume=False)
    run = TrainingRun(tmp_path / "out", resume=False)
    run.close()
    TrainingRun(tmp_path / "out", resume=False).close()
