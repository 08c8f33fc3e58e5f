"""Products in bfloat16: close to float32's, for the training alone."""

import pytest
import torch

from safedojo_ros.learning import products


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(128, 5)
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("fast", [False, True])
def test_products_are_close_and_gradients_reach_every_weight(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda device: fast)
    module, x = network(), torch.randn(6, 3, 4, 4)
    exact = module(x)
    with products.fast_products(module):
        near = module(x)
        near.square().sum().backward()
    assert near.dtype == torch.float32
    assert torch.equal(near, exact) is not fast, "it does what it says"
    assert torch.allclose(near, exact, atol=0.02)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert torch.equal(module(x), exact), "as before, afterwards"
