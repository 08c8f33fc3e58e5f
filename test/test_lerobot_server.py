"""A checkpoint that LeRobot saved answers our gate's questions as LeRobot itself would.

LeRobot's versions exclude ours, so it has an environment of its own: that of `./dojo lerobot`, or
SAFEDOJO_LEROBOT names its Python.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from safedojo_ros.core.errors import PolicyUnavailable
from safedojo_ros.core.types import Observation
from safedojo_ros.data.images import fit_image
from safedojo_ros.models.served.lerobot_server import fitted
from safedojo_ros.models.served.policy import ServedPolicy, open_served

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path(os.environ.get("SAFEDOJO_LEROBOT", ROOT / ".venv-lerobot/bin/python"))
MODULE = "safedojo_ros.models.served.lerobot_server"
needs_lerobot = pytest.mark.skipif(
    not PYTHON.exists(), reason="./dojo lerobot has not been set up here"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


class Served(NamedTuple):
    """A running server. folder: what `lerobot_checkpoint.py` made."""

    name: str
    folder: Path
    process: "subprocess.Popen[str]"

    def observation(self, state: int = 8) -> Observation:
        seen = np.load(self.folder / "seen.npz")
        images = {"agentview": seen["front"], "wrist": seen["wrist"]}
        square = {name: fit_image(image, 64, 64, "letterbox") for name, image in images.items()}
        return Observation(square, seen["state"][:state], "put the bolt into the box")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("lerobot")
    make = [str(PYTHON), str(ROOT / "test/lerobot_checkpoint.py"), str(folder)]
    subprocess.run(make, env=ENVIRONMENT, check=True, timeout=280)
    directory = str(folder / "pretrained_model")
    command = [str(PYTHON), "-P", "-m", MODULE, directory, "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Served(process.stdout.readline().strip(), folder, process)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20.0) == 0


def policy_of(served: Served) -> ServedPolicy:
    return open_served(f"{served.name}&keys=tabletop&timeout=4")


@needs_lerobot
@pytest.mark.timeout(600)
def test_the_gate_is_told_what_lerobot_itself_answers(served: Served) -> None:
    assert "?image_size=64&resize=letterbox" in served.name, (
        "the longer side, so that nothing is cut off"
    )
    policy = policy_of(served)
    chunk = policy.act([served.observation()])[0]
    expected = np.load(served.folder / "expected.npy")
    assert expected.std() > 1e-4
    assert chunk == pytest.approx(expected, abs=1e-6)
    assert policy.connection.metadata == {
        "policy": "act",
        "cameras": ["observation.images.front", "observation.images.wrist"],
        "state_size": 8,
        "action_size": 7,
    }
    policy.close()


@needs_lerobot
def test_another_count_of_images_or_numbers_is_one_line(served: Served) -> None:
    policy = policy_of(served)
    question = policy.keys.question(served.observation(), policy.cameras)
    del question["observation/wrist_image"]
    with pytest.raises(PolicyUnavailable) as seen:
        policy.connection.ask(question)
    assert "1 images and a state of 8 came, the checkpoint has 2 (observation.images.front" in str(
        seen.value
    )
    assert "\n" not in str(seen.value)
    policy.close()


@needs_lerobot
def test_a_directory_that_is_none_is_one_line() -> None:
    command = [str(PYTHON), "-P", "-m", MODULE, "nowhere", "--device", "cpu"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "dojo lerobot: there is no directory 'nowhere'"


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (64, 64)])
def test_the_server_takes_the_bars_off_again(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), np.uint8)
    assert np.array_equal(fitted(fit_image(image, 64, 64, "letterbox"), *shape), image)
    half = fitted(fit_image(image, 64, 64, "letterbox"), shape[0] // 2, shape[1] // 2)
    assert half.shape == (shape[0] // 2, shape[1] // 2, 3)
    assert half.min() > 0
