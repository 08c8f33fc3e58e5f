"""Pruning makes room and never takes what is latest, pinned, needed by another, or a way back."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from checkpoint_directories import SPEC, value_of, write_source
from hypothesis import given, settings
from hypothesis import strategies as st

from safedojo_ros.checkpoints.manifest import Manifest
from safedojo_ros.checkpoints.store import retention
from safedojo_ros.checkpoints.store.retention import pin, pinned, prune, reasons_to_keep, unpin
from safedojo_ros.checkpoints.store.store import STAGING, CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "trained")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store", itertools.count(1_800_000_000.0).__next__)


def publish(store: CheckpointStore, source: Path, count: int, **more: object) -> list[str]:
    """Oldest first."""
    return [store.publish("policy", source, spec=SPEC, **more).id for _ in range(count)]  # type: ignore[arg-type]


def ids(store: CheckpointStore) -> list[str]:
    """Oldest first."""
    return [m.id for m in reversed(store.list("policy"))]


def test_the_newest_stay_and_the_others_go(store: CheckpointStore, source: Path) -> None:
    names = publish(store, source, 6)
    would, _ = prune(store, "policy", 3, dry_run=True)
    assert ids(store) == names
    gone, reasons = prune(store, "policy", 3)
    assert [m.id for m in gone] == [m.id for m in would] == names[2::-1]
    assert ids(store) == names[3:] == sorted(reasons)
    assert not any((store.root / STAGING).iterdir())
    assert value_of(store.resolve("policy")) == 1.0


def test_latest_and_the_ways_back_from_it_stay(store: CheckpointStore, source: Path) -> None:
    names = publish(store, source, 3)
    (served,) = publish(store, source, 1, parent=names[0])
    newer = publish(store, source, 4, make_latest=False)
    prune(store, "policy", 1)
    assert ids(store) == [names[0], names[2], served, newer[-1]]
    assert main(["checkpoint", "--store", str(store.root), "rollback", "policy"]) == 0
    assert store.latest("policy") == names[2]


def test_a_pin_holds_until_it_is_taken_away(store: CheckpointStore, source: Path) -> None:
    names = publish(store, source, 5)
    assert pin(store, "policy", names[0]) == names[0]
    pin(store, "policy", names[0])
    assert pinned(store, "policy") == {names[0]}
    prune(store, "policy", 1)
    assert ids(store) == [names[0], *names[3:]]
    unpin(store, "policy", names[0])
    prune(store, "policy", 1)
    assert ids(store) == names[3:]
    with pytest.raises(CheckpointError, match="is not pinned"):
        unpin(store, "policy", names[0])
    with pytest.raises(CheckpointError, match="no policy checkpoint"):
        pin(store, "policy", names[0])


def test_a_safety_head_stays_as_long_as_a_policy_requires_it(
    store: CheckpointStore, source: Path
) -> None:
    heads = [store.publish("safety", source, spec=SPEC).id for _ in range(4)]
    publish(store, source, 1, requires={"safety": heads[0]})
    prune(store, "safety", 1)
    assert sorted(m.id for m in store.list("safety")) == [heads[0], *heads[2:]]
    publish(store, source, 2)
    prune(store, "policy", 1)
    prune(store, "safety", 1)
    assert sorted(m.id for m in store.list("safety")) == heads[2:]


@pytest.mark.parametrize("requires", [{"safety": 3}, {"safety": "../x"}, {"dog": "x"}])
def test_what_cannot_be_required_is_not_published(
    store: CheckpointStore, source: Path, requires: dict
) -> None:
    with pytest.raises(CheckpointError, match="requires"):
        publish(store, source, 1, requires=requires)
    assert store.list() == []


def test_nothing_is_pruned_when_latest_is_lost_or_all_should_go(
    store: CheckpointStore, source: Path
) -> None:
    names = publish(store, source, 3)
    with pytest.raises(CheckpointError, match="keep is 0"):
        prune(store, "policy", 0)
    (store.root / "policy" / "latest").write_text("gone")
    with pytest.raises(CheckpointError, match="no policy checkpoint 'gone'"):
        prune(store, "policy", 1)
    assert ids(store) == names


manifests = st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True)


@given(manifests, st.data(), st.integers(1, 5))
@settings(deadline=None)
def test_whatever_the_history_what_is_needed_is_kept(
    order: list[int], data: st.DataObject, keep: int
) -> None:
    names = [f"c{k}" for k in order]
    parents = data.draw(st.lists(st.sampled_from([None, *names]), min_size=len(names)))
    history = [
        Manifest("policy", n, {}, {}, parent=p) for n, p in zip(names, parents, strict=False)
    ]
    latest = data.draw(st.sampled_from(names))
    pins = data.draw(st.sets(st.sampled_from(names)))
    required = data.draw(st.sets(st.sampled_from(names)))
    kept = set(reasons_to_keep(history, latest, pins, required, keep))
    assert {latest, *pins, *required, *names[:keep]} <= kept
    way_back = {history[names.index(latest)].parent, *names[names.index(latest) + 1 :][:1]} - {None}
    assert way_back <= kept
    assert len(kept) <= keep + len(pins) + len(required) + 3


def test_pruning_killed_at_any_rename_leaves_whole_checkpoints(
    store: CheckpointStore, source: Path
) -> None:
    names = publish(store, source, 8)
    for fatal in range(1, 6):
        child = os.fork()
        if child == 0:
            _prune_and_die(store, fatal)
        _, status = os.waitpid(child, 0)
        assert store.broken() == ()
        assert value_of(store.resolve("policy")) == 1.0
        assert ids(store)[-2:] == names[-2:]
        if not os.WIFSIGNALED(status):
            break
    assert len(ids(store)) < 8
    publish(store, source, 1)
    assert not any((store.root / STAGING).iterdir())


def _prune_and_die(store: CheckpointStore, fatal: int) -> None:
    """In a forked child: prune, with SIGKILL after the `fatal`-th rename."""
    count, real = itertools.count(1), os.rename

    def rename(*paths: Path) -> None:
        real(*paths)
        if next(count) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    retention.os.rename = rename  # type: ignore[assignment]
    prune(store, "policy", 2)
    os._exit(0)


def test_pruning_beside_a_publisher_and_a_reader_never_loses_latest(
    store: CheckpointStore, source: Path
) -> None:
    publish(store, source, 1)
    errors: list[str] = []
    reads = 0

    def work() -> None:
        try:
            rounds = 0
            while rounds < 8 or (reads < 10 and rounds < 1000):  # a disk in memory writes fast
                publish(CheckpointStore(store.root), source, 1)
                prune(CheckpointStore(store.root), "policy", 1)
                rounds += 1
        except CheckpointError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.resolve("policy")
        reads += 1
        time.sleep(1e-3)  # a reader without a rest keeps the interpreter from the writers
    assert errors == []
    assert reads >= 10
    assert store.latest("policy") in ids(store)
    prune(store, "policy", 1)
    assert len(ids(store)) == 2, "the newest and the one before it"


def test_the_command_pins_prunes_and_says_why_something_stays(
    store: CheckpointStore, source: Path, capsys: pytest.CaptureFixture
) -> None:
    names = publish(store, source, 5)

    def run(*words: str) -> str:
        assert main(["checkpoint", "--store", str(store.root), *words]) == 0
        return capsys.readouterr().out

    assert "is pinned" in run("pin", "policy", names[0])
    assert "pinned" in run("list")
    assert f"would remove policy {names[1]}" in run("prune", "policy", "--keep", "1", "--dry-run")
    assert len(ids(store)) == 5
    text = run("prune", "policy", "--keep", "1")
    assert f"removed policy {names[1]}" in text
    assert f"kept policy {names[0]}: pinned" in text
    assert f"kept policy {names[4]}: latest" in text
    run("unpin", "policy", names[0])
    assert f"removed policy {names[0]}" in run("prune", "policy", "--keep", "1")
