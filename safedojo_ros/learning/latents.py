"""Latents of recorded pictures, kept beside the data set: several stages see the same ones."""

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safedojo_ros.data.lerobot_reader import FrameArrays
from safedojo_ros.learning.training_run import progress_bar
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.models.pictures import to_unit

CACHE = "latents"
BATCH = 128


def recorded_latents(
    directory: Path, arrays: FrameArrays, autoencoder: FrameAutoencoder, device: str = "cpu"
) -> torch.Tensor:
    """(N, cameras, C, s, s) float16 of all pictures in `arrays`, read from `directory`.

    They are kept in `directory`/latents under a name made of the pictures and the autoencoder, so
    that neither a longer recording nor other weights find them. Where the directory cannot be
    written they are computed each time.
    """
    path = directory / CACHE / f"{fingerprint(autoencoder, arrays)}.safetensors"
    try:
        return load_file(str(path))["latents"]
    except (OSError, SafetensorError):
        latents = encode(torch.from_numpy(arrays.images), autoencoder, device)
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        save_file({"latents": latents}, str(beside))
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
    return latents


@torch.no_grad()
def encode(
    images: torch.Tensor, autoencoder: FrameAutoencoder, device: str = "cpu"
) -> torch.Tensor:
    """(N, cameras, H, W, 3) uint8 → latents (N, cameras, C, s, s), float16 on the CPU."""
    batches = []
    autoencoder.to(device).eval()
    with progress_bar("encode", 0, len(images)) as show:
        for start in range(0, len(images), BATCH):
            pictures = to_unit(images[start : start + BATCH].to(device))
            latents = autoencoder.encode(pictures.flatten(0, 1))
            batches.append(latents.unflatten(0, pictures.shape[:2]).half().cpu())
            show(min(start + BATCH, len(images)))
    return torch.cat(batches)


def fingerprint(autoencoder: FrameAutoencoder, arrays: FrameArrays) -> str:
    """Hash of the autoencoder's weights and of a sample of the pictures."""
    content = hashlib.sha256(str(arrays.images.shape).encode())
    content.update(arrays.images[:: max(1, len(arrays.images) // 64)].tobytes())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        content.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
