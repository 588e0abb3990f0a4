"""Compressed frames lose the segments that decoding does not need, and decode to the same samples."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended

from medvit.dicom.header import load
from medvit.dicom.pixels import decode_frames
from medvit.dicom.stream_comments import comments, strip_comments, without_comments
from medvit.errors import MedvitError, UnreadableError, UnsupportedError
from medvit.files.guard import decoding

SECRET = b"patient LEE KIM 4711 born 01.02.1950"
PIXELS = (np.random.default_rng(0).random((48, 64)) * 255).astype(np.uint8)
COLORS = (np.random.default_rng(1).random((48, 64, 3)) * 255).astype(np.uint8)
_UID = "1.2.840.10008.1.2"
BASELINE, LOSSLESS, LS = f"{_UID}.4.50", f"{_UID}.4.70", f"{_UID}.4.80"
J2K, JXL, RLE = f"{_UID}.4.90", f"{_UID}.4.110", f"{_UID}.5"


def segment(marker: int, content: bytes = SECRET) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def jpeg(pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def jpeg_2000() -> bytes:
    from imagecodecs import jpeg2k_encode

    return bytes(jpeg2k_encode(PIXELS, level=0, codecformat="j2k"))


def planted(encoded: bytes) -> list[bytes]:
    """A JPEG or JPEG-LS stream with text in every place where one may stand."""
    texts = [segment(marker) for marker in (*range(0xE0, 0xF0), 0xFE)]
    texts.append(segment(0xE1, b"Exif\0\0" + SECRET))
    texts.append(segment(0xEE, b"Adobe\0\x64\0\0\0\0\0" + SECRET))
    texts.append(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1" + SECRET))
    scan = encoded.rindex(b"\xff\xda")
    return [
        *(encoded[:2] + text + encoded[2:] for text in texts),
        *(encoded[:scan] + text + encoded[scan:] for text in texts),
        encoded + SECRET,
    ]


def tile_comment(encoded: bytes) -> bytes:
    comment = b"\xff\x64" + struct.pack(">HH", len(SECRET) + 4, 1) + SECRET
    tile = encoded.index(b"\xff\x90")
    length = struct.unpack_from(">I", encoded, tile + 6)[0] + len(comment)
    begin, end = encoded[: tile + 6], encoded[tile + 10 : tile + 12]
    return begin + struct.pack(">I", length) + end + comment + encoded[tile + 12 :]


def main_comment(encoded: bytes) -> bytes:
    comment = b"\xff\x64" + struct.pack(">HH", len(SECRET) + 4, 0) + SECRET
    tile = encoded.index(b"\xff\x90")
    return encoded[:tile] + comment + encoded[tile:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def in_jp2(encoded: bytes) -> bytes:
    from imagecodecs import jpeg2k_encode

    boxed = bytes(jpeg2k_encode(PIXELS, level=0, codecformat="jp2"))
    codestream = boxed.index(b"jp2c") - 4
    return boxed[:codestream] + box(b"xml ", SECRET) + box(b"uuid", b"u" * 16 + SECRET) + boxed[codestream:]


def decoded(encoded: bytes, syntax: str) -> np.ndarray:
    import imagecodecs

    if syntax == LS:
        return np.asarray(imagecodecs.jpegls_decode(encoded))
    if syntax == J2K:
        return np.asarray(imagecodecs.jpeg2k_decode(encoded))
    if syntax == JXL:
        return np.asarray(imagecodecs.jpegxl_decode(encoded))
    return np.asarray(imagecodecs.jpeg_decode(encoded))


def streams() -> list[tuple[str, bytes]]:
    import imagecodecs

    made = [(BASELINE, one) for one in (*planted(jpeg()), *planted(jpeg(COLORS)), *planted(jpeg(progressive=True)))]
    made += [(LOSSLESS, one) for one in planted(bytes(imagecodecs.ljpeg_encode(PIXELS)))]
    made += [(LS, one) for one in planted(bytes(imagecodecs.jpegls_encode(PIXELS)))]
    made += [(J2K, one) for one in (tile_comment(jpeg_2000()), main_comment(jpeg_2000()), in_jp2(jpeg_2000()))]
    made.append((J2K, jpeg_2000() + SECRET))
    return made


@pytest.mark.parametrize(("syntax", "encoded"), streams())
def test_no_text_of_a_stream_stays_and_its_samples_do(syntax: str, encoded: bytes) -> None:
    assert SECRET in encoded
    clean = without_comments(encoded, syntax)
    assert SECRET not in clean
    assert len(clean) % 2 == 0
    assert SECRET in b"\n".join(comments(one_frame(encoded, syntax)))
    assert (decoded(clean, syntax) == decoded(encoded, syntax)).all()
    assert without_comments(clean, syntax) == clean


def test_boxes_of_jpeg_xl_that_hold_text_go() -> None:
    import imagecodecs

    naked = bytes(imagecodecs.jpegxl_encode(PIXELS, lossless=True, usecontainer=False))
    boxed = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ") + box(b"Exif", SECRET) + box(b"jxlc", naked)
    clean = without_comments(boxed, JXL)
    assert SECRET not in clean
    assert (decoded(clean, JXL) == PIXELS).all()


def test_run_lengths_keep_nothing_beside_their_segments() -> None:
    encoded = struct.pack("<16I", 1, 64, *struct.unpack("<14I", (SECRET + b"\0" * 56)[:56])) + b"\1ab"
    assert without_comments(encoded, RLE) == struct.pack("<16I", 1, 64, *[0] * 14) + b"\1ab\0"


def one_frame(encoded: bytes, syntax: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([encoded])
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.mark.parametrize("is_extended", [False, True])
def test_each_frame_of_many_is_stripped_and_still_found(is_extended: bool) -> None:
    from medvit.dicom.stream_comments import frames

    dataset = one_frame(jpeg(), BASELINE)
    dataset.NumberOfFrames = 3
    each = [jpeg(PIXELS // n) for n in (1, 2, 3)]
    written = [frame[:2] + segment(0xFE, SECRET * n) + frame[2:] for n, frame in enumerate(each, 1)]
    if is_extended:
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            written
        )
    else:
        dataset.PixelData = encapsulate(written)
    strip_comments(dataset, BASELINE)
    assert SECRET not in dataset.PixelData
    for found, frame in zip(frames(dataset), each, strict=True):
        assert (decoded(found, BASELINE) == decoded(frame, BASELINE)).all()


def test_what_has_no_comment_stays_byte_for_byte() -> None:
    encoded = without_comments(jpeg(), BASELINE)
    dataset = one_frame(encoded, BASELINE)
    before = dataset.PixelData
    strip_comments(dataset, BASELINE)
    assert dataset.PixelData is before


def test_a_video_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedError, match="frames of MPEG2 Main Profile"):
        without_comments(b"\0\0\1\xb3" + SECRET, "1.2.840.10008.1.2.4.100")


def test_a_damaged_stream_is_refused() -> None:
    with pytest.raises(UnreadableError, match="truncated"):
        without_comments(jpeg()[:30], BASELINE)


FOLDERS = ("dicom-odd", "nema-wg04", "highdicom-sm-seg-sr", "peers-odd", "dcm_qa_ts", "wsi")


@pytest.mark.parametrize("folder", FOLDERS)
def test_real_frames_decode_as_before(shared_data: Path, folder: str) -> None:
    for file in sorted((shared_data / folder).rglob("*.dcm")):
        try:
            with decoding("the file"):
                dataset, again = load(file), load(file)
                syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
                if "PixelData" not in dataset or not dataset["PixelData"].is_undefined_length:
                    continue
                before = [frame.pixels for frame, _ in zip(decode_frames(dataset), range(3), strict=False)]
        except MedvitError:
            continue
        strip_comments(again, syntax)
        assert comments(again) == [], file.name
        for frame, old in zip(decode_frames(again), before, strict=False):
            assert (frame.pixels == old).all(), file.name
