"""Diffusers' Wan transformer, computing only what the world model asks of it."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

TRAINING_TIMESTEPS = 1000
"""The network's unit of time: t = 1 is this many."""


_Wan: Any = WanTransformer3DModel  # its own types hide what it is
_WanBlock: Any = WanTransformerBlock


class FramesTransformer(_Wan):
    """Wan's weights and results, for a clip whose first frames are clean and the others noisy.

    The parent embeds a time for every token, and computes what the clean frames would become. Here
    the two times of a clip, 0 and its own, are embedded once, and the last block answers for the
    noisy frames alone.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        for block in self.blocks:
            block.__class__ = FramesBlock

    def forward(
        self, clip: torch.Tensor, context: int, time: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """clip (B, C, F, h, w) whose first `context` frames are clean → (B, C_out, F', h, w).

        time: (B,) in [0, 1]; actions: (B, H, text_dim); F': the noisy frames.
        """
        _, patch, _ = self.config.patch_size
        count, channels, frames, height, width = clip.shape
        rows, columns = height // patch, width // patch
        cut = clip.unflatten(3, (rows, patch)).unflatten(5, (columns, patch))
        cut = cut.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)
        kernel = self.patch_embedding.weight.flatten(1)
        hidden = torch.nn.functional.linear(cut, kernel, self.patch_embedding.bias)

        times = torch.cat([time.new_zeros(1), time * TRAINING_TIMESTEPS])
        embedded, modulation, actions, _ = self.condition_embedder(times, actions)
        own = torch.arange(1, count + 1, device=clip.device)[:, None].expand(-1, frames - context)
        which = torch.cat([own.new_zeros(count, context), own], dim=1)
        modulation = modulation.unflatten(1, (6, -1))[which]
        rotation = [part[0, :, 0, ::2] for part in self.rope(clip)]
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            asked = context if number == last else 0
            hidden = block(hidden, asked, actions, modulation, rotation)

        shift, scale = (self.scale_shift_table + embedded[1:, None])[:, :, None, None].unbind(1)
        output = self.proj_out(self.norm_out(hidden) * (1 + scale) + shift)
        output = output.unflatten(2, (rows, columns)).unflatten(-1, (patch, patch, -1))
        return output.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


class FramesBlock(_WanBlock):
    """A block of Wan's that answers for some of the frames."""

    def forward(
        self,
        hidden: torch.Tensor,
        asked: int,
        actions: torch.Tensor,
        modulation: torch.Tensor,
        rotation: list[torch.Tensor],
    ) -> torch.Tensor:
        """Tokens (B, F, N, D) → those of the frames from `asked` on.

        modulation: (B, F, 6, D); rotation: cosines and sines (F N, head_dim / 2).
        """
        parts = (self.scale_shift_table[:, None] + modulation)[..., None, :].unbind(2)
        shift, scale = parts[:2]
        gate, late_shift, late_scale, late_gate = (part[:, asked:] for part in parts[2:])
        normed = self.norm1(hidden) * (1 + scale) + shift
        hidden = hidden[:, asked:]
        hidden = hidden + gate * _attention(self.attn1, normed[:, asked:], normed, rotation)
        hidden = hidden + _attention(self.attn2, self.norm2(hidden), actions[:, None], None)
        normed = self.norm3(hidden) * (1 + late_scale) + late_shift
        return hidden + late_gate * self.ffn(normed)


def _attention(
    attention: Any, asked: torch.Tensor, known: torch.Tensor, rotation: list[torch.Tensor] | None
) -> torch.Tensor:
    """What the tokens `asked` (B, F, N, D) make of `known`, which ends with them where they turn.

    rotation: of the tokens `known`, as in `FramesBlock`; None for actions, which have no place.
    """
    query = attention.norm_q(attention.to_q(asked).float()).flatten(1, 2)
    key = attention.norm_k(attention.to_k(known).float()).flatten(1, 2)
    value = attention.to_v(known).flatten(1, 2)
    query, key, value = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    if rotation is not None:
        query = _rotated(query, *(part[-query.shape[-2] :] for part in rotation))
        key = _rotated(key, *rotation)
    answer = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    return attention.to_out[0](answer.transpose(1, 2).flatten(2)).view_as(asked)


def _rotated(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Pairs of neighbouring numbers of `heads` (B, heads, T, head_dim), turned."""
    one, other = heads.unflatten(-1, (-1, 2)).unbind(-1)
    turned = [one * cosine - other * sine, one * sine + other * cosine]
    return torch.stack(turned, dim=-1).flatten(-2).type_as(heads)
