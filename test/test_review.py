"""A person's answers become the labels of a set, and nothing else in it changes."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import Browser, browser_program
from test_lerobot_layout import CAMERAS, SIZE, make_episode

from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.relabel import relabel
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.data.review.review import Moment, Review, moments_of
from safedojo_ros.data.review.server import ReviewServer
from safedojo_ros.learning.data.contacts import check_labels

SOURCES = ("physics", "wrench", "predicted", "")
TOUCHED = {0: (1, 2), 1: (3, 4, 8), 2: (), 3: ()}
"""Steps with a contact label of each episode."""


@pytest.fixture(params=[False, True], ids=["png", "video"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return recorded(tmp_path / "set", request.param)


def recorded(root: Path, video: bool = False) -> Path:
    with EpisodeWriter(root, SIZE, CAMERAS, video=video, episodes_per_file=3) as writer:
        for number, source in enumerate(SOURCES):
            episode = make_episode(10, seed=number)
            cost = np.isin(np.arange(10), TOUCHED[number]).astype(np.float32)
            writer.add(replace(episode, cost=cost, cost_source=source))
    return root


def test_every_run_of_labels_is_a_moment_and_an_episode_without_is_one() -> None:
    contact = np.isin(np.arange(10), (0, 3, 4, 9))
    wanted = [Moment(7, 0, 1, True), Moment(7, 3, 5, True), Moment(7, 9, 10, True)]
    assert moments_of(7, contact) == wanted
    assert moments_of(2, np.zeros(5, bool)) == [Moment(2, 0, 5, False)]


def test_answers_are_saved_when_an_episode_is_whole_and_nothing_else_changes(root: Path) -> None:
    before = list(EpisodeReader(root))
    review = Review(root)
    assert [(m.episode, m.first, m.end) for m in review.moments] == [
        (1, 3, 5), (1, 8, 9), (2, 0, 10), (3, 0, 10),
    ]  # fmt: skip
    review.answer(0, False)
    assert EpisodeReader(root).rows[1].cost_source == "wrench", "one moment is left"
    review.answer(1, True)
    reader = EpisodeReader(root)
    assert [row.cost_source for row in reader.rows] == ["physics", "person", "predicted", ""]
    assert reader.rows[1].contact_steps == 1
    with pytest.raises(DatasetError, match="mark the steps with contact"):
        review.answer(2, False)
    review.mark(2, 6, True)
    review.answer(2, True)
    review.answer(3, True)
    assert (review.done, review.changed) == (True, 3)
    reader = EpisodeReader(root)
    assert not reader.damage
    check_labels([root])
    wanted = {0: [1, 2], 1: [8], 2: [6], 3: []}
    for number, (old, new) in enumerate(zip(before, reader, strict=True)):
        assert np.flatnonzero(new.cost).tolist() == wanted[number]
        assert new.cost_source == ("person" if number else "physics")
        for name in CAMERAS:
            np.testing.assert_array_equal(new.images[name], old.images[name])
        for name in ("state", "actions", "success", "displacement"):
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
        assert (new.instruction, new.seed, new.source) == (old.instruction, old.seed, old.source)
    with EpisodeWriter(root, SIZE, CAMERAS, video=(root / "videos").exists()) as writer:
        writer.add(before[0])
    assert len(EpisodeReader(root)) == 5
    with pytest.raises(DatasetError, match="there is nothing to ask"):
        Review(root)


def test_a_person_may_think_again(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set")
    review = Review(root)
    for right in (False, True):
        review.answer(1, right)
    review.answer(0, True)
    assert np.flatnonzero(EpisodeReader(root)[1].cost).tolist() == [3, 4, 8]
    review.mark(0, 4, False)
    assert np.flatnonzero(EpisodeReader(root)[1].cost).tolist() == [3, 8], "it is saved again"
    assert EpisodeReader(root).rows[1].contact_steps == 2


def test_a_set_that_somebody_writes_is_left_alone(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set")
    review, row = Review(root), EpisodeReader(root).rows[1]
    with EpisodeWriter(root, SIZE, CAMERAS):
        review.answer(0, True)
        with pytest.raises(DatasetError, match="written by another process"):
            review.answer(1, True)
    assert EpisodeReader(root).rows[1].cost_source == "wrench"
    with pytest.raises(DatasetError, match=r"have shape \(4,\), expected \(10,\)"):
        relabel(root, row, np.zeros(4, bool), "person")


@contextmanager
def served(root: Path) -> Iterator[ReviewServer]:
    server = ReviewServer(Review(root))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(20.0)
        server.server_close()


def ask(server: ReviewServer, path: str, said: Any = None, **headers: str) -> bytes:
    body = None if said is None else json.dumps(said).encode()
    request = urllib.request.Request(server.address + path, body, headers)
    with urllib.request.urlopen(request, timeout=20.0) as answer:
        return bytes(answer.read())


def test_the_page_is_served_with_its_images_to_this_machine_alone(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set")
    with served(root) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert b"<title>Contact labels</title>" in ask(server, "")
        assert json.loads(ask(server, "state"))["moments"][0]["labels"][3:5] == [1, 1]
        png = cv2.imdecode(np.frombuffer(ask(server, "image?moment=1&step=8"), np.uint8), 1)
        assert png is not None
        seen = EpisodeReader(root)[1].images
        beside = np.concatenate([seen[name][8] for name in CAMERAS], axis=1)
        np.testing.assert_array_equal(png[..., ::-1], beside)
        after = json.loads(ask(server, "answer", {"moment": 0, "right": False}))
        assert after["moments"][0]["answer"] is False
        assert not any(after["moments"][0]["labels"][3:5])
        for path, said, headers, status in (
            ("nothing", None, {}, 404),
            ("image?moment=99&step=0", None, {}, 400),
            ("image?moment=0", None, {}, 400),
            ("answer", {"moment": -1, "right": True}, {}, 400),
            ("answer", {"moment": 0, "step": 10, "contact": True}, {}, 400),
            ("answer", ["y"], {}, 400),
            ("answer", {"moment": 1, "right": True}, {"Origin": "http://evil.example"}, 403),
            ("state", None, {"Host": "evil.example"}, 403),
            ("answer", "x" * 5000, {}, 403),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(server, path, said, **headers)
            assert refused.value.code == status, path
        assert EpisodeReader(root).rows[1].cost_source == "wrench"


@pytest.mark.skipif(browser_program() is None, reason="Chromium is not installed")
def test_a_person_answers_by_keyboard_in_a_browser(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set")
    with served(root) as server, Browser(server.address, (900, 900)) as browser:

        def text(name: str) -> str:
            script = f"document.getElementById('{name}').textContent"
            return str(browser.ask("Runtime.evaluate", expression=script)["result"].get("value"))

        def wait_for(name: str, part: str) -> None:
            end = time.monotonic() + 60.0
            while part not in text(name):
                assert time.monotonic() < end, f"{text(name)!r} has no {part!r}"
                time.sleep(0.05)

        def press(*keys: str) -> None:
            for key in keys:
                browser.ask("Input.dispatchKeyEvent", type="keyDown", key=key)
                browser.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

        wait_for("where", "moment 1 of 4, 4 to answer")
        wait_for("question", "Steps 3 to 4: is something touched")
        assert browser.picture().std() > 20
        press("n")
        wait_for("where", "moment 2 of 4, 3 to answer")
        press("y")
        wait_for("where", "moment 3 of 4, 2 to answer, 1 of 3 episodes saved")
        press("n")
        wait_for("said", "mark the steps with contact")
        press("ArrowRight", "ArrowRight", "ArrowLeft")
        wait_for("where", "step 1 of 10")
        press(" ", "ArrowDown")
        wait_for("where", "moment 4 of 4")
        press("ArrowUp")
        wait_for("where", "moment 3 of 4")
        press("y")
        wait_for("where", "moment 4 of 4, 1 to answer, 2 of 3")
        press("y")
        wait_for("question", "All episodes are saved")
    reader = EpisodeReader(root)
    assert [row.cost_source for row in reader.rows] == ["physics", "person", "person", "person"]
    assert [np.flatnonzero(e.cost).tolist() for e in reader] == [[1, 2], [8], [1], []]


def test_the_command_ends_when_all_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = recorded(tmp_path / "set")
    begun = threading.Event()
    serve, made = ReviewServer.serve_forever, list[ReviewServer]()

    def noted(self: ReviewServer) -> None:
        made.append(self)
        begun.set()
        serve(self, 0.05)

    monkeypatch.setattr(ReviewServer, "serve_forever", noted)

    def person() -> None:
        assert begun.wait(60.0)
        for number in range(4):
            ask(made[0], "answer", {"moment": number, "right": True})

    thread = threading.Thread(target=person)
    thread.start()
    assert main(["review", str(root)]) == 0
    thread.join(20.0)
    printed = capsys.readouterr().out
    assert "4 moments of 3 episodes: http://127.0.0.1:" in printed
    assert "3 of 3 episodes saved with labels by a person, 0 steps of them changed" in printed
    assert main(["review", str(root)]) != 0
    assert "there is nothing to ask" in capsys.readouterr().err
