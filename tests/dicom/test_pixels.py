"""Meaning of the stored bits of a frame: bits, tables, colors, polarity and display."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from medvit.dicom.header import load
from medvit.dicom.pixels import decode, decode_frame, decode_frames, narrowed_frames
from medvit.errors import UnreadableError, UnsupportedError

RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6)


def instance(pixels: np.ndarray, *, keyword: str = "PixelData", **elements) -> Dataset:
    """An instance of one frame (H, W) or (H, W, 3) in memory; a value of None removes an element."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    bits = 8 * pixels.dtype.itemsize
    attributes = {
        "Modality": "DX",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    } | elements
    for name, value in attributes.items():
        if value is not None:
            setattr(dataset, name, value)
    setattr(dataset, keyword, pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    if keyword == "PixelData":
        dataset["PixelData"].VR = "OW"
    return dataset


def table(entries: list[int], *, first: int = 0, bits: int = 16, **elements) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.array(entries, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    for name, value in elements.items():
        setattr(item, name, value)
    return item


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_integers_keep_their_type_and_values(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pixels = np.array([[low, 0, 1], [high, 7, 9]], dtype)
    found = decode(instance(pixels)).pixels[0]
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_floating_point_pixels_come_as_stored_and_narrow_to_float32(keyword, dtype):
    pixels = np.linspace(-1.5, 2.5, 12, dtype=dtype).reshape(3, 4)
    gone = {"BitsStored": None, "HighBit": None, "PixelRepresentation": None}
    stored = decode(instance(pixels, keyword=keyword, **gone))
    assert stored.pixels.dtype == dtype
    assert np.array_equal(stored.pixels[0], pixels)
    (found,) = narrowed_frames([stored])
    assert np.array_equal(found.pixels[0], pixels.astype(np.float32))
    assert found.pixels.dtype == np.float32


def test_frames_of_one_bit_that_begin_within_a_byte_are_told_apart():
    frames = np.random.default_rng(0).integers(0, 2, (3, 3, 3)).astype(np.uint8)
    dataset = instance(frames[0], BitsAllocated=1, BitsStored=1, HighBit=0, NumberOfFrames=3)
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    assert [np.array_equal(frame.pixels[0], frames[n]) for n, frame in enumerate(decode_frames(dataset))] == [True] * 3


@pytest.mark.parametrize("is_signed", [False, True])
def test_overlays_in_unused_bits_are_left_out(is_signed):
    values = np.array([[0, 1, 2047], [-1, -2048, 5]]) if is_signed else np.array([[0, 1, 4095], [2048, 7, 5]])
    stored = (values & 0xFFF).astype(np.uint16)
    with_overlay = stored | np.array([[0x1000, 0x8000, 0xF000], [0xF000, 0x1000, 0]], np.uint16)
    elements = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(is_signed)}
    assert np.array_equal(decode(instance(with_overlay, **elements)).pixels[0], values)
    shifted = (stored << 4) | np.array([[1, 2, 15], [0, 8, 3]], np.uint16)
    assert np.array_equal(decode(instance(shifted, **elements | {"HighBit": 15})).pixels[0], values)


def test_overlays_in_elements_of_their_own_do_not_touch_the_pixels(shared_data):
    dataset = load(shared_data / "dicom-odd" / "pydicom-data" / "MR-SIEMENS-DICOM-WithOverlays.dcm")
    with_overlays = decode(dataset).pixels
    assert (0x6000, 0x3000) in dataset
    del dataset[0x6000, 0x3000]
    assert np.array_equal(decode(dataset).pixels, with_overlays)


@pytest.mark.parametrize("planar", [0, 1])
def test_color_is_alike_by_pixel_and_by_plane(planar):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    dataset = instance(pixels, PlanarConfiguration=planar)
    if planar:
        dataset.PixelData = pixels.transpose(2, 0, 1).tobytes()
    assert np.array_equal(decode(dataset).pixels, pixels.transpose(2, 0, 1))


def test_real_color_by_pixel_and_by_plane_are_both_read(shared_data):
    folder = shared_data / "dicom-odd" / "pydicom-data"
    by_plane, by_pixel = (decode(load(folder / name)).pixels for name in ("color-pl.dcm", "color-px.dcm"))
    assert np.array_equal(by_plane, by_pixel)


def test_full_range_ybr_becomes_rgb():
    # PS3.3 C.7.6.3.1.2: gray has color differences of 128; pure red is Y 76, Cb 85, Cr 255.
    ybr = np.array([[[200, 128, 128], [76, 85, 255]]], np.uint8)
    found = decode(instance(ybr, PhotometricInterpretation="YBR_FULL", PlanarConfiguration=0)).pixels
    assert np.abs(found[:, 0, :].T - np.array([[200, 200, 200], [254, 0, 0]])).max() <= 1  # of 255


def test_two_pixels_share_their_color_differences_in_ybr_422():
    dataset = instance(np.zeros((1, 2, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    dataset.PixelData = bytes([100, 50, 128, 128])
    assert decode(dataset).pixels[:, 0, :].T.tolist() == [[100] * 3, [50] * 3]


@pytest.mark.parametrize("coding", ["YBR_PARTIAL_420", "HSV", "CMYK", "YBR_RCT"])
def test_colors_that_cannot_be_turned_to_rgb_are_refused_by_name(coding):
    dataset = instance(np.zeros((2, 2, 3), np.uint8), PhotometricInterpretation=coding, PlanarConfiguration=0)
    with pytest.raises(UnsupportedError, match=coding):
        decode(dataset)


def with_palette(pixels: np.ndarray, tables: np.ndarray, *, first: int = 0, bits: int = 16, **elements) -> Dataset:
    dataset = instance(pixels, PhotometricInterpretation="PALETTE COLOR", **elements)
    for color, entries in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [len(entries), first, bits])
        setattr(dataset, f"{color}PaletteColorLookupTableData", entries.tobytes())
    return dataset


def test_a_palette_of_sixteen_bits_gives_its_high_bytes():
    tables = np.random.default_rng(0).integers(0, 65536, (3, 24)).astype("<u2")
    assert np.array_equal(decode(with_palette(RAMP, tables)).pixels, (tables >> 8)[:, RAMP])


def test_a_palette_ends_with_its_first_and_last_entry():
    tables = np.arange(30, dtype=np.uint8).reshape(3, 10)
    pixels = np.array([[0, 5, 9, 14, 300]], np.uint16)
    found = decode(with_palette(pixels, tables, first=5, bits=8)).pixels
    assert found[0, 0].tolist() == [0, 0, 4, 9, 9]


def test_a_palette_declared_wide_whose_entries_are_narrow_is_not_black():
    tables = np.tile(np.arange(24, dtype="<u2"), (3, 1))
    assert decode(with_palette(RAMP, tables)).pixels.max() == 23


def test_a_segmented_palette_is_expanded():
    dataset = with_palette(RAMP, np.zeros((3, 24), "<u2"))
    # Four entries; a line of 16 to 5000; the first segment again (PS3.3 C.7.9.2).
    segments = np.array([0, 4, 100, 200, 300, 400, 1, 16, 50000, 2, 1, 0, 0], "<u2").tobytes()
    for color in ("Red", "Green", "Blue"):
        delattr(dataset, f"{color}PaletteColorLookupTableData")
        setattr(dataset, f"Segmented{color}PaletteColorLookupTableData", segments)
    expected = [100, 200, 300, 400, *(400 + 49600 / 16 * n for n in range(1, 17)), 100, 200, 300, 400]
    assert decode(dataset).pixels[0].ravel().tolist() == [int(value) >> 8 for value in expected]


@pytest.mark.parametrize("name", ["OBXXXX1A.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_real_palettes_agree_with_another_implementation(shared_data, name):
    file = shared_data / "dicom-odd" / "pydicom-data" / name
    dataset = pydicom.dcmread(file)
    expected = apply_color_lut(dataset.pixel_array, dataset)
    expected = expected >> 8 if expected.dtype.itemsize > 1 else expected
    assert np.array_equal(decode(load(file)).pixels, expected.transpose(2, 0, 1))


def test_gray_values_that_stand_for_colors_are_refused(shared_data):
    dataset = load(shared_data / "dicom-odd" / "pydicom-data" / "eCT_Supplemental.dcm")
    with pytest.raises(UnsupportedError, match="84268 gray values, from 1024 upwards, encode colors"):
        decode_frame(dataset, 0)


def test_a_modality_table_takes_the_place_of_the_rescale():
    entries = [5, 50, 500, 4095]
    dataset = instance(
        np.array([[0, 1], [2, 99]], np.uint8),
        ModalityLUTSequence=Sequence([table(entries, bits=12, ModalityLUTType="US")]),
        RescaleSlope=3,
        RescaleIntercept=7,
    )
    frame = decode(dataset)
    assert frame.pixels[0].tolist() == [[5, 50], [500, 4095]]
    assert (frame.slope, frame.intercept) == (1.0, 0.0)


def test_a_modality_table_of_signed_values_begins_below_zero():
    lut = table([10, 20, 30])
    lut.LUTDescriptor = [3, 65535, 16]  # -1 as an unsigned number
    dataset = instance(np.array([[-5, -1, 0, 1, 9]], np.int16), ModalityLUTSequence=Sequence([lut]))
    assert decode(dataset).pixels[0].tolist() == [[10, 10, 20, 30, 30]]


def test_a_modality_table_is_mirrored_within_its_own_bits():
    dataset = instance(
        RAMP,
        PhotometricInterpretation="MONOCHROME1",
        ModalityLUTSequence=Sequence([table(list(range(24)), bits=10)]),
    )
    assert np.array_equal(decode(dataset).pixels[0], 1023 - RAMP.astype(int))


def test_a_real_modality_table_reaches_its_whole_range(shared_data):
    frame = decode(load(shared_data / "dicom-odd" / "pydicom-data" / "mlut_18.dcm"))
    assert (frame.pixels.dtype, int(frame.pixels.max()), frame.slope) == (np.uint16, 65535, 1.0)


def test_a_table_shorter_than_it_claims_is_refused():
    lut = table([1, 2, 3])
    lut.LUTDescriptor = [300, 0, 16]
    with pytest.raises(UnreadableError, match="3 of the 300 entries"):
        decode(instance(RAMP, ModalityLUTSequence=Sequence([lut])))


def test_each_frame_has_the_rescale_of_its_functional_groups():
    frames = np.arange(48, dtype=np.uint16).reshape(2, 4, 6)
    dataset = instance(frames[0], SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=2)
    dataset.PixelData = frames.tobytes()
    groups = []
    for slope in (2.0, 0.5):
        transformation, group = Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = slope, -1000.0, "HU"
        group.PixelValueTransformationSequence = Sequence([transformation])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    found = [(frame.slope, frame.intercept, frame.unit) for frame in decode_frames(dataset)]
    assert found == [(2.0, -1000.0, "HU"), (0.5, -1000.0, "HU")]


@pytest.mark.parametrize(
    ("photometric", "shape", "is_turned"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", None, False),
    ],
)
def test_radiographs_are_turned_once_so_that_high_is_bright(photometric, shape, is_turned):
    frame = decode(instance(RAMP, PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    assert np.array_equal(frame.pixels[0], 255 - RAMP if is_turned else RAMP)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"WindowCenter": 11.5, "WindowWidth": 24}, np.clip((RAMP - 11.0) / 23 + 0.5, 0, 1)),
        ({"WindowCenter": 12, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}, np.clip((RAMP - 10.0) / 4, 0, 1)),
        ({"WindowCenter": 12, "WindowWidth": 8, "VOILUTFunction": "SIGMOID"}, 1 / (1 + np.exp(-(RAMP - 12.0) / 2))),
        ({"VOILUTSequence": [table(list(range(0, 240, 10)), bits=8)]}, RAMP * 10.0 / 255),
        ({"VOILUTSequence": [table(list(range(0, 4096, 178)), bits=16)]}, RAMP / 23.0),  # 12 bits in a table of 16
        ({"VOILUTSequence": [table(list(range(24)), bits=5)]}, RAMP / 31.0),  # most of its range: as declared
        ({"VOILUTSequence": [table([0] * 24, bits=16)]}, RAMP * 0.0),
    ],
)
def test_displayed_values_follow_the_window_or_table_of_the_file(elements, expected):
    found = decode(instance(RAMP, **elements), "displayed").pixels[0]
    assert found.dtype == np.uint16
    assert np.abs(found / 65535 - expected).max() < 1e-4  # of the displayed range
    inverse = decode(instance(RAMP, PhotometricInterpretation="MONOCHROME1", **elements), "displayed").pixels[0]
    assert np.array_equal(inverse, 65535 - found)


def test_without_a_window_stored_values_are_given_even_if_displayed_ones_are_wanted():
    assert np.array_equal(decode(instance(RAMP), "displayed").pixels[0], RAMP)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"BitsAllocated": None}, "no \\(0028,0100\\) BitsAllocated"),
        ({"BitsStored": 12, "HighBit": 11}, "are not within"),
        ({"HighBit": 3}, "are not within"),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation"),
        ({"Rows": 5}, "declares 30 bytes of pixels, but PixelData contains 24"),
        ({"Rows": 0}, "0 rows"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
    ],
)
def test_a_header_that_contradicts_its_pixels_is_refused(elements, reason):
    with pytest.raises(UnreadableError, match=reason):
        decode(instance(RAMP, **elements))


@pytest.mark.parametrize(("elements", "reason"), [({"BitsAllocated": 12}, "12"), ({"SamplesPerPixel": 4}, "4")])
def test_an_unknown_layout_is_refused_with_its_number(elements, reason):
    with pytest.raises(UnsupportedError, match=reason):
        decode(instance(RAMP, **elements))
