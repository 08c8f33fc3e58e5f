"""π0 as LeRobot saves it is loaded whole, in its real shapes; what is missing is listed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_pi0_files import lerobot_statistics, lerobot_weights, write_lerobot_pi0

from safedojo_ros.core.errors import CheckpointError, ObservationRejected, PolicyUnavailable
from safedojo_ros.core.types import empty_scene
from safedojo_ros.models.lerobot_pi0 import LeRobotPI0
from safedojo_ros.models.served.policy import open_served

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/serve_lerobot_pi0.py"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> LeRobotPI0:
    return LeRobotPI0.load(write_lerobot_pi0(tmp_path_factory.mktemp("pi0")))


def images(count: int = 1, cameras: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, cameras, 3, 24, 24, generator=generator) * 2 - 1


def asked(policy: LeRobotPI0, text: str = "put the cup down", **changes: Any) -> np.ndarray:
    given: dict[str, Any] = {
        "images": images(),
        "states": np.zeros((1, 8)),
        "instructions": [text],
    } | changes
    return policy.chunks(**given, generator=torch.Generator().manual_seed(1))


def test_the_shapes_are_read_off_the_weights(policy: LeRobotPI0) -> None:
    config = policy.network.config
    vision, language, expert = (
        config.vlm_config.vision_config,
        config.vlm_config.text_config,
        config.dit_config,
    )
    assert (vision.num_hidden_layers, vision.num_attention_heads, vision.patch_size) == (3, 16, 8)
    assert (language.num_hidden_layers, language.num_attention_heads) == (2, 4)
    assert (expert.num_hidden_layers, expert.num_attention_heads) == (2, 2)
    assert (language.hidden_size, expert.hidden_size, language.head_dim) == (32, 24, 8)
    assert (config.max_state_dim, config.max_action_dim, policy.chunk_length) == (32, 32, 10)
    assert (policy.cameras, policy.state_size, policy.action_size) == (("front", "wrist"), 8, 7)


def test_every_weight_of_the_file_is_in_the_network(policy: LeRobotPI0) -> None:
    there = {tuple(t.shape): [] for t in lerobot_weights().values()}  # type: ignore[var-annotated]
    for tensor in policy.network.state_dict().values():
        there.setdefault(tuple(tensor.shape), []).append(tensor)
    lost = [
        name
        for name, weight in lerobot_weights().items()
        if not any(torch.equal(weight, other) for other in there[tuple(weight.shape)])
    ]
    assert not lost
    assert len(policy.network.state_dict()) == len(lerobot_weights())


def test_chunks_are_in_the_units_of_the_statistics(policy: LeRobotPI0) -> None:
    chunk = asked(policy)
    assert chunk.shape == (1, 10, 7)
    made = lerobot_statistics()
    normalised = (chunk - made["action.mean"].numpy()) / made["action.std"].numpy()
    assert np.abs(normalised).max() < 10.0
    assert np.abs(normalised).max() > 0.1
    np.testing.assert_array_equal(chunk, asked(policy))


def test_images_state_and_instruction_all_count(policy: LeRobotPI0) -> None:
    usual = asked(policy)
    for other in (
        asked(policy, images=images(seed=3)),
        asked(policy, states=np.ones((1, 8))),
        asked(policy, text="put down the cup"),
        asked(policy, images=images()[:, :1]),
    ):
        assert np.abs(other - usual).max() > 1e-6


def test_the_prompt_is_patches_bos_words_and_a_new_line(policy: LeRobotPI0) -> None:
    tokens, seen = policy.tokenise(["put the cup", "put the cup\n"], 2)
    assert tokens[0].tolist() == [40] * 18 + [2, 4, 5, 6, 8] + [0] * 7
    assert seen[0].tolist() == [1] * 23 + [0] * 7
    assert tokens[1].tolist() == tokens[0].tolist()


def test_an_observation_s_neighbours_do_not_change_it(policy: LeRobotPI0) -> None:
    """Padding of the instruction is not attended to."""
    short = policy.tokenise(["put"], 1)
    assert int(short[1].sum()) == 9 + 3


def test_what_does_not_fit_is_one_line(policy: LeRobotPI0) -> None:
    with pytest.raises(ObservationRejected, match="2 images of 64x64, expected 1 to 2 of 24x24"):
        asked(policy, images=torch.zeros(1, 2, 3, 64, 64))
    with pytest.raises(ObservationRejected, match="a state of 14 numbers, expected 8"):
        asked(policy, states=np.zeros((1, 14)))


# ---------------------------------------------------------------- what may be wrong


def without(part: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in lerobot_weights().items() if part not in name}


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (without("layers.1.mlp.up_proj"), "missing keys .*layers.1.mlp.up_proj"),
        (without("action_out_proj.bias"), "missing keys action_out_proj.bias"),
        (
            lerobot_weights() | {"model.time_mlp_in.weight": torch.zeros(2, 2)},
            "unexpected keys .*time_mlp_in.weight",
        ),
        (without("gemma_expert.model"), "the weights lack .*gemma_expert.*q_proj"),
        (without("paligemma.lm_head"), "the weights lack .*embed_tokens"),
        (without("language_model.layers.1"), "has num_hidden_layers 1, the action expert 2"),
        ({"x": torch.zeros(1)}, "it is not π0 as LeRobot saves it"),
    ],
    ids=["missing", "bias", "unexpected", "expert", "words", "depth", "another"],
)
def test_weights_without_a_place_and_places_without_weights_are_listed(
    tmp_path: Path, weights: dict[str, torch.Tensor], why: str
) -> None:
    with pytest.raises(CheckpointError, match=why):
        LeRobotPI0.load(write_lerobot_pi0(tmp_path, weights))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"type": "smolvla"}, "holds 'smolvla', expected LeRobot's type 'pi0'"),
        ({"chunk_size": "many"}, "config.json lacks"),
        ({"input_features": {}}, "config.json lacks 'observation.state'"),
        ({"use_relative_actions": True}, "relative actions"),
        ({"image_resolution": [24, 32]}, "expected squares"),
        ({"image_resolution": [32, 32]}, "sees 24 pixels"),
        ({"max_action_dim": 6}, "larger than what it is padded to"),
        (
            {"normalization_mapping": {"STATE": "QUANTILES", "ACTION": "MEAN_STD"}},
            "expected .* MEAN_STD or IDENTITY",
        ),
    ],
)
def test_a_configuration_that_cannot_be_run_is_one_line(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(CheckpointError, match=why):
        LeRobotPI0.load(write_lerobot_pi0(tmp_path, **changes))


def test_statistics_of_another_size_or_none_are_one_line(tmp_path: Path) -> None:
    few = lerobot_statistics() | {"action.std": torch.ones(32)}
    with pytest.raises(CheckpointError, match=r"no action\.std of 7 finite numbers"):
        LeRobotPI0.load(write_lerobot_pi0(tmp_path / "a", statistics=few))
    modes = {"STATE": "IDENTITY", "ACTION": "IDENTITY"}
    bare = write_lerobot_pi0(
        tmp_path / "b", statistics={"x": torch.ones(1)}, normalization_mapping=modes
    )
    assert asked(LeRobotPI0.load(bare)).shape == (1, 10, 7)


def test_without_the_tokenizer_it_is_said_where_it_comes_from(tmp_path: Path) -> None:
    folder = write_lerobot_pi0(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"google/paligemma-3b-pt-224"):
        LeRobotPI0.load(folder)


def test_the_example_serves_it_to_the_gate(tmp_path: Path) -> None:
    folder = write_lerobot_pi0(tmp_path)
    command = [sys.executable, str(EXAMPLE), str(folder), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            name = server.stdout.readline().strip()
            served = open_served(f"{name}&keys=tabletop&steps=8&timeout=4")
            chunk = served.act([empty_scene(("agentview", "wrist"), 24, "put the cup down")])
            assert chunk.shape == (1, 8, 7)
            assert served.connection.metadata == {"cameras": ["front", "wrist"]}
            wrong = open_served(name.replace("image_size=24", "image_size=32&timeout=4"))
            with pytest.raises(PolicyUnavailable, match="2 images of 32x32, expected 1 to 2 of 24"):
                wrong.act([empty_scene(("agentview", "wrist"), 32)])
        finally:
            server.terminate()
