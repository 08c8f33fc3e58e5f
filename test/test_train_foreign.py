"""Every stage trains on a set that another tool wrote, and validation measures on it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_sets import ForeignSet, bench
from test_foreign_sets import CONTRACT, libero

from safedojo_ros.checkpoints.manifest import Manifest
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.checkpoints.swap.hot_swap import fits_robot
from safedojo_ros.cli.main import main
from safedojo_ros.core.contract import read_contract
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.loading import load_policy, load_safety, load_world_model

Made = tuple[Path, str, int, int, float]
"""Folder, contract, state and action size, seconds of a step."""


def short_bench() -> ForeignSet:
    return bench((14, 12, 16, 13, 15, 14))


@pytest.fixture(scope="module", params=["bench", "libero"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp(request.param)
    kinds: dict[str, tuple[Callable[[], ForeignSet], str, tuple[int, int, float]]] = {
        "bench": (short_bench, str(root / "mine.yaml"), (14, 8, 0.1)),
        "libero": (libero, str(root / "libero.yaml"), (8, 7, 0.05)),
    }
    make, contract, sizes = kinds[request.param]
    make().write(root / "set")
    mapping = CONTRACT
    if request.param == "libero":
        mapping = read_contract("libero").to_json() | {"labels": CONTRACT["labels"]}
    Path(contract).write_text(json.dumps(mapping))  # JSON is YAML
    return root, contract, *sizes


def run(made: Made, *command: str) -> int:
    root, contract = made[:2]
    out = root / "-".join(command).replace("/", "_")[:60]
    options = ["--data", str(root / "set"), "--contract", contract, "--out", str(out)]
    options += ["--preset", "smoke", "--device", "cpu", "--store", str(root / "store")]
    return main([*command, *options])


def train(made: Made, stage: str, *more: str) -> int:
    return run(made, "train", stage, *more, "--publish", "--force")


def test_every_stage_trains_on_it_and_validation_measures(made: Made) -> None:
    root, _, state, action, period = made
    assert [train(made, stage) for stage in ("policy", "safety")] == [0, 0]
    assert train(made, "world-model", "--safety", "latest") == 0
    assert train(made, "success", "--set", "success.chunks=1") == 0
    models = ["--world-model", "latest", "--safety", "latest", "--success", "latest"]
    few = ["--set", "validation.chunks=1"]
    assert run(made, "validate", *models, *few) in (0, 3)
    store = CheckpointStore(root / "store")
    policy = load_policy(store.resolve("policy"))
    safety = load_safety(store.resolve("safety"))
    world = load_world_model(store.resolve("world_model"))
    for model in (policy, safety, world):
        assert (model.scales.state_size, model.scales.action_size) == (state, action)
        assert model.spec()["period"] == pytest.approx(period)
        assert model.scales.contract is not None
    seen = Observation(
        {name: np.zeros((64, 64, 3), np.uint8) for name in policy.cameras},
        np.zeros(state),
        policy.instructions[0],
    )
    chunk = policy.act([seen])
    assert chunk.shape == (1, 8, action)
    safety.seen = None
    assert safety.step_cost([seen], chunk).shape == (1, 8)


def test_what_another_robot_learned_is_not_for_ours(made: Made) -> None:
    root = made[0]
    store = CheckpointStore(root / "store")
    manifest: Manifest = store.show("policy", "latest")
    cameras = tuple(manifest.spec["cameras"])
    if manifest.spec["state_size"] == 14:
        says = "has state_size 14, this robot needs 8"
    else:
        says = "has frame 'world', this robot takes base"
    with pytest.raises(CheckpointError, match=says):
        fits_robot(cameras)(manifest)


def test_a_head_without_labels_says_where_they_belong(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = json.loads(Path(made[1]).read_text()) | {"labels": {}}
    (tmp_path / "mine.yaml").write_text(json.dumps(contract))
    episodes = 6 if made[2] == 14 else 4
    bare = (made[0], str(tmp_path / "mine.yaml"), *made[2:])
    assert train(bare, "safety", "--threads", "1") == 2
    assert f"contact is not known in {episodes} of {episodes} episodes" in capsys.readouterr().err
    assert train(bare, "policy", "--set", "policy.only_safe=true") == 2
    assert "do not say which steps have contact" in capsys.readouterr().err
    assert train(bare, "policy", "--threads", "1") == 0
