"""Random numbers on several devices: each device uses its rows of the draws for the joint batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SIZED = (torch.rand, torch.randn)
"""Random functions of torch that take a size."""
LIKE = (torch.rand_like, torch.randn_like, torch.bernoulli)
"""Random functions that draw in the shape of a tensor."""
IN_PLACE = (Tensor.bernoulli_, Tensor.uniform_, Tensor.normal_)
"""Random functions that draw into a tensor."""


class JointDraws(TorchFunctionMode):
    """Context in which each device gets its part of the random numbers drawn for the joint batch of all devices.

    The first axis of such a draw must be the device's samples, or their views, view after view. Draws of other shapes
    are the same on every device. Sample i of device r is sample `i * world + r` of the joint batch, which is how
    `EpochSampler` distributes samples. If all devices start with the same seed, masks and drop path therefore equal
    those of one device with the joint batch. Dropout is not covered.
    """

    def __init__(self, batch_size: int, *, world: int, rank: int) -> None:
        super().__init__()
        self.batch_size, self.world, self.rank = batch_size, world, rank

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draw random numbers for the batches of all devices together, and return the rows of this device.

        Other calls are unchanged.
        """
        options = dict(kwargs or {})
        if func in SIZED:
            size = _size(args, options)
            if self._is_of_batch(size):
                options.pop("size", None)
                return self._rows(func(self._joint(size), **options))
        elif func in LIKE and self._is_of_batch(tuple(args[0].shape)):
            return self._rows(func(self._repeated(args[0]), *args[1:], **options))
        elif func in IN_PLACE and self._is_of_batch(tuple(args[0].shape)):
            joint = args[0].new_empty(self._joint(tuple(args[0].shape)))
            return args[0].copy_(self._rows(func(joint, *args[1:], **options)))
        return func(*args, **options)

    def _is_of_batch(self, size: tuple[int, ...]) -> bool:
        return len(size) > 0 and size[0] > 0 and size[0] % self.batch_size == 0

    def _joint(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return (size[0] * self.world, *size[1:])

    def _repeated(self, values: Tensor) -> Tensor:
        """Return a tensor with the size of the joint batch, in which the rows of this device are at their positions.

        The other rows are arbitrary.
        """
        views = values.unflatten(0, (-1, self.batch_size))
        return views.repeat_interleave(self.world, dim=1).flatten(0, 1)

    def _rows(self, drawn: Tensor) -> Tensor:
        views = drawn.unflatten(0, (-1, self.batch_size * self.world))
        return views[:, self.rank :: self.world].flatten(0, 1)


def _size(args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    if "size" in options:
        return tuple(options["size"])
    return tuple(args[0]) if len(args) == 1 and not isinstance(args[0], int) else tuple(args)
