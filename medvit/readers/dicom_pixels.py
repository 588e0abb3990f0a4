"""The pixels of one DICOM instance, and what their values mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import UnreadableError
from medvit.readers.dicom_header import SLICES
from medvit.readers.dicom_native import native

if TYPE_CHECKING:
    from pydicom import Dataset

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"


@dataclass(frozen=True)
class Frame:
    """One decoded frame (C, H, W) in its stored type; real value = `slope` * stored + `intercept`, in `unit`."""

    pixels: Num[Array, "c h w"]
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""


def decode(dataset: Dataset) -> Frame:
    """The frame of a single-frame instance.

    YBR and palettes become RGB. A modality lookup table is applied; a VOI table or window, for display only, is not.
    MONOCHROME1 is turned so that high is bright, by mirroring within the range of (0028,0101) BitsStored:
    `2^bits - 1 - x`, or `-1 - x` where signed. Values with a physical unit (HU, Bq/mL) are not turned: there it is the
    display that is inverted, not the quantity.

    Raises:
        UnreadableError: If the decoders that are installed cannot take the pixels, or the rescale slope is 0.
    """
    stored = _pixels(dataset)
    if stored.ndim == 3:
        return Frame(np.ascontiguousarray(rearrange(stored, "h w c -> c h w")))
    slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        stored, slope, intercept = apply_modality_lut(stored, dataset), 1.0, 0.0
    if slope == 0.0:
        raise UnreadableError("(0028,1053) RescaleSlope is 0; expected another number")
    unit = _unit(dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not unit:
        stored = mirrored(stored, bits=int(dataset.get("BitsStored") or dataset.BitsAllocated))
    return Frame(np.ascontiguousarray(stored)[None], slope, intercept, unit)


def mirrored(stored: Num[Array, "h w"], *, bits: int) -> Num[Array, "h w"]:
    """Values mirrored within the range that `bits` can hold, in the same type; doing it twice changes nothing."""
    # Both are the complement of all bits: ~x = -1 - x where signed, and within the bits stored where unsigned.
    if np.issubdtype(stored.dtype, np.signedinteger):
        return np.invert(stored)
    return np.bitwise_xor(stored, stored.dtype.type(2 ** min(bits, 8 * stored.dtype.itemsize) - 1))


def _pixels(dataset: Dataset) -> Num[Array, "h w *c"]:
    from pydicom.pixels import apply_color_lut, pixel_array

    _settle_syntax(dataset)
    if "PixelData" not in dataset:
        raise UnreadableError("the header promises an image, but the file ends without (7FE0,0010) PixelData")
    stored = native(dataset)
    try:
        stored = pixel_array(dataset) if stored is None else stored
    except (RuntimeError, NotImplementedError):
        # pydicom says so when no decoder takes the transfer syntax, or each that does has failed.
        name = dataset.file_meta.TransferSyntaxUID.name
        raise UnreadableError(
            f"no installed decoder takes these pixels ({name}); damaged, or to be converted first"
        ) from None
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)[..., :3]
        return (colors >> 8).astype(np.uint8) if colors.dtype.itemsize > 1 else colors
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _settle_syntax(dataset: Dataset) -> None:
    """Gives a data set without file meta information the transfer syntax that reading it has shown."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    is_implicit, is_little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    value = dataset.get(keyword)
    return default if value is None or value == "" else float(value)


def _unit(dataset: Dataset) -> str:
    sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    modality = SLICES.get(sop_class, "") if sop_class else str(dataset.get("Modality") or "")
    if modality == "CT" and dataset.get("RescaleSlope") is not None:
        # PS3.3 C.8.2.1.1.2: without a type, rescaled CT values are Hounsfield units; "US" is unspecified.
        kind = str(dataset.get("RescaleType") or "HU").strip()
        return "" if kind == "US" else kind
    return str(dataset.get("Units") or "").strip() if modality == "PT" else ""
