"""Every transfer syntax compared with an uncompressed reference, on real files and on frames that the test encodes."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from medvit.dicom.codestream import jpeg_xl_size
from medvit.dicom.header import load
from medvit.dicom.pixels import decode, decode_frame, decode_frames
from medvit.errors import UnreadableError, UnsupportedError
from medvit.files.limits import is_uncompressed
from medvit.readers import find, read

LOSSLESS = ("J2KR", "JLSL", "JPLL", "RLE")
LARGEST_DIFFERENCE = {"JLSN": 4, "J2KI": 400, "JPLY": 128}
"""Stored values: the bound of JPEG-LS is that of its encoder, the others were measured (at edges of padding)."""
LARGEST_MEAN_DIFFERENCE = {"JLSN": 2.5, "J2KI": 0.02, "JPLY": 0.02}
"""JPEG-LS in stored values, the others as a share of the range of the image."""

PIXELS = np.random.default_rng(0).integers(0, 4096, (24, 16)).astype(np.uint16)


def stored(file: Path) -> np.ndarray:
    return decode(load(file)).pixels


def wg04(folder: Path, kinds: tuple[str, ...]) -> list[tuple[Path, Path]]:
    files = [file for kind in kinds for file in sorted((folder / "nema-wg04" / kind).iterdir())]
    pairs = [(file, folder / "nema-wg04" / "REF" / f"{file.name.split('_')[0]}_UNC") for file in files]
    return [(file, reference) for file, reference in pairs if reference.is_file()]


def test_all_lossless_wg04_images_equal_their_reference_bit_for_bit(shared_data):
    pairs = wg04(shared_data, LOSSLESS)
    assert len(pairs) == 20
    for file, reference in pairs:
        found, expected = stored(file), stored(reference)
        assert found.dtype == expected.dtype, file.name
        assert np.array_equal(found, expected), file.name


def test_all_lossy_wg04_images_lie_near_their_reference(shared_data):
    pairs = wg04(shared_data, tuple(LARGEST_DIFFERENCE))
    assert len(pairs) == 13
    for file, reference in pairs:
        kind = file.parent.name
        expected = stored(reference).astype(float)
        differences = np.abs(stored(file) - expected)
        scale = 1.0 if kind == "JLSN" else np.ptp(expected)
        assert differences.max() <= LARGEST_DIFFERENCE[kind], file.name
        assert differences.mean() <= LARGEST_MEAN_DIFFERENCE[kind] * scale, file.name


def test_nine_encodings_of_one_image_give_the_same_values(shared_data):
    files = sorted((shared_data / "dcm_qa_ts" / "In").iterdir())
    first, *others = [decode(load(file)) for file in files]
    assert len(others) == 8
    assert first.pixels.max() > 0
    for other in others:
        assert other.pixels.dtype == first.pixels.dtype
        assert np.array_equal(other.pixels, first.pixels)


@pytest.mark.parametrize("name", ["rle", "j2k", "deflate", "expb"])
def test_frames_of_one_bit_are_alike_in_every_encoding(shared_data, name):
    folder = shared_data / "dicom-odd" / "pydicom-data"
    expected, found = load(folder / "liver.dcm"), load(folder / f"liver_{name}.dcm")
    for one, other in zip(decode_frames(expected), decode_frames(found), strict=True):
        assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("name", ["RLE", "jpeg_2k_lossless", "jpeg_ls_lossless"])
def test_each_frame_of_many_can_be_decoded_alone(shared_data, name):
    folder = shared_data / "dicom-odd" / "pydicom-data"
    expected, found = load(folder / "emri_small.dcm"), load(folder / f"emri_small_{name}.dcm")
    for index in (9, 0, 4):
        assert np.array_equal(decode_frame(found, index).pixels, decode_frame(expected, index).pixels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_what_pydicom_writes_reads_the_same(write_slice, tmp_path: Path, syntax):
    plain = write_slice(PIXELS, BitsStored=12, HighBit=11)
    dataset = pydicom.dcmread(plain)
    copy = tmp_path / "copy.dcm"
    if syntax.is_compressed:
        dataset.compress(syntax)
        dataset.save_as(copy)
    else:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = PIXELS.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        is_little = syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(copy, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=is_little)
    assert np.array_equal(stored(copy)[0], PIXELS)
    assert stored(copy).dtype == np.uint16


def encoded(frames: list[bytes], uid: str, **elements) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    layout = {"Rows": 24, "Columns": 16, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    bits = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    for keyword, value in (layout | bits | {"NumberOfFrames": len(frames)} | elements).items():
        setattr(dataset, keyword, value)
    dataset.PixelData = encapsulate(frames, has_bot=False)
    dataset["PixelData"].VR = "OB"
    return dataset


def smooth(bits: int) -> np.ndarray:
    rows, columns = np.mgrid[0:24, 0:16]
    return ((rows + columns) * (2**bits - 1) // 38).astype(np.uint16)


def test_extended_jpeg_of_twelve_bits_is_decoded():
    pixels = smooth(12)
    found = decode(encoded([imagecodecs.jpeg_encode(pixels, level=100, bitspersample=12)], JPEGExtended12Bit)).pixels[0]
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - pixels).max() <= 4  # stored values of 4096


def test_retired_progressive_jpeg_is_decoded():
    stream = io.BytesIO()
    pixels = smooth(8).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(stream, "JPEG", quality=100, progressive=True)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    found = decode(encoded([stream.getvalue()], "1.2.840.10008.1.2.4.55", **bits)).pixels[0]
    assert np.abs(found.astype(int) - pixels).max() <= 3  # stored values of 256


@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_lossless_jpeg_is_decoded_with_every_predictor(predictor):
    stream = imagecodecs.jpeg_encode(PIXELS, lossless=True, predictor=predictor, bitspersample=12)
    assert np.array_equal(decode(encoded([stream], "1.2.840.10008.1.2.4.57")).pixels[0], PIXELS)


def test_signed_values_keep_their_sign_in_jpeg_ls_and_jpeg_2000():
    signed = PIXELS.astype(np.int16) - 2048
    bits = signed.view(np.uint16) & 0xFFF
    for uid, stream in (
        (JPEGLSLossless, imagecodecs.jpegls_encode(bits)),
        (JPEG2000Lossless, imagecodecs.jpeg2k_encode(signed, level=0, reversible=True, codecformat="J2K")),
    ):
        assert np.array_equal(decode(encoded([stream], uid, PixelRepresentation=1)).pixels[0], signed)


@pytest.mark.parametrize("is_signed", [False, True])
def test_values_beyond_the_bits_stored_are_clipped_where_lossy_and_masked_where_lossless(is_signed):
    deep = np.array([[0, 4095, 4096, 4123]], np.uint16).repeat(24, 0).repeat(4, 1) - 2048 * is_signed
    deep = deep.astype(np.int16 if is_signed else np.uint16)
    stream = imagecodecs.jpeg2k_encode(deep, level=0, reversible=True, codecformat="J2K")
    found = decode(encoded([stream], "1.2.840.10008.1.2.4.91", PixelRepresentation=int(is_signed))).pixels[0, 0, ::4]
    assert (found.astype(int) + 2048 * is_signed).tolist() == [0, 4095, 4095, 4095]
    found = decode(encoded([stream], JPEG2000Lossless, PixelRepresentation=int(is_signed))).pixels[0, 0, ::4]
    assert (found.astype(int) + 2048 * is_signed).tolist() == [0, 4095, 0, 27]


def test_the_overshoot_of_a_real_lossy_stream_is_white(shared_data):
    if not (shared_data / "peers-odd").is_dir():
        pytest.skip("the data peers-odd are not beside the project")
    dataset = load(shared_data / "peers-odd" / "jpeg2000-multiframe-multifragments.dcm")
    assert decode_frame(dataset, 0).pixels[0, 41, 119] == 4095


@pytest.mark.parametrize("uid", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_equals_its_source(uid):
    stream = imagecodecs.htj2k_encode(PIXELS, reversible=True)
    assert np.array_equal(decode(encoded([stream], uid)).pixels[0], PIXELS)


@pytest.mark.parametrize("container", [False, True])
def test_jpeg_xl_without_loss_equals_its_source(container):
    stream = imagecodecs.jpegxl_encode(PIXELS, lossless=True, bitspersample=12, usecontainer=container)
    assert np.array_equal(decode(encoded([stream], "1.2.840.10008.1.2.4.110")).pixels[0], PIXELS)
    colors = np.random.default_rng(0).integers(0, 256, (24, 16, 3)).astype(np.uint8)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    stream = imagecodecs.jpegxl_encode(colors, lossless=True, usecontainer=container)
    found = decode(encoded([stream], "1.2.840.10008.1.2.4.110", **bits, PhotometricInterpretation="RGB")).pixels
    assert np.array_equal(found, colors.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(8, 8), (24, 16), (300, 400), (256, 256), (1000, 17), (2000, 4000)])
def test_the_size_of_a_jpeg_xl_stream_is_known_before_it_is_decoded(shape):
    assert jpeg_xl_size(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True)) == shape


def test_a_jpeg_xl_stream_of_another_size_is_refused():
    stream = imagecodecs.jpegxl_encode(np.zeros((24, 17), np.uint16), lossless=True)
    with pytest.raises(UnreadableError, match="rows, columns"):
        decode(encoded([stream], "1.2.840.10008.1.2.4.110"))


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.1.98"])
def test_frames_that_are_deflated_or_wrapped_one_by_one_are_read(uid):
    frames = [(PIXELS + n).astype("<u2").tobytes() for n in range(3)]
    streams = frames if uid.endswith("98") else [deflated(frame) for frame in frames]
    dataset = encoded(streams, uid)
    assert [np.array_equal(decode_frame(dataset, n).pixels[0], PIXELS + n) for n in range(3)] == [True] * 3


def deflated(frame: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(frame) + packer.flush()


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile"),
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2"),
        ("1.2.840.113619.5.2", "1.2.840.113619.5.2"),
    ],
)
def test_what_no_decoder_takes_is_refused_by_the_name_of_its_syntax(uid, name):
    with pytest.raises(UnsupportedError, match=name):
        decode(encoded([bytes(64)], uid))


def test_a_syntax_that_no_decoder_takes_is_refused_when_the_file_is_read(write_slice):
    dataset = pydicom.dcmread(write_slice(PIXELS, name="video.dcm"))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    dataset.PixelData = encapsulate([bytes(64)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(dataset.filename)
    (item,) = find([Path(dataset.filename)])
    with pytest.raises(UnsupportedError, match="MPEG-4"):
        read(item)


def test_a_damaged_stream_is_refused_by_the_name_of_its_syntax():
    stream = bytearray(imagecodecs.jpegls_encode(PIXELS))
    with pytest.raises(UnreadableError, match="JPEG-LS"):
        decode(encoded([bytes(stream[:60])], JPEGLSLossless))


def test_a_stream_larger_than_the_header_says_is_refused_before_it_is_decoded():
    stream = bytearray(imagecodecs.jpegls_encode(PIXELS))
    place = stream.index(b"\xff\xf7")
    stream[place + 5 : place + 9] = b"\xea\x60\xea\x60"  # 60000 x 60000
    with pytest.raises(UnreadableError, match=r"\(60000, 60000, 1\), but the header declares \(24, 16, 1\)"):
        decode(encoded([bytes(stream)], JPEGLSLossless))


def test_a_frame_that_does_not_exist_is_refused():
    dataset = encoded([imagecodecs.jpegls_encode(PIXELS)], JPEGLSLossless)
    with pytest.raises(UnreadableError, match="frame 2 was requested, but the instance has 1 frames"):
        decode_frame(dataset, 1)


def test_only_syntaxes_without_compression_are_held_to_the_size_of_their_file():
    assert is_uncompressed("1.2.840.10008.1.2.1")
    assert is_uncompressed("")
    assert not is_uncompressed("1.2.840.10008.1.2.4.110")
    assert not is_uncompressed("1.2.840.10008.1.2.1.99")
