"""Policy, autoencoder and safety head: what they accept, refuse, save and repeat."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from safedojo_ros.core.errors import (
    CheckpointError,
    ChunkRejected,
    ConfigError,
    ObservationRejected,
)
from safedojo_ros.core.types import ActionChunk, Observation
from safedojo_ros.models.autoencoder import _layout
from safedojo_ros.models.instructions import train_tokenizer
from safedojo_ros.models.loading import load_policy, load_safety
from safedojo_ros.models.normalisation import Affine, RobotScales, unit_scales
from safedojo_ros.models.pi0_network import PI0Size
from safedojo_ros.models.pi0_policy import PI0Policy, tiny_policy
from safedojo_ros.models.safety_head import SafetyHead, SafetyHeadSize, tiny_safety
from safedojo_ros.robot.limits import ActionLimits

SENTENCE = "put the red cube on the plate"


def observation(seed: int = 0, **changes: object) -> Observation:
    rng = np.random.default_rng(seed)
    values = {
        "images": {c: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in ("agentview", "wrist")},
        "state": rng.normal(size=8),
        "instruction": SENTENCE,
    }
    return Observation(**(values | changes))  # type: ignore[arg-type]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


SENTENCES = [SENTENCE, "stack the green block on the yellow block"]


@pytest.fixture(scope="module")
def policy() -> PI0Policy:
    return tiny_policy(instructions=SENTENCES)


def test_a_chunk_is_within_the_limits_of_the_gate(policy: PI0Policy) -> None:
    chunk = policy.act([observation()], generators(0))[0]
    ActionChunk(chunk).validate()
    ActionLimits().check(chunk)


def test_the_same_noise_gives_the_same_chunk_whatever_stands_beside(policy: PI0Policy) -> None:
    both = policy.act([observation(1), observation(2)], generators(5, 6))
    swapped = policy.act([observation(2), observation(1)], generators(6, 5))
    np.testing.assert_allclose(both, swapped[::-1], atol=1e-6)
    again = policy.act([observation(1), observation(2)], generators(5, 6))
    np.testing.assert_array_equal(both, again)


def test_pictures_state_and_sentence_all_matter(policy: PI0Policy) -> None:
    base = policy.act([observation(1)], generators(0))
    other_picture = observation(1, images=observation(2).images)
    other_state = observation(1, state=observation(2).state)
    other_sentence = observation(1, instruction=policy.instructions[1])
    for changed in (other_picture, other_state, other_sentence):
        assert np.abs(policy.act([changed], generators(0)) - base).max() > 1e-9


def test_our_euler_steps_are_those_of_transformers(policy: PI0Policy) -> None:
    one = observation(3)
    noise = torch.randn(1, policy.chunk_length, 7)
    pictures = torch.randn(1, 2, 3, 64, 64)
    tokens = policy.tokenise([one.instruction])
    state = torch.randn(1, 8)
    with torch.no_grad():
        ours = policy.denoise(policy.prefix(pictures, tokens), state, noise)
        patches = 2 * (64 // policy.size.patch) ** 2
        images = torch.full((1, patches), policy.tokenizer.get_vocab_size())
        mask = torch.cat([torch.ones_like(images), (tokens != 0).long()], dim=1)
        theirs = policy.network.sample_actions(
            state=state,
            input_ids=torch.cat([images, tokens], dim=1),
            pixel_values=pictures,
            noise=noise,
            attention_mask=mask,
            pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
            num_steps=policy.size.denoising_steps,
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_proposals_share_an_inference_and_the_first_is_what_it_does(policy: PI0Policy) -> None:
    seen = [observation(0), observation(1)]
    several = policy.propose(seen, generators(5, 6), count=3)
    assert several.shape == (2, 3, 8, 7)
    one = policy.propose([observation(0)], generators(5), count=3)
    np.testing.assert_allclose(several[:1], one, atol=1e-5)
    assert np.abs(several[:, 0] - several[:, 1]).max() > 1e-3, "each has a noise of its own"
    first = policy.act([observation(0)], generators(5))
    np.testing.assert_allclose(several[0, 0], first[0], atol=1e-5)


def test_a_chunk_begins_with_what_is_committed_and_the_rest_depends_on_it(
    policy: PI0Policy,
) -> None:
    seen, some = [observation(0), observation(1)], np.full((2, 7), 0.01)
    chunks = policy.propose(seen, generators(5, 6), 2, [some, np.zeros((0, 7))])
    np.testing.assert_array_equal(chunks[0, :, :2], np.stack([some, some]))
    others = policy.propose(seen, generators(5, 6), 2, [-some, np.zeros((0, 7))])
    free = policy.propose(seen, generators(5, 6), 2)
    assert np.abs(chunks[0, :, 2:] - others[0, :, 2:]).max() > 1e-6
    assert np.abs(chunks[0, :, 2:] - free[0, :, 2:]).max() > 1e-6
    np.testing.assert_allclose(chunks[1], free[1], atol=1e-5)
    with pytest.raises(ConfigError, match="8 steps are committed"):
        policy.propose(seen[:1], None, 1, [np.zeros((8, 7))])


def test_a_stem_makes_the_tokens_of_its_patches(tmp_path: Path) -> None:
    size = PI0Size(width=32, expert_width=32, layers=2, heads=2, head_dim=16, vision_layers=1)
    size = replace(size, stem=True, denoising_steps=2)
    words = train_tokenizer(SENTENCES)
    policy = PI0Policy(size, words, unit_scales(), SENTENCES, longest_delay=3)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert again.longest_delay == again.copied(again.network.state_dict(), size).longest_delay == 3
    seen = [observation(3)]
    np.testing.assert_array_equal(again.act(seen, generators(1)), policy.act(seen, generators(1)))
    with pytest.raises(ConfigError, match="power of 2"):
        replace(size, patch=12, image_size=48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": ""}, "empty"),
        ({"instruction": "x" * 500}, "500 characters"),
        ({"instruction": "fetch me a coffee"}, "not trained on 'fetch me a coffee'"),
        ({"state": np.full(8, np.nan)}, "not finite"),
        ({"images": {"agentview": np.zeros((64, 64, 3), np.uint8)}}, "camera 'wrist' is missing"),
        (
            {"images": dict.fromkeys(("agentview", "wrist"), np.zeros((32, 64, 3), np.uint8))},
            "64x32 pixels, expected 64x64",
        ),
    ],
)
def test_a_bad_observation_is_refused_with_a_reason(
    policy: PI0Policy, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ObservationRejected, match=message):
        policy.act([observation(0, **change)], generators(0))


def test_larger_pictures_are_averaged_down(policy: PI0Policy) -> None:
    small = observation(0)
    large = {name: image.repeat(2, 0).repeat(2, 1) for name, image in small.images.items()}
    acted = policy.act([observation(0, images=large)], generators(0))
    np.testing.assert_allclose(acted, policy.act([small], generators(0)), atol=1e-5)
    mixed = large | {"wrist": small.images["wrist"]}
    with pytest.raises(ObservationRejected, match="64x64, 128x128 pixels, expected 64x64"):
        policy.act([observation(0, images=mixed)], generators(0))


def test_kernels_lie_as_their_device_likes_them() -> None:
    kernel = tiny_safety().autoencoder.to("cpu").network.decoder.conv_in.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert _layout(torch.device("cuda")) == torch.contiguous_format


def test_a_saved_policy_acts_alike(policy: PI0Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    np.testing.assert_array_equal(
        policy.act([observation()], generators(0)), loaded.act([observation()], generators(0))
    )


def test_a_model_of_images_that_were_resized_by_another_rule_is_refused(
    policy: PI0Policy, tmp_path: Path
) -> None:
    policy.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["resize"] == "crop"
    (tmp_path / "config.json").write_text(json.dumps(config | {"resize": "stretch"}))
    with pytest.raises(CheckpointError, match="'stretch', known are crop and letterbox"):
        load_policy(tmp_path)


def test_half_precision_on_disk_changes_little(policy: PI0Policy, tmp_path: Path) -> None:
    policy.save(tmp_path, half=True)
    one = policy.act([observation()], generators(0))
    other = load_policy(tmp_path).act([observation()], generators(0))
    np.testing.assert_allclose(one, other, atol=2e-3)


def _edit(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        values = json.loads((directory / name).read_text())
        change(values)
        (directory / name).write_text(json.dumps(values))

    return edit


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        tensors = load_file(str(directory / "model.safetensors"))
        change(tensors)
        save_file(tensors, str(directory / "model.safetensors"))

    return edit


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json"),
    "other architecture": (
        _edit("config.json", lambda c: c.update(architecture="openvla")),
        "'openvla', expected 'pi0'",
    ),
    "other width": (_edit("config.json", lambda c: c["size"].update(width=48)), "shape"),
    "other depth": (
        _edit("config.json", lambda c: c["size"].update(layers=3)),
        "another architecture",
    ),
    "other normalisation": (
        _edit("config.json", lambda c: c["normalisation"]["action"].update(mean=[0.0] * 6)),
        "expected 7",
    ),
    "zero scale": (
        _edit("config.json", lambda c: c["normalisation"]["action"].update(scale=[0.0] * 7)),
        "not finite and positive",
    ),
    "unknown size": (_edit("config.json", lambda c: c["size"].update(wings=2)), "does not fit"),
    "truncated weights": (
        lambda d: (d / "model.safetensors").write_bytes(
            (d / "model.safetensors").read_bytes()[:1000]
        ),
        "its header claims",
    ),
    "NaN weights": (
        _weights(lambda t: t[sorted(t)[0]].fill_(float("nan"))),
        "weights '.+' are not finite",
    ),
    "a weight missing": (_weights(lambda t: t.pop(sorted(t)[0])), "1 weights missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_refused_with_a_reason(
    policy: PI0Policy, tmp_path: Path, fault: str
) -> None:
    policy.save(tmp_path)
    breaks, message = FAULTS[fault]
    breaks(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_policy(tmp_path)


def test_step_costs_are_probabilities(tmp_path: Path) -> None:
    model = tiny_safety()
    chunks = np.random.default_rng(0).uniform(-0.02, 0.02, (2, 8, 7))
    cost = model.step_cost([observation(1), observation(2)], chunks)
    assert cost.shape == (2, 8)
    assert np.all((cost > 0) & (cost < 1))
    model.save(tmp_path)
    again = load_safety(tmp_path).step_cost([observation(1), observation(2)], chunks)
    np.testing.assert_array_equal(cost, again)


def test_several_chunks_for_one_observation_are_judged_as_one_by_one() -> None:
    model = tiny_safety()
    chunks = np.random.default_rng(0).uniform(-0.02, 0.02, (2, 5, 8, 7))
    seen = [observation(1), observation(2)]
    together = model.step_cost(seen, chunks)
    assert together.shape == (2, 5, 8)
    for k in range(5):
        np.testing.assert_allclose(together[:, k], model.step_cost(seen, chunks[:, k]), atol=1e-6)
    with pytest.raises(ChunkRejected, match="not finite"):
        model.step_cost(seen, chunks * np.nan)


def test_a_step_is_judged_by_where_it_begins_and_leads_to_not_by_what_comes_later() -> None:
    model = tiny_safety()
    chunk = np.random.default_rng(0).uniform(-0.02, 0.02, (1, 8, 7))
    other = chunk.copy()
    other[:, 5:] = 0.0
    cost, changed = (model.step_cost([observation()], c)[0] for c in (chunk, other))
    np.testing.assert_allclose(cost[:5], changed[:5], atol=1e-6)
    assert np.all(np.abs(cost[5:] - changed[5:]) > 1e-6)


def test_chunks_may_begin_in_other_states_than_the_picture_shows() -> None:
    model = tiny_safety()
    head = model.head.eval()
    latents = torch.randn(3, 2 * model.autoencoder.size.latent_channels, 8, 8)
    states, chunks = torch.randn(3, 4, 8), torch.randn(3, 4, 8, 7)
    together = head(latents, states, chunks)
    for k in range(4):
        torch.testing.assert_close(together[:, k], head(latents, states[:, k], chunks[:, k]))


def test_positions_are_summed_up_in_metres() -> None:
    scales = RobotScales(
        Affine(torch.full((8,), 0.3), torch.full((8,), 0.2)),
        Affine(torch.full((7,), 0.004), torch.full((7,), 0.01)),
    )
    head = SafetyHead(SafetyHeadSize(octaves=0), 16, 8, scales)
    state, actions = torch.rand(1, 1, 8), 0.02 * torch.rand(1, 1, 8, 7)
    told = head._steps(scales.state.normalise(state), scales.action.normalise(actions))
    after = state[..., None, :3] + actions[..., :3].cumsum(-2)
    torch.testing.assert_close(told[..., 3:6], (after - 0.3) / 0.2 / 2)
    torch.testing.assert_close(told[..., :3], (after - actions[..., :3] - 0.3) / 0.2 / 2)


def test_the_safety_head_refuses_other_shapes_and_nan(policy: PI0Policy, tmp_path: Path) -> None:
    model = tiny_safety()
    with pytest.raises(ChunkRejected, match="expected"):
        model.step_cost([observation()], np.zeros((1, 7, 7)))
    with pytest.raises(ChunkRejected, match="not finite"):
        model.step_cost([observation()], np.full((1, 8, 7), np.nan))
    policy.save(tmp_path)
    with pytest.raises(CheckpointError, match="expected 'safety_head'"):
        load_safety(tmp_path)
