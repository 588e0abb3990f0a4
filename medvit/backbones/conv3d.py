"""Correct gradients of 3D convolutions in bf16 on a CPU.

For a bf16 3D convolution whose input is shallower than its kernel, along the first axis, torch 2.13 returns a gradient
of the weights that contains memory which was never written, and can corrupt other memory. The result is usually
infinite, but can also be finite and wrong. Measured with AVX512-BF16: depth 2 with kernel 3, and depths 2 to 4 with
kernel 5, whether channels come last or not; depth 1 and float32 are not affected. Such depths occur in the deepest
levels of 3D networks. `install` makes these convolutions run in float32 when they are trained on a CPU; all others, and
inference, run as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_torch_forward = nn.Conv3d._conv_forward


def install() -> None:
    """Make all 3D convolutions of this process run in float32 where training them in bf16 would be wrong."""
    nn.Conv3d._conv_forward = _conv_forward  # type: ignore[method-assign,assignment]


def _conv_forward(self: nn.Conv3d, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _is_affected(pixels, weight):
        return _torch_forward(self, pixels, weight, bias)
    with torch.autocast("cpu", enabled=False):
        exact = None if bias is None else bias.float()
        found = _torch_forward(self, pixels.float(), weight.float(), exact)
    return found.to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype)


def _is_affected(pixels: Tensor, weight: Tensor) -> bool:
    """Return whether the gradient of the weights would be wrong; axis -3 is the first spatial axis."""
    if pixels.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    return dtype is torch.bfloat16 and pixels.shape[-3] < weight.shape[-3]
