"""Trainings: goals are checked, progress is followed, and no end of the trainer loses a run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedojo_ros.core.errors import CheckpointError, ConfigError, DatasetError
from safedojo_ros.pipeline.goal import TrainingGoal, checked_goal
from safedojo_ros.pipeline.runs import (
    ProgressReader,
    RunEnd,
    RunFolder,
    RunState,
    progress_of,
    run_end,
    runs_in,
)
from safedojo_ros.pipeline.supervisor import TrainingSupervisor

ROOT = Path(__file__).resolve().parents[1]
FAKE = [sys.executable, str(Path(__file__).parent / "fake_pipeline.py")]
GOAL = TrainingGoal("smoke", (), "base", True)
PATIENCE = 60.0


def found(kind: str, name: str) -> None:
    """A store that has everything."""


def lost(kind: str, name: str) -> None:
    raise CheckpointError(f"no {kind} checkpoint {name}")


def supervisor(
    root: Path, find: Callable[[str, str], object] = found, **options: Any
) -> TrainingSupervisor:
    options = {"idle": False, **options}
    return TrainingSupervisor(root, root / "store", FAKE, find, **options)


def follow(trainer: TrainingSupervisor, until: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, f"{trainer.state} {trainer.progress} {trainer.end}"
        trainer.step()
        time.sleep(0.01)


# ---------------------------------------------------------------- goals


def data_set(folder: Path) -> Path:
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text("{}")
    return folder


def test_a_goal_s_data_is_taken_from_inside_the_data_root(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "root/a/b")
    goal = checked_goal("", ["a/b", str(folder)], "", True, tmp_path / "root", tmp_path, found)
    assert goal == TrainingGoal("tiny", (str(folder), str(folder)), "", True)


@pytest.mark.parametrize("name", ["../outside", "link", "a/../../outside", "/etc", "{outside}"])
def test_no_path_of_a_goal_leaves_the_data_root(tmp_path: Path, name: str) -> None:
    outside = data_set(tmp_path / "outside")
    data_set(tmp_path / "root/a")
    (tmp_path / "root/link").symlink_to(outside)
    name = name.format(outside=outside)
    with pytest.raises(ConfigError, match="is outside the data root"):
        checked_goal("smoke", [name], "", False, tmp_path / "root", tmp_path, found)


def test_what_a_goal_names_must_exist(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    def find(kind: str, name: str, store: Path) -> None:
        lost(kind, name)

    def check(preset: str = "smoke", data: str = "", base: str = "") -> None:
        checked_goal(preset, [data] if data else [], base, False, tmp_path, tmp_path, find)

    with pytest.raises(ConfigError, match="unknown preset 'huge'"):
        check(preset="huge")
    with pytest.raises(ConfigError, match="unknown preset"):
        check(preset="../smoke")
    with pytest.raises(DatasetError, match="bag-to-dataset"):
        check(data="empty")
    with pytest.raises(ConfigError, match="no folder"):
        check(data="a\0b")
    with pytest.raises(CheckpointError, match="nosuch"):
        check(base="nosuch")
    for path in ("/etc/passwd", "../latest", "a/b"):
        with pytest.raises(ConfigError, match="not a path"):
            check(base=path)


@given(st.text(), st.lists(st.text(), max_size=3), st.text(), st.booleans())
@settings(deadline=None)
def test_a_goal_survives_its_file(preset: str, data: list[str], base: str, publish: bool) -> None:
    goal = TrainingGoal(preset, tuple(data), base, publish)
    assert TrainingGoal.from_json(goal.as_json()) == goal


# ---------------------------------------------------------------- what the pipeline says


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=30),
    st.lists(st.integers(0, 2000), max_size=10),
    st.binary(max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_progress_is_read_whole_however_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], cuts: list[int], rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("progress") / "progress.jsonl"
    lines = [json.dumps({"stage": "s", "step": n, "total": None, "metrics": {}}) for n in steps]
    content = rubbish.replace(b"\n", b"") + b"\n" + "".join(x + "\n" for x in lines).encode()
    reader, written = ProgressReader(path), 0
    for cut in [*sorted(c % (len(content) + 1) for c in cuts), len(content)]:
        with path.open("ab") as file:
            file.write(content[written:cut])
        written = max(written, cut)
        reader.read()
        done = content[:written].count(b"\n") - 1
        if done >= 1:
            assert reader.newest is not None
            assert reader.newest.step == steps[done - 1]
    assert reader.broken <= 1


@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["stage", "step", "total", "metrics", "x"]), inner, max_size=5),
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
@settings(deadline=None)
def test_a_broken_line_of_progress_is_left_and_never_raises(line: bytes) -> None:
    progress = progress_of(line)
    assert progress is None or (progress.step >= 0 and progress.total >= 0)


@pytest.mark.parametrize(
    ("code", "result", "publish", "canceled", "find", "state", "published"),
    [
        (0, {"published": "p1", "reason": "better"}, True, False, found, "published", "p1"),
        (0, {"published": "p1", "reason": "better"}, True, False, lost, "failed", ""),
        (0, {"published": None, "reason": "same"}, True, False, found, "refused", ""),
        (0, {"published": None, "reason": ""}, False, False, found, "finished", ""),
        (0, {}, True, False, found, "failed", ""),
        (3, {"published": None, "reason": "AUROC 0.6"}, True, False, found, "refused", ""),
        (3, {"published": "p1", "reason": "AUROC 0.6"}, True, False, found, "refused", ""),
        (2, {}, True, False, found, "failed", ""),
        (-9, {}, True, False, found, "failed", ""),
        (130, {}, True, True, found, "canceled", ""),
        (0, {}, True, True, found, "canceled", ""),
        (0, {"published": "p1", "reason": "better"}, True, True, found, "published", "p1"),
    ],
)
def test_only_a_checkpoint_that_is_whole_in_the_store_counts_as_published(
    tmp_path: Path,
    code: int,
    result: dict[str, Any],
    publish: bool,
    canceled: bool,
    find: Callable[[str, str], object],
    state: str,
    published: str,
) -> None:
    goal = TrainingGoal("smoke", (), "", publish)
    run = RunFolder.make(tmp_path, goal)
    run.out.mkdir()
    if result:
        (run.out / "result.json").write_text(json.dumps(result))
    end = run_end(code, run, goal, canceled, find)
    assert (end.state, end.published) == (state, published)
    assert end.reason


# ---------------------------------------------------------------- runs


def test_a_run_is_followed_to_its_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PUBLISHED", "p1")
    trainer = supervisor(tmp_path)
    run = trainer.start(GOAL)
    with pytest.raises(ConfigError, match="is in progress"):
        trainer.start(GOAL)
    follow(trainer, lambda: trainer.end)
    assert trainer.end == RunEnd(RunState.PUBLISHED, "all gates passed", "p1")
    assert trainer.progress.step == trainer.progress.total == 6
    assert trainer.progress.metrics == {"loss": pytest.approx(1 / 6)}
    given = json.loads((run.out / "arguments.json").read_text())
    assert given == [
        "--preset", "smoke", "--out", str(run.out), "--store", str(tmp_path / "store"),
        "--base", "base", "--publish",
    ]  # fmt: skip
    assert supervisor(tmp_path).resume() is None
    assert run.ended() == trainer.end


def test_a_fault_of_the_pipeline_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CODE", "2")
    trainer = supervisor(tmp_path)
    trainer.start(GOAL)
    follow(trainer, lambda: trainer.end)
    assert trainer.end is not None
    assert trainer.end.state == RunState.FAILED
    assert "the data set is empty" in trainer.end.reason


def test_a_command_that_does_not_exist_fails_the_run(tmp_path: Path) -> None:
    trainer = TrainingSupervisor(tmp_path, tmp_path, ["/no/such/command"], found)
    trainer.start(GOAL)
    trainer.step()
    assert trainer.end is not None
    assert "/no/such/command" in trainer.end.reason


def test_a_canceled_run_goes_on_when_the_same_goal_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "3")
    trainer = supervisor(tmp_path)
    run = trainer.start(GOAL)
    follow(trainer, lambda: trainer.progress.step == 3)
    trainer.cancel()
    follow(trainer, lambda: trainer.end)
    assert trainer.end is not None
    assert trainer.end.state == RunState.CANCELED
    assert supervisor(tmp_path).resume() is None, "a canceled run does not go on by itself"
    monkeypatch.delenv("FAKE_WAIT_AT")
    other = trainer.start(TrainingGoal("tiny"))
    assert other.path != run.path
    trainer.cancel()
    follow(trainer, lambda: trainer.end)
    assert trainer.start(GOAL).path != run.path, "only the newest run is gone on with"
    trainer.cancel()
    follow(trainer, lambda: trainer.end)
    assert trainer.start(GOAL).path == runs_in(tmp_path)[-1].path


def test_a_pipeline_deaf_to_being_stopped_is_killed_after_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "1")
    monkeypatch.setenv("FAKE_DEAF", "1")
    now = [0.0]
    trainer = supervisor(tmp_path, grace=30.0, clock=lambda: now[0])
    trainer.start(GOAL)
    follow(trainer, lambda: trainer.progress.step == 1)
    trainer.cancel()
    for seconds in (0.0, 29.0):
        now[0] = seconds
        trainer.step()
        assert trainer.busy
    now[0] = 31.0
    trainer.step()
    assert trainer.end is not None
    assert trainer.end.state == RunState.CANCELED


def test_a_killed_pipeline_is_started_again_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "4")
    monkeypatch.setenv("FAKE_PUBLISHED", "p1")
    trainer = supervisor(tmp_path)
    run = trainer.start(GOAL)
    follow(trainer, lambda: trainer.progress.step == 4)
    assert trainer._process is not None
    os.kill(trainer._process.process.pid, signal.SIGKILL)
    follow(trainer, lambda: trainer._process is None)
    (run.path / "go").touch()
    follow(trainer, lambda: trainer.end)
    assert trainer.end is not None
    assert trainer.end.state == RunState.PUBLISHED
    steps = [json.loads(x)["step"] for x in (run.out / "progress.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6], "no step was done twice"


TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from safedojo_ros.pipeline.goal import TrainingGoal
from safedojo_ros.pipeline.supervisor import TrainingSupervisor
trainer = TrainingSupervisor(Path({runs!r}), Path({runs!r}), {fake!r}, lambda *_: None, idle=False)
trainer.start(TrainingGoal("smoke", (), "base", True))
while True:
    trainer.step()
    if trainer.progress.step == 2:
        sys.stdout.write(f"{{trainer._process.process.pid}}\\n")
        sys.stdout.flush()
        trainer.progress = type(trainer.progress)()
    time.sleep(0.01)
"""


def test_a_killed_trainer_s_run_goes_on_where_it_was_and_never_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "2")
    monkeypatch.setenv("FAKE_DEAF", "1")
    program = TRAINER.format(root=str(ROOT), runs=str(tmp_path), fake=FAKE)
    killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    orphan = int(killed.stdout.readline())
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    monkeypatch.delenv("FAKE_DEAF")
    monkeypatch.delenv("FAKE_WAIT_AT")
    monkeypatch.setenv("FAKE_PUBLISHED", "p1")
    trainer = supervisor(tmp_path)
    run = trainer.resume()
    assert run is not None
    trainer.step()
    assert trainer.waiting, "the old pipeline, deaf to SIGTERM, still holds the run"
    os.kill(orphan, signal.SIGKILL)
    follow(trainer, lambda: trainer.end)
    assert trainer.end is not None
    assert trainer.end.state == RunState.PUBLISHED
    steps = [json.loads(x)["step"] for x in (run.out / "progress.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_trainer_that_leaves_lets_the_pipeline_save_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "3")
    trainer = supervisor(tmp_path)
    run = trainer.start(GOAL)
    follow(trainer, lambda: trainer.progress.step == 3)
    trainer.leave(PATIENCE)
    assert not trainer.busy
    assert run.ended() is None
    monkeypatch.delenv("FAKE_WAIT_AT")
    assert trainer.resume() == run
    follow(trainer, lambda: trainer.end)
    assert len((run.out / "progress.jsonl").read_text().splitlines()) == 6


def test_the_pipeline_has_the_lowest_priority_and_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "1")
    trainer = supervisor(tmp_path, idle=True)
    trainer.start(GOAL)
    follow(trainer, lambda: trainer.progress.step == 1)
    assert trainer._process is not None
    pid = trainer._process.process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=1" in environment
    trainer.leave(PATIENCE)
