"""What was seen of a demonstration, as a video: its runs side by side, episode after episode."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.data.images import decode_compressed

RATE = 10
"""Images a second: as many as the world shows of a second of its time."""
STANDS = 10
"""Images for which the end of an episode is shown."""
BAR = 40
"""Height of the caption, pixels."""
QUALITY = 24
"""x264's constant rate factor."""
GOOD, BAD, PLAIN = (40, 150, 60), (200, 40, 40), (40, 40, 48)


@dataclass
class FilmRoll:
    """The images of one run. title: who acts; episodes: outcome and JPEG images of each."""

    title: str
    episodes: list[tuple[Mapping[str, Any], list[bytes]]] = field(default_factory=list)
    _loose: list[tuple[int, bytes]] = field(default_factory=list)

    def see(self, stamp: int, image: bytes) -> None:
        """A JPEG image of the world's time `stamp` (ns)."""
        self._loose.append((stamp, image))

    def end(self, outcome: Mapping[str, Any]) -> None:
        """What was seen until the outcome's `stamp` is an episode."""
        over = int(outcome["stamp"])
        self.episodes.append((outcome, [image for stamp, image in self._loose if stamp <= over]))
        self._loose = [(stamp, image) for stamp, image in self._loose if stamp > over]


def check_video_path(path: Path, practice: bool = False) -> None:
    """Raise `ConfigError` where no video can be written, before anything is started."""
    if practice:
        raise ConfigError("--video is not for --practice, which works many episodes")
    if path.suffix != ".mp4":
        raise ConfigError(f"--video is {path}, expected a name that ends in .mp4")
    path.parent.mkdir(parents=True, exist_ok=True)


def write_video(path: Path, rolls: Sequence[FilmRoll]) -> int:
    """Write the runs side by side; returns how many images that are (0: no file)."""
    count = 0
    with av.open(str(path), "w", format="mp4") as file:
        stream: Any = None
        for image in side_by_side(rolls):
            if stream is None:
                stream = file.add_stream("libx264", rate=RATE)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt, stream.options = (
                    "yuv420p",
                    {"crf": str(QUALITY), "preset": "veryfast"},
                )
                stream.time_base = Fraction(1, RATE)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, RATE)
            file.mux(stream.encode(frame))
            count += 1
        if stream is not None:
            file.mux(stream.encode())
    if not count:
        path.unlink(missing_ok=True)
    return count


def side_by_side(rolls: Sequence[FilmRoll]) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB images, all of one size; who is done earlier stands still."""
    for number in range(max((len(roll.episodes) for roll in rolls), default=0)):
        shown = [(roll.title, *roll.episodes[number]) for roll in rolls
                 if len(roll.episodes) > number and roll.episodes[number][1]]  # fmt: skip
        if len(shown) < len(rolls):
            continue
        longest = max(len(images) for _, _, images in shown)
        for at in range(longest + STANDS):
            yield np.hstack([_captioned(at, *each) for each in shown])


def _captioned(
    at: int, title: str, outcome: Mapping[str, Any], images: Sequence[bytes]
) -> np.ndarray:
    """One run's image number `at` with its caption, which tells the outcome at the end."""
    image = decode_compressed(images[min(at, len(images) - 1)])
    bar, words = PLAIN, title
    if at >= len(images):
        bar = GOOD if outcome["success"] and not outcome["collision"] else BAD
        words = f"{title}: {ending(outcome)}"
    captioned = cv2.copyMakeBorder(image, BAR, 0, 0, 0, cv2.BORDER_CONSTANT, value=bar)
    place = (10, BAR - 13)
    cv2.putText(captioned, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 1, cv2.LINE_AA)
    return np.ascontiguousarray(captioned)


def ending(outcome: Mapping[str, Any]) -> str:
    """How an episode ended, in a few words."""
    task = "done" if outcome["success"] else "not done"
    if outcome["collision"]:
        return f"{task}, obstacle moved {outcome['displacement'] * 1e3:.0f} mm"
    return f"{task}, touched the obstacle" if outcome["contact"] else task
