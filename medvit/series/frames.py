"""Frames of a multi-frame instance: the type and position of each frame, from its functional groups (PS3.3 C.7.6.16).

A frame whose functional groups give position, orientation and pixel spacing is a plane and may be a slice of a volume,
whatever its SOP class: CT, MR, PET, X-ray 3D, breast tomosynthesis, ophthalmic tomography. Ultrasound volumes give
these in the coordinate system of the transducer (C.8.24.3); they are accepted too, with `in_transducer` set. Slices of
reconstructed SPECT are positioned by the detector (C.8.4.15). A frame without any of these positions is a separate
image, as in a cine, and ingest counts such frames. If its class requires a position (`Header.is_slice`), the frame is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medvit.dicom.dimensions import DimensionValue, read_dimensions
from medvit.dicom.element_values import numbers
from medvit.dicom.header import Header
from medvit.errors import GeometryError, UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
TAGS = (0x5200_9229, 0x5200_9230, 0x0020_9222, 0x0018_0088, 0x0054_0022, 0x0054_0070, 0x0054_0080)
"""Tags that are read from multi-frame files only: functional group sequences, dimensions, and positions of SPECT
frames.
"""

NUCLEAR_MEDICINE = "1.2.840.10008.5.1.4.1.1.20"
RECONSTRUCTED = ("RECON TOMO", "RECON GATED TOMO")
"""Third values of (0008,0008) ImageType of nuclear medicine whose frames are slices (PS3.3 C.8.4.9.1.1)."""

SPATIAL_DIMENSIONS = (0x0020_0032, 0x0020_9057, 0x0020_9056, 0x0020_9301, 0x0020_1041, 0x0048_021E, 0x0048_021F)
"""Dimensions that state a position or a stack; they are not used to distinguish frames at one position."""

NO_TRAITS = ("DerivationImageSequence", "ReferencedImageSequence", "FrameAnatomySequence", "FrameVOILUTSequence")
"""Functional groups without type or position of a frame; some contain hundreds of references."""


def frames(header: Header, dataset: Dataset) -> tuple[Header, ...]:
    """Return one header per frame with its number, position and traits; missing values are taken from the instance.

    Raises:
        UnreadableError: If the number of functional group items is not the number of frames.
    """
    groups = dataset.get(PER_FRAME) or ()
    if not groups and header.frames == 1:
        return (header,)
    if header.sop_class == NUCLEAR_MEDICINE and header.image_type[2:3] and header.image_type[2] in RECONSTRUCTED:
        return tuple(_reconstructed(header, dataset))
    if header.frames > 1:  # a single position in the header of an instance cannot apply to all its frames
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


def _reconstructed(header: Header, dataset: Dataset) -> Iterator[Header]:
    """Yield the slices of a reconstructed SPECT volume.

    The first slice is at the position of the detector, the others follow along the slice normal. If the spacing is
    negative, they follow in the opposite direction.

    Raises:
        GeometryError: If an element that determines the position of the slices is missing.
    """
    detector = next(iter(dataset.get("DetectorInformationSequence") or ()), None)
    position = None if detector is None else numbers(detector, "ImagePositionPatient", 3)
    orientation = None if detector is None else numbers(detector, "ImageOrientationPatient", 6)
    step = dataset.get("SpacingBetweenSlices")
    is_stepped = isinstance(step, float | int) and step != 0
    if position is None or orientation is None or header.spacing_mm is None or not is_stepped:
        raise GeometryError(
            "reconstructed SPECT without position, orientation (0054,0022) DetectorInformationSequence, "
            "(0028,0030) PixelSpacing or (0018,0088) SpacingBetweenSlices; the position of its slices is unknown"
        )
    normal = np.cross(orientation[:3], orientation[3:])
    places, slots = (_vector(dataset, name, header.frames) for name in ("SliceVector", "TimeSlotVector"))
    for number in range(header.frames):
        offset = (number if places is None else places[number] - 1) * float(step) * normal
        traits = header.traits if slots is None else (*header.traits, ("time slot", float(slots[number])))
        here = tuple(float(each) for each in np.array(position) + offset)
        yield replace(header, frame=number, position_mm=here, orientation=orientation, traits=traits)


def _vector(dataset: Dataset, name: str, num_frames: int) -> list[int] | None:
    """Return the numbers that an element assigns to the frames; None if the element is missing.

    Raises:
        UnreadableError: If its number of values is not the number of frames.
    """
    value = dataset.get(name)
    if value is None:
        return None
    given = [int(value)] if isinstance(value, int) else list(map(int, value))
    if len(given) != num_frames:
        raise UnreadableError(f"{name} has {len(given)} values for {num_frames} frames; expected one per frame")
    return given


def _frame(base: Header, group: Dataset, number: int, pointers: Sequence[int]) -> Header:
    return replace(_placed(base, group), frame=number, traits=_merged(base, group, pointers))


def _flat(group: Dataset | None, depth: int = 2) -> Dataset:
    """Return the elements of a frame's functional groups, flattened; each group is a sequence of one item."""
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
    traits = {**dict(header.traits), **read_dimensions(group)}
    indices = group.get("DimensionIndexValues")
    values = [indices] if isinstance(indices, int) else list(indices or ())
    for number, (pointer, value) in enumerate(zip(pointers, values, strict=False)):
        if pointer not in SPATIAL_DIMENSIONS:
            traits[f"dimension {number + 1}"] = float(value)
    return tuple(traits.items())


def _pointers(dataset: Dataset) -> list[int]:
    def pointed() -> Iterator[int]:
        for dimension in dataset.get("DimensionIndexSequence") or ():
            yield int(dimension.get("DimensionIndexPointer") or 0)

    return list(pointed())
