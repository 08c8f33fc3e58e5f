"""Comparison of methods: pairs, pooled rates, the page, and the sweep that makes the runs."""

import argparse
import json
import re
import sys
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safedojo_ros.cli import report as report_command
from safedojo_ros.cli import sweep
from safedojo_ros.cli.evaluate import paired_sentences
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.compare.comparison import (
    MethodRun,
    compare,
    paired_tests,
    read_evaluation,
)
from safedojo_ros.evaluation.compare.report import Film, comparison_page
from safedojo_ros.evaluation.protocol import EvaluationReport, TrialResult


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
            "practised": {"success": 0.9, "violations": 0.1, "safe_success": 0.8},
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


def test_practised_rates_stand_beside_the_measured_ones() -> None:
    practised = compare(runs())["practised"]
    assert [(row["seed"], row["moment"]) for row in practised] == [(0, "after"), (1, "after")]
    assert practised[0]["practised"]["success"] == 0.9
    begun = PRACTICE | {"evaluations": [PRACTICE["evaluations"][0] | {"step": 0}] * 2, "best": 0}
    rows = compare([MethodRun("wmpo", 0, episodes("1", "0"), 150, begun, METRICS)])["practised"]
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
    ablations = compare([*runs(), MethodRun("wmpo", 0, episodes("1100", "1010"), 150)])["ablations"]
    assert [entry["method"] for entry in ablations] == ["safedojo", "wmpo", "wmpo"]
    assert "without safety head" in comparison_page(compare(runs()) | {"ablations": ablations})


def test_the_page_needs_no_other_file_and_escapes_names() -> None:
    strange = [MethodRun("<b>&", 0, episodes("10", "01"), 150), *runs()]
    films = [Film("safedojo-seed0", b"after"), Film("base", b"before")]
    page = comparison_page(compare(strange), films)
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert re.findall(r'src="([^"]*)"', page) == [
        f"data:image/png;base64,{b64encode(content).decode()}" for content in (b"before", b"after")
    ]
    assert page.count("<svg") == 1 + 2 + 4  # no success in METRICS, so no curve of it


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
    for name in ("safedojo-gate", "safedojo-cbf"):
        gated = tmp_path / "sweep" / f"{name}-seed1" / "evaluation.json"
        write_evaluation(gated, episodes("1110", "0001"))
    parser = argparse.ArgumentParser()
    report_command.configure(parser)
    out = tmp_path / "report"
    args = parser.parse_args(["--sweep", str(tmp_path / "sweep"), "--out", str(out)])
    assert report_command.run(args) == 0
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["methods"] == ["base", "safedojo-cbf", "safedojo-gate", "safedojo"]
    costs = {row["method"]: row["real_episodes"] for row in comparison["table"]}
    assert costs == {"base": 0, "safedojo": 108, "safedojo-gate": 108, "safedojo-cbf": 108}
    assert len(comparison["curves"]) == 2
    page = (out / "comparison.html").read_text()
    assert page.count(f"base64,{b64encode(b'film').decode()}") == 2
    with pytest.raises(ConfigError, match="nothing to report"):
        report_command.run(parser.parse_args(["--out", str(out)]))
    with pytest.raises(ConfigError, match="is not METHOD=JSON"):
        report_command.read_named("base")


def test_evaluate_says_how_it_differs_from_an_earlier_evaluation(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "base.json", episodes("1100", "1010"))
    now = EvaluationReport("p", "tabletop", {"max_steps": 150}, episodes("1111", "0000"))
    sentences = paired_sentences(now, tmp_path / "base.json")
    assert sentences[0].startswith("TSR +50.0 points")
    assert "on 4 common episodes" in sentences[2]


# -------------------------------------------------------------------- sweep


def test_a_sweep_goes_seed_by_seed_and_evaluates_the_base_once() -> None:
    names = [job.name for job in sweep.plan("safedojo,base,ppo", "0,1")]
    assert names == ["base", "safedojo-seed0", "ppo-seed0", "safedojo-seed1", "ppo-seed1"]
    for unknown in ("dreamer", "wmpo-limit0.1", "aegis-gate", "safedojo-limit2"):
        with pytest.raises(ConfigError, match=f"unknown method '{unknown}'"):
            sweep.plan(unknown, "0")
    with pytest.raises(ConfigError, match="expected numbers"):
        sweep.plan("ppo", "one")


def test_what_a_job_practises_is_what_it_evaluates(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    data = ["--data", "r", "--demonstrations", "d", "e"]
    args = parser.parse_args(["--out", str(tmp_path), "--set", "practice.updates=3", *data])
    job = sweep.Job("ppo", 4)
    practise, evaluate = sweep.commands_of(job, args, {"base": "/b"})
    assert " ".join(data) in " ".join(practise())
    assert {"--resume", "--publish", "--set=practice.updates=3"} <= set(practise())
    assert practise()[-1] == "--set=practice.seed=4"
    assert practise()[practise().index("--method") + 1] == "ppo"
    (tmp_path / job.name).mkdir()
    (tmp_path / job.name / "practice.json").write_text('{"published": "id7"}')
    command = evaluate()
    assert command[command.index("--checkpoint") + 1].endswith("ppo-seed4/store/policy/id7")


def test_the_filtered_base_is_evaluated_without_practice(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    args = parser.parse_args(["--out", str(tmp_path)])
    (evaluate,) = sweep.commands_of(sweep.Job("aegis-oracle", 0), args, {"base": "/b"})
    assert evaluate()[-2:] == ["--filter", "cbf-oracle"]
    assert "/b" in evaluate()
    assert report_command.RUN_NAME.fullmatch("aegis-oracle")["method"] == "aegis-oracle"  # type: ignore[index]


def test_a_filtered_job_judges_what_its_method_has_learned_with_its_seed(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    args = parser.parse_args(["--out", str(tmp_path)])
    job = sweep.Job("safedojo-limit0.1-gate", 2)
    learner = tmp_path / "safedojo-limit0.1-seed2"
    learner.mkdir()
    (learner / "practice.json").write_text('{"published": "id3"}')
    (evaluate,) = sweep.commands_of(job, args, {"base": "/b", "safety": "/s"})
    command = evaluate()
    assert command[command.index("--checkpoint") + 1] == str(learner / "store/policy/id3")
    assert command[command.index("--filter") :][:4] == ["--filter", "gate", "--safety", "/s"]
    assert command[command.index("--json") + 1].startswith(str(tmp_path / job.name))
    (evaluate,) = sweep.commands_of(sweep.Job("base-gate", 0), args, {"base": "/b", "safety": "/s"})
    assert "/b" in evaluate()
    (evaluate,) = sweep.commands_of(sweep.Job("safedojo-limit0.1-cbf", 2), args, {"base": "/b"})
    assert str(learner / "store/policy/id3") in evaluate()
    assert evaluate()[evaluate().index("--filter") + 1] == "cbf"
    around = sweep.Job("safedojo-limit0.1-detour", 2)
    (evaluate,) = sweep.commands_of(around, args, {"base": "/b", "safety": "/s"})
    assert evaluate()[evaluate().index("--filter") :][:4] == [
        "--filter",
        "detour",
        "--safety",
        "/s",
    ]
    args.execute = 4
    assert evaluate()[evaluate().index("--execute") + 1] == "4"
    with pytest.raises(ConfigError, match="evaluates what safedojo has learned; name both"):
        sweep.plan("base,safedojo-gate", "0")
    assert len(sweep.plan("safedojo,safedojo-gate", "0,1")) == 4


def test_a_limit_in_the_name_is_the_multipliers(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    args = parser.parse_args(["--out", str(tmp_path), "--set", "practice.multiplier.limit=0.9"])
    practise, _ = sweep.commands_of(sweep.Job("safedojo-limit0.05", 1), args, {"base": "/b"})
    command = practise()
    assert command[command.index("--method") + 1] == "safedojo"
    assert command[-1] == "--set=practice.multiplier.limit=0.05"  # the last of them counts
    assert "--set=practice.seed=1" in command


def test_every_method_of_a_sweep_can_be_named_in_a_report() -> None:
    for name in ("safedojo-limit0.05-gate", "fixed-multiplier", "no-task", "safedojo-cbf"):
        found = report_command.RUN_NAME.fullmatch(sweep.Job(name, 3).name)
        assert found is not None
        assert (found["method"], found["seed"]) == (name, "3")


def test_a_gate_whose_policy_was_refused_is_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def practised(paths: list[Path], *more: Any) -> list[int]:
        for path in paths:
            order.append(path.name)
            path.mkdir(parents=True)
            result = '{"published": null}' if path.name.endswith("1") else '{"published": "id1"}'
            (path / "practice.json").write_text(result)
        return [0] * len(paths)

    monkeypatch.setattr(sweep, "run_jobs", practised)
    monkeypatch.setattr(sweep, "resolved", lambda *more: {"base": "/b", "safety": "/s"})
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    options = ["--out", str(tmp_path), "--methods", "safedojo-gate,safedojo", "--seeds", "0,1"]
    assert sweep.run(parser.parse_args(options)) == 3
    assert order == ["safedojo-seed0", "safedojo-seed1", "safedojo-gate-seed0"]
    assert "safedojo-gate-seed1: safedojo-seed1 has no policy" in capsys.readouterr().err


def test_jobs_run_some_at_a_time_and_a_failed_one_stops_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "command"
    script.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\n"
        "pathlib.Path(sys.argv[3]).write_text('x')\nsys.exit(int(sys.argv[4]))\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    made = [tmp_path / name for name in ("a1", "a2", "b1", "b2")]
    commands = [
        [lambda: [str(made[0]), "0"], lambda: [str(made[1]), "0"]],
        [lambda: [str(made[2]), "3"], lambda: [str(made[3]), "0"]],
    ]
    codes = sweep.run_jobs([tmp_path / "a", tmp_path / "b"], commands, 2)
    assert codes == [0, 3]
    assert [path.exists() for path in made] == [True, True, True, False]


def test_a_job_with_an_evaluation_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation(tmp_path / "out" / "base" / "evaluation.json", episodes("1", "0"))
    seen: list[list[Path]] = []

    def refused(paths: list[Path], *more: Any) -> list[int]:
        seen.append(paths)
        return [3] * len(paths)

    monkeypatch.setattr(sweep, "run_jobs", refused)
    monkeypatch.setattr(sweep, "resolved", lambda *more: {"base": "/b"})
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    args = parser.parse_args(
        ["--out", str(tmp_path / "out"), "--methods", "base,ppo", "--seeds", "0"]
    )
    assert sweep.run(args) == 3
    assert [path.name for paths in seen for path in paths] == ["ppo-seed0"]
    assert "base: done before" in capsys.readouterr().out
