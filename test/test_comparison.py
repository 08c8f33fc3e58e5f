"""Comparison of methods: pairs, pooled rates, the page, and the sweep that makes the runs."""

import argparse
import functools
import json
import os
import re
import signal
import time
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_steps import wait_for_a_signal, write_and_end

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli import report as report_command
from safedojo_ros.cli import sweep_runs
from safedojo_ros.cli.evaluate import paired_sentences
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.compare.comparison import (
    MethodRun,
    compare,
    paired_tests,
    read_evaluation,
)
from safedojo_ros.evaluation.compare.report import Film, comparison_page
from safedojo_ros.evaluation.protocol import EvaluationReport, TrialResult
from safedojo_ros.learning.rl.methods import ABLATIONS, METHODS
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.pipeline import sweep
from safedojo_ros.pipeline.filters import RunTimeFilter
from safedojo_ros.pipeline.recipe import read_recipe


def episodes(success: str, collided: str, level: int = 1, first: int = 0) -> list[TrialResult]:
    """One episode a letter: 1 or 0."""
    pairs = zip(success, collided, strict=True)
    return [
        TrialResult(first + i, "cube_on_plate", level, s == "1", c == "1", 50, int(c == "1"), 0.0)
        for i, (s, c) in enumerate(pairs)
    ]


PRACTICE: dict[str, Any] = {
    "best": 2,
    "real_episodes": 8,
    "real_collisions": 3,
    "evaluations": [
        {
            "step": 2,
            "in_practice": {"success": 0.9, "violations": 0.1, "safe_success": 0.8},
            "measured": dict.fromkeys(
                ("success", "violations", "safe_success"), {"value": 0.5, "low": 0.4, "high": 0.6}
            ),
            "gap": {"success": 0.3, "violations": 0.3, "safe_success": 0.2},
            "episodes": 48,
            "collisions": 20,
        }
    ],
    "data": {"episodes": 100, "collisions": 30},
    "limit": 0.2,
}
METRICS = [{"step": 1, "reward": 0.2, "violations": 0.5, "cost_top_m": 0.3, "multiplier": 0.5}]


def runs() -> list[MethodRun]:
    return [
        MethodRun("base", 0, episodes("1100", "1010"), 150),
        MethodRun("safedojo", 0, episodes("1111", "0000"), 150, PRACTICE, METRICS),
        MethodRun("safedojo", 1, episodes("1110", "0001"), 150, PRACTICE, METRICS),
    ]


def test_pairs_count_common_episodes_alone() -> None:
    tests = paired_tests(episodes("1111", "0000"), episodes("1100", "1010", first=1))
    assert tests["tsr"]["episodes"] == 3
    assert tests["tsr"]["difference"]["value"] == pytest.approx(1 / 3)
    with pytest.raises(ConfigError, match="no episode in common"):
        paired_tests(episodes("1", "0"), episodes("1", "0", level=2))


def test_rates_are_pooled_over_training_seeds_and_paired_with_the_baseline() -> None:
    table = {row["method"]: row for row in compare(runs())["table"]}
    assert table["safedojo"]["episodes"] == 8
    assert table["safedojo"]["ssr"]["value"] == pytest.approx(7 / 8)
    assert table["safedojo"]["by_seed"]["ssr"] == [1.0, 0.75]
    assert table["safedojo"]["difference"]["ssr"]["value"] == pytest.approx(7 / 8 - 1 / 4)
    against = table["safedojo"]["against"]
    assert against["0"]["ssr"]["difference"]["value"] == pytest.approx(0.75)
    assert "against" not in table["base"]


def test_rates_in_practice_stand_beside_the_measured_ones() -> None:
    rates = compare(runs())["in_practice"]
    assert [(row["seed"], row["moment"]) for row in rates] == [(0, "after"), (1, "after")]
    assert rates[0]["in_practice"]["success"] == 0.9
    begun = PRACTICE | {"evaluations": [PRACTICE["evaluations"][0] | {"step": 0}] * 2, "best": 0}
    rows = compare([MethodRun("wmpo", 0, episodes("1", "0"), 150, begun, METRICS)])["in_practice"]
    assert [(row["moment"], row["updates"]) for row in rows] == [("before", 0), ("after", 0)]


def test_learning_costs_the_data_the_practice_and_what_was_measured_on_the_way() -> None:
    gate = MethodRun("safedojo-gate", 0, episodes("1111", "0000"), 150, learned=PRACTICE)
    table = {row["method"]: row for row in compare([*runs(), gate])["table"]}
    for method in ("safedojo", "safedojo-gate"):
        row = table[method]
        assert (row["real_episodes"], row["real_collisions"]) == (108, 33)
        assert row["learning"]["measured"] == {"episodes": 48, "collisions": 20}
    assert (table["base"]["real_episodes"], table["base"]["real_collisions"]) == (0, 0)


def test_there_are_rows_by_task_and_level_and_over_all_levels() -> None:
    results = episodes("110", "100") + episodes("0001", "0000", level=2, first=2)
    results[-2:] = [replace(result, task="stack_blocks") for result in results[-2:]]
    comparison = compare([MethodRun("base", 0, results, 150)])
    assert {row["level"]: row["tsr"]["value"] for row in comparison["table"]} == {
        "I": pytest.approx(2 / 3), "II": 0.25, "all": pytest.approx(3 / 7),
    }  # fmt: skip
    cells = {(row["task"], row["level"]): row["episodes"] for row in comparison["cells"]}
    assert cells == {
        ("cube_on_plate", "I"): 3, ("cube_on_plate", "II"): 2, ("stack_blocks", "II"): 2,
    }  # fmt: skip


def test_a_limit_is_held_near_it_or_below_it_without_a_multiplier() -> None:
    def held(violations: float, multiplier: float) -> bool:
        old = [{"step": k, "violations": 0.9, "multiplier": 3.0} for k in range(9)]
        end = [{"step": 9, "violations": violations, "multiplier": multiplier}] * 5
        run = MethodRun("safedojo", 0, episodes("1", "0"), 150, PRACTICE, [*old, *end])
        (row,) = compare([run])["limits"]
        assert (row["limit"], row["violations"]) == (0.2, pytest.approx(violations))
        return bool(row["held"])

    assert held(0.24, 1.0)
    assert held(0.05, 0.0)
    assert not held(0.05, 0.4)
    assert not held(0.3, 0.0)
    run = MethodRun("x", 0, episodes("1", "0"), 150, PRACTICE | {"limit": None}, METRICS)
    assert compare([run])["limits"] == []


def test_the_ablations_name_the_methods_that_they_are() -> None:
    assert set(ABLATIONS.values()) <= set(METHODS)
    shown = [*runs(), MethodRun("wmpo", 0, episodes("1100", "1010"), 150)]
    ablations = compare(shown, ablations=ABLATIONS)["ablations"]
    assert [entry["method"] for entry in ablations] == ["safedojo", "wmpo", "wmpo"]
    assert "without safety head" in comparison_page(compare(runs()) | {"ablations": ablations})


def test_the_page_needs_no_other_file_and_escapes_names() -> None:
    strange = [MethodRun("<b>&", 0, episodes("10", "01"), 150), *runs()]
    films = [Film("safedojo-seed0", b"after"), Film("base", b"before")]
    page = comparison_page(compare(strange), films, "safedojo report <x>")
    assert "safedojo report &lt;x&gt;" in page
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', page)
    assert page.count("<img") == page.count("src=") == len(images)
    assert images[-2:] == [
        (name, b64encode(content).decode())
        for name, content in (("base", b"before"), ("safedojo-seed0", b"after"))
    ]
    assert len(images) == 1 + 1 + 4 + 2  # no success in METRICS, so no curve of it


def test_a_file_that_is_no_evaluation_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"episodes": [{"seed": 1}]}')
    with pytest.raises(ConfigError, match=r"x\.json is no evaluation"):
        read_evaluation(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="cannot read"):
        read_evaluation(tmp_path / "y.json")


def write_evaluation(path: Path, results: list[TrialResult]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    report = EvaluationReport("p", "tabletop", {"max_steps": 150}, results)
    path.write_text(json.dumps(report.to_json()))


def test_the_report_command_reads_a_sweep(tmp_path: Path) -> None:
    for run in runs():
        name = "base" if run.method == "base" else f"{run.method}-seed{run.seed}"
        write_evaluation(tmp_path / "sweep" / name / "evaluation.json", run.results)
        if run.practice:
            directory = tmp_path / "sweep" / name
            (directory / "practice.json").write_text(json.dumps(run.practice))
            (directory / "film.png").write_bytes(b"film")
            (directory / "metrics.jsonl").write_text(json.dumps(run.metrics[0]) + "\n")
    (tmp_path / "sweep" / "wmpo-seed0").mkdir()  # not evaluated yet
    for name in ("safedojo-gate", "safedojo-detour", "safedojo-cbf"):
        gated = tmp_path / "sweep" / f"{name}-seed1" / "evaluation.json"
        write_evaluation(gated, episodes("1110", "0001"))
    parser = argparse.ArgumentParser()
    report_command.configure(parser)
    out = tmp_path / "report"
    args = parser.parse_args(["--sweep", str(tmp_path / "sweep"), "--out", str(out)])
    assert report_command.run(args) == 0
    comparison = json.loads((out / "comparison.json").read_text())
    behind = ["safedojo-cbf", "safedojo-detour", "safedojo-gate"]
    assert comparison["methods"] == ["base", *behind, "safedojo"]
    costs = {row["method"]: row["real_episodes"] for row in comparison["table"]}
    assert costs == {"base": 0, "safedojo": 108} | dict.fromkeys(behind, 108)
    assert len(comparison["curves"]) == 2
    page = (out / "comparison.html").read_text()
    assert page.count(f"base64,{b64encode(b'film').decode()}") == 2
    with pytest.raises(ConfigError, match="nothing to report"):
        report_command.run(parser.parse_args(["--out", str(out)]))
    with pytest.raises(ConfigError, match="is not METHOD=JSON"):
        sweep_runs.read_named("base")


def test_evaluate_says_how_it_differs_from_an_earlier_evaluation(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "base.json", episodes("1100", "1010"))
    now = EvaluationReport("p", "tabletop", {"max_steps": 150}, episodes("1111", "0000"))
    sentences = paired_sentences(now, tmp_path / "base.json")
    assert sentences[0].startswith("TSR +50.0 points")
    assert "on 4 common episodes" in sentences[2]


# -------------------------------------------------------------------- sweep


def checkpoints_of(root: Path, job: sweep.Job) -> Path:
    """What a job of the sweep in `root` leaves when it has trained: its policy's directory."""
    policy = tiny_policy(job.seed, ["push the bowl"])
    directory = root / job.name
    (directory / "best").mkdir(parents=True)
    policy.save(directory / "best")
    store = CheckpointStore(directory / "store")
    made = store.publish("policy", directory / "best", spec=policy.spec())
    (directory / "practice.json").write_text(json.dumps({"published": made.id}))
    return store.resolve("policy", made.id).resolve()


def test_a_sweep_goes_seed_by_seed_and_evaluates_the_base_once(tmp_path: Path) -> None:
    def jobs(methods: str, seeds: str) -> list[sweep.Job]:
        parsed = sweep.method_names(methods), sweep.seed_numbers(seeds)
        return sweep.Sweep(out=tmp_path, methods=parsed[0], seeds=parsed[1]).jobs()

    names = [job.name for job in jobs("safedojo,base,ppo", "0,1")]
    assert names == ["base", "safedojo-seed0", "ppo-seed0", "safedojo-seed1", "ppo-seed1"]
    for unknown in ("dreamer", "wmpo-limit0.1", "aegis-gate", "safedojo-limit2"):
        with pytest.raises(ConfigError, match=f"unknown method '{unknown}'"):
            jobs(unknown, "0")
    with pytest.raises(ConfigError, match="expected numbers"):
        jobs("ppo", "one")
    with pytest.raises(ConfigError, match="evaluates the policy of safedojo; name both"):
        jobs("base,safedojo-gate", "0")
    assert len(jobs("safedojo,safedojo-gate", "0,1")) == 4


def test_what_a_job_trains_is_what_it_evaluates(tmp_path: Path) -> None:
    data = {"data": (Path("r"),), "demonstrations": (Path("d"), Path("e"))}
    asked = sweep.Sweep(out=tmp_path, base="/b", world_model="/w", **data)  # type: ignore[arg-type]
    recipe = read_recipe("smoke", ["practice.updates=3", "practice.multiplier.limit=0.9"])
    job = sweep.Job("ppo", 4)
    task = job.practice_request(asked)
    assert (task.method, task.base, task.data) == ("ppo", "/b", ())  # no imagination
    assert task.demonstrations == data["demonstrations"]
    assert task.resume
    assert task.publish
    config = job.recipe(recipe).practice
    assert (config.updates, config.seed, config.multiplier.limit) == (3, 4, 0.9)
    imagining = sweep.Job("safedojo", 4).practice_request(asked)
    assert (imagining.data, imagining.world_model) == (data["data"], "/w")
    policy = checkpoints_of(tmp_path, job)
    assert job.evaluation(asked).checkpoint == str(policy)
    assert task.store is not None
    assert policy.is_relative_to(task.store.resolve())


def test_a_filtered_job_judges_what_its_method_has_learned_with_its_seed(tmp_path: Path) -> None:
    asked = sweep.Sweep(out=tmp_path, base="/b", safety="/s", execute=4)
    policy = str(checkpoints_of(tmp_path, sweep.Job("safedojo-limit0.1", 2)))
    expected = {
        "safedojo-limit0.1-gate": (policy, RunTimeFilter("gate", "/s")),
        "safedojo-limit0.1-detour": (policy, RunTimeFilter("detour", "/s")),
        "safedojo-limit0.1-cbf": (policy, RunTimeFilter("cbf")),
        "base-gate": ("/b", RunTimeFilter("gate", "/s")),
        "aegis-oracle": ("/b", RunTimeFilter("cbf-oracle")),
        "base": ("/b", RunTimeFilter()),
    }
    for method, (checkpoint, run_time) in expected.items():
        job = sweep.Job(method, 2)
        given = job.evaluation(asked)
        assert (given.checkpoint, given.filter, given.execute) == (checkpoint, run_time, 4)
        assert given.json == tmp_path / job.name / "evaluation.json"
        assert not job.trains


def test_a_limit_in_the_name_is_the_multipliers(tmp_path: Path) -> None:
    job = sweep.Job("safedojo-limit0.05", 1)
    assert job.practice_request(sweep.Sweep(out=tmp_path, data=(Path("r"),))).method == "safedojo"
    config = job.recipe(read_recipe("smoke", ["practice.multiplier.limit=0.9"])).practice
    assert (config.multiplier.limit, config.seed) == (0.05, 1)


def test_every_method_of_a_sweep_can_be_named_in_a_report() -> None:
    for name in ("safedojo-limit0.05-gate", "fixed-multiplier", "no-task", "safedojo-cbf"):
        found = sweep_runs.RUN_NAME.fullmatch(sweep.Job(name, 3).name)
        assert found is not None
        assert (found["method"], found["seed"]) == (name, "3")
    assert sweep_runs.RUN_NAME.fullmatch("aegis-oracle")["method"] == "aegis-oracle"  # type: ignore[index]


def test_a_gate_whose_policy_was_refused_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    said: list[str] = []

    def trained(jobs: dict[str, list[sweep.Step]], *more: Any) -> dict[str, int]:
        for name, steps in jobs.items():
            order.append(f"{name} {len(steps)}")
            if name == "safedojo-seed0":
                checkpoints_of(tmp_path, sweep.Job("safedojo", 0))
        return dict.fromkeys(jobs, 0)

    monkeypatch.setattr(sweep, "run_jobs", trained)
    monkeypatch.setattr(sweep.Sweep, "resolved", lambda self: self)
    asked = sweep.Sweep(out=tmp_path, methods=("safedojo-gate", "safedojo"), seeds=(0, 1))
    codes = sweep.run_sweep(read_recipe("smoke"), asked, said.append)
    assert order == ["safedojo-seed0 2", "safedojo-seed1 2", "safedojo-gate-seed0 1"]
    assert codes.pop("safedojo-gate-seed1") == 3
    assert set(codes.values()) == {0}
    assert "safedojo-gate-seed1: safedojo-seed1 has no policy" in said


def test_jobs_run_some_at_a_time_and_a_failed_one_stops_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = {name: tmp_path / name for name in ("a1", "a2", "b1", "b2", "c1")}
    codes = {"a1": 0, "a2": 0, "b1": 3, "b2": 0, "c1": 2}
    steps: dict[str, sweep.Step] = {
        name: functools.partial(write_and_end, made[name], code) for name, code in codes.items()
    }
    jobs = {"a": [steps["a1"], steps["a2"]], "b": [steps["b1"], steps["b2"]], "c": [steps["c1"]]}
    assert sweep.run_jobs(jobs, tmp_path, 2) == {"a": 0, "b": 3, "c": 2}
    assert {name for name, path in made.items() if path.exists()} == {"a1", "a2", "b1", "c1"}
    assert made["a1"].read_text() == "1"
    assert "OMP_NUM_THREADS" not in os.environ
    assert "a1 was written\na2 was written" in (tmp_path / "a" / "job.log").read_text()
    assert "something is amiss" in (tmp_path / "c" / "job.log").read_text()


def test_what_ends_a_sweep_lets_its_jobs_save(tmp_path: Path) -> None:
    waits, path = functools.partial(wait_for_a_signal, tmp_path / "x"), tmp_path / "x"

    def ended(sentence: str) -> None:
        if sentence == "b: started":
            deadline = time.monotonic() + 60
            while not path.exists() or path.read_text() != "waits":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run_jobs({"a": [waits], "b": [waits]}, tmp_path, 2, ended)
    assert path.read_text() == "saved"


def test_a_job_with_an_evaluation_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation(tmp_path / "out" / "base" / "evaluation.json", episodes("1", "0"))
    seen: list[str] = []

    def refused(jobs: dict[str, Any], *more: Any) -> dict[str, int]:
        seen.extend(jobs)
        return dict.fromkeys(jobs, 3)

    monkeypatch.setattr(sweep, "run_jobs", refused)
    options = ["--out", str(tmp_path / "out"), "--methods", "base,ppo", "--seeds", "0"]
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    assert main(["sweep", "--preset", "smoke", "--base", "base", *options]) == 3
    for number, handler in before.items():
        signal.signal(number, handler)
    assert seen == ["ppo-seed0"]
    assert "base: done before" in capsys.readouterr().out
