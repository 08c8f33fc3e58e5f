"""Latents of recorded images, saved beside the data set, since several stages need them."""

import contextlib
import hashlib

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safedojo_ros.core.files import replacing
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.images import check_side, to_unit

CACHE = "latents"
BATCH = 128
SAMPLE = 8
"""Episodes whose images are part of the name of the latents."""


def recorded_latents(
    reader: EpisodeReader, autoencoder: FrameAutoencoder, device: str = "cpu"
) -> torch.Tensor:
    """(N, cameras, C, s, s) float16 of all images of a data set.

    They are saved beside the data set, in "latents", under a hash of a sample of the images and of
    the autoencoder, so that neither a longer recording nor other weights find them. Where they are
    found, the other images are not read. Where the directory cannot be written, they are computed
    each time.
    """
    path = reader.root / CACHE / f"{fingerprint(autoencoder, reader)}.safetensors"
    try:
        return load_file(str(path))["latents"]
    except (OSError, SafetensorError):
        images = torch.from_numpy(reader.load_arrays().images)
        latents = encode(images, autoencoder, device)
    with contextlib.suppress(OSError, SafetensorError), replacing(path) as partial:
        save_file({"latents": latents}, str(partial))
    return latents


@torch.no_grad()
def encode(
    images: torch.Tensor, autoencoder: FrameAutoencoder, device: str = "cpu"
) -> torch.Tensor:
    """(N, cameras, H, W, 3) uint8 → latents (N, cameras, C, s, s), float16 on the CPU."""
    size = autoencoder.size
    check_side(images, size.image_size)
    cells = (size.latent_channels, size.latent_size, size.latent_size)
    batches = [torch.zeros((0, images.shape[1], *cells), dtype=torch.float16)]
    autoencoder.to(device).eval()
    with progress_bar("encode", 0, len(images)) as show:
        for start in range(0, len(images), BATCH):
            batch = to_unit(images[start : start + BATCH].to(device))
            latents = autoencoder.encode(batch.flatten(0, 1))
            batches.append(latents.unflatten(0, batch.shape[:2]).half().cpu())
            show(min(start + BATCH, len(images)))
    return torch.cat(batches)


def fingerprint(autoencoder: FrameAutoencoder, reader: EpisodeReader) -> str:
    """Hash of the autoencoder's weights, the episodes' lengths, and images of some episodes."""
    lengths = [row.length for row in reader.rows]
    content = hashlib.sha256(repr((reader.cameras, lengths)).encode())
    if lengths:
        sample = np.linspace(0, len(lengths) - 1, min(SAMPLE, len(lengths))).round().astype(int)
        images = reader.load_arrays(sample.tolist()).images
        content.update(str(images.shape).encode() + images.tobytes())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        content.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
