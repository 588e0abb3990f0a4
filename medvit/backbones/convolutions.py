"""Correct training of convolutions on a CPU, where those of torch 2.13 have two faults.

- 3D, in bf16, input shallower than the kernel along the first axis: the gradient of the weights contains memory that
  was never written. It is usually infinite, but can also be finite and wrong. Measured: depth 2 with kernel 3, and
  depths 2 to 4 with kernel 5; depth 1 is not affected. Such depths occur in the deepest levels of 3D networks.
- 2D, with channels last, kernel 1 and a stride above 1: the backward pass ends the process for some sizes. Measured:
  in bf16 with fewer than 16 channels, in float32 with strides 3 and (1, 2). Such convolutions are the shortcuts of
  residual blocks.

Both were measured on processors with AVX512-BF16. `install` makes the former run in float32, and computes the latter as
a matrix product, which is the same. All other convolutions, and inference, are unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_forward_2d, _forward_3d = nn.Conv2d._conv_forward, nn.Conv3d._conv_forward


def install() -> None:
    """Make all convolutions of this process avoid the two faults."""
    nn.Conv2d._conv_forward = _forward_of_2d  # type: ignore[method-assign,assignment]
    nn.Conv3d._conv_forward = _forward_of_3d  # type: ignore[method-assign,assignment]


def _forward_of_2d(self: nn.Conv2d, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    is_shortcut = self.kernel_size == (1, 1) and max(self.stride) > 1 and self.groups == 1 and self.padding == (0, 0)
    if not is_shortcut or not _trains_on_cpu(pixels, weight):
        return _forward_2d(self, pixels, weight, bias)
    rows, columns = self.stride
    kept = pixels[..., ::rows, ::columns].movedim(-3, -1)
    return F.linear(kept, weight.flatten(1), bias).movedim(-1, -3)


def _forward_of_3d(self: nn.Conv3d, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    is_shallow = pixels.shape[-3] < weight.shape[-3]
    if not is_shallow or not _trains_on_cpu(pixels, weight) or _dtype(weight) is not torch.bfloat16:
        return _forward_3d(self, pixels, weight, bias)
    with torch.autocast("cpu", enabled=False):
        found = _forward_3d(self, pixels.float(), weight.float(), None if bias is None else bias.float())
    return found.to(_dtype(weight))


def _trains_on_cpu(pixels: Tensor, weight: Tensor) -> bool:
    has_gradient = torch.is_grad_enabled() and (weight.requires_grad or pixels.requires_grad)
    return pixels.device.type == "cpu" and has_gradient


def _dtype(weight: Tensor) -> torch.dtype:
    """Return the type of numbers in which a convolution runs on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
