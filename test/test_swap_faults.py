"""Faults of a real policy's checkpoint and of the disk: the old policy stays, the reason is clear.

docs/reference/checkpoint-faults.md is the table; what other files test already is not tested
here again.
"""

import builtins
import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_directories import NORMALISATION, SPEC, value_of, write_source

from safedojo_ros.checkpoints.manifest import MANIFEST
from safedojo_ros.checkpoints.store.store import STAGING, CheckpointStore
from safedojo_ros.checkpoints.swap.hot_swap import HotSwap, fits_robot, free_weights
from safedojo_ros.checkpoints.swap.policy_canary import PolicyCanary
from safedojo_ros.checkpoints.swap.probation import Bars
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.pi0_policy import PI0Policy, tiny_policy

WAIT = 60.0

# -------------------------------------------------------------------- a real policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    tiny_policy(0, ["put the red cube on the plate"]).save(directory)
    return directory


def publish(store: CheckpointStore, directory: Path) -> Path:
    spec = {**SPEC, "chunk_length": 8}
    name = store.publish("policy", directory, spec=spec, normalisation=NORMALISATION).id
    return store.root / "policy" / name


def rewrite_weights(directory: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")


def a_weight_is_nan(directory: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = max(tensors, key=lambda n: tensors[n].size)
        tensors[name] = tensors[name].copy()
        tensors[name].flat[7] = np.nan

    rewrite_weights(directory, change)


def a_weight_is_missing(directory: Path) -> None:
    rewrite_weights(directory, lambda tensors: tensors.pop(sorted(tensors)[0]))


def edit_config(directory: Path, change: Callable[[dict], object]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def another_action_dimension(directory: Path) -> None:
    longer = {"mean": [0.0] * 8, "scale": [1.0] * 8}
    edit_config(directory, lambda c: c["normalisation"].update(action=longer))


def a_scale_is_zero(directory: Path) -> None:
    edit_config(directory, lambda c: c["normalisation"]["action"].update(scale=[0.0] * 7))


BEFORE_PUBLISHING: dict[str, tuple[Callable[[Path], object], str]] = {
    "NaN weights": (a_weight_is_nan, "are not finite"),
    "missing weights": (a_weight_is_missing, "of another architecture: 1 weights missing"),
    "missing tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "does not fit"),
    "other action dimension": (another_action_dimension, "has 8 and 8 numbers, expected 7"),
    "other normalisation": (a_scale_is_zero, "not finite and positive"),
    "other architecture": (
        lambda d: edit_config(d, lambda c: c.update(architecture="rt-9")),
        "is a 'rt-9', expected 'pi0'",
    ),
}


def edit_manifest(directory: Path, change: Callable[[dict], object]) -> None:
    path = directory / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def link_weights_out(directory: Path) -> None:
    outside = directory.parents[2] / "outside.safetensors"
    shutil.move(directory / "model.safetensors", outside)
    (directory / "model.safetensors").symlink_to(outside)


def offer_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    edit_manifest(
        directory,
        lambda m: m["files"].update({"pytorch_model.bin": m["files"].pop("model.safetensors")}),
    )


def pickle_in_disguise(directory: Path) -> None:
    content = b"\x80\x04\x95" + bytes(200)
    (directory / "model.safetensors").write_bytes(content)


IN_THE_STORE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut, "model.safetensors has 1000 bytes"),
    "wrong hash": (
        lambda d: edit_manifest(d, lambda m: m["files"]["config.json"].update(sha256="0" * 64)),
        "config.json was altered",
    ),
    "wrong schema": (lambda d: edit_manifest(d, lambda m: m.update(schema=9)), "has schema 9"),
    "path traversal": (
        lambda d: edit_manifest(
            d, lambda m: m["files"].update({"../../x.json": m["files"]["config.json"]})
        ),
        "names are relative",
    ),
    "symbolic link": (link_weights_out, "is a symbolic link"),
    "pickle": (offer_pickle, "may run code when loaded"),
    "pickle in disguise": (pickle_in_disguise, "model.safetensors has 203 bytes"),
}


class Serving:
    """A hot swap that serves a real policy from a store."""

    def __init__(self, folder: Path, trained: Path) -> None:
        self.store = CheckpointStore(folder / "store")
        publish(self.store, trained)
        find = partial(self.store.resolve, "policy")
        fits = fits_robot(["agentview", "wrist"])
        self.swap = HotSwap(load_policy, find, compatible=fits)
        self.policy = self.swap.start_with("latest")

    def assert_unmoved_by_latest(self, words: str) -> None:
        assert self.swap.request("latest").accepted
        assert self.swap.wait(WAIT)
        assert self.swap.status == "failed"
        assert words in self.swap.reason
        assert self.swap.take_ready() is None
        assert self.swap.current is not None
        assert self.swap.current.model is self.policy


@pytest.fixture
def serving(tmp_path: Path, trained: Path) -> Serving:
    return Serving(tmp_path, trained)


@pytest.mark.fault(
    "checkpoints", "a checkpoint that was published wrong", "refused; the running one goes on"
)
@pytest.mark.parametrize("fault", BEFORE_PUBLISHING)
def test_a_checkpoint_that_was_published_wrong_is_not_taken(
    serving: Serving, trained: Path, tmp_path: Path, fault: str
) -> None:
    harm, words = BEFORE_PUBLISHING[fault]
    directory = shutil.copytree(trained, tmp_path / "wrong")
    harm(directory)
    publish(serving.store, directory)
    serving.assert_unmoved_by_latest(words)


@pytest.mark.fault(
    "checkpoints", "a checkpoint that was damaged", "refused; the running one goes on"
)
@pytest.mark.parametrize("fault", IN_THE_STORE)
def test_a_checkpoint_that_was_damaged_in_the_store_is_not_taken(
    serving: Serving, trained: Path, fault: str
) -> None:
    harm, words = IN_THE_STORE[fault]
    harm(publish(serving.store, trained))
    serving.assert_unmoved_by_latest(words)


def test_a_policy_that_is_left_for_good_gives_its_memory_back_and_the_others_still_act(
    serving: Serving, trained: Path
) -> None:
    swap, seen = serving.swap, [serving.policy]
    swap._forget = free_weights
    for _ in range(3):
        publish(serving.store, trained)
        swap.request("latest")
        assert swap.wait(WAIT)
        taken = swap.take_ready()
        assert taken is not None
        seen.append(taken)
    sizes = [sum(p.numel() for p in policy.network.parameters()) for policy in seen]
    assert [size > 0 for size in sizes] == [False, False, True, True]
    picture = np.zeros((64, 64, 3), np.uint8)
    scene = Observation(
        dict.fromkeys(seen[-1].cameras, picture), np.ones(8), seen[-1].instructions[0]
    )
    for policy in (seen[-1], swap.rollback()):
        assert np.all(np.isfinite(policy.act([scene])))


def test_a_policy_of_another_size_follows_after_its_canary(
    serving: Serving, tmp_path: Path
) -> None:
    directory = tmp_path / "wider"
    directory.mkdir()
    size = replace(serving.policy.size, width=64, layers=3)
    tiny = serving.policy
    PI0Policy(size, tiny.tokenizer, tiny.scales, tiny.instructions, tiny.cameras).save(directory)
    publish(serving.store, directory)
    said: list[str] = []
    bars = Bars(latency_ratio=1e6)  # how soon is not the question on a busy machine
    canary = PolicyCanary(bars, lambda policy, seen: policy.act([seen])[0], None, said.append)
    picture = np.zeros((64, 64, 3), np.uint8)
    scene = Observation(
        dict.fromkeys(serving.policy.cameras, picture), np.ones(8), serving.policy.instructions[0]
    )
    canary.played(scene, serving.policy.act([scene])[0], 0.01)
    serving.swap._canary = lambda new: canary.judge(new, serving.policy)
    assert serving.swap.request("latest").accepted
    assert serving.swap.wait(WAIT)
    taken = serving.swap.take_ready()
    assert taken is not None, serving.swap.reason
    assert taken.size.width == 64
    assert taken.act([scene]).shape == (1, 8, 7)
    assert serving.swap.rollback() is serving.policy


# -------------------------------------------------------------------- the disk


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


@pytest.fixture
def published(store: CheckpointStore, tmp_path: Path) -> str:
    return store.publish("policy", write_source(tmp_path / "old", 1.0), spec=SPEC).id


def test_a_disk_that_takes_no_more_bytes_in_any_file_leaves_the_old_checkpoint(
    store: CheckpointStore, published: str, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "new", 2.0)
    largest = max(p.stat().st_size for p in source.rglob("*") if p.is_file())
    refused = 0
    for room in range(0, largest, 16):
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            try:
                store.publish("policy", source, spec=SPEC)
            except CheckpointError as error:
                os._exit(0 if "nothing was published" in str(error) else 3)
            os._exit(4)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        refused += 1
    assert refused >= 8
    assert [m.id for m in store.list()] == [published]
    assert store.broken() == ()
    assert value_of(store.resolve("policy")) == 1.0
    assert not any((store.root / STAGING).iterdir())


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, published: str) -> Iterator[None]:
    """Whatever writes to a disk fails as on a file system that is mounted read-only."""
    real_os_open, real_open = os.open, builtins.open

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def os_open(path: str, flags: int, *more: int, **named: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_os_open(path, flags, *more, **named)

    def any_open(path: str, mode: str = "r", *more: object, **named: object) -> object:
        if set(mode) & set("wxa+"):
            refuse(path)
        return real_open(path, mode, *more, **named)  # type: ignore[call-overload]

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", os_open)
    monkeypatch.setattr(builtins, "open", any_open)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("read_only")
def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_written(
    store: CheckpointStore, published: str, tmp_path: Path
) -> None:
    for write in (
        lambda: store.publish("policy", tmp_path / "old", spec=SPEC),
        lambda: store.set_latest("policy", published),
    ):
        with pytest.raises(CheckpointError, match="Read-only file system"):
            write()
    assert value_of(store.resolve("policy")) == 1.0
    assert [m.id for m in store.list()] == [published]
