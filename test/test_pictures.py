"""Raw picture bytes: what is decoded, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.data.images import CHANNELS, decode_image, fit_image, resize_image


def encoded(rgb: np.ndarray, encoding: str, padding: int = 0) -> tuple[bytes, int]:
    """The bytes and the row length of `rgb` in an encoding."""
    alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    pixels = {
        "rgb8": rgb,
        "bgr8": rgb[:, :, ::-1],
        "rgba8": np.concatenate([rgb, alpha], axis=2),
        "bgra8": np.concatenate([rgb[:, :, ::-1], alpha], axis=2),
        "mono8": rgb[:, :, :1],
    }[encoding]
    rows = pixels.reshape(rgb.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    return rows.tobytes(), rows.shape[1]


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 5),
    encoding=st.sampled_from(sorted(CHANNELS)),
    seed=st.integers(0, 99),
)
def test_every_encoding_gives_the_picture_back_with_any_row_padding(
    height: int, width: int, padding: int, encoding: str, seed: int
) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if encoding == "mono8":
        rgb = np.repeat(rgb[:, :, :1], 3, axis=2)
    data, step = encoded(rgb, encoding, padding)
    assert np.array_equal(decode_image(data, height, width, step, encoding), rgb)


@pytest.mark.parametrize(
    ("data", "height", "width", "step", "encoding", "reason"),
    [
        (b"0" * 12, 2, 2, 6, "yuv422", "not supported"),
        (b"", 0, 2, 6, "rgb8", "sides"),
        (b"0" * 12, 2, 100_000, 6, "rgb8", "sides"),
        (b"0" * 10, 2, 2, 5, "rgb8", "cannot hold"),
        (b"0" * 11, 2, 2, 6, "rgb8", "expected 12"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    data: bytes, height: int, width: int, step: int, encoding: str, reason: str
) -> None:
    with pytest.raises(ObservationRejected, match=reason):
        decode_image(data, height, width, step, encoding)


def test_resizing_gives_the_asked_shape_and_leaves_a_fitting_picture_alone() -> None:
    rgb = np.zeros((40, 60, 3), np.uint8)
    assert resize_image(rgb, 32, 16).shape == (16, 32, 3)
    assert resize_image(rgb, 60, 40) is rgb


def test_the_middle_is_cut_out_and_every_pixel_of_it_counts() -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :8], rgb[:, 56:] = 255, 255  # beside the middle
    assert resize_image(rgb, 16, 16).max() == 0
    rgb[4, 20] = 90  # one of nine pixels
    small = resize_image(rgb, 16, 16)
    assert small[1, 4].tolist() == [10, 10, 10]
    assert small.sum() == 30
    assert resize_image(rgb, 32, 12)[:, 3].min() > 0, "a wide image keeps its sides"


def test_a_letterbox_shows_the_whole_image_between_black_bars() -> None:
    wide = np.full((48, 64, 3), 200, np.uint8)
    wide[:, :8] = 100  # what a crop would cut off
    boxed = fit_image(wide, 32, 32, "letterbox")
    assert boxed.shape == (32, 32, 3)
    assert not boxed[:4].any()
    assert not boxed[28:].any()
    assert (boxed[4:28, :4] == 100).all()
    assert (boxed[4:28, 4:] == 200).all()
    square = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert fit_image(square, 4, 4, "letterbox") is square
