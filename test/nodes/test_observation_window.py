"""What makes an observation unusable, told by a window with an injected clock."""

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.robot.observation_window import ObservationWindow, WindowConfig

MS = 1_000_000
STEP = 50 * MS
START = 1_000_000_000_000


def picture(value: int, size: int = 64) -> np.ndarray:
    """Another scene for every value; the first pixel is the value."""
    blocks = np.random.default_rng(value).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    shown = np.kron(blocks, np.ones((size // 8, size // 8, 1), np.uint8))
    shown[0, 0] = value % 256
    return shown


def state(y: float = 0.0) -> np.ndarray:
    return np.array([0.0, y, 0.2, np.pi, 0, 0, 0.04, 0.04], np.float32)


class Scene:
    """Feeds a window with two cameras, 50 ms a step."""

    def __init__(self, **config: float) -> None:
        self.window = ObservationWindow(WindowConfig(("front", "wrist"), 64, **config))  # type: ignore[arg-type]
        self.window.set_instruction("put the red cube on the plate")
        self.now, self.count, self.y = START, 0, 0.0
        self.frozen: set[str] = set()
        self.blank: set[str] = set()
        self.silent: set[str] = set()
        self.size, self.encoding = 64, "rgb8"

    def step(self, times: int = 1, move: float = 0.0) -> str:
        for _ in range(times):
            self.now += STEP
            self.count += 1
            self.y += move
            if "arm" not in self.silent:
                self.window.add_state(state(self.y), self.now)
            for name in ("front", "wrist"):
                if name not in self.silent:
                    shown = 7 if name in self.frozen else self.count
                    taken = picture(shown, self.size)
                    if name in self.blank:
                        taken[:] = 0
                    self.window.add_image(name, taken, self.now, self.now, self.encoding)
        return self.window.fault(self.now)


def test_a_complete_fresh_observation_has_no_fault_and_its_pictures_stamp() -> None:
    scene = Scene()
    assert scene.step(3) == ""
    observation = scene.window.newest(scene.now)
    assert observation.stamp == scene.now
    assert observation.images["wrist"][0, 0, 0] == 3
    assert scene.window.complete_stamp() == scene.now


def test_nothing_heard_yet_is_a_fault_that_names_what_is_missing() -> None:
    window = ObservationWindow(WindowConfig(("front",), 64))
    assert "no instruction" in window.fault(START)
    window.set_instruction("wait")
    assert "camera 'front' has not been heard" in window.fault(START)
    with pytest.raises(ObservationRejected, match="front"):
        window.newest(START)


@pytest.mark.fault("images", "a camera stops", "the gate holds after 0.1 s and names it")
def test_a_camera_that_stops_is_found_when_its_picture_is_too_old() -> None:
    scene = Scene(max_age=0.25)
    scene.step(3)
    scene.silent = {"wrist"}
    assert scene.step(5) == ""
    assert "camera 'wrist' has stopped" in scene.step(1)
    scene.silent = set()
    assert scene.step(1) == ""


@pytest.mark.fault("images", "a camera sends old images", "the gate holds and names it")
def test_a_camera_that_sends_old_images_is_told_from_one_that_stopped() -> None:
    scene = Scene(max_age=0.1)
    scene.step(1)
    scene.now += 3 * STEP
    for name in ("front", "wrist"):
        scene.window.add_image(name, picture(9), scene.now - 110 * MS, scene.now)
    fault = scene.window.fault(scene.now)
    assert fault.startswith("camera 'front' sends old images: its newest image is 0.11 s old")


@pytest.mark.fault("images", "stamps that do not advance", "the gate holds and names the camera")
def test_a_camera_whose_stamps_stand_still_is_found_at_once() -> None:
    scene = Scene()
    scene.step(2)
    scene.window.add_image("front", picture(9), scene.now, scene.now + STEP)
    assert "stamp does not advance" in scene.window.fault(scene.now + STEP)


@pytest.mark.fault("images", "a stamp in the future", "the gate holds: synchronise the clocks")
def test_a_stamp_in_the_future_is_a_fault() -> None:
    scene = Scene()
    scene.step(2)
    scene.window.add_image("front", picture(9), scene.now + 900 * MS, scene.now)
    assert "in the future" in scene.window.fault(scene.now)


@pytest.mark.fault(
    "images",
    "a frozen image, also with flipped bits or noise",
    "the gate holds after 8 images and 10 cm of motion",
)
def test_identical_pictures_while_the_arm_moves_are_a_frozen_camera() -> None:
    scene = Scene()
    scene.step(3)
    scene.frozen = {"front"}
    assert scene.step(7, move=0.02) == ""
    fault = scene.step(1, move=0.02)
    assert fault.startswith("camera 'front' is frozen: 8 images show the same")
    assert "the arm moved 14 cm" in fault
    scene.frozen = set()
    assert scene.step(1, move=0.01) == ""


@pytest.mark.fault("images", "an image of one colour", "the gate holds at once")
def test_a_camera_that_shows_one_colour_is_a_fault_at_once() -> None:
    scene = Scene()
    scene.blank = {"wrist"}
    assert scene.step(1).startswith("camera 'wrist' shows one colour")
    scene.blank = set()
    assert scene.step(1) == ""


def test_identical_pictures_of_a_standing_arm_are_no_fault() -> None:
    scene = Scene()
    scene.frozen = {"front", "wrist"}
    assert scene.step(60) == ""


def test_identical_images_of_a_hand_that_turns_where_it_is_are_no_fault() -> None:
    scene = Scene()
    scene.frozen = {"front", "wrist"}
    for number in range(30):
        scene.silent = {"arm"}
        scene.step(1)
        turned = state()
        turned[3:6] -= 0.05 * number
        scene.window.add_state(turned, scene.now)
    assert scene.window.fault(scene.now) == ""


def test_a_jump_of_the_arm_before_the_first_identical_picture_does_not_count() -> None:
    scene = Scene()
    scene.step(5, move=0.05)
    scene.y = 0.0
    scene.frozen = {"front"}
    assert scene.step(20) == ""


@pytest.mark.fault("images", "size or encoding changes", "the gate holds until it is changed back")
@pytest.mark.parametrize(("size", "encoding"), [(32, "rgb8"), (64, "mono8")])
def test_a_changed_size_or_encoding_is_a_fault_until_it_is_changed_back(
    size: int, encoding: str
) -> None:
    scene = Scene()
    scene.step(2)
    scene.size, scene.encoding = size, encoding
    fault = scene.step(1)
    assert "changed from 64x64 rgb8" in fault
    assert f"{size}x{size} {encoding}" in fault
    scene.size, scene.encoding = 64, "rgb8"
    assert scene.step(1) == ""


@pytest.mark.fault("images", "an image that cannot be read", "the gate holds and says why")
def test_an_unreadable_picture_is_a_fault_with_its_reason() -> None:
    scene = Scene()
    scene.step(2)
    scene.window.reject_image("wrist", "sends yuv422", scene.now)
    assert scene.window.fault(scene.now) == "camera 'wrist' sends yuv422"


@pytest.mark.fault(
    "images", "an instruction that cannot be one", "the gate holds until a good one comes"
)
@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("  \n", "empty"), ("x" * 201, "201 characters"), ("go\x00on", "unprintable")],
)
def test_an_instruction_that_cannot_be_one_is_a_fault_until_a_good_one_comes(
    text: str, reason: str
) -> None:
    scene = Scene()
    scene.step(2)
    assert not scene.window.set_instruction(text)
    assert reason in scene.step(1)
    assert scene.window.set_instruction("push the bowl to the stove mark")
    assert scene.step(1) == ""


def test_only_a_changed_instruction_asks_for_a_new_chunk() -> None:
    window = ObservationWindow(WindowConfig(("front",), 64))
    assert window.set_instruction("wait")
    assert not window.set_instruction(" wait ")
    assert window.set_instruction("go on")


def test_a_silent_arm_is_a_fault() -> None:
    scene = Scene()
    scene.step(2)
    scene.silent = {"arm"}
    assert "the arm's state" in scene.step(6)


def test_pictures_of_different_instants_are_no_observation() -> None:
    scene = Scene(max_skew=0.03)
    scene.step(2)
    scene.silent = {"wrist"}
    scene.step(1)
    assert scene.window.complete_stamp() == 0
    assert not scene.window.knows(scene.now)
    assert scene.window.knows(scene.now - STEP)
    with pytest.raises(ObservationRejected, match="an image of 'wrist'"):
        scene.window.at(scene.now)


def test_pictures_are_resized_to_what_the_model_wants() -> None:
    window = ObservationWindow(WindowConfig(("front",), 32))
    window.set_instruction("wait")
    window.add_state(state(), START)
    window.add_image("front", picture(5, 64), START, START)
    assert window.newest(START).images["front"].shape == (32, 32, 3)


def test_forgetting_begins_anew_also_with_another_size() -> None:
    scene = Scene()
    scene.step(2)
    scene.window.forget()
    assert "not been heard" in scene.window.fault(scene.now)
    scene.size = 128
    assert scene.step(1) == ""


@pytest.mark.fault("images", "the clock goes back", "what was seen before is forgotten")
def test_when_the_clock_goes_back_what_was_before_is_forgotten() -> None:
    scene = Scene()
    scene.step(100)
    scene.now = START - 5_000 * MS
    assert "not been heard" in scene.window.fault(scene.now)
    assert scene.step(1) == ""
    assert scene.window.newest(scene.now).stamp == scene.now
    assert not scene.window.knows(START)


@pytest.mark.parametrize("first", ["image", "state"])
def test_after_the_clock_went_back_it_does_not_matter_what_comes_first(first: str) -> None:
    scene = Scene()
    scene.step(3)
    scene.now -= 5_000 * MS
    scene.silent = {"arm"} if first == "image" else {"front", "wrist"}
    scene.step(1)
    scene.silent = set()
    assert scene.step(1) == ""


def test_a_camera_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError):
        WindowConfig(("front", "front"), 64)


def test_an_observation_is_as_old_as_it_may_be_and_not_older() -> None:
    scene = Scene(max_age=0.1)
    scene.step(3)
    assert scene.window.fault(scene.now + 100 * MS) == ""
    assert "0.10 s old" in scene.window.fault(scene.now + 101 * MS)


def test_a_stamp_may_lie_a_little_ahead() -> None:
    scene = Scene()
    scene.step(2)
    scene.window.add_image("front", picture(9), scene.now + 10 * MS, scene.now)
    assert scene.window.fault(scene.now) == ""
    scene.window.add_image("front", picture(10), scene.now + 61 * MS, scene.now + 50 * MS)
    assert "0.01 s in the future" in scene.window.fault(scene.now + 50 * MS)


def test_the_longest_instruction_is_allowed_and_spaces_do_not_count() -> None:
    window = ObservationWindow(WindowConfig(("front",), 64, max_instruction=5))
    assert window.set_instruction("  ab   cd ")
    assert window.instruction == "ab cd"
    assert not window.set_instruction("ab cde")
    assert window.instruction == "ab cd"
    assert window.set_instruction("ab cd"), "after a fault the same one counts as new"


def test_an_older_state_is_ignored_and_the_nearest_one_is_used() -> None:
    scene = Scene(max_skew=0.03)
    scene.step(3, move=0.01)
    scene.window.add_state(state(9.0), scene.now - MS)
    scene.window.add_state(state(0.5), scene.now + 20 * MS)
    assert scene.window.at(scene.now).state[1] == pytest.approx(0.03)
    assert scene.window.at(scene.now + 20 * MS).state[1] == pytest.approx(0.5)
    assert scene.window.complete_stamp() == scene.now, "the images' stamp, not the state's"


def test_images_and_state_may_lie_apart_by_the_skew_and_no_more() -> None:
    scene = Scene(max_skew=0.03)
    scene.step(3)
    scene.window.add_state(state(), scene.now + 30 * MS)
    assert scene.window.complete_stamp() == scene.now
    assert scene.window.knows(scene.now - 20 * MS)
    scene.window.add_state(state(), scene.now + 31 * MS)
    assert scene.window.complete_stamp() == 0
    assert not scene.window.knows(scene.now + 62 * MS)


def test_so_many_observations_are_remembered() -> None:
    scene = Scene(memory=4)
    scene.step(10)
    assert scene.window.knows(scene.now - 3 * STEP)
    assert not scene.window.knows(scene.now - 4 * STEP)


def test_a_frozen_camera_is_told_from_a_still_scene_by_how_far_the_arm_moved() -> None:
    for move, frozen in ((0.0024, False), (0.0032, True)):
        scene = Scene(frozen_frames=8, frozen_motion=0.02)
        scene.frozen = {"front"}
        assert ("frozen" in scene.step(8, move=move)) == frozen


def test_a_slow_arm_before_a_frozen_camera_is_found_however_long_it_takes() -> None:
    scene = Scene(memory=4)
    scene.frozen = {"front"}
    assert scene.step(100, move=0.001) == ""
    assert "is frozen: 102 images" in scene.step(2, move=0.001)


def test_what_the_arm_did_after_the_newest_image_cannot_be_seen_in_it() -> None:
    scene = Scene()
    scene.frozen = {"front", "wrist"}
    scene.step(20)
    scene.window.add_state(state(0.3), scene.now + 60 * MS)
    scene.silent = {"arm"}
    assert scene.step(1) == ""
    assert "is frozen" in scene.step(1)


def test_a_camera_that_was_restarted_is_not_taken_for_frozen() -> None:
    scene = Scene()
    scene.frozen = {"front"}
    assert "is frozen" in scene.step(20, move=0.02)
    scene.silent = {"front"}
    scene.step(4)
    scene.silent = set()
    assert scene.step(8) == ""
