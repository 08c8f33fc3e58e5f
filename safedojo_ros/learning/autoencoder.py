"""Training of the frame autoencoder. World model and safety head share its latents."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.data.lerobot.frames import Source, open_set
from safedojo_ros.learning.fit import FitConfig, fit
from safedojo_ros.learning.products import fast_products
from safedojo_ros.learning.training_run import TrainingRun
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.images import check_side, to_unit

APART = 4
"""Of the frames of an episode that is read, at least one in so many is used."""


@dataclass(frozen=True)
class AutoencoderConfig(FitConfig):
    """How the frame autoencoder is trained. Used by `safedojo train safety`."""

    size: AutoencoderSize = field(default_factory=AutoencoderSize)
    """Size of the network."""
    learning_rate: float = 2e-3
    """Learning rate after the warm-up, its maximum, 0 or more."""
    kl_weight: float = 1e-6
    """Weight of the latents' KL divergence from unit noise in the loss, 0 or more."""
    frames: int = 40_000
    """About how many recorded frames of all data sets it is trained on, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, kl_weight="[0, inf)", frames="[1, inf)")


def recorded_images(sources: Sequence[Source], count: int) -> torch.Tensor:
    """(N, cameras, H, W, 3) uint8: about `count` frames, evenly spaced over all data sets.

    Of large data sets only every so many episodes are read.
    """
    readers = [open_set(source) for source in sources]
    total = sum(reader.frames for reader in readers)
    skip = max(1, total // (APART * count))
    every, parts = max(1, total // skip // count), []
    for reader in readers:
        images = reader.load_arrays(range(0, len(reader.rows), skip)).images
        parts.append(torch.from_numpy(images[::every].copy()))
    return torch.cat(parts)


def train_autoencoder(
    config: AutoencoderConfig,
    images: torch.Tensor,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
) -> FrameAutoencoder:
    """Fit to `images` (N, cameras, H, W, 3) uint8."""
    check_side(images, config.size.image_size)
    torch.manual_seed(config.seed)
    autoencoder = FrameAutoencoder(config.size).to(device)
    latent = (config.size.latent_channels, config.size.latent_size, config.size.latent_size)

    def loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        frames = torch.randint(len(images), (config.batch_size,), generator=generator)
        camera = torch.randint(images.shape[1], (config.batch_size,), generator=generator)
        noise = torch.randn((config.batch_size, *latent), generator=generator).to(device)
        seen = to_unit(images[frames, camera].to(device))
        total, squared = autoencoder.loss(seen, config.kl_weight, noise)
        return {"loss": total, "mse": squared}

    with fast_products(autoencoder):
        fit("autoencoder", autoencoder, loss, config, TrainingRun(directory, resume))
    autoencoder.eval()
    with torch.no_grad():
        seen = to_unit(images[:: max(1, len(images) // 256)].to(device)).flatten(0, 1)
        autoencoder.latent_scale.fill_(autoencoder.mean_latents(seen).std())
    return autoencoder
