"""`safedojo train`: every stage from episodes to a published checkpoint, at the smoke preset."""

from pathlib import Path

import pytest
import torch

from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.models.loading import load_policy, load_safety
from safedojo_ros.models.world_model import WorldModel


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    options = ["--tasks", "cube_on_plate", "--episodes", "6", "--workers", "1"]
    assert main(["collect", "--out", str(root / "touching"), "--level", "2", *options]) == 0
    assert main(["collect", "--out", str(root / "free"), "--level", "0", *options]) == 0
    return root


OURS = ("--safety", "latest")


def train(root: Path, stage: str, data: str = "touching", *more: str) -> int:
    out = root / "-".join([stage, data, *more])
    return main(
        ["train", stage, "--data", str(root / data), "--out", str(out)]
        + ["--preset", "smoke", "--device", "cpu", "--publish", "--half", "--force"]
        + ["--store", str(root / "store"), *more]
    )


def test_every_stage_ends_in_a_published_checkpoint(root: Path) -> None:
    assert [train(root, stage) for stage in ("policy", "safety")] == [0, 0]
    assert train(root, "world-model", "touching", *OURS) == 0
    store = CheckpointStore(root / "store")
    assert load_policy(store.resolve("policy")).chunk_length == 8
    assert load_safety(store.resolve("safety")).chunk_length == 8
    assert WorldModel.load(store.resolve("world_model")).size.chunk_length == 8
    assert store.show("safety", "latest").fidelity["contact_steps"] > 0


def test_what_a_training_leaves_in_its_folder_is_a_checkpoint_without_being_published(
    root: Path,
) -> None:
    out = root / "kept"
    words = ["--data", str(root / "touching"), "--out", str(out), "--preset", "smoke"]
    assert main(["train", "policy", *words]) == 0
    policy = load_policy(find_checkpoint("policy", str(out / "checkpoint")))
    manifest = read_manifest(out / "checkpoint")
    assert policy.checkpoint_id == manifest.id != "checkpoint"
    assert (manifest.preset, manifest.spec) == ("smoke", policy.spec())
    store = ["--store", str(root / "other")]
    assert (
        main(["checkpoint", *store, "publish", "policy", str(out / "checkpoint"), "--force"]) == 0
    )
    assert CheckpointStore(root / "other").show("policy").parent == manifest.id


def test_a_world_model_is_refined_from_another(root: Path) -> None:
    assert train(root, "safety", "touching", "--set", "safety.steps=5") == 0
    assert train(root, "world-model", "touching", *OURS, "--set", "world_model.seed=1") == 0
    store = CheckpointStore(root / "store")
    first = WorldModel.load(store.resolve("world_model"))
    still = ["--set", "world_model.steps=1", "--set", "world_model.learning_rate=0.0"]
    assert train(root, "world-model", "touching", "--start", "latest", *still) == 0
    refined = WorldModel.load(store.resolve("world_model"))
    assert refined.checkpoint_id != first.checkpoint_id
    weights = refined.network.frames.state_dict()
    for name, before in first.network.frames.state_dict().items():
        torch.testing.assert_close(weights[name], before)


def test_a_safety_head_without_contacts_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(root, "safety", "free") == 2
    assert "no contact in these episodes" in capsys.readouterr().err


def test_a_success_rate_is_matched_only_with_what_the_policy_played(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(root, "success", "free", "--policy", "base") == 2
    assert "--policy needs --world-model, and --played" in capsys.readouterr().err
