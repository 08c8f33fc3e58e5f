"""Every training that was interrupted ends, when resumed, with the very weights of a whole one.

Each is called as its command calls it, model and all, with other random numbers drawn before: what
is not seeded before the model is built would differ. Practice is in test_practice.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from test_learning import CAMERAS, reaching

from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning.autoencoder import recorded_images, train_autoencoder
from safedojo_ros.learning.data.contacts import recorded_contacts
from safedojo_ros.learning.data.demonstrations import Demonstrations
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.success_frames import SuccessFrames, recorded_frames
from safedojo_ros.learning.fit import FitConfig
from safedojo_ros.learning.imitation import train_policy
from safedojo_ros.learning.progress import observed
from safedojo_ros.learning.safety_head import new_safety_model, train_safety_head
from safedojo_ros.learning.success import new_success_model, train_success
from safedojo_ros.learning.world_model import new_world_model, train_world_model
from safedojo_ros.models.autoencoder import FrameAutoencoder
from safedojo_ros.pipeline.recipe import read_recipe

RECIPE = read_recipe("smoke")
Config = TypeVar("Config", bound=FitConfig)
Train = Callable[[Path, Path, bool], torch.nn.Module]
"""(data set, directory, resume) → what was trained."""


def few(config: Config) -> Config:
    return dataclasses.replace(config, steps=4, batch_size=4, warmup_steps=1, save_every=2)


def autoencoder(data: Path, directory: Path, resume: bool) -> FrameAutoencoder:
    config = dataclasses.replace(few(RECIPE.autoencoder), frames=64)
    return train_autoencoder(config, recorded_images([data], 64), directory, resume)


def policy(data: Path, directory: Path, resume: bool) -> torch.nn.Module:
    trained = train_policy(few(RECIPE.policy), Demonstrations.read([data]), directory, resume)
    return trained.network


def safety_head(data: Path, directory: Path, resume: bool) -> torch.nn.Module:
    model = new_safety_model(autoencoder(data, directory / "eyes", resume), RECIPE.safety, data)
    frames = recorded_contacts([data], model)
    train_safety_head(few(RECIPE.safety), model, frames, directory / "head", resume)
    return model.network


def world_model(data: Path, directory: Path, resume: bool) -> torch.nn.Module:
    eyes = autoencoder(data, directory / "eyes", resume)
    config = dataclasses.replace(few(RECIPE.world_model), state_steps=2, drawing_steps=2)
    model = new_world_model(eyes, config, [data])
    latents = LatentEpisodes.read([data], model, "cpu")
    train_world_model(config, model, latents, directory / "world", resume)
    return model.parts


def success(data: Path, directory: Path, resume: bool) -> torch.nn.Module:
    frames: SuccessFrames = recorded_frames([data])
    model = new_success_model(RECIPE.success, frames.instructions, CAMERAS)
    train_success(few(RECIPE.success), model, frames, None, directory, resume)
    return model.network


class Stopped(BaseException):
    """Stands for a signal."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume") / "data"
    with EpisodeWriter(root, 64, CAMERAS) as writer:
        for seed in range(8):
            late = np.arange(20) >= 12 + seed % 3
            writer.add(dataclasses.replace(reaching(20, seed), success=late))
    return root


@pytest.mark.parametrize(
    ("train", "last"),
    [
        (autoencoder, "autoencoder"),
        (policy, "policy"),
        (safety_head, "safety head"),
        (world_model, "world model"),
        (success, "success"),
    ],
)
@pytest.mark.parametrize("step", [1, 3])
def test_an_interrupted_training_ends_with_the_weights_of_a_whole_one(
    train: Train, last: str, step: int, data: Path, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int | None, figures: dict[str, float]) -> None:
        # only the last of several trainings has this step without having ended before
        if total is not None and done == step and (tmp_path / "parts").exists():
            raise Stopped

    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002 - what is drawn here must not count
    whole = train(data, tmp_path / "whole", False).state_dict()
    torch.rand(7)
    stops = 0
    for _ in range(20):
        torch.rand(stops + 3)
        try:
            if stops < 2:
                with observed(interrupt):
                    trained = train(data, tmp_path / "parts", stops > 0)
            else:
                trained = train(data, tmp_path / "parts", True)
            break
        except Stopped:
            stops += 1
    assert stops > 0, last
    seen = trained.state_dict()
    assert seen.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(seen[name], value), name
