"""Check of the decoders: a small image in each kind of transfer syntax, encoded and decoded again."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt16
from numpy import ndarray as Array

from medvit.dicom.decoders import EXPLICIT, RLE, stored_values, syntax_name
from medvit.dicom.pixel_layout import PixelLayout, layout
from medvit.doctor import SystemCheck

if TYPE_CHECKING:
    from pydicom import Dataset

GrayPixels = UInt16[Array, "24 16"]
Encode = Callable[..., bytes | bytearray]
BASELINE = "1.2.840.10008.1.2.4.50"
TOLERANCE = 3
"""Largest difference of a decoded from an encoded gray value that JPEG with its best quality may have."""


def check_decoders() -> SystemCheck:
    """Check that images are decoded to the values that were encoded; for JPEG baseline, to nearly the same."""
    encoders, broken = _encoders(), {}
    rows, columns = np.mgrid[0:24, 0:16]
    for uid, encode in encoders.items():
        largest = 255 if uid == BASELINE else 4095
        pixels = ((rows + columns) * largest // 38).astype(np.uint16)
        try:
            found = stored_values(*_decodable(uid, encode, pixels), 0)
            if np.abs(found.astype(int) - pixels).max() > (TOLERANCE if uid == BASELINE else 0):
                broken[uid] = "decoded to other values"
        except Exception as error:  # a decoder that is missing or broken may raise anything
            broken[uid] = type(error).__name__
    if broken:
        found_text = "; ".join(f"{syntax_name(uid)}: {reason}" for uid, reason in broken.items())
        advice = "images in these transfer syntaxes would be refused; install the packages of requirements.lock"
        return SystemCheck("decoders", "failed", found_text, advice)
    return SystemCheck("decoders", "ok", ", ".join(map(syntax_name, encoders)))


def _decodable(uid: str, encode: Encode | None, pixels: GrayPixels) -> tuple[Dataset, PixelLayout]:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate

    bits = 8 if uid == BASELINE else 12
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT if encode is None else uid
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    dataset.PixelRepresentation = 0
    if encode is None:
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        if uid != EXPLICIT:
            dataset.compress(uid)
    else:
        dataset.PixelData = encapsulate([bytes(encode(pixels))])
        dataset["PixelData"].VR = "OB"
    return dataset, layout(dataset)


def _encoders() -> Mapping[str, Encode | None]:
    """Return a function for each transfer syntax that encodes an image; None if pydicom encodes it."""
    import imagecodecs
    from PIL import Image

    def jpeg(pixels: GrayPixels) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=100)
        return stream.getvalue()

    return {
        EXPLICIT: None,
        RLE: None,
        BASELINE: jpeg,
        "1.2.840.10008.1.2.4.70": partial(imagecodecs.jpeg_encode, lossless=True, predictor=1, bitspersample=12),
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
        "1.2.840.10008.1.2.4.90": partial(imagecodecs.jpeg2k_encode, level=0, reversible=True, codecformat="J2K"),
        "1.2.840.10008.1.2.4.201": partial(imagecodecs.htj2k_encode, reversible=True),
        "1.2.840.10008.1.2.4.110": partial(imagecodecs.jpegxl_encode, lossless=True, bitspersample=12),
    }
