"""Comparison of methods: pairs, pooled rates, the page, and the sweep that makes the runs."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from safedojo_ros.cli import report as report_command
from safedojo_ros.cli import sweep
from safedojo_ros.cli.evaluate import paired_sentences
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.comparison import MethodRun, compare, paired_tests, read_evaluation
from safedojo_ros.evaluation.comparison_report import comparison_page
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
        }
    ],
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
    assert table["safedojo"]["real_collisions"] == 3
    against = table["safedojo"]["against"]
    assert against["0"]["ssr"]["difference"]["value"] == pytest.approx(0.75)
    assert "against" not in table["base"]


def test_practised_rates_stand_beside_the_measured_ones() -> None:
    practised = compare(runs())["practised"]
    assert [row["seed"] for row in practised] == [0, 1]
    assert practised[0]["practised"]["success"] == 0.9


def test_the_page_needs_no_other_file_and_escapes_names() -> None:
    strange = [MethodRun("<b>&", 0, episodes("10", "01"), 150), *runs()]
    page = comparison_page(compare(strange))
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page
    assert page.count("<svg") == 1 + 4


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
            (directory / "metrics.jsonl").write_text(json.dumps(run.metrics[0]) + "\n")
    (tmp_path / "sweep" / "wmpo-seed0").mkdir()  # not evaluated yet
    parser = argparse.ArgumentParser()
    report_command.configure(parser)
    out = tmp_path / "report"
    args = parser.parse_args(["--sweep", str(tmp_path / "sweep"), "--out", str(out)])
    assert report_command.run(args) == 0
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["methods"] == ["base", "safedojo"]
    assert len(comparison["curves"]) == 2
    assert "safedojo" in (out / "comparison.html").read_text()
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
    with pytest.raises(ConfigError, match="unknown method 'dreamer'"):
        sweep.plan("dreamer", "0")
    with pytest.raises(ConfigError, match="expected numbers"):
        sweep.plan("ppo", "one")


def test_what_a_job_practises_is_what_it_evaluates(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    sweep.configure(parser)
    args = parser.parse_args(["--out", str(tmp_path), "--set", "practice.updates=3"])
    job = sweep.Job("ppo", 4)
    practise, evaluate = sweep.commands_of(job, args, {"base": "/b"})
    assert {"--resume", "--publish", "--set=practice.updates=3"} <= set(practise())
    assert practise()[-1] == "--set=practice.seed=4"
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
    assert [[path.name for path in paths] for paths in seen] == [["ppo-seed0"]]
    assert "base: done before" in capsys.readouterr().out
