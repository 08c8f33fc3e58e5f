"""The fast products of matrices are as exact as those that torch takes by itself."""

from collections.abc import Iterator

import pytest
import torch

from safedojo_ros.models.threads import use_processor


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    fused = torch.backends.cuda.flash_sdp_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cuda.enable_flash_sdp(fused)


def test_products_stay_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(300, 512, generator=generator)
    right = torch.randn(512, 200, generator=generator)
    exact = left.double() @ right.double()
    use_processor()
    error = (left @ right - exact).abs().mean() / exact.abs().mean()
    assert error < 2e-6, "bfloat16 products would be wrong by some 2e-3"


def test_attention_gives_the_same_with_and_without_fusing() -> None:
    query, key, value = torch.randn(3, 2, 4, 44, 32, generator=torch.Generator().manual_seed(0))
    before = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    use_processor()
    after = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_is_set_only_on_request() -> None:
    use_processor(1)
    assert torch.get_num_threads() == 1
    use_processor()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("known", "precision"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "medium"),
        ({"avx512_bf16": True}, "medium"),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, "highest"),
        ({"avx512_bf16": True, "amx_tile": True}, "highest"),
        ({}, "highest"),
    ],
)
def test_each_processor_has_the_products_that_are_fast_on_it(
    known: dict[str, bool | str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    torch.set_float32_matmul_precision("highest")
    use_processor()
    assert torch.get_float32_matmul_precision() == precision
