"""The frame autoencoder: diffusers' AutoencoderKL on single images.

World model and safety head see its latents, so that both read the same image of the scene.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import avg_pool2d, max_pool2d, pad, pixel_shuffle, pixel_unshuffle

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError

EMPHASIS = 5.0
"""How much more a pixel counts that is 1 (half the range) away from its surroundings."""
MAX_ACTIVATION = 2**26
"""Numbers that a block makes of one image, at most: 256 MB."""


@dataclass(frozen=True)
class AutoencoderSize:
    """How large the frame autoencoder is and what it sees."""

    widths: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of each block, multiples of 8 up to 2048, for 1 to 8 blocks; every block but the
    last halves the image."""
    layers: int = 1
    """Residual layers of a block, [1, 8]."""
    latent_channels: int = 8
    """Channels of a latent, [1, 64]."""
    image_size: int = 64
    """Side of the images, pixels, [1, 1024], a multiple of `patch` times 2 to the power of the
    halvings."""
    patch: int = 1
    """Side of the squares of pixels that the first block sees as one cell, [1, 16]."""

    def __post_init__(self) -> None:
        check_ranges(self, layers="[1, 8]", latent_channels="[1, 64]", image_size="[1, 1024]")
        check_ranges(self, patch="[1, 16]")
        if not 1 <= len(self.widths) <= 8 or any(w % 8 or not 8 <= w <= 2048 for w in self.widths):
            raise ConfigError(
                f"widths are {self.widths!s:.80}, expected multiples of 8 up to 2048, "
                "for 1 to 8 blocks"
            )
        cells = self.image_size // self.patch
        made = [(cells >> k) ** 2 * width for k, width in enumerate(self.widths)]
        if max(made) > MAX_ACTIVATION:
            raise ConfigError(
                f"image_size {self.image_size} with widths {self.widths} makes more than "
                f"{MAX_ACTIVATION} numbers of an image; make one smaller"
            )
        smallest = self.patch * 2 ** (len(self.widths) - 1)
        if self.image_size % smallest:
            raise ConfigError(
                f"image_size is {self.image_size}, expected a multiple of {smallest}, since "
                f"{len(self.widths)} blocks halve it, of cells of {self.patch} pixels"
            )

    @property
    def latent_size(self) -> int:
        """Side of the latent, cells."""
        return int(self.image_size // self.patch // 2 ** (len(self.widths) - 1))


CPU_BATCH = 16
"""Images that pass the network together on a CPU: more would not fit its caches (half speed)."""


def _parts(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    batch = batch.contiguous(memory_format=_layout(batch.device))
    return batch.split(CPU_BATCH if batch.device.type == "cpu" else max(1, len(batch)))


def _layout(device: torch.device) -> torch.memory_format:
    """Channels last on a CPU; on a GPU every GroupNorm would copy them to and fro."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


class FrameAutoencoder(torch.nn.Module):
    """(N, 3, S, S) in [−1, 1] ↔ latents (N, C, s, s) of about unit variance."""

    def __init__(self, size: AutoencoderSize) -> None:
        super().__init__()
        self.size = size
        blocks = len(size.widths)
        network: Any = AutoencoderKL(
            in_channels=3 * size.patch**2,
            out_channels=3 * size.patch**2,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=tuple(size.widths),
            layers_per_block=size.layers,
            latent_channels=size.latent_channels,
            norm_num_groups=8,
            sample_size=size.image_size // size.patch,
            mid_block_add_attention=False,
        )
        self.network: Any = network
        self.latent_scale: torch.Tensor
        self.register_buffer("latent_scale", torch.ones(()))
        self._apply(lambda tensor: tensor)  # lays the kernels out

    def _apply(self, fn: Any, recurse: bool = True) -> "FrameAutoencoder":
        """What `to` does; the kernels are laid out as their device likes them, too."""
        super()._apply(fn, recurse)
        layout = _layout(self.latent_scale.device)
        for parameter in self.network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        return self

    def same(self, other: "FrameAutoencoder") -> bool:
        """Whether `other` has the very same weights."""
        mine, theirs = self.state_dict(), other.state_dict()
        return mine.keys() == theirs.keys() and all(
            mine[name].shape == theirs[name].shape
            and torch.equal(mine[name], theirs[name].to(mine[name].device))
            for name in mine
        )

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The mean latent of each image, scaled to unit variance."""
        return self.mean_latents(images) / self.latent_scale

    def mean_latents(self, images: torch.Tensor) -> torch.Tensor:
        """The mean latent of each image as the network gives it."""
        parts = _parts(pixel_unshuffle(images, self.size.patch))
        return torch.cat([self.network.encode(part).latent_dist.mode() for part in parts])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images of scaled latents."""
        parts = _parts(latents * self.latent_scale)
        decoded = torch.cat([self.network.decode(part).sample for part in parts])
        return pixel_shuffle(decoded, self.size.patch)

    def loss(
        self, images: torch.Tensor, kl_weight: float, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(training loss, mean squared reconstruction error); noise: like the latents.

        Pixels that stand out count more: a bottle at the edge of the table is a hundredth of the
        image, and a plain mean leaves it out.
        """
        parts = []
        cells = _parts(pixel_unshuffle(images, self.size.patch))
        noises = noise.split([len(part) for part in cells])
        for part, random in zip(cells, noises, strict=True):
            posterior = self.network.encode(part).latent_dist
            decoded = self.network.decode(posterior.mean + posterior.std * random).sample
            parts.append((decoded, posterior.kl()))
        decoded, divergence = (torch.cat(values) for values in zip(*parts, strict=True))
        error = pixel_shuffle(decoded, self.size.patch) - images
        squared = error.square()
        weighed = (importance(images) * (squared + 0.2 * error.abs())).mean()
        return weighed + kl_weight * divergence.mean(), squared.mean()

    def config(self) -> dict[str, Any]:
        """Plain values, of an `AutoencoderSize`."""
        return asdict(self.size)


def importance(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, S, S) of mean 1: how much each pixel of (N, 3, S, S) counts in the loss.

    It grows with the difference between the pixel and the mean of its surroundings.
    """
    reach = max(1, images.shape[-1] // 8)
    around = pad(images, (reach,) * 4, mode="replicate")
    around = avg_pool2d(around, 2 * reach + 1, stride=1)
    apart = (images - around).abs().mean(1, keepdim=True)
    weights = 1.0 + EMPHASIS * max_pool2d(apart, 3, stride=1, padding=1)
    return weights / weights.mean()
