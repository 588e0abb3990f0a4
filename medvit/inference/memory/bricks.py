"""Label map of a volume brick by brick, in memory that does not grow with the length of the volume.

The probabilities of all classes of a long CT need many gigabytes: 31 GB for 20 classes of 1,500 slices of 512 x 512
voxels. Here, sliding windows are computed from one end of the longest axis to the other. As soon as no further window
covers a part of the volume, its label map is determined, and its probabilities are dropped. Up to the rounding of sums,
the label map is the one of the whole volume.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor

from medvit.errors import NonFiniteError
from medvit.transforms.padding import pad_about

if TYPE_CHECKING:
    from medvit.models.image import Model

OnGrid = Callable[[Float[Tensor, "l b h w"], tuple[int, ...]], Int[Array, "b i j"]]
"""Function that returns the label map of probabilities on a grid of another size over the same field of view."""
BRICK_BYTES = 2**26
"""Maximum size of the interpolated planes of all classes for which a label map is computed at once."""
SIGMA_SCALE = 0.125
"""Width of the Gaussian weight of a window relative to its side: the default of MONAI's sliding window."""


def label_map_by_bricks(
    model: Model,
    pixels: Float[Tensor, "1 c i j k"],
    shape: tuple[int, ...],
    on_grid: OnGrid,
    *,
    roi: tuple[int, ...],
    windows_at_once: int,
) -> Int[Array, "x y z"]:
    """Return the label map of a volume on a grid of `shape` over the same field of view.

    Raises:
        NonFiniteError: If a probability is not finite.
    """
    axis = int(np.argmax(pixels.shape[2:]))
    padded, inside = pad_about(pixels, roi)
    first, *others = (one.start for one in _first(inside[1:], axis))
    size, *sides = _first(tuple(pixels.shape[2:]), axis)
    mask: Array | None = None
    planes = _Planes(size, _first(shape, axis)[0])

    def logits_of(crops: Tensor) -> Tensor:
        return model(crops).float()

    for start, logits in slabs(logits_of, padded, roi, model.config.overlap, axis=axis, at_once=windows_at_once):
        low, high = max(start, first), min(start + logits.shape[1], first + size)
        if low >= high:
            continue
        within = tuple(slice(begin, begin + side) for begin, side in zip(others, sides, strict=True))
        found = model.activated(logits[(slice(None), slice(low - start, high - start), *within)][None])[0]
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(
                "predicted probabilities are not finite; expected finite ones: check that the intensities of the image "
                "are like those of the training images"
            )
        for begin, brick in planes.ready(found):
            labels = on_grid(brick, (brick.shape[1], *_first(shape, axis)[1:]))
            if mask is None:
                mask = np.zeros(shape, labels.dtype)
            np.moveaxis(mask, axis, 0)[begin : begin + len(labels)] = labels
    assert mask is not None
    return mask


def slabs(
    predict: Callable[[Float[Tensor, "b c *r"]], Float[Tensor, "b l *r"]],
    pixels: Float[Tensor, "1 c *s"],
    roi: tuple[int, ...],
    overlap: float,
    *,
    axis: int,
    at_once: int,
) -> Iterator[tuple[int, Float[Tensor, "l d *t"]]]:
    """Yield the logits of a volume slab by slab along an axis, each with the position at which it begins.

    Windows, their weights and the result are those of `monai.inferers.sliding_window_inference` with Gaussian weights.
    The axis of the slabs is moved to the front.
    """
    from monai.data.utils import compute_importance_map

    weight = compute_importance_map(roi, mode="gaussian", sigma_scale=SIGMA_SCALE, device=pixels.device)
    weight = weight.to(torch.float32).movedim(axis, 0)
    along, *across = _first(tuple(_starts(pixels.shape[2:], roi, overlap)), axis)
    sides, windows = _first(tuple(pixels.shape[2:]), axis)[1:], _first(roi, axis)
    corners = list(itertools.product(*across))
    count = torch.zeros((windows[0], *sides), device=pixels.device)
    total: Tensor | None = None
    for start, stop in itertools.pairwise([*along, along[-1] + windows[0]]):
        for batch in (corners[at : at + at_once] for at in range(0, len(corners), at_once)):
            places = [
                tuple(slice(s, s + n) for s, n in zip(_back((start, *corner), axis), roi, strict=True))
                for corner in batch
            ]
            found = predict(torch.cat([pixels[(slice(None), slice(None), *place)] for place in places]))
            if total is None:
                total = torch.zeros((found.shape[1], *count.shape), device=pixels.device)
            for corner, logits in zip(batch, found, strict=True):
                at = tuple(slice(s, s + n) for s, n in zip(corner, windows[1:], strict=True))
                total[(slice(None), slice(None), *at)] += logits.movedim(axis + 1, 1) * weight
                count[(slice(None), *at)] += weight
        assert total is not None
        depth = stop - start
        yield start, total[:, :depth] / count[:depth]
        total, count = _shifted(total, depth, dim=1), _shifted(count, depth, dim=0)


class _Planes:
    """Interpolation along one axis, as planes of the model's grid become available from one end to the other.

    The weights are those of `torch.nn.functional.interpolate` with `align_corners=False`.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        places = np.maximum((np.arange(num_out) + 0.5) * num_in / num_out - 0.5, 0.0)
        self._low = np.minimum(places.astype(int), num_in - 1)
        self._high = np.minimum(self._low + 1, num_in - 1)
        self._share = (places - self._low).astype(np.float32)
        self._held: Tensor | None = None
        self._first = 0
        self._next = 0

    def ready(self, found: Float[Tensor, "l d h w"]) -> Iterator[tuple[int, Float[Tensor, "l b h w"]]]:
        """Yield the planes of the new grid that are known with these planes, in bricks, and where they begin."""
        self._held = found if self._held is None else torch.cat([self._held, found], dim=1)
        available = self._first + self._held.shape[1]
        end = int(np.searchsorted(self._high, available))
        step = max(1, BRICK_BYTES // (4 * self._held[:, 0].numel()))
        while self._next < end:
            chosen = slice(self._next, min(self._next + step, end))
            low, high = (
                torch.from_numpy(one[chosen] - self._first).to(found.device) for one in (self._low, self._high)
            )
            share = torch.from_numpy(self._share[chosen]).to(found.device)[:, None, None]
            yield self._next, self._held[:, low] * (1.0 - share) + self._held[:, high] * share
            self._next = chosen.stop
        if end < len(self._low):
            kept = min(int(self._low[end]), available)
            self._held, self._first = self._held[:, kept - self._first :].clone(), kept


def _starts(shape: Sequence[int], roi: Sequence[int], overlap: float) -> Iterator[list[int]]:
    """Yield the starts of windows along each axis, as MONAI's sliding window chooses them."""
    for side, size in zip(shape, roi, strict=True):
        step = size if size == side else max(1, int(size * (1.0 - overlap)))
        count = math.ceil((side - size) / step) + 1
        yield list(dict.fromkeys(min(number * step, side - size) for number in range(count)))


def _shifted(buffer: Tensor, depth: int, *, dim: int) -> Tensor:
    """Return a buffer without its first planes, and with as many zeros at its end."""
    kept = buffer.narrow(dim, depth, buffer.shape[dim] - depth)
    return torch.cat([kept, torch.zeros_like(buffer.narrow(dim, 0, depth))], dim=dim)


def _first(values: Sequence[Any], axis: int) -> tuple[Any, ...]:
    """Return values of axes with that of one axis first."""
    return (values[axis], *values[:axis], *values[axis + 1 :])


def _back(values: Sequence[int], axis: int) -> tuple[int, ...]:
    """Return values of axes in their order, from those with one axis first."""
    own, *others = values
    return (*others[:axis], own, *others[axis:])
