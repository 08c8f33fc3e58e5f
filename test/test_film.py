"""A film strip shows what happened."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.film import film_strip, said
from safedojo_ros.evaluation.plot import FREE, SUCCESS, TOUCHED
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene


class Pusher:
    """Goes straight ahead and down, into whatever is there."""

    checkpoint_id = "pusher"
    chunk_length = 4
    cameras: tuple[str, ...] = ("agentview", "wrist")
    image_size = 32

    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        down = np.array([0.0, 0.0, -0.03, 0.0, 0.0, 0.0, 1.0])
        return np.tile(down, (len(observations), 4, 1))


@pytest.mark.parametrize("level", [0, 2])
def test_a_strip_says_in_words_what_happened_and_failure_is_not_green(level: int) -> None:
    vector = VectorWorld(Pusher.image_size, 12, Pusher.cameras)
    strip = film_strip(Pusher(), Scene(1_000_000, "cube_on_plate", level), vector, made="by us")
    assert len(strip.axes) == 6
    title, caption = strip.get_suptitle(), strip.get_supxlabel()
    assert "cube_on_plate" in title
    assert "did not succeed" in title
    assert caption == "policy pusher, by us"
    words = [axes.get_title() for axes in strip.axes]
    assert words[0] == "step 0"
    assert words[-1].startswith("step 12, no success")
    for axes, word in zip(strip.axes, words, strict=True):
        colour = to_hex(axes.spines["left"].get_edgecolor())
        assert colour == (TOUCHED if "touched" in word else FREE)
    assert any("touched" in word for word in words) == ("touched the obstacle first" in title)


def test_success_without_a_contact_is_green_and_with_one_is_not() -> None:
    assert said(9, False, True) == ("step 9, success", SUCCESS)
    assert said(9, True, True) == ("step 9, success, obstacle touched", TOUCHED)
    assert said(9, False, False) == ("step 9, no success", FREE)
    assert said(4, False, None) == ("step 4", FREE)
