"""Declared padding is a property of the image, from the header to the input of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
)

from medvit.dicom.header import read_header
from medvit.errors import ConflictError
from medvit.ingest.quality_flags import flags
from medvit.readers import find, read
from medvit.readers.options import ValuesConfig
from medvit.types import Image
from tests.dicom.multiframe import item

MR = {"SOPClassUID": MRImageStorage, "Modality": "MR"}
PAD = -2000


def padded(shape: tuple[int, int] = (12, 8), value: int = PAD) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(900, 1100, shape).astype(np.int16)
    pixels[:, :3] = value
    return pixels


def only(files: list[Path], **options: object) -> Image:
    (found,) = find(files, **options)
    return read(found)


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "JPEG-LS"])
def test_padding_is_read_in_every_encoding_and_pixels_stay_as_they_are(write_slice, syntax: str) -> None:
    path = write_slice(padded(), PixelPaddingValue=PAD, PixelPaddingRangeLimit=-1990)
    dataset = dcmread(path)
    if syntax == "JPEG-LS":
        dataset.compress(JPEGLSLossless)
        dataset.save_as(path)
    elif syntax != "explicit":
        uid = ImplicitVRLittleEndian if syntax == "implicit" else ExplicitVRBigEndian
        little = syntax == "implicit"
        if not little:
            dataset.PixelData = padded().astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = uid
        dcmwrite(path, dataset, implicit_vr=little, little_endian=little, force_encoding=True)
    image = only([path])
    assert image.padding == (-2000.0, -1990.0)
    assert np.array_equal(image.pixels[0], padded())


def test_padding_is_found_with_the_header_where_pixels_need_no_decoder(write_slice) -> None:
    header = read_header(write_slice(padded(), PixelPaddingValue=PAD))
    assert header.native is not None
    assert header.native.coding.padding == (-2000.0, -2000.0)


def test_padding_is_signed_as_the_pixels_are_whatever_was_written(write_slice) -> None:
    path = write_slice(padded(), PixelPaddingValue=PAD)
    dataset = dcmread(path)
    dataset["PixelPaddingValue"].VR = "US"
    dataset["PixelPaddingValue"].value = 2**16 + PAD
    dataset.save_as(path)
    assert only([path]).padding == (-2000.0, -2000.0)


def test_padding_that_pixels_cannot_hold_is_none(write_slice) -> None:
    path = write_slice(np.arange(15, dtype=np.uint8).reshape(3, 5), PixelPaddingValue=63536)
    assert only([path]).padding is None


def test_padding_is_mirrored_with_its_pixels(write_slice) -> None:
    stored = np.arange(15, dtype=np.uint16).reshape(3, 5)
    path = write_slice(
        stored, **MR, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11, PixelPaddingValue=0
    )
    image = only([path])
    assert image.padding == (4095.0, 4095.0)
    assert image.pixels[0, 0, 0] == 4095


def test_resampling_mixes_no_padding_into_tissue(write_slice) -> None:
    for n, height in enumerate((0.0, 2.0, 5.0, 6.0, 8.0)):
        pixels = np.full((12, 8), 1000 + 10 * n, np.int16)
        pixels[:4] = pixels[:, : 2 + n % 2] = -3024
        shift = 0.25 * n  # half a pixel along the rows and more
        write_slice(pixels, name=f"{n}.dcm", position=(shift, 0.0, height), PixelPaddingValue=-3024, InstanceNumber=n)
    files = sorted(Path(write_slice(padded(), name="away.dcm")).parent.glob("[0-9].dcm"))
    image = only(files, geometry="resample")
    assert image.padding == (-3024.0, -3024.0)
    values = image.pixels
    assert ((values == -3024) | ((values >= 1000) & (values <= 1040))).all()
    assert (values == -3024).any()


def test_slices_of_one_padding_keep_it(write_series) -> None:
    files, voxels = write_series(PixelPaddingValue=5)
    image = only(files)
    assert image.padding == (5.0, 5.0)
    assert np.array_equal(image.pixels[0, ::-1, ::-1].T, voxels)


def test_a_slice_that_alone_lacks_the_padding_is_refused_where_it_has_such_values(write_series) -> None:
    files, voxels = write_series(PixelPaddingValue=int(PAD))
    dataset = dcmread(files[1])
    del dataset.PixelPaddingValue
    dataset.save_as(files[1])
    assert only(files).padding == (-2000.0, -2000.0)  # nothing hangs on it
    dataset.PixelData = np.full_like(voxels[1], PAD).tobytes()
    dataset.save_as(files[1])
    with pytest.raises(ConflictError, match="PixelPaddingValue"):
        only(files)


def test_slices_of_several_slopes_have_one_padding_below_all_values(write_series) -> None:
    files, voxels = write_series(PixelPaddingValue=7, SOPClassUID=MRImageStorage, Modality="MR")
    dataset = dcmread(files[1])
    dataset.RescaleSlope = 2.5
    dataset.save_as(files[1])
    image = only(files)
    low, high = image.padding
    assert low == high
    gaps = low == image.pixels[0, ::-1, ::-1].T
    assert np.array_equal(gaps, voxels == 7)
    assert image.pixels[image.pixels > low].min() > low


def test_statistics_do_not_see_padding() -> None:
    pixels = np.random.default_rng(0).normal(1000, 3, (64, 64)).cumsum(axis=0).astype(np.int32)
    framed = np.full((96, 64), -60000, np.int32)
    framed[16:80] = pixels
    image = Image(framed[None], "image", "MR", padding=(-60000.0, -60000.0))
    assert "constant" in flags(Image(np.where(framed > 0, 5, framed)[None], "image", "MR", padding=image.padding))
    assert image.without_gaps().pixels.min() == pixels.min()


DX = {
    "SOPClassUID": DigitalXRayImageStorageForPresentation,
    "Modality": "DX",
    "RescaleSlope": None,
    "RescaleIntercept": None,
    "WindowCenter": 1000,
    "WindowWidth": 100,
}


def shown(path: Path) -> Image:
    (found,) = find([path])
    return read(ValuesConfig(radiographs="displayed").of(found))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [0, 4095, 1000], ids=["dark", "bright", "amid the measured ones"])
def test_padding_of_a_displayed_radiograph_is_darker_than_all_that_was_measured(
    write_slice, photometric: str, value: int
) -> None:
    stored = padded(value=value).astype(np.uint16)
    elements = {**DX, "PhotometricInterpretation": photometric}
    image = shown(write_slice(stored, **elements, PixelPaddingValue=value))
    gaps = stored == value
    assert image.padding == (0.0, 0.0)
    assert np.array_equal(image.pixels[0] == 0, gaps)
    plain = shown(write_slice(stored, **elements))
    assert plain.padding is None
    assert np.array_equal(image.pixels[0][~gaps], np.maximum(plain.pixels[0][~gaps], 1))


def test_a_range_of_padding_is_one_value_of_a_displayed_radiograph(write_slice) -> None:
    stored = padded(value=0).astype(np.uint16)
    stored[:, 1] = 7
    image = shown(write_slice(stored, **DX, PixelPaddingValue=0, PixelPaddingRangeLimit=9))
    assert image.padding == (0.0, 0.0)
    assert np.array_equal(image.pixels[0] == 0, stored < 10)


def test_padding_below_zero_does_not_shift_a_voi_table(write_slice) -> None:
    table = item(LUTDescriptor=[4000, 38000, 16], LUTData=(np.arange(4000) * 16).astype("<u2").tobytes())
    table["LUTDescriptor"].VR = "US"
    elements = {**DX, "RescaleSlope": 40, "RescaleIntercept": 0, "VOILUTSequence": [table]}
    pixels = padded()
    pixels[:, 3:] = pixels[:, 3:] % 100 + 950  # 38000 to 42000 after the rescale
    image = shown(write_slice(pixels, **elements, PixelPaddingValue=PAD))
    expected = (pixels[:, 3:].astype(int) * 40 - 38000).clip(0, 3999) * 16
    assert np.array_equal(image.pixels[0, :, 3:], np.maximum(expected, 1))
    assert (image.pixels[0, :, :3] == 0).all()
