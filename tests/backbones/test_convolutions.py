"""Gradients of convolutions in bf16 on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medvit.backbones import convolutions


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (nn.Conv2d, nn.Conv3d):
        monkeypatch.setattr(kind, "_conv_forward", kind._conv_forward)  # restored after the test
    convolutions.install()


def gradients(conv: nn.Conv2d | nn.Conv3d, pixels: Tensor, upstream: Tensor, *, bf16: bool) -> tuple[Tensor, Tensor]:
    """Return the output and the gradient of the weights; freed memory is filled with large numbers before."""
    conv.zero_grad()
    for size in (1, 2, 3):
        torch.full((size * 10_000,), 1e18)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = conv(pixels)
    output.backward(upstream.to(output.dtype))
    assert conv.weight.grad is not None
    return output.detach(), conv.weight.grad.clone()


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (2, 3), (3, 3), (2, 5), (4, 5), (2, 7), (6, 7)])
def test_gradients_in_bf16_agree_with_float32_at_every_depth(depth: int, kernel: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 16, kernel, padding=kernel // 2)
    pixels, upstream = torch.randn(2, 16, depth, 6, 6), torch.randn(2, 16, depth, 6, 6)
    expected, exact = gradients(conv, pixels, upstream, bf16=False)
    for _ in range(4):
        output, found = gradients(conv, pixels, upstream, bf16=True)
        assert output.dtype is torch.bfloat16
        assert torch.allclose(output.float(), expected, atol=0.05)
        assert torch.allclose(found, exact, atol=0.01 * float(exact.abs().max()))


@pytest.mark.usefixtures("_installed")
def test_only_trained_shallow_inputs_in_bf16_run_in_float32() -> None:
    conv = nn.Conv3d(1, 1, 3, padding=1)
    shallow = torch.randn(1, 1, 2, 4, 4)
    exact = conv(shallow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(shallow), exact.bfloat16())
        with torch.no_grad():
            assert torch.equal(conv(shallow), convolutions._forward_3d(conv, shallow, conv.weight, conv.bias))
    assert torch.equal(exact, convolutions._forward_3d(conv, shallow, conv.weight, conv.bias))


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("stride", [2, (1, 2), 3])
def test_a_strided_shortcut_has_the_gradients_of_float32(stride: int | tuple[int, int]) -> None:
    """Without the correction, the backward pass of this convolution ends the process on some processors."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 1, stride=stride).to(memory_format=torch.channels_last)
    pixels = torch.randn(2, 8, 63, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        plain = convolutions._forward_2d(conv, pixels, conv.weight, conv.bias)
    upstream = torch.randn_like(plain)
    expected, exact = gradients(conv, pixels, upstream, bf16=False)
    assert torch.allclose(expected, plain, atol=1e-5)
    output, found = gradients(conv, pixels, upstream, bf16=True)
    assert output.dtype is torch.bfloat16
    assert torch.allclose(output.float(), expected, atol=0.05)
    assert torch.allclose(found, exact, atol=0.01 * float(exact.abs().max()))
