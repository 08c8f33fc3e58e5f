"""A small π0 directory as LeRobot saves one: the keys of lerobot/pi0_base, written by the test."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

WIDTH, EXPERT, HEAD, VOCABULARY = 32, 24, 8, 40
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "put", "the", "cup", "down", "\n"]


def lerobot_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """{key: weight}: vision tower of 3 layers and 16 heads, language model and expert of 2 layers
    with 4 and 2 heads; state and action padded to 32."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        made[f"{name}.weight"] = 0.1 * torch.randn(out, into, generator=generator)
        if bias:
            made[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)

    def norm(name: str, size: int, bias: bool) -> None:
        made[f"{name}.weight"] = 0.1 * torch.randn(size, generator=generator)
        if bias:
            made[f"{name}.bias"] = torch.zeros(size)

    def gemma(prefix: str, width: int, heads: int) -> None:
        for i in range(2):
            layer = f"{prefix}.layers.{i}"
            for name, out in (("q", heads * HEAD), ("k", HEAD), ("v", HEAD)):
                linear(f"{layer}.self_attn.{name}_proj", out, width, bias=False)
            linear(f"{layer}.self_attn.o_proj", width, heads * HEAD, bias=False)
            for name in ("gate", "up"):
                linear(f"{layer}.mlp.{name}_proj", 3 * width, width, bias=False)
            linear(f"{layer}.mlp.down_proj", width, 3 * width, bias=False)
            norm(f"{layer}.input_layernorm", width, False)
            norm(f"{layer}.post_attention_layernorm", width, False)
        norm(f"{prefix}.norm", width, False)

    paligemma = "paligemma_with_expert.paligemma"
    vision = f"{paligemma}.model.vision_tower.vision_model"
    made[f"{vision}.embeddings.patch_embedding.weight"] = 0.1 * torch.randn(
        WIDTH, 3, 8, 8, generator=generator
    )
    made[f"{vision}.embeddings.patch_embedding.bias"] = torch.zeros(WIDTH)
    made[f"{vision}.embeddings.position_embedding.weight"] = torch.randn(
        9, WIDTH, generator=generator
    )
    for i in range(3):
        layer = f"{vision}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{name}", WIDTH, WIDTH)
        linear(f"{layer}.mlp.fc1", 48, WIDTH)
        linear(f"{layer}.mlp.fc2", WIDTH, 48)
        norm(f"{layer}.layer_norm1", WIDTH, True)
        norm(f"{layer}.layer_norm2", WIDTH, True)
    norm(f"{vision}.post_layernorm", WIDTH, True)
    linear(f"{paligemma}.model.multi_modal_projector.linear", WIDTH, WIDTH)
    gemma(f"{paligemma}.model.language_model", WIDTH, heads=4)
    gemma("paligemma_with_expert.gemma_expert.model", EXPERT, heads=2)
    linear(f"{paligemma}.lm_head", VOCABULARY, WIDTH, bias=False)
    linear("paligemma_with_expert.gemma_expert.lm_head", VOCABULARY, EXPERT, bias=False)
    linear("state_proj", EXPERT, 32)
    linear("action_in_proj", EXPERT, 32)
    linear("action_out_proj", 32, EXPERT)
    linear("action_time_mlp_in", EXPERT, 2 * EXPERT)
    linear("action_time_mlp_out", EXPERT, EXPERT)
    return {f"model.{name}": tensor for name, tensor in made.items()}


def lerobot_config(**changes: Any) -> dict[str, Any]:
    """LeRobot's config.json of a policy with two cameras, a state of 8 and actions of 7 numbers."""
    image = {"type": "VISUAL", "shape": [3, 24, 24]}
    return {
        "type": "pi0",
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "chunk_size": 10,
        "n_action_steps": 10,
        "max_state_dim": 32,
        "max_action_dim": 32,
        "num_inference_steps": 3,
        "image_resolution": [24, 24],
        "tokenizer_max_length": 12,
        "use_relative_actions": False,
        "input_features": {
            "observation.images.front": image,
            "observation.images.wrist": image,
            "observation.state": {"type": "STATE", "shape": [8]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [7]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
    } | changes


def lerobot_statistics() -> dict[str, torch.Tensor]:
    """What LeRobot's normaliser saves."""
    return {
        "observation.state.mean": torch.linspace(-0.5, 0.5, 8),
        "observation.state.std": torch.linspace(0.1, 0.8, 8),
        "action.mean": torch.linspace(0.0, 0.6, 7),
        "action.std": torch.linspace(0.01, 0.07, 7),
    }


def write_lerobot_pi0(
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
    statistics: dict[str, torch.Tensor] | None = None,
    **config: Any,
) -> Path:
    """The whole directory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(lerobot_config(**config)))
    save_file(weights or lerobot_weights(), folder / "model.safetensors")
    name = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    save_file(statistics or lerobot_statistics(), folder / name)
    words = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
