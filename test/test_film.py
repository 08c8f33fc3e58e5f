"""A film strip shows what happened."""

from pathlib import Path

import cv2
import numpy as np
import torch

from safedojo_ros.core.types import Observation
from safedojo_ros.evaluation.film import CONTACT_COLOUR, FREE_COLOUR, film_strip, write_image
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


def test_six_frames_in_two_rows(tmp_path: Path) -> None:
    vector = VectorWorld(Pusher.image_size, 12, Pusher.cameras)
    strip = film_strip(Pusher(), Scene(1_000_000, "cube_on_plate", 2), vector)
    assert strip.shape == (2 * 240, 3 * 320, 3)
    assert strip[239, 10].tolist() in [list(FREE_COLOUR), list(CONTACT_COLOUR)]
    assert np.abs(strip[:200, :320].astype(int) - strip[240:440, :320]).max() > 50
    path = tmp_path / "film.png"
    write_image(str(path), strip)
    read = cv2.imread(str(path))
    assert read is not None
    np.testing.assert_array_equal(read[:, :, ::-1], strip)
