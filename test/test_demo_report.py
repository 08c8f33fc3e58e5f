"""What a demonstration says of its episodes: lines, tables, last words, video. No nodes run."""

import io
from argparse import Namespace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from rich.console import Console

from safedojo_ros.cli import demo_compare
from safedojo_ros.cli.demo_report import document, tell_episode, totals, verdict
from safedojo_ros.cli.demo_video import (
    BAR,
    STANDS,
    FilmRoll,
    check_video_path,
    ending,
    side_by_side,
    write_video,
)
from safedojo_ros.core.errors import ConfigError


def outcome(number: int = 0, success: bool = True, moved: float = 0.0, **more: Any) -> dict:
    return {
        "number": number,
        "stamp": 100 * (number + 1),
        "task": "cube_on_plate",
        "level": 2,
        "success": success,
        "contact": moved > 0,
        "collision": moved > 0.001,
        "displacement": moved,
        "steps": 46,
        **more,
    }


def said(what: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    what(console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_an_episode_is_one_line_and_its_holds_are_one_more_with_a_count() -> None:
    assert len(said(lambda c: tell_episode(c, outcome(), {})).splitlines()) == 1
    held = {"predicted cost 0.81 reaches 0.50": 12, "camera 'wrist' has stopped": 2}
    lines = said(lambda c: tell_episode(c, outcome(2, moved=0.0123), held)).splitlines()
    assert len(lines) == 2
    assert "3  cube_on_plate" in lines[0]
    assert "level II success, contact, obstacle moved 12.3 mm, 46 steps" in lines[0]
    assert "the gate held 12 chunks: predicted cost 0.81 reaches 0.50" in lines[1]
    assert "and 2 for other reasons" in lines[1]


def test_the_last_line_says_how_well_it_went() -> None:
    total = totals([outcome(), outcome(1, moved=0.02), outcome(2, success=False)])
    assert verdict(total, 3) == (
        "1 of 3 episodes succeeded and left the obstacle where it was; 1 moved it, 1 did not "
        "finish the task."
    )
    assert verdict(total, 5).endswith("2 were not worked.")


def test_the_comparison_sets_each_scene_s_two_endings_side_by_side() -> None:
    careless, careful = [outcome(moved=0.245)], [outcome(success=False)]
    text = said(lambda c: c.print(demo_compare.side_by_side(careless, careful, "II")))
    (row,) = [line for line in text.splitlines() if "cube_on_plate" in line]
    assert row.index("obstacle moved 245 mm") < row.index("not done")
    assert demo_compare.verdict(careless, careful) == (
        "obstacle moved: unsafe 1 of 1, safe 0 of 1; done without that: unsafe 0, safe 0"
    )


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (outcome(), "done"),
        (outcome(success=False), "not done"),
        (outcome(moved=0.0005), "done, touched the obstacle"),
        (outcome(success=False, moved=0.02), "not done, obstacle moved 20 mm"),
    ],
)
def test_an_ending_is_told_in_a_few_words(one: dict, words: str) -> None:
    assert ending(one) == words


def roll(images: int, moved: float = 0.0) -> FilmRoll:
    film = FilmRoll("a")
    for stamp in range(images):
        picture = np.full((48, 64, 3), 10 * stamp, np.uint8)
        film.see(stamp, cv2.imencode(".png", picture)[1].tobytes())
    film.see(200, b"of the next episode")
    film.end(outcome(moved=moved))
    return film


def test_two_runs_are_shown_side_by_side_and_the_shorter_one_stands_still() -> None:
    images = list(side_by_side([roll(3), roll(5, moved=0.02)]))
    assert len(images) == 5 + STANDS
    assert {image.shape for image in images} == {(48 + BAR, 128, 3)}
    assert images[4][-1, 0, 0] == 20, "the last image of the shorter one"
    assert images[4][-1, 64, 0] == 40
    green, red = images[-1][1, 1].astype(int), images[-1][1, 65].astype(int)
    assert green[1] > green[0]
    assert red[0] > red[1]


def test_a_video_holds_every_image_and_none_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    assert write_video(path, [roll(3)]) == 3 + STANDS
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 3 + STANDS
    assert write_video(tmp_path / "none.mp4", [FilmRoll("a")]) == 0
    assert not (tmp_path / "none.mp4").exists()
    with pytest.raises(ConfigError, match=r"ends in \.mp4"):
        check_video_path(tmp_path / "seen.gif")


@pytest.mark.parametrize(("figures", "kept"), [({"world_speed": 0.5}, False), ({}, True)])
def test_the_file_says_no_machine_time_of_episodes_in_simulated_time(
    figures: dict, kept: bool
) -> None:
    options = Namespace(
        policy="safe", safety="shipped", monitor=False, hold=False, composed=False, fci=False,
        seed=0, level="II",
    )  # fmt: skip
    made = document(options, [outcome(0), outcome(1)], figures)
    assert [("stamp" in episode) for episode in made["episodes"]] == [kept, kept]
    assert made["simulated_time"] is not kept
    assert made["total"]["episodes"] == 2
