"""The world model's transformer gives what diffusers' Wan gives, at less cost."""

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from safedojo_ros.models.frames_transformer import TRAINING_TIMESTEPS, FramesTransformer

CHANNELS, ACTIONS, ANSWERED = 6, 8, 4


SIZES = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": CHANNELS,
    "out_channels": ANSWERED,
    "text_dim": ACTIONS,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 3,
    "rope_max_seq_len": 64,
}


@pytest.fixture
def network() -> FramesTransformer:
    torch.manual_seed(0)
    network = FramesTransformer(**SIZES)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # biases, too
    return network


def answer_of_wan(
    parent: Any, clip: torch.Tensor, context: int, time: torch.Tensor, actions: torch.Tensor
) -> torch.Tensor:
    """The parent's answer: a time for each token, and all frames."""
    tokens = clip.shape[-2] // 2 * (clip.shape[-1] // 2)
    times = torch.zeros(len(clip), clip.shape[2], tokens)
    times[:, context:] = time[:, None, None] * TRAINING_TIMESTEPS
    noisy: torch.Tensor = parent(clip, times.flatten(1), actions).sample[:, :, context:]
    return noisy


@pytest.mark.parametrize(("context", "future"), [(2, 2), (3, 1), (2, 5)])
def test_it_answers_and_learns_as_wan_does(
    network: FramesTransformer, context: int, future: int
) -> None:
    clip = torch.randn(3, CHANNELS, context + future, 4, 8)
    inputs = clip, context, torch.tensor([0.0, 0.3, 1.0]), torch.randn(3, 5, ACTIONS)

    wan: Any = WanTransformer3DModel
    parent = wan(**SIZES)
    parent.load_state_dict(network.state_dict())

    def gradients(answers: torch.Tensor, of: torch.nn.Module) -> tuple[torch.Tensor, ...]:
        return answers, *torch.autograd.grad(answers.square().mean(), list(of.parameters()))

    ours = gradients(network(*inputs), network)
    theirs = gradients(answer_of_wan(parent, *inputs), parent)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
