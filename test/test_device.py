"""Networks compute where they are told to, and all that they are given goes there with them.

Most machines that test have no GPU: on torch's device `meta`, which has shapes and no numbers, an
input that stayed behind is an error as it is on a GPU, and so is fetching the result, which comes
last.
"""

import numpy as np
import pytest
import torch

from safedojo_ros.cli.commands import COMMANDS, command_parser
from safedojo_ros.core.config import device_name
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation, empty_scene
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.scene_memory import SceneMemory
from safedojo_ros.models.threads import chosen_device

FETCHED = pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor")
COMPUTE = ("demo", "view", "collect", "practice", "validate", "imagine", "pipeline", "evaluate",
           "sweep")  # fmt: skip


def observation() -> Observation:
    return empty_scene(("agentview", "wrist"), 64)


def test_a_safety_head_s_inputs_follow_it() -> None:
    model, chunk = tiny_safety(), np.zeros((1, 2, 8, 7))
    before = model.step_cost([observation()], chunk)
    assert np.array_equal(model.to("cpu").step_cost([observation()], chunk), before)
    model.to("meta")
    assert model.device.type == "meta"
    with FETCHED:
        model.step_cost([observation()], chunk)
    memory = SceneMemory(model, 4)
    memory.look(observation())
    with FETCHED:
        memory.step_cost([observation()], chunk)


def test_a_policy_s_inputs_follow_it() -> None:
    policy = tiny_policy().to("meta")
    seen = empty_scene(policy.cameras, policy.image_size)
    with FETCHED:
        policy.propose([seen], count=2)


@pytest.mark.parametrize("name", COMPUTE)
def test_a_command_that_computes_takes_a_device(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = next(command for command in COMMANDS if command.name == name)
    with pytest.raises(SystemExit):
        command_parser(command).parse_args(["--help-all"])
    assert "--device DEVICE" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cpu:0", ""])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
        device_name(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("cuda:1") == "cuda:1"
    assert chosen_device("auto") == "cuda"
    with pytest.raises(ConfigError, match="device is cuda:2, but torch sees 2 GPUs here"):
        chosen_device("cuda:2")
