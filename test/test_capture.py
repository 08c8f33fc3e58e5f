"""A camera that goes away and comes back, and one that is faster than it is wanted. No clock."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.data import capture
from safedojo_ros.data.capture import RateLimit, Source, frames, open_capture, parse_source

STREAM = Source("stream", "http://camera/x.mjpg")


class Clock:
    """Time that goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Closing(threading.Event):
    """Says how long was waited, and lets the clock go on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self._clock.now += timeout or 0.0
        return self.is_set()


class FakeCapture:
    """Gives `count` images, one every `period` seconds, then none."""

    def __init__(self, clock: Clock, count: int, period: float = 0.05) -> None:
        self._clock, self._left, self._period = clock, count, period
        self.released = False

    def grab(self) -> bool:
        self._clock.now += self._period
        self._left -= 1
        return self._left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        blue = np.zeros((2, 2, 3), np.uint8)
        blue[..., 0] = 255  # BGR
        return True, blue

    def release(self) -> None:
        self.released = True


def some(given: Iterator[Any], count: int) -> list[Any]:
    return [next(given) for _ in range(count)]


def test_a_stream_that_ceases_is_opened_anew_until_it_is_there_again() -> None:
    clock, opened = Clock(), []
    closing = Closing(clock)
    first = FakeCapture(clock, 2)
    answers: list[Any] = [ConfigError("stream cannot be opened"), FakeCapture(clock, 3)]

    def open_source(source: Source) -> Any:
        opened.append(source)
        answer = answers.pop(0)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    given = some(frames(STREAM, 20.0, closing, first, open_source, clock), 7)
    assert [isinstance(one, str) for one in given] == [False] * 2 + [True] * 2 + [False] * 3
    assert first.released
    assert opened == [STREAM, STREAM]
    assert closing.waits == [capture.OPEN_AGAIN] * 2
    assert "cannot be opened" in given[3]
    assert given[0][1][0, 0].tolist() == [0, 0, 255], "RGB"


@pytest.mark.parametrize(
    ("fps", "rate", "wanted"), [(20, 5, 5), (30, 20, 20), (20, 20, 20), (10, 20, 10)]
)
def test_images_come_at_the_rate_that_was_asked_for_or_as_they_come(
    fps: int, rate: float, wanted: int
) -> None:
    clock = Clock()
    camera = FakeCapture(clock, 10_000, 1.0 / fps)
    given = frames(STREAM, rate, Closing(clock), camera, clock=clock)
    next(given)
    times = [taken for taken, _ in some(given, 10 * wanted)]
    assert times[-1] - times[0] == pytest.approx(10.0, rel=0.06)


def test_an_image_that_comes_a_little_early_is_not_lost() -> None:
    limit = RateLimit(20.0)
    jitter = [0.0, 0.01, -0.01, 0.02, -0.02, 0.0, -0.01]
    assert all(limit.lets(0.05 * k + late) for k, late in enumerate(jitter))


def test_a_file_is_played_in_a_loop_in_its_time() -> None:
    clock = Clock()
    closing = Closing(clock)
    source = Source("file", "/video.mp4")

    def open_source(_: Source) -> FakeCapture:
        return FakeCapture(clock, 3, 0.0)

    given = some(frames(source, 10.0, closing, None, open_source, clock), 10)
    assert [round(taken, 6) for taken, _ in given] == [round(0.1 * k, 6) for k in range(10)]


def test_a_file_without_images_is_a_fault_and_is_not_opened_without_a_pause() -> None:
    clock = Clock()
    closing = Closing(clock)
    given = frames(Source("file", "/empty.mp4"), 10.0, closing, None,
                   lambda _: FakeCapture(clock, 0, 0.0), clock)  # fmt: skip
    assert all("no more images" in fault for fault in some(given, 3))
    assert closing.waits.count(capture.OPEN_AGAIN) >= 2


def test_after_closing_nothing_comes_and_the_source_is_given_back() -> None:
    clock = Clock()
    closing, camera = Closing(clock), FakeCapture(clock, 100)
    given = frames(STREAM, 20.0, closing, camera, clock=clock)
    next(given)
    closing.set()
    assert list(given) == []
    assert camera.released


def test_a_missing_file_and_an_unknown_source_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no video file .*no\.mp4"):
        open_capture(Source("file", str(tmp_path / "no.mp4")))
    (tmp_path / "no.txt").write_text("no video")
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_capture(Source("file", str(tmp_path / "no.txt")))
    with pytest.raises(ConfigError, match="write sim, topic:/name"):
        parse_source("telepathy", "front")
    assert parse_source("sim", "front") == Source("sim", "sim/front/image")
    assert parse_source("rtsp://camera/1", "front") == Source("stream", "rtsp://camera/1")
