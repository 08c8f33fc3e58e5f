"""A head that remembers: the mean of what it says by several pictures, none of another scene."""

from typing import Any

import numpy as np
import pytest
import torch

from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.types import Observation
from safedojo_ros.models import scene_memory
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.scene_memory import SceneMemory

CHUNKS = np.random.default_rng(0).uniform(-0.02, 0.02, (1, 3, 8, 7))


def moment(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    pictures = {
        name: rng.integers(0, 255, (64, 64, 3), np.uint8) for name in ("agentview", "wrist")
    }
    return Observation(pictures, rng.normal(0.0, 0.1, 8), "put the red cube on the plate")


def logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability / (1 - probability))


def test_by_one_moment_it_says_what_the_head_says() -> None:
    model = tiny_safety()
    memory = SceneMemory(model, 4)
    memory.look(moment(1))
    expected = model.step_cost([moment(1)], CHUNKS)
    np.testing.assert_allclose(memory.step_cost([moment(1)], CHUNKS), expected, atol=1e-7)
    single = memory.step_cost([moment(1)], CHUNKS[:, 0])
    np.testing.assert_allclose(single, expected[:, 0], atol=1e-7)


def test_of_several_moments_it_takes_the_mean_logit_from_where_the_arm_is_now() -> None:
    model = tiny_safety()
    memory = SceneMemory(model, 4)
    now = moment(3)
    answers = []
    for seed in (1, 2, 3):
        memory.look(moment(seed))
        then = Observation(moment(seed).images, now.state, now.instruction)
        answers.append(logit(model.step_cost([then], CHUNKS)))
    assert np.abs(answers[0] - answers[2]).max() > 1e-3
    found = logit(memory.step_cost([now], CHUNKS))
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-5)


def test_the_oldest_and_the_newest_moment_are_always_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_safety()
    monkeypatch.setattr(scene_memory, "LONGEST", 9)
    memory = SceneMemory(model, 3)
    asked: list[torch.Tensor] = []
    judged = model.judged

    def listening(contexts: torch.Tensor, *rest: Any) -> np.ndarray:
        asked.append(contexts[0])
        return judged(contexts, *rest)

    monkeypatch.setattr(model, "judged", listening)
    for seed in range(30):
        memory.look(moment(seed))
        memory.step_cost([moment(seed)], CHUNKS)
        assert len(asked[-1]) == min(3, seed + 1)
        for place, which in ((0, 0), (-1, seed)):
            expected = model.contexts([moment(which)])[0]
            torch.testing.assert_close(asked[-1][place], expected)


def test_pictures_that_do_not_fit_are_not_remembered() -> None:
    memory = SceneMemory(tiny_safety(image_size=32), 4)
    odd = moment(1)
    odd.images["wrist"] = odd.images["wrist"][:48, :48]
    with pytest.raises(ObservationRejected):
        memory.look(odd)
    memory.look(moment(2))
    expected = memory.model.step_cost([moment(2)], CHUNKS)
    np.testing.assert_allclose(memory.step_cost([moment(2)], CHUNKS), expected, atol=1e-7)
