"""Pictures as mp4: for cameras whose PNGs would be too large. Lossy, with a key frame every two."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from safedojo_ros.core.errors import DatasetError

KEY_FRAME_EVERY = 2
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


def read_video(path: Path, first: int, count: int, fps: int) -> np.ndarray:
    """Frames `first` to `first + count` of a video as (count, H, W, 3) uint8 RGB.

    Raises `DatasetError` that names the file where it is broken or too short.
    """
    pictures: list[np.ndarray] = []
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            if stream.time_base is None:
                raise DatasetError(f"{path} has no time base; record it again")
            file.seek(round(first / fps / stream.time_base), stream=stream)
            for frame in file.decode(stream):
                if frame.pts is None or round(frame.pts * stream.time_base * fps) < first:
                    continue
                pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == count:
                    break
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"cannot read {path}: {error}; record it again") from None
    if len(pictures) < count:
        raise DatasetError(f"{path} ends after {len(pictures)} of {count} pictures from {first}")
    return np.stack(pictures)
