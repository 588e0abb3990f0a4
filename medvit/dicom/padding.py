"""Padding of a frame: stored values that mark pixels without a measurement (PS3.3 C.7.5.1.1.2).

The padding elements are signed if the pixels are, whatever VR was written. They state stored values, before the
modality table or rescale. With (0028,0121) PixelPaddingRangeLimit, a range of values is padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct.fast_values import tag_of
from medvit.records import Padding

if TYPE_CHECKING:
    from pydicom import Dataset

INTEGER = ("PixelPaddingValue", "PixelPaddingRangeLimit")
FLOAT = {
    "FloatPixelData": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "DoubleFloatPixelData": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}
FLOAT_TYPES: dict[str, type[np.floating]] = {"FloatPixelData": np.float32, "DoubleFloatPixelData": np.float64}


def declared(dataset: Dataset | FastDataset, *, is_signed: bool, keyword: str = "PixelData") -> Padding | None:
    """Return the padding that a data set declares for the pixels in element `keyword`; None without padding."""
    if keyword in FLOAT:
        value, limit = (_real(dataset, name, FLOAT_TYPES[keyword]) for name in FLOAT[keyword])
    else:
        value, limit = (_whole(dataset, name, is_signed) for name in INTEGER)
    if value is None:
        return None
    bounds = (value, value if limit is None else limit)
    return min(bounds), max(bounds)


def within(padding: Padding | None, dtype: np.dtype) -> Padding | None:
    """Convert padding to a data type; None if it is outside the range of the type.

    The bounds are clipped to the range of an integer type, or rounded to a floating-point type.
    """
    if padding is None:
        return None
    if not np.issubdtype(dtype, np.integer):
        low, high = (float(dtype.type(end)) for end in padding)
        return (low, high) if np.isfinite([low, high]).all() else None
    low, high = max(padding[0], float(np.iinfo(dtype).min)), min(padding[1], float(np.iinfo(dtype).max))
    return (low, high) if low <= high else None


def through_table(padding: Padding | None, stored: Num[Array, "h w"], made: Num[Array, "h w"]) -> Padding | None:
    """Return the padding after a table was applied; None if measured pixels have the same values as padding.

    `stored` are the values before the table was applied, and `made` are the values after.
    """
    if padding is None:
        return None
    is_padding = (stored >= padding[0]) & (stored <= padding[1])
    values = made[is_padding]
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    others = made[~is_padding]
    return None if ((others >= low) & (others <= high)).any() else (low, high)


def _whole(dataset: Dataset | FastDataset, keyword: str, is_signed: bool) -> float | None:
    value: Any
    if isinstance(dataset, FastDataset):
        found = dataset.raw(tag_of(keyword))
        value = None if found is None else found[1]
    else:
        value = dataset.get(keyword)
    if isinstance(value, bytes):
        value = int.from_bytes(value, "little") if len(value) == 2 else None
    if not isinstance(value, int):
        return None
    value %= 2**16
    return float(value - 2**16 if is_signed and value >= 2**15 else value)


def _real(dataset: Dataset | FastDataset, keyword: str, dtype: type[np.floating]) -> float | None:
    value = dataset.get(keyword)
    number = float(dtype(value)) if isinstance(value, int | float) else None
    return number if number is not None and np.isfinite(number) else None
