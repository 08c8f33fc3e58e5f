"""The number of workers, their kind and their deaths change no result."""

import argparse
import importlib.util
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safedojo_ros.cli import evaluate as command
from safedojo_ros.core.errors import CheckpointError, ConfigError, WorkerLost
from safedojo_ros.evaluation.workers import ray_actors
from safedojo_ros.evaluation.workers.processes import ProcessCrew, how_it_ended
from safedojo_ros.evaluation.workers.spread import TRIES, Answer, Died, Done, Failed, spread
from safedojo_ros.pipeline.players import Players

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray, of the extra scale, is not installed"
)


class ScriptedCrew:
    """Workers in this process; `script` draws who answers next, and whether it dies instead."""

    def __init__(self, draw: Callable[[Any], Any], deaths: dict[int, int]) -> None:
        self.draw, self.deaths = draw, deaths
        self.alive: set[int] = set()
        self.playing: dict[int, int] = {}
        self.given: list[int] = []

    def start(self, worker: int) -> None:
        assert worker not in self.alive
        self.alive.add(worker)

    def give(self, worker: int, batch: int) -> None:
        assert worker in self.alive
        assert worker not in self.playing
        self.playing[worker] = batch
        self.given.append(batch)

    def wait(self) -> list[tuple[int, Answer]]:
        worker = self.draw(st.sampled_from(sorted(self.playing)))
        batch = self.playing.pop(worker)
        if self.deaths.get(batch, 0):
            self.deaths[batch] -= 1
            self.alive.remove(worker)
            return [(worker, Died("SIGKILL"))]
        return [(worker, Done(batch * batch))]

    def share(self, value: Any) -> Callable[[], Any]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@given(
    st.integers(1, 5),
    st.integers(0, 12),
    st.dictionaries(st.integers(0, 11), st.integers(1, TRIES - 1)),
    st.data(),
)
def test_every_batch_gives_its_result_in_order_whoever_dies(
    workers: int, count: int, deaths: dict[int, int], data: st.DataObject
) -> None:
    died = sum(times for batch, times in deaths.items() if batch < count)
    crew = ScriptedCrew(data.draw, dict(deaths))
    assert list(spread(crew, range(count), workers)) == [n * n for n in range(count)]
    assert len(crew.given) == count + died


def test_a_batch_that_ends_every_worker_is_given_up_after_the_results_before_it() -> None:
    crew = ScriptedCrew(lambda some: some.elements[-1], {2: TRIES})
    results = spread(crew, range(5), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(WorkerLost, match=r"batch 3 of 5 ended 3 workers, the last by SIGKILL; few"):
        next(results)


def test_no_worker_runs_far_ahead_of_the_result_that_is_waited_for() -> None:
    crew = ScriptedCrew(lambda some: some.elements[-1], {})
    results = spread(crew, range(100), 2)
    next(results)
    assert max(crew.given) < 4  # the first batch was answered last


class Squares:
    """Plays a number; ends its process the first time that it plays `deadly`."""

    def __init__(self, folder: Path, deadly: int) -> None:
        self.folder, self.deadly = folder, deadly

    def __call__(self, batch: int) -> int:
        if batch == -1:
            raise CheckpointError("no such weights")
        if batch == self.deadly and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch * batch


def test_processes_are_replaced_tell_their_faults_and_end(tmp_path: Path) -> None:
    crew = ProcessCrew(partial(Squares, tmp_path, 3))
    results = spread(crew, [1, 2, 3, 4, -1], 2)
    assert [next(results) for _ in range(4)] == [1, 4, 9, 16]
    assert (tmp_path / "died").exists()
    with pytest.raises(CheckpointError, match="no such weights"):
        next(results)
    crew.close()
    assert not any(process.is_alive() for process in crew.processes.values())
    assert how_it_ended(-9).startswith("SIGKILL, which the system sends where memory is short")


# ---------------------------------------------------------------- evaluation


def evaluated(path: Path, *options: str) -> bytes:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    parsed = parser.parse_args(
        ["--level", "II", "--episodes", "6", "--max-steps", "16", *options, "--json", str(path)]
    )
    assert command.run(parsed) == 0
    return path.read_bytes()


def killing(monkeypatch: pytest.MonkeyPatch, crew: Any, kill: Callable[[Any, int], None]) -> list:
    """Ends the worker that is given the second batch, once it has it."""
    give, killed = crew.give, list[int]()

    def give_and_kill(self: Any, worker: int, batch: Any) -> None:
        give(self, worker, batch)
        killed.append(worker)
        if len(killed) == 2:
            kill(self, worker)

    monkeypatch.setattr(crew, "give", give_and_kill)
    return killed


def test_two_workers_write_the_bytes_of_one_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_gate_filter import small_store  # a policy and a safety head

    store = small_store(tmp_path)
    options = [
        "--store", str(store), "--checkpoint", "latest", "--filter", "gate", "--safety", "latest",
        "--batch", "2",
    ]  # fmt: skip
    one = evaluated(tmp_path / "one.json", *options)
    crew = ProcessCrew
    killed = killing(monkeypatch, crew, lambda self, worker: self.processes[worker].kill())
    two = evaluated(tmp_path / "two.json", *options, "--workers", "2")
    assert len(killed) == 4  # three batches, one of them twice
    assert one == two


@needs_ray
def test_a_ray_of_two_workers_writes_the_bytes_of_one_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    options = ("--policy", "expert:safe")
    one = evaluated(tmp_path / "one.json", *options)
    crew = ray_actors.RayCrew
    killed = killing(monkeypatch, crew, lambda self, worker: ray.kill(self.actors[worker]))
    two = evaluated(tmp_path / "two.json", *options, "--workers", "2", "--ray", "local")
    assert len(killed) == 7
    assert one == two
    assert not ray.is_initialized()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"workers": 0}, "--workers is 0, expected at least 1"),
        ({"ray": "cluster"}, "--ray is 'cluster', expected local or HOST:PORT of a running Ray"),
        ({"ray": "host:port"}, "--ray is 'host:port', expected local or HOST:PORT"),
    ],
)
def test_what_cannot_be_workers_is_refused_in_one_line(asked: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Players(**asked)


def test_without_ray_its_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise ray_actors.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ray_actors.metadata, "version", version)
    with pytest.raises(ConfigError, match="--ray needs Ray, which is not installed; pip install"):
        Players(ray="local")


@needs_ray
def test_models_for_the_workers_of_ray_are_loaded_on_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Players(2).device("auto") == "cuda"
    assert Players(2, "local").device("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"--device is cuda:0, but the workers of Ray compute on"):
        Players(2, "local").device("cuda:0")


@needs_ray
def test_an_address_where_no_ray_answers_is_named() -> None:
    played = Players(2, "127.0.0.1:9").play(partial(Squares, Path(), 0), [1, 2])
    with pytest.raises(ConfigError, match=r"no Ray answers at 127\.0\.0\.1:9 \(Connection refus"):
        next(played)


@needs_ray
def test_a_worker_with_another_version_of_the_package_is_refused() -> None:
    answer = ray_actors._Actor([], "safedojo_ros 0.0.1").answer(1)
    assert isinstance(answer, Failed)
    assert isinstance(answer.error, ConfigError)
    assert "has safedojo_ros " in str(answer.error)
    assert "this machine safedojo_ros 0.0.1; install the same on both" in str(answer.error)


@needs_ray
def test_a_full_object_store_says_what_needs_less() -> None:
    import ray

    itself = ray.exceptions.ObjectStoreFullError("3 GB")
    for error in (itself, RuntimeError(f"on a worker: {itself!r}")):
        explained = ray_actors._explained(error)
        assert isinstance(explained, WorkerLost)
        assert str(explained).startswith("Ray's object store is full; fewer --workers or a smaller")
    other = ValueError("no more than that")
    assert ray_actors._explained(other) is other
