"""Direct read of uncompressed gray pixels, without parsing the header a second time.

The pixels are located when the header is read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.modality_lut import ValueFacts, is_pet, meaning
from medvit.dicom.native_pixels import NATIVE, TYPES, as_it_lies
from medvit.dicom.padding import declared, within
from medvit.dicom.pixels import Frame, is_inverted, mirrored, turned
from medvit.dicom.real_world import KEYWORD as MAPPING
from medvit.errors import UnreadableError
from medvit.records import Padding

_LAID = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PlanarConfiguration", "PhotometricInterpretation")
_BITS = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_MEANT = ("SOPClassUID", "Modality", "RescaleSlope", "RescaleIntercept", "RescaleType", "PresentationLUTShape")
_UNUSUAL = ("ModalityLUTSequence", "PixelPresentation", MAPPING)
DESCRIBING = (*_LAID, *_BITS, *_MEANT, *_UNUSUAL)
"""Keywords of the elements that describe the layout and meaning of gray single-frame pixels."""
_META = ("MediaStorageSOPClassUID", "TransferSyntaxUID")


@dataclass(frozen=True)
class Coding:
    """Layout and meaning of a frame: `kind` is one of `TYPES`, `shape` is (rows, columns).

    Other fields are as in `Frame`.
    """

    kind: str
    bits: int
    shape: tuple[int, int]
    slope: float
    intercept: float
    unit: str
    facts: ValueFacts
    padding: Padding | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the element that contains the frame, in bytes: an even number (PS3.5 7.1.1)."""
        length = self.shape[0] * self.shape[1] * np.dtype(self.kind).itemsize
        return length + length % 2


@dataclass(frozen=True)
class Native:
    """Location of uncompressed pixels in a file.

    `start` is the offset of the first pixel, and `digest` is the CRC-32 of all bytes before it. `coding` is the layout
    and meaning of the pixels.
    """

    start: int
    digest: int
    coding: Coding


def find_native(elements: FastDataset, num_bytes: int) -> Native | None:
    """Locate the single gray frame of a file of `num_bytes`; None if it requires a decoder or the full parser."""
    if elements.pixels is None or not elements.are_plain(DESCRIBING) or not elements.file_meta.are_plain(_META):
        return None
    start, stop = elements.pixels
    coding = _coding_of(elements)
    if coding is None or stop - start != coding.num_bytes or stop > num_bytes:
        return None
    return Native(start, zlib.crc32(elements.content[:start]), coding)


def read_native(path: Path, native: Native, room: memoryview) -> Frame | None:
    """Read the frame of a file into the buffer `room` of equal length; None if the file changed after its scan."""
    with path.open("rb", buffering=0) as file:
        is_whole = file.readinto(room) == len(room) and not file.read(1)
    if not is_whole or zlib.crc32(room[: native.start]) != native.digest:
        return None
    coding = native.coding
    stored = as_it_lies(room[native.start :], coding.kind, bits=coding.bits, shape=coding.shape)
    if coding.facts.is_dark_high and not coding.unit:
        stored = mirrored(stored, bits=coding.bits)
    return Frame(stored[None], coding.slope, coding.intercept, coding.unit, padding=coding.padding, facts=coding.facts)


def _coding_of(header: FastDataset) -> Coding | None:
    """Return the coding of a single gray frame from the elements `DESCRIBING`; None if the frame requires a decoder."""
    if header.file_meta.get("TransferSyntaxUID") not in NATIVE:
        return None
    kind, bits = TYPES.get((header.get("BitsAllocated"), header.get("PixelRepresentation"))), header.get("BitsStored")
    shape, photometric = (header.get("Rows"), header.get("Columns")), header.get("PhotometricInterpretation")
    is_gray = header.get("SamplesPerPixel") == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    is_one = header.get("NumberOfFrames", 1) == 1 and header.get("PlanarConfiguration", 0) in (0, 1)
    if not is_gray or not is_one or kind is None or not all(isinstance(side, int) and side > 0 for side in shape):
        return None
    is_usual = isinstance(bits, int) and 0 < bits <= 8 * np.dtype(kind).itemsize and header.get("HighBit") == bits - 1
    if (
        not is_usual
        or any(keyword in header for keyword in _UNUSUAL)
        or not header.get("SOPClassUID")
        or is_pet(header)
    ):
        return None
    try:
        means = meaning(header, 0, is_little=True, is_signed="i" in kind)
    except UnreadableError:  # reading the pixels raises the error
        return None
    is_dark_high = is_inverted(header, photometric)
    facts = ValueFacts(means.scaling, means.rescale_type, photometric, is_dark_high, "i" in kind, bits)
    padding = within(declared(header, is_signed="i" in kind), np.dtype(kind))
    if is_dark_high and not means.unit:
        padding = turned(np.zeros((1, 1), np.dtype(kind).newbyteorder("=")), padding, bits=bits)[1]
    return Coding(kind, bits, shape, means.slope, means.intercept, means.unit, facts, padding)
