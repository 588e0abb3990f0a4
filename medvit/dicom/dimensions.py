"""Dimensions along which instances at one position differ (echo, b-value, phase, time, ...), read from elements.

Standard and private elements are read. Private elements are stored in blocks with a named creator (PS3.5 7.8.1): the
same element number has another meaning in the block of another manufacturer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct.fast_values import tag_of

if TYPE_CHECKING:
    from pydicom import Dataset

DimensionValue = float | str | tuple[float, ...]
Private = tuple[int, str, int]
"""Group, creator and last element byte of a private tag."""

PRIVATE_BLOCKS = (0x10, 0x11, 0x12)
"""Private blocks that are searched; manufacturers reserve these first."""

GE_B_VALUE_LIMIT = 100_000
"""Value in s/mm2 that no real b-value reaches. In some releases, GE adds 1e9 to the b-value."""


B_VALUES: tuple[Private, ...] = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),
)
GRADIENTS: tuple[Private, ...] = (
    (0x0019, "SIEMENS MR HEADER", 0x0E),
    (0x2005, "Philips MR Imaging DD 001", 0xB0),
    (0x0019, "GEMS_ACQU_01", 0xBB),
    (0x0065, "Image Private Header", 0x37),
)
"""Private elements with the diffusion gradient direction, of Siemens, Philips, GE and United Imaging (conformance
statements).
"""

CLOCKS = ("FrameReferenceDateTime", "FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime")


@dataclass(frozen=True)
class Dimension:
    """Dimension along which instances at one position differ, such as echo or time.

    The value of an instance is read from the first of the dimension's elements that is present. If `is_time` is True,
    the values of the dimension increase with the time of acquisition. They may then differ from slice to slice, so the
    rank of a value may be used instead of the value.
    """

    name: str
    of: Callable[[Any], DimensionValue | None]
    keywords: tuple[str, ...] = ()
    private: tuple[Private, ...] = ()
    is_time: bool = False


def _number(value: Any) -> float | None:
    if isinstance(value, bytes):
        value = value.strip(b"\0 ").decode("ascii", errors="replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return round(number, 3) if math.isfinite(number) else None


def _b_value(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else number % GE_B_VALUE_LIMIT


def _direction(value: Any) -> DimensionValue | None:
    if isinstance(value, str):
        return value
    try:
        return tuple(round(float(part), 3) + 0.0 for part in value)
    except (TypeError, ValueError):
        return None


def _words(value: Any) -> str | None:
    parts = [value] if isinstance(value, str) else list(value or ())
    return "\\".join(str(part).strip() for part in parts) or None


def _clock(value: Any) -> float | None:
    """Return the seconds since midnight of a DICOM time, or of the time in a date and time (PS3.5 6.2)."""
    text = str(value or "").strip()
    digits = text[8:] if len(text.partition(".")[0]) > 8 else text
    number = _number(digits[:2] or None), _number(digits[2:4] or None), _number(digits[4:].partition("+")[0] or None)
    hours, minutes, seconds = number
    return None if hours is None else hours * 3600.0 + (minutes or 0.0) * 60.0 + (seconds or 0.0)


TRAITS = (
    Dimension("series number", _number, ("SeriesNumber",)),
    Dimension("image type", _words, ("FrameType", "ImageType")),
    Dimension("component", _words, ("ComplexImageComponent",)),
    Dimension("raw data type", _number, (), ((0x0043, "GEMS_PARM_01", 0x2F),)),
    Dimension("kernel", _words, ("ConvolutionKernel",)),
    Dimension("tube voltage", _number, ("KVP",)),
    Dimension("echo time", _number, ("EffectiveEchoTime", "EchoTime")),
    Dimension("echo", _number, ("EchoNumbers",)),
    Dimension("inversion time", _number, ("InversionTimes", "InversionTime")),
    Dimension("flip angle", _number, ("FlipAngle",)),
    Dimension("b-value", _b_value, ("DiffusionBValue",), B_VALUES),
    Dimension("gradient direction", _direction, ("DiffusionGradientOrientation",), GRADIENTS),
    Dimension("time", _number, ("TemporalPositionIndex", "TemporalPositionIdentifier"), is_time=True),
    Dimension("acquisition", _number, ("FrameAcquisitionNumber", "AcquisitionNumber"), is_time=True),
    Dimension("cardiac phase", _number, ("NominalCardiacTriggerDelayTime", "TriggerTime"), is_time=True),
    Dimension("frame time", _number, ("TemporalPositionTimeOffset", "FrameReferenceTime"), is_time=True),
    Dimension("acquisition time", _clock, CLOCKS, is_time=True),
)
"""All dimensions, in the order in which they are tried: image content before acquisition time (PS3.3 C.7.6, C.8.3)."""


BY_NAME = {trait.name: trait for trait in TRAITS}


def dimension_tags() -> list[int]:
    """Return the tags of all elements that dimensions are read from, including the creators of private blocks."""
    return [*_standard_tags(), *_private_tags()]


def read_dimensions(dataset: Dataset | FastDataset) -> dict[str, DimensionValue]:
    """Return the values of the dimensions that a data set has, keyed by the name of the dimension."""
    found: dict[str, DimensionValue] = {}
    present = dataset.keys()
    for trait in _possible_dimensions(tuple(present)):
        for value in _values(trait, dataset, present):
            known = trait.of(value)
            if known is not None:
                found[trait.name] = known
                break
    return found


def _values(trait: Dimension, dataset: Dataset | FastDataset, present: Container[int]) -> Iterator[Any]:
    for tag in _tags_of(trait.keywords):
        if tag in present and (value := _value(dataset, tag)) is not None:
            yield value
    for private in trait.private:
        if (value := _private_value(dataset, private)) is not None:
            yield value


@lru_cache(64)
def _possible_dimensions(present: tuple[int, ...]) -> tuple[Dimension, ...]:
    """Return the dimensions that a data set may have if it contains elements with the tags in `present`.

    The result is cached, because instances of a series have the same tags.
    """
    groups = {tag >> 16 for tag in present}
    return tuple(
        trait
        for trait in TRAITS
        if not set(_tags_of(trait.keywords)).isdisjoint(present)
        or not groups.isdisjoint(group for group, _, _ in trait.private)
    )


@cache
def _tags_of(keywords: tuple[str, ...]) -> tuple[int, ...]:
    # Plain integers: each comparison of pydicom tags is a Python call.
    return tuple(tag for tag in map(tag_of, keywords) if tag >= 0)


def _value(dataset: Dataset | FastDataset, tag: int) -> Any:
    """Return the value of an element; None if the element is missing or its value violates the VR."""
    try:
        if isinstance(dataset, FastDataset):
            return dataset.get(tag)
        return dataset[tag].value if tag in dataset else None
    except (ValueError, TypeError, NotImplementedError, OverflowError, AttributeError):
        return None


def _private_value(dataset: Dataset | FastDataset, private: Private) -> Any:
    group, creator, element = private
    for block in PRIVATE_BLOCKS:
        if str(_value(dataset, (group << 16) + block)).strip() == creator:
            return _value(dataset, (group << 16) + block * 0x100 + element)
    return None


def _standard_tags() -> Iterator[int]:
    for trait in TRAITS:
        yield from _tags_of(trait.keywords)


def _private_tags() -> Iterator[int]:
    for group, _, element in {private for trait in TRAITS for private in trait.private}:
        for block in PRIVATE_BLOCKS:
            yield from ((group << 16) + block, (group << 16) + block * 0x100 + element)
