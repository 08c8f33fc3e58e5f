"""The frame autoencoder: cells of several pixels, and what counts in its loss."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_learning import CAMERAS, reaching

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning.autoencoder import recorded_images
from safedojo_ros.models.autoencoder import AutoencoderSize, FrameAutoencoder, importance


def small(patch: int) -> FrameAutoencoder:
    torch.manual_seed(0)
    return FrameAutoencoder(AutoencoderSize((8, 16), latent_channels=4, image_size=32, patch=patch))


def test_a_cell_of_several_pixels_makes_the_latent_that_much_smaller() -> None:
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    for patch, side in ((1, 16), (2, 8), (4, 4)):
        eyes = small(patch)
        latents = eyes.encode(images)
        assert latents.shape == (3, 4, side, side)
        assert side == eyes.size.latent_size
        assert eyes.decode(latents).shape == images.shape


def test_images_that_cells_and_halvings_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a multiple of 16, since 3 blocks halve it"):
        AutoencoderSize((8, 8, 8), image_size=72, patch=4)


def test_the_loss_of_a_batch_is_that_of_its_images_whatever_passes_together() -> None:
    eyes = small(2)
    images = torch.rand(20, 3, 32, 32) * 2 - 1
    noise = torch.zeros(20, 4, 8, 8)
    together, squared = eyes.loss(images, 1e-6, noise)
    each = [eyes.loss(images[i : i + 1], 1e-6, noise[i : i + 1]) for i in range(20)]
    torch.testing.assert_close(together, torch.stack([one[0] for one in each]).mean())
    torch.testing.assert_close(squared, torch.stack([one[1] for one in each]).mean())


def test_a_small_thing_on_a_plain_table_counts_more_than_the_table() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[..., 20:26, 30:34] = 0.8
    weights = importance(images)[0, 0]
    assert weights.mean().item() == pytest.approx(1)
    assert weights[20:26, 30:34].min() > 3 * weights[50:, 50:].max()
    plain = importance(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(plain, torch.ones_like(plain))


def test_of_large_data_sets_only_some_episodes_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        with EpisodeWriter(tmp_path / name, 64, CAMERAS) as writer:
            for seed in range(12):
                writer.add(reaching(20, seed))
    sources = [tmp_path / "a", tmp_path / "b"]
    readers = [EpisodeReader(source) for source in sources]
    frames = sum(reader.frames for reader in readers)
    read: list[int] = []
    load = EpisodeReader.load_arrays

    def counted(self: EpisodeReader, indices: Sequence[int]) -> FrameArrays:
        read.append(len(indices))
        return load(self, indices)

    monkeypatch.setattr(EpisodeReader, "load_arrays", counted)
    some = recorded_images(sources, frames // 12)
    assert read == [4, 4]  # a third, of whose frames one in four is used
    assert len(some) == pytest.approx(frames / 12, rel=0.2)
    assert len(recorded_images(sources, frames)) == frames
    assert read[2:] == [12, 12]
