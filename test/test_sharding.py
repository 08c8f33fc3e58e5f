"""A network in parts computes what a whole one does, and is itself again afterwards."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from measured_step import stage

from safedojo_ros.learning.sharding import blocks, is_part, sharded, whole
from safedojo_ros.models.autoencoder import FrameAutoencoder


@pytest.fixture
def group() -> Iterator[None]:
    """Of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["policy", "autoencoder", "world_model", "safety", "success"])
def test_every_stage_gives_the_loss_and_the_gradients_in_parts(name: str, group: None) -> None:
    made = stage(name, "smoke", 2, "cpu")
    network = made.network.train()
    images = torch.randn(2, 3, 64, 64)
    assert (len(blocks(network)) > 1) == (name != "safety")

    def loss(batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        torch.manual_seed(batch)
        if isinstance(network, FrameAutoencoder):  # what differs nowhere has no norm
            noise = torch.zeros_like(network.mean_latents(images))
            return {"loss": network.loss(images, 1e-6, noise)[0]}
        return {"loss": made.loss()}

    def gradients() -> list[torch.Tensor]:
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    loss(3, torch.Generator())["loss"].backward()
    expected = gradients()
    network.zero_grad()
    with sharded(network, None, loss) as step:
        assert all(is_part(parameter) for parameter in network.parameters())
        step(3, torch.Generator())["loss"].backward()
        assert all(is_part(parameter) for parameter in network.parameters())
        seen = [whole(part) for part in gradients()]
    assert not any(is_part(parameter) for parameter in network.parameters())
    assert len(seen) == len(expected) > 3
    for one, other in zip(expected, seen, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)
    network.zero_grad()
    loss(3, torch.Generator())["loss"].backward()  # as before
    for one, other in zip(expected, gradients(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)


class Odd(torch.nn.Module):
    """What keeps its parameters twice, in another layout, and in lists with a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.turning = torch.nn.GRU(4, 4, batch_first=True)
        self.seeing = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        some: list = [None, torch.nn.ModuleList([torch.nn.Linear(8, 2)]), torch.nn.SiLU()]
        self.some = torch.nn.ModuleList(some)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.seeing(
            self.turning(x)[0][:, :, None, None]
            .expand(-1, -1, 3, 3, 4)
            .flatten(0, 1)
            .permute(0, 3, 1, 2)
        )
        return self.some[1][0](seen.flatten(1))  # type: ignore[index]


def test_afterwards_a_network_is_what_it_was(group: None) -> None:
    network = Odd()
    before, kinds = deepcopy(network), [type(module) for module in network.modules()]
    parameters = list(network.parameters())
    x = torch.randn(2, 3, 4)
    assert blocks(network) == [network.some[1][0]]  # type: ignore[index]
    with sharded(network, None, lambda batch, generator: {"loss": network(x).sum()}) as step:
        assert sum(parameter.numel() for parameter in parameters) == 0
        step(0, torch.Generator())["loss"].backward()
    assert [type(module) for module in network.modules()] == kinds
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    assert network.seeing.weight.stride() == before.seeing.weight.stride()
    assert torch.equal(deepcopy(network)(x), before(x))
    assert not network.seeing._forward_hooks
