"""Training of the frame autoencoder, whose latents world model and safety head share."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.learning.training_run import TrainingRun, learning_rate_factor
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder
from safedojo_ros.models.images import to_unit


@dataclass(frozen=True)
class AutoencoderConfig:
    """How the frame autoencoder is trained.

    batch_size: pictures; moments: how many recorded moments it sees, over all data sets.
    """

    size: AutoencoderSize = field(default_factory=AutoencoderSize)
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 2e-3
    kl_weight: float = 1e-6
    warmup_steps: int = 50
    save_every: int = 250
    moments: int = 40_000
    seed: int = 0


def recorded_pictures(directories: list[Path], count: int) -> torch.Tensor:
    """(N, cameras, H, W, 3) uint8: about `count` moments, evenly spaced over all data sets."""
    readers = [EpisodeReader(directory) for directory in directories]
    every = max(1, sum(reader.frames for reader in readers) // count)
    parts = [torch.from_numpy(reader.load_arrays().images[::every].copy()) for reader in readers]
    return torch.cat(parts)


def train_autoencoder(
    config: AutoencoderConfig,
    images: torch.Tensor,
    directory: Path,
    resume: bool = False,
    device: str = "cpu",
) -> FrameAutoencoder:
    """Fit to `images` (N, cameras, H, W, 3) uint8."""
    torch.manual_seed(config.seed)
    autoencoder = FrameAutoencoder(config.size).to(device)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), config.learning_rate)
    run = TrainingRun(directory, resume)
    first = run.restore(autoencoder, optimizer)
    latent = (config.size.latent_channels, config.size.latent_size, config.size.latent_size)
    with progress_bar("autoencoder", first, config.steps) as show:
        for step in range(first, config.steps):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            frames = torch.randint(len(images), (config.batch_size,), generator=generator)
            camera = torch.randint(images.shape[1], (config.batch_size,), generator=generator)
            pictures = to_unit(images[frames, camera].to(device))
            noise = torch.randn((config.batch_size, *latent), generator=generator).to(device)
            rate = learning_rate_factor(step, config.warmup_steps, config.steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate
            loss, squared = autoencoder.loss(pictures, config.kl_weight, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
            optimizer.step()
            show(step + 1, f"mse {squared.item():.4f}")
            if (step + 1) % 10 == 0:
                run.record(step + 1, {"loss": loss.item(), "mse": squared.item()})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                run.save(step + 1, autoencoder, optimizer)
    run.close()
    autoencoder.eval()
    with torch.no_grad():
        pictures = to_unit(images[:: max(1, len(images) // 256)].to(device)).flatten(0, 1)
        autoencoder.latent_scale.fill_(
            autoencoder.network.encode(pictures).latent_dist.mode().std()
        )
    return autoencoder
