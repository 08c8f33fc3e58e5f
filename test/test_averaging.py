"""The mean of checkpoints: what it holds, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_directories import NORMALISATION, SPEC
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from safedojo_ros.checkpoints.averaging import average
from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.store import CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.models.loading import load_policy

STEPS = np.array([3], np.int64)


class Shop:
    """Publishes checkpoints that differ in what a test says."""

    def __init__(self, root: Path) -> None:
        self.store, self.sources = CheckpointStore(root / "store"), root / "sources"

    def publish(
        self,
        weights: dict[str, np.ndarray],
        config: str = "{}",
        spec: dict = SPEC,
        parent: str | None = None,
    ) -> Path:
        directory = self.sources / str(len(list(self.sources.glob("*"))))
        (directory / "tokenizer").mkdir(parents=True)
        (directory / "config.json").write_text(config)
        (directory / "tokenizer" / "tokenizer.json").write_text("{}")
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        manifest = self.store.publish(
            "policy", directory, spec=spec, normalisation=NORMALISATION, parent=parent
        )
        return self.store.resolve("policy", manifest.id)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_are_averaged_and_all_else_is_kept(
    shop: Shop, tmp_path: Path, dtype: type[np.floating]
) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(3, 4)).astype(dtype) for _ in range(3)]
    paths = [shop.publish({"w": part, "steps": STEPS}, '{"kind": 1}') for part in parts]
    target = tmp_path / "mean"
    target.mkdir()
    first = average(paths, target)
    found = load_file(target / "model.safetensors")
    assert found["w"].dtype == dtype
    expected = np.stack(parts).astype(np.float64).mean(0)
    np.testing.assert_allclose(found["w"], expected, rtol=float(np.finfo(dtype).eps))
    assert found["steps"] == STEPS
    assert json.loads((target / "config.json").read_text()) == {"kind": 1}
    assert (target / "tokenizer" / "tokenizer.json").read_text() == "{}"
    with safe_open(target / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert first.id == paths[0].name


def test_what_differs_in_more_than_weights_has_no_mean(shop: Shop, tmp_path: Path) -> None:
    weights: dict[str, np.ndarray] = {"w": np.ones((2, 2), np.float32), "steps": STEPS}
    first = shop.publish(weights)
    others = {
        "spec": shop.publish(weights, spec=SPEC | {"chunk_length": 8}),
        "config.json": shop.publish(weights, '{"layers": 2}'),
        "other tensors": shop.publish({"w": np.ones((2, 3), np.float32), "steps": STEPS}),
        "no weight": shop.publish(weights | {"steps": STEPS + 1}),
    }
    for number, (said, other) in enumerate(others.items()):
        target = tmp_path / str(number)
        target.mkdir()
        with pytest.raises(CheckpointError, match=said):
            average([first, other], target)
    with pytest.raises(CheckpointError, match="at least two"):
        average([first], tmp_path / "0")


def test_the_command_publishes_the_mean(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        shop.publish({"w": np.full((2,), value, np.float32)}, parent="20260101T000000Z-00000000")
        for value in (1.0, 2.0)
    ]
    words = ["checkpoint", "--store", str(shop.store.root), "average", "policy"]
    assert main([*words, *(path.name for path in paths), "--name", "mean"]) == 0
    latest = shop.store.latest("policy")
    assert latest is not None
    assert latest.endswith("-mean")
    assert latest in capsys.readouterr().out
    path = find_checkpoint("policy", latest, shop.store.root)
    np.testing.assert_array_equal(load_file(path / "model.safetensors")["w"], 1.5)
    assert json.loads((path / "manifest.json").read_text())["parent"] is not None
    assert main([*words, paths[0].name]) == 2
    assert shop.store.latest("policy") == latest


def test_the_mean_of_two_policies_is_a_policy(tmp_path: Path) -> None:
    paths = [find_checkpoint("policy", name) for name in ("released", "practised")]
    average(paths, tmp_path)
    first, second, mean = (
        dict(load_policy(path).network.named_parameters()) for path in (*paths, tmp_path)
    )
    for name, parameter in mean.items():
        expected = (first[name].detach().numpy() + second[name].detach().numpy()) / 2
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=2e-3)
