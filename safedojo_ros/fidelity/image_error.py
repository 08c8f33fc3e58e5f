"""Errors between images in [0, 1]: MSE, PSNR and SSIM."""

import torch

WINDOW = 11
"""Side of SSIM's Gaussian window, pixels (Wang et al. 2004)."""

SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def mean_squared_error(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B,) of images (B, ..., 3, H, W)."""
    return (one - other).square().flatten(1).mean(1)


def peak_signal_to_noise(mse: torch.Tensor) -> torch.Tensor:
    """Decibels, from squared errors in [0, 1] units; at most 100."""
    return -10.0 * torch.log10(mse.clamp_min(1e-10))


def structural_similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B,) mean SSIM of images (B, ..., 3, H, W), each channel by itself, H and W at least 11.

    Wang et al. 2004: Gaussian window of 11 pixels and sigma 1.5, only where it lies inside the
    image.
    """
    count, (height, width) = len(one), one.shape[-2:]
    x, y = (p.reshape(-1, 1, height, width) for p in (one, other))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x.square()
    variance_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x.square() + mean_y.square() + C1) * (variance_x + variance_y + C2)
    )
    return similarity.reshape(count, -1).mean(1)


def _blur(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) → (N, 1, H - 10, W - 10)."""
    places = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    line = torch.exp(-places.square() / (2 * SIGMA**2))
    line = line / line.sum()
    rows = torch.nn.functional.conv2d(images, line.reshape(1, 1, -1, 1))
    return torch.nn.functional.conv2d(rows, line.reshape(1, 1, 1, -1))
