"""Sizes and parts of the π0 network: transformers' configuration, a stem of convolutions."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PI0Config

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError

MAX_PATCHES = 32
"""Along a side of an image: attention grows with the fourth power of it."""


@dataclass(frozen=True)
class PI0Size:
    """How large vision tower, language model and action expert are, and what they see."""

    width: int = 128
    """Of vision tower and language model, [1, 4096]."""
    expert_width: int = 128
    """Of the action expert, [1, 4096]."""
    layers: int = 4
    """Of each of the three, [1, 64]."""
    heads: int = 4
    """Attention heads of a layer, [1, 64]."""
    head_dim: int = 32
    """Width of a head, [1, 512]."""
    feed_forward: int = 4
    """Width of a layer's MLP over the layer's own, [1, 16]."""
    patch: int = 16
    """Side of an image patch, pixels, [1, 256]; divides image_size, into 32 x 32 at most."""
    vision_layers: int = 0
    """Of the vision tower, [0, 64]; 0: as many as `layers`."""
    stem: bool = False
    """Whether a patch becomes a token by convolutions of stride 2, as many as it takes (patch is a
    power of 2 then), instead of by one linear map as in the published π0: they find small things
    with far fewer updates."""
    places: bool = False
    """Whether the expert is told, in numbers, where gripper and next grasp are: see `Places`."""
    image_size: int = 64
    """Side of the images, pixels, [1, 1024]."""
    chunk_length: int = 8
    """H, steps of a chunk, [1, 64]."""
    text_tokens: int = 12
    """Room for the instruction, tokens, [1, 256]."""
    denoising_steps: int = 5
    """Euler steps of an action sample, [1, 100]; may be chosen anew after training."""
    temperature: float = 1.0
    """Of the noise that a sample starts from, [0, 10]; below 1 for less variety and more
    precision; may be chosen anew after training."""

    def __post_init__(self) -> None:
        check_ranges(self, width="[1, 4096]", expert_width="[1, 4096]", layers="[1, 64]")
        check_ranges(self, heads="[1, 64]", head_dim="[1, 512]", feed_forward="[1, 16]")
        check_ranges(self, patch="[1, 256]", image_size="[1, 1024]", chunk_length="[1, 64]")
        check_ranges(self, text_tokens="[1, 256]", denoising_steps="[1, 100]")
        check_ranges(self, temperature="[0, 10]", vision_layers="[0, 64]")
        if self.image_size % self.patch or self.image_size // self.patch > MAX_PATCHES:
            raise ConfigError(
                f"patch is {self.patch}, expected a divisor of image_size {self.image_size} that "
                f"makes at most {MAX_PATCHES} patches a side"
            )
        if self.stem and self.patch & (self.patch - 1):
            raise ConfigError(f"patch is {self.patch}, expected a power of 2 for a stem")

    def trained(self) -> "PI0Size":
        """Without what may be chosen anew after training, for comparing with another size."""
        return replace(self, temperature=0.0, denoising_steps=1)


def network_config(size: PI0Size, vocabulary: int, state_size: int, action_size: int) -> PI0Config:
    """The transformers configuration; the token after the vocabulary stands for an image patch."""

    def gemma(width: int) -> dict[str, Any]:
        return {
            "model_type": "gemma",
            "hidden_size": width,
            "num_hidden_layers": size.layers,
            "intermediate_size": size.feed_forward * width,
            "num_attention_heads": size.heads,
            "num_key_value_heads": 1,
            "head_dim": size.head_dim,
            "hidden_activation": "gelu",
        }

    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": size.width,
        "intermediate_size": size.feed_forward * size.width,
        "num_hidden_layers": size.vision_layers or size.layers,
        "num_attention_heads": size.heads,
        "patch_size": size.patch,
        "image_size": size.image_size,
        "vision_use_head": False,
        "hidden_act": "gelu",  # three times as fast on a CPU as its approximation by tanh
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma(size.width) | {"vocab_size": vocabulary + 1},
            "vision_config": vision,
            "projection_dim": size.width,
            "image_token_id": vocabulary,
        },
        dit_config=gemma(size.expert_width),
        chunk_size=size.chunk_length,
        max_state_dim=state_size,
        max_action_dim=action_size,
        num_inference_steps=size.denoising_steps,
    )


class ConvolutionalStem(torch.nn.Sequential):
    """(B, 3, S, S) → (B, width, S / patch, S / patch), in place of SigLIP's linear patches."""

    def __init__(self, width: int, patch: int) -> None:
        halvings = patch.bit_length() - 1
        channels = [3, *(max(8, width >> (halvings - 1 - i)) for i in range(halvings))]
        channels[-1] = width
        layers: list[torch.nn.Module] = []
        for i in range(halvings):
            layers += [
                torch.nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1),
                torch.nn.GroupNorm(1, channels[i + 1]),
                torch.nn.SiLU(),
            ]
        super().__init__(*layers, torch.nn.Conv2d(width, width, 1))

    @property
    def weight(self) -> torch.Tensor:
        """SigLIP asks it for the type that it computes in."""
        return self[-1].weight  # type: ignore[return-value]
