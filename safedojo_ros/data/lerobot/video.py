"""Pictures as mp4: for cameras whose PNGs would be too large. Lossy, with a key frame every two."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from safedojo_ros.core.errors import DatasetError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

KEY_FRAME_EVERY = 2
DECODERS = ("h264", "libdav1d", "av1", "hevc")
"""What a video may be coded with; LeRobot writes AV1."""
QUALITY = 18
"""x264's constant rate factor; 18 is visually close to lossless."""


def write_video(path: Path, clips: list[np.ndarray], fps: int) -> None:
    """Write clips, each (T, H, W, 3) uint8 RGB, one after the other; H and W are even."""
    height, width = clips[0].shape[1:3]
    if height % 2 or width % 2:
        raise DatasetError(f"video needs even sides, pictures are {height} x {width}; use PNG")
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(QUALITY), "g": str(KEY_FRAME_EVERY), "bf": "0"}
        stream.time_base = Fraction(1, fps)
        number = 0
        for clip in clips:
            for picture in clip:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                file.mux(stream.encode(frame))
                number += 1
        file.mux(stream.encode())


def clip_checksums(path: Path, lengths: list[int], fps: int) -> list[int]:
    """CRC-32 of each clip of a video, as coded: `lengths` frames each, one after the other."""
    ends = np.cumsum(lengths)
    return [
        _checksum(path, int(end) - length, length, fps)
        for length, end in zip(lengths, ends, strict=True)
    ]


def check_clip(path: Path, first: int, count: int, fps: int, checksum: int | None) -> None:
    """Raise `DatasetError` where the clip is not the one that was written, or cannot be found."""
    seen = _checksum(path, first, count, fps)
    if checksum is not None and seen != checksum:
        raise DatasetError(f"{path} is damaged in the frames {first} to {first + count}")


def _checksum(path: Path, first: int, count: int, fps: int) -> int:
    """Of what the decoder is set up with and the coded frames `first` to `first + count`."""
    found = 0
    with _opened(path, fps) as (file, stream, time_base):
        total = zlib.crc32(stream.codec_context.extradata or b"")
        _seek(file, stream, first, fps, time_base)
        for packet in file.demux(stream):
            if packet.pts is None:
                continue
            frame = round(packet.pts * time_base * fps)
            if frame >= first + count:
                break
            # the frame before may be what the first is told against
            if frame >= first - KEY_FRAME_EVERY + 1:
                total = zlib.crc32(bytes(packet), total)
                found += frame >= first
    if found != count:
        raise DatasetError(f"{path} has {found} of {count} frames from {first}")
    return total


def read_video(
    path: Path, first: int, fps: int, count: int, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """`count` frames of a video from `first` on, each `shape`, (H, W, 3) uint8 RGB.

    Raises `DatasetError` that names the file where it is broken, too short or of another size.
    """
    done = 0
    with _opened(path, fps) as (file, stream, time_base):
        seen = (stream.codec_context.height, stream.codec_context.width)
        if seen != shape[:2]:
            raise DatasetError(f"{path} has images of {seen}, expected {shape[:2]}")
        _seek(file, stream, first, fps, time_base)
        for frame in file.decode(stream):
            if frame.pts is None or round(frame.pts * time_base * fps) < first:
                continue
            picture = frame.to_ndarray(format="rgb24")
            if picture.shape != shape:
                raise DatasetError(f"{path} has an image {picture.shape}, expected {shape}")
            yield picture
            done += 1
            if done == count:
                return
    raise DatasetError(f"{path} ends after {done} of {count} images from {first}")


def _seek(
    file: "InputContainer", stream: "VideoStream", first: int, fps: int, time_base: Fraction
) -> None:
    file.seek(round(first / fps / time_base), stream=stream)


@contextmanager
def _opened(path: Path, fps: int) -> Iterator[tuple["InputContainer", "VideoStream", Fraction]]:
    """The file as mp4 and nothing else: other formats name other files, and would be followed."""
    try:
        with av.open(str(path), format="mp4") as file:
            stream = file.streams.video[0]
            if stream.time_base is None or stream.codec_context.name not in DECODERS:
                raise DatasetError(
                    f"{path} is coded as {stream.codec_context.name}, expected {DECODERS}"
                )
            yield file, stream, stream.time_base
    except DatasetError:
        raise
    except Exception as error:  # of the container, of the decoder, of the system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"cannot read {path}: {reason}; record it again") from None
