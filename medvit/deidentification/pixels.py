"""Stored pixels of a DICOM data set: removal of bytes that are not pixels, and blanking of text lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.deidentification.identifiers import MIN_SUBSTRING
from medvit.deidentification.text_detector import TextLine, blanked
from medvit.dicom.decoders import stored_values
from medvit.dicom.pixel_layout import layout
from medvit.dicom.stream_comments import strip_comments
from medvit.errors import UnreadableError, UnsupportedError

if TYPE_CHECKING:
    from pydicom import Dataset

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


def tidy(copy: Dataset, source: Dataset) -> None:
    """Remove from the pixel data of `copy` all bytes and bits that are not pixels.

    PixelData is shortened to the length that its header declares. If `source` stores overlays in unused bits of the
    pixels, these bits are cleared. Pixel values do not change.
    """
    from pydicom.pixels.utils import get_expected_length

    if any(copy.get(key) is None for key in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")):
        return
    if copy.get("PhotometricInterpretation") is None:
        return
    length = get_expected_length(copy)
    length += length % 2
    pixels = copy.PixelData
    if len(pixels) > length:
        copy["PixelData"].value = pixels[:length]
    if _has_embedded_overlay(source):
        copy["PixelData"].value = _without_unused_bits(copy, source)


def frames_of(dataset: Dataset) -> list[Num[Array, "h w *c"]]:
    """Return the decoded frames of a data set with their stored values; colors are RGB, as in the DICOM reader.

    Raises:
        DataError: If the frames cannot be decoded.
    """
    _settle_syntax(dataset)
    laid = layout(dataset)
    return [stored_values(dataset, laid, index) for index in range(laid.frames)]


def blank(dataset: Dataset, lines: Sequence[TextLine]) -> None:
    """Fill text lines with black in all frames of a data set; compressed pixels become uncompressed.

    The byte order of uncompressed pixels, lookup tables and all other data that are stored as words does not change.

    Raises:
        UnsupportedError: If the pixels cannot be changed in place.
        UnreadableError: If the pixels cannot be decoded.
    """
    from pydicom.pixels import pixel_array
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

    _settle_syntax(dataset)
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    is_color = int(dataset.SamplesPerPixel) > 1
    if dataset.BitsAllocated not in (8, 16):
        raise UnsupportedError("burned-in text cannot be masked in pixels of 1 or 32 bits; exclude the image")
    if syntax.is_encapsulated:
        frames = np.stack(frames_of(dataset))
        syntax = ExplicitVRLittleEndian
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            dataset.pop(keyword, None)
        if is_color:
            dataset.PhotometricInterpretation = "RGB"
    elif dataset.PhotometricInterpretation == "YBR_FULL_422":
        raise UnsupportedError("burned-in text cannot be masked in pixels with subsampled colors; exclude the image")
    else:
        pixels = np.array(pixel_array(dataset, raw=True))
        frames = pixels if int(dataset.get("NumberOfFrames") or 1) > 1 else pixels[None]
    filled = np.stack([blanked(frame, lines, _black(frame, dataset)) for frame in frames])
    if is_color:
        dataset.PlanarConfiguration = 0
    dataset.file_meta.TransferSyntaxUID = syntax
    content = filled.astype(filled.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    dataset["PixelData"].is_undefined_length = False


def _settle_syntax(dataset: Dataset) -> None:
    """Set the transfer syntax of a data set without file meta information to the syntax it was read with."""
    dataset.file_meta.TransferSyntaxUID = transfer_syntax(dataset)


def _black(frame: Num[Array, "h w *c"], dataset: Dataset) -> Any:
    photometric = dataset.PhotometricInterpretation
    if photometric == "MONOCHROME1":
        return frame.max()
    if photometric == "PALETTE COLOR":
        return np.bincount(frame.ravel()).argmax()  # the background
    return np.array([0, 128, 128]) if str(photometric).startswith("YBR") else frame.min()


def _has_embedded_overlay(dataset: Dataset) -> bool:
    """Return whether an overlay is stored in an unused bit of each pixel, as before 2004 (PS3.3 C.9.2, retired)."""
    return any(
        (group, 0x0102) in dataset and (group, 0x3000) not in dataset and int(dataset[group, 0x0102].value or 0) > 0
        for group in OVERLAY_GROUPS
    )


def _without_unused_bits(copy: Dataset, source: Dataset) -> bytes:
    allocated, stored = int(copy.BitsAllocated), int(copy.BitsStored)
    if allocated not in (8, 16, 32) or stored >= allocated:
        return bytes(copy.PixelData)
    is_signed = bool(copy.get("PixelRepresentation"))
    order = "<" if source.original_encoding[1] in (True, None) else ">"
    pixels = np.frombuffer(copy.PixelData, dtype=f"{order}{'i' if is_signed else 'u'}{allocated // 8}")
    spare = allocated - stored
    # A shift up and down again clears the unused bits, and repeats the sign of signed values.
    return ((pixels << spare) >> spare).astype(pixels.dtype).tobytes()


def transfer_syntax(dataset: Dataset) -> str:
    """Return the transfer syntax of a data set, from its file meta information or from how it was read."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if syntax:
        return syntax
    is_implicit, is_little = dataset.original_encoding
    return str(ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian)


def check_pixels(copy: Dataset, source: Dataset, forbidden: frozenset[str]) -> None:
    """Remove everything but pixels from the pixel data of a copy, and check that no identifier remains.

    From compressed pixels, comments and application data are removed; the coded samples do not change.

    Raises:
        UnreadableError: If the structure of compressed frames is damaged, or a frame still contains a `forbidden` word.
        UnsupportedError: If the places of comments in frames of this compression are unknown.
    """
    from pydicom.uid import UID

    syntax = UID(transfer_syntax(source))
    if "PixelData" not in copy:
        return
    if syntax.is_transfer_syntax and syntax.is_encapsulated:
        strip_comments(copy, str(syntax))
        folded = bytes(copy.PixelData).lower()
        if any(word.encode() in folded for word in forbidden if len(word) > MIN_SUBSTRING):
            raise UnreadableError(
                "the compressed pixels contain an identifier among their samples; decompress them first"
            )
        return
    tidy(copy, source)
