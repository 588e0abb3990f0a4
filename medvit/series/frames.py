"""The frames of a multi-frame instance: what each is and where it lies, from its functional groups (PS3.3 C.7.6.16).

A frame of which the functional groups say position, orientation and pixel spacing is a plane and may be a slice of a
volume, whatever its class: CT, MR, PET, X-ray 3D, breast tomosynthesis, ophthalmic tomography. Volumes of ultrasound
say all three in the frame of the transducer (C.8.24.3): these are taken too, and `in_transducer` tells so. Without
functional groups a frame is an image of its own, as of a cine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from medvit.dicom.dimensions import DimensionValue, read_dimensions
from medvit.dicom.element_values import numbers
from medvit.dicom.header import Header
from medvit.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
TAGS = (0x5200_9229, 0x5200_9230, 0x0020_9222)
"""Both sequences of functional groups, and the dimensions that order frames."""

SPATIAL_DIMENSIONS = (0x0020_0032, 0x0020_9057, 0x0020_9056, 0x0020_9301, 0x0020_1041, 0x0048_021E, 0x0048_021F)
"""Position, in-stack position, stack and the like: what places a frame does not tell it from others at its place."""

NO_TRAITS = ("DerivationImageSequence", "ReferencedImageSequence", "FrameAnatomySequence", "FrameVOILUTSequence")
"""Functional groups that say nothing of what or where a frame is; some hold hundreds of references."""


def frames(header: Header, dataset: Dataset) -> tuple[Header, ...]:
    """One header a frame, with its number, place and traits; those of the instance stand where a frame says nothing.

    Raises:
        UnreadableError: If there are not as many items of functional groups as frames.
    """
    groups = dataset.get(PER_FRAME) or ()
    if not groups and header.frames == 1:
        return (header,)
    if header.frames > 1:  # one position in the header of an instance cannot be that of all its frames
        header = replace(header, position_mm=None)
    if not groups:
        return tuple(replace(header, frame=number) for number in range(header.frames))
    if len(groups) != header.frames:
        raise UnreadableError(
            f"{header.frames} frames, but (5200,9230) PerFrameFunctionalGroupsSequence has {len(groups)} items"
        )
    shared = _flat(next(iter(dataset.get(SHARED) or ()), None))
    pointers = _pointers(dataset)
    base = replace(_placed(header, shared), traits=_merged(header, shared, ()))
    return tuple(_frame(base, _flat(group), number, pointers) for number, group in enumerate(groups))


def _frame(base: Header, group: Dataset, number: int, pointers: Sequence[int]) -> Header:
    return replace(_placed(base, group), frame=number, traits=_merged(base, group, pointers))


def _flat(group: Dataset | None, depth: int = 2) -> Dataset:
    """The elements of a frame's functional groups beside each other; each group is a sequence of one item."""
    from pydicom import Dataset as Elements

    flat = Elements()
    for element in group or ():
        if element.VR != "SQ":
            flat.add(element)
        elif depth > 0 and not element.tag.is_private and element.keyword not in NO_TRAITS:
            for item in element.value:
                flat.update(_flat(item, depth - 1))
    return flat


def _placed(header: Header, group: Dataset) -> Header:
    position = numbers(group, "ImagePositionPatient", 3) or numbers(group, "ImagePositionVolume", 3)
    orientation = numbers(group, "ImageOrientationPatient", 6) or numbers(group, "ImageOrientationVolume", 6)
    in_transducer = "ImagePositionVolume" in group and "ImagePositionPatient" not in group
    stack = str(group.get("StackID") or "").strip()
    return replace(
        header,
        position_mm=position or header.position_mm,
        orientation=orientation or header.orientation,
        spacing_mm=numbers(group, "PixelSpacing", 2) or header.spacing_mm,
        in_transducer=in_transducer or header.in_transducer,
        stack=stack or header.stack,
    )


def _merged(header: Header, group: Dataset, pointers: Sequence[int]) -> tuple[tuple[str, DimensionValue], ...]:
    said = {**dict(header.traits), **read_dimensions(group)}
    indices = group.get("DimensionIndexValues")
    values = [indices] if isinstance(indices, int) else list(indices or ())
    for number, (pointer, value) in enumerate(zip(pointers, values, strict=False)):
        if pointer not in SPATIAL_DIMENSIONS:
            said[f"dimension {number + 1}"] = float(value)
    return tuple(said.items())


def _pointers(dataset: Dataset) -> list[int]:
    def pointed() -> Iterator[int]:
        for dimension in dataset.get("DimensionIndexSequence") or ():
            yield int(dimension.get("DimensionIndexPointer") or 0)

    return list(pointed())
