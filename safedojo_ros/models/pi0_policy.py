"""The π0 policy: transformers' PI0ForConditionalGeneration with our tokenizer and normalisation.

Flow matching (Black et al. 2024): at time t = 1 the chunk is noise, at t = 0 it is the action;
x_t = t·noise + (1 − t)·action, and the network predicts the velocity noise − action.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Self

import numpy as np
import torch
from transformers import DynamicCache, PI0Config, PI0ForConditionalGeneration

from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE, Observation
from safedojo_ros.models.network_policy import (
    BackboneSize,
    NetworkPolicy,
    backbone_config,
    train_tokenizer,
)
from safedojo_ros.models.normalisation import unit_scales

ARCHITECTURE = "pi0"

_NAMES = signature(PI0ForConditionalGeneration.forward).parameters
CACHE = "cache" if "cache" in _NAMES else "past_key_values"
"""What transformers calls the keys and values that it keeps; releases differ."""


@dataclass(frozen=True)
class PI0Size(BackboneSize):
    """How large the π0 network is; the presets hold the values of `tiny` and `small`.

    expert_width: of the action expert, which has as many layers as the language model;
    denoising_steps: Euler steps of an action sample. The temperature scales the noise that they
    start from.
    """

    expert_width: int = 128
    denoising_steps: int = 5

    def trained(self) -> Self:
        """Without what may be chosen anew after training, for comparing with another size."""
        return replace(super().trained(), denoising_steps=0)


def network_config(size: PI0Size, vocabulary: int) -> PI0Config:
    """The transformers configuration."""
    return PI0Config(
        vlm_config=backbone_config(size, vocabulary),
        dit_config={
            "model_type": "gemma",
            "hidden_size": size.expert_width,
            "num_hidden_layers": size.layers,
            "intermediate_size": size.feed_forward * size.expert_width,
            "num_attention_heads": size.heads,
            "num_key_value_heads": 1,
            "head_dim": size.head_dim,
        },
        chunk_size=size.chunk_length,
        max_state_dim=STATE_SIZE,
        max_action_dim=ACTION_SIZE,
        num_inference_steps=size.denoising_steps,
    )


@dataclass
class Prefix:
    """What the expert attends to: the cache of pictures and instruction, and their mask (B, T)."""

    cache: Any
    mask: torch.Tensor

    def repeated(self, times: int) -> "Prefix":
        """The same prefix for `times` chunks an observation, observation-major."""
        self.cache.batch_repeat_interleave(times)
        return Prefix(self.cache, self.mask.repeat_interleave(times, 0))

    def stacked(self) -> torch.Tensor:
        """(B, layers, 2, heads, T, head_dim): keys and values in one tensor, to be kept."""
        layers = [torch.stack([layer.keys, layer.values], 1) for layer in self.cache.layers]
        return torch.stack(layers, 1)

    @staticmethod
    def from_stacked(keys_values: torch.Tensor, mask: torch.Tensor) -> "Prefix":
        """Inverse of `stacked`."""
        layers = [(layer[:, 0], layer[:, 1]) for layer in keys_values.unbind(1)]
        return Prefix(DynamicCache(layers), mask)


class PI0Policy(NetworkPolicy[PI0Size]):
    """A π0 network, its tokenizer and its normalisation: everything that a checkpoint holds."""

    architecture = ARCHITECTURE
    size_class = PI0Size

    def _new_network(self) -> torch.nn.Module:
        return PI0ForConditionalGeneration(
            network_config(self.size, self.tokenizer.get_vocab_size())
        )

    @torch.no_grad()
    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions; see `models.policy.Policy.act`."""
        pictures, tokens, state = self.inputs(observations)
        shape = (self.chunk_length, ACTION_SIZE)
        if generators is None:
            noise = torch.randn(len(observations), *shape)
        else:
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        self.network.eval()
        noise = self.size.temperature * noise.to(self.device)
        return self.physical(self.denoise(self.prefix(pictures, tokens), state, noise))

    # ---------------------------------------------------------------- network

    def prefix(self, pictures: torch.Tensor, tokens: torch.Tensor) -> Prefix:
        """Run pictures (B, cameras, 3, S, S) and tokens (B, L) through the language model once."""
        model = self.network.model
        count, cameras = pictures.shape[:2]
        patches = (self.image_size // self.size.patch) ** 2
        image_token = self.tokenizer.get_vocab_size()  # as in `backbone_config`
        images = torch.full((count, cameras * patches), image_token, device=tokens.device)
        input_ids = torch.cat([images, tokens], dim=1)
        mask = torch.cat([torch.ones_like(images), (tokens != 0).long()], dim=1)
        seen = torch.ones(count, cameras, dtype=torch.bool, device=tokens.device)
        embeddings = model.embed_prefix(input_ids, pictures, seen)
        output = model.vlm(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=mask.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(mask),
            use_cache=True,
        )
        return Prefix(getattr(output, CACHE), mask)

    def velocity(
        self, prefix: Prefix, state: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """(B, H, 7) velocity of the noisy normalised `chunk` at `time` (B,)."""
        length = prefix.cache.get_seq_length()
        output = self.network(
            state=state,
            noise=chunk,
            timestep=time,
            attention_mask=prefix.mask,
            **{CACHE: prefix.cache},
        )
        prefix.cache.crop(length - prefix.cache.get_seq_length())
        return output.logits

    def denoise(self, prefix: Prefix, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(B, H, 7) normalised actions from `noise`, by Euler steps from t = 1 to 0."""
        steps = self.size.denoising_steps
        chunk = noise
        for step in range(steps):
            time = torch.full((len(chunk),), 1.0 - step / steps, device=chunk.device)
            chunk = chunk - self.velocity(prefix, state, chunk, time) / steps
        return chunk


def tiny_policy(seed: int = 0, instructions: Sequence[str] = ()) -> PI0Policy:
    """A policy with random weights, for tests and the `smoke` preset."""
    torch.manual_seed(seed)
    sentences = list(instructions) or ["put the red cube on the plate"]
    size = PI0Size(width=32, expert_width=32, layers=2, heads=2, head_dim=16, denoising_steps=2)
    return PI0Policy(
        size,
        train_tokenizer(sentences),
        unit_scales(),
        instructions,
        checkpoint_id=f"tiny{seed}",
    )
