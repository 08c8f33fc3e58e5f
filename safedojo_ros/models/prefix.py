"""What an action expert is given beside its noise: the prefix it attends to, and known steps."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache


@dataclass
class Prefix:
    """What the expert attends to: the cache of images and instruction, and their mask (B, T); and
    the places (B, 9) read off it, in centimetres, if any."""

    cache: Any
    mask: torch.Tensor
    places: torch.Tensor | None = None

    def repeated(self, times: int) -> "Prefix":
        """The same prefix for `times` chunks an observation, observation-major."""
        layers = [
            (layer.keys.repeat_interleave(times, 0), layer.values.repeat_interleave(times, 0))
            for layer in self.cache.layers
        ]
        places = None if self.places is None else self.places.repeat_interleave(times, 0)
        return Prefix(DynamicCache(layers), self.mask.repeat_interleave(times, 0), places)

    def stacked(self) -> torch.Tensor:
        """(B, layers, 2, heads, T, head_dim): keys and values in one tensor, to be kept."""
        layers = [torch.stack([layer.keys, layer.values], 1) for layer in self.cache.layers]
        return torch.stack(layers, 1)

    def features(self) -> torch.Tensor:
        """(B, F): all that the action expert sees of images and instruction."""
        return self.stacked().flatten(1)

    @staticmethod
    def from_stacked(keys_values: torch.Tensor, mask: torch.Tensor) -> "Prefix":
        """Inverse of `stacked`."""
        layers = [(layer[:, 0], layer[:, 1]) for layer in keys_values.unbind(1)]
        return Prefix(DynamicCache(layers), mask)


class Known(NamedTuple):
    """Steps that are decided already: their normalised actions (B, H, 7) and which these are (B, H)
    bool. Training-time action conditioning (arXiv 2512.05964)."""

    actions: torch.Tensor
    mask: torch.Tensor

    def put_into(self, chunk: torch.Tensor) -> torch.Tensor:
        """`chunk` (B, H, 7) with the known steps in their places."""
        return torch.where(self.mask[..., None], self.actions, chunk)
