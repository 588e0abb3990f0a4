"""Removal of comments, application data and trailers from compressed frames.

Encoders, cameras and converters write free text there (COM and APPn segments with EXIF and XMP in JPEG and JPEG-LS, COM
in JPEG 2000, boxes in JP2 and JPEG XL), which no DICOM element declares. Only what decoding requires is kept; coded
samples remain identical, byte for byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvit.dicom.codestream import BARE_MARKERS
from medvit.dicom.decoders import ENCAPSULATED, END_OF_IMAGE, FRAME_DEFLATED, NATIVE, RLE, syntax_name
from medvit.errors import UnreadableError, UnsupportedError

if TYPE_CHECKING:
    from pydicom import Dataset

COM, APPLICATION = 0xFE, range(0xE0, 0xF0)
"""Markers of free text and of application data (ISO 10918-1, B.2.4.5 and B.2.4.6)."""
SCAN = 0xDA
NEEDED: tuple[tuple[int, bytes, int], ...] = ((0xE0, b"JFIF\0", 14), (0xEE, b"Adobe", 12), (0xE8, b"mrfx", 5))
"""Application data that defines the color coding: marker, prefix and length of the kept part."""
JFIF_THUMBNAIL = 12
"""Offset of the thumbnail size in JFIF; the thumbnail is removed."""

J2K_COM, J2K_TILE, J2K_DATA = b"\xff\x64", b"\xff\x90", b"\xff\x93"
"""Comment, start of a tile-part and start of its data (ISO 15444-1, A.9.2, A.4.2 and A.4.3)."""
BOXES = (b"jP  ", b"JXL ", b"ftyp", b"jp2h", b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef", b"res ", b"jp2c")
JXL_BOXES = (b"jxll", b"jxlc", b"jxlp")
"""Boxes of JP2 (ISO 15444-1, I.5) and of JPEG XL (ISO 18181-2) that define how samples are coded."""

# FF with a stuffed zero bit or byte is coded data, and D0 to D7 restart it (ISO 10918-1, F.1.2.3; ISO 14495-1, A.1).
_NEXT_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_NOTHING = re.compile(rb"[\x00\xff]*")
"""Bytes that may pad a stream."""


@dataclass(frozen=True)
class Part:
    """Part of a stream, with the bytes to keep and the bytes to remove."""

    kept: bytes = b""
    dropped: bytes = b""


def without_comments(encoded: bytes, syntax: str) -> bytes:
    """Return a compressed frame reduced to the bytes that decoding requires, padded to an even length.

    Raises:
        UnreadableError: If the structure of the frame does not match its transfer syntax.
        UnsupportedError: If the transfer syntax is not supported, as for video.
    """
    kept = b"".join(part.kept for part in _parts(encoded, syntax))
    return kept + b"\0" * (len(kept) % 2)


def comments(dataset: Dataset) -> list[bytes]:
    """Return everything in the compressed frames of a data set that is not needed for decoding, such as comments.

    Raises:
        UnreadableError: If the structure of a frame does not match its transfer syntax.
        UnsupportedError: If the transfer syntax is not supported, as for video.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if "PixelData" not in dataset or syntax in ("", *NATIVE):
        return []
    return [part.dropped for frame in frames(dataset) for part in _parts(frame, syntax) if part.dropped]


def strip_comments(dataset: Dataset, syntax: str) -> None:
    """Remove the comments of all compressed frames of a data set; a data set without comments is unchanged.

    Raises:
        UnreadableError: If the structure of a frame does not match its transfer syntax.
        UnsupportedError: If the transfer syntax is not supported, as for video.
    """
    from pydicom import DataElement
    from pydicom.encaps import encapsulate, encapsulate_extended

    encoded = list(frames(dataset))
    clean = [without_comments(frame, syntax) for frame in encoded]
    if all(new == old + b"\0" * (len(old) % 2) for new, old in zip(clean, encoded, strict=True)):
        return
    if dataset.get("ExtendedOffsetTable"):
        content, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(clean)
    else:
        content = encapsulate(clean, has_bot=sum(map(len, clean)) + 8 * len(clean) < 2**32)
    stripped = DataElement(dataset["PixelData"].tag, "OB", content)  # the attribute of the data set may be shared, too
    stripped.is_undefined_length = True
    dataset.add(stripped)


def frames(dataset: Dataset) -> Iterator[bytes]:
    """Yield the encoded frames of a data set; the fragments of each frame are joined.

    Raises:
        UnreadableError: If frames are missing.
    """
    from pydicom.encaps import generate_frames

    offsets, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    number = int(dataset.get("NumberOfFrames") or 1)
    extended = (offsets, lengths) if offsets and lengths else None
    found = 0
    try:
        for frame in generate_frames(dataset.PixelData, number_of_frames=number, extended_offsets=extended):
            found += 1
            yield frame
    except (ValueError, StopIteration, struct.error):
        pass
    if found != number:
        raise UnreadableError(f"only {found} of {number} compressed frames can be separated; the file is truncated")


def _parts(encoded: bytes, syntax: str) -> Iterator[Part]:
    try:
        if syntax in (ENCAPSULATED, FRAME_DEFLATED):
            yield Part(encoded)
        elif syntax == RLE:
            yield from _run_lengths(encoded)
        elif encoded[:2] == b"\xff\xd8":
            yield from _jpeg(encoded)
        elif encoded[:2] == b"\xff\x4f":
            yield from _jpeg_2000(encoded)
        elif encoded[:8] in (b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL "):
            yield from _boxes(encoded)
        elif encoded[:2] == b"\xff\x0a":  # JPEG XL without boxes
            yield Part(encoded)
        else:
            raise UnsupportedError(
                f"comments within frames of {syntax_name(syntax)} cannot be removed; decompress the frames first"
            )
    except (struct.error, IndexError):
        raise UnreadableError("a compressed frame ends within its header; the file is truncated") from None


def _jpeg(encoded: bytes) -> Iterator[Part]:
    yield Part(encoded[:2])
    place = 2
    while place < len(encoded):
        if encoded[place] != 0xFF:
            raise UnreadableError(
                "a compressed frame begins as a JPEG stream, but its structure is not valid; the file is damaged"
            )
        marker = encoded[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker == END_OF_IMAGE[1]:
            yield from _ended(encoded, place + 2)
            return
        elif marker in BARE_MARKERS:
            yield Part(encoded[place : place + 2])
            place += 2
        else:
            end = place + 2 + max(2, struct.unpack_from(">H", encoded, place + 2)[0])
            if end > len(encoded):
                raise UnreadableError("a compressed frame ends within its header; the file is truncated")
            segment = encoded[place:end]
            yield _application(segment, marker) if marker == COM or marker in APPLICATION else Part(segment)
            place = end
            if marker == SCAN:
                following = _NEXT_MARKER.search(encoded, place)
                end = following.start() if following else len(encoded)
                yield Part(encoded[place:end])
                place = end


def _application(segment: bytes, marker: int) -> Part:
    content = segment[4:]
    for needed, beginning, length in NEEDED:
        if marker == needed and content.startswith(beginning) and len(content) >= length:
            kept = content[:JFIF_THUMBNAIL] + b"\0\0" if beginning.startswith(b"JFIF") else content[:length]
            return Part(segment[:2] + struct.pack(">H", 2 + length) + kept, content[length:])
    return Part(dropped=content)


def _jpeg_2000(encoded: bytes) -> Iterator[Part]:
    yield Part(encoded[:2])
    place = 2
    while (marker := encoded[place : place + 2]) != J2K_TILE:  # the main header
        end = _segment_end(encoded, place)
        yield Part(dropped=encoded[place + 6 : end]) if marker == J2K_COM else Part(encoded[place:end])
        place = end
    while (marker := encoded[place : place + 2]) == J2K_TILE:
        length = struct.unpack_from(">I", encoded, place + 6)[0]
        end = min(place + length, len(encoded)) if length else _last_tile_end(encoded)
        yield from _tile_part(encoded[place:end])
        place = max(end, place + 12)
    if marker == END_OF_IMAGE:
        yield from _ended(encoded, place + 2)
    elif _NOTHING.fullmatch(encoded, place) is None:
        raise UnreadableError("a compressed frame continues after its last tile; it is damaged")


def _tile_part(tile: bytes) -> Iterator[Part]:
    # Length tables elsewhere in the stream count these bytes, so a comment is blanked in place.
    place = 0
    while (marker := tile[place : place + 2]) != J2K_DATA:
        end = _segment_end(tile, place)
        if marker == J2K_COM:
            yield Part(tile[place : place + 6] + b"\0" * (end - place - 6), tile[place + 6 : end].strip(b"\0"))
        else:
            yield Part(tile[place:end])
        place = end
    yield Part(tile[place:])


def _segment_end(encoded: bytes, place: int) -> int:
    if encoded[place] != 0xFF:
        raise UnreadableError(
            "a compressed frame begins as a JPEG 2000 stream, but its structure is not valid; the file is damaged"
        )
    end = place + 2 + int(struct.unpack_from(">H", encoded, place + 2)[0])
    if end > len(encoded):
        raise UnreadableError("a compressed frame ends within its header; the file is truncated")
    return end


def _last_tile_end(encoded: bytes) -> int:
    end = encoded.rfind(END_OF_IMAGE)
    return len(encoded) if end < 0 else end


def _boxes(encoded: bytes, place: int = 0) -> Iterator[Part]:
    while place < len(encoded):
        if len(encoded) - place < 8:
            yield Part(dropped=encoded[place:].strip(b"\0"))
            return
        length, kind = struct.unpack_from(">I4s", encoded, place)
        begin = place + 8
        if length == 1:
            length, begin = struct.unpack_from(">Q", encoded, place + 8)[0], place + 16
        end = len(encoded) if length == 0 else place + length
        if not begin <= end <= len(encoded):
            raise UnreadableError("a box of a compressed frame is longer than the frame; the file is truncated")
        content = encoded[begin:end]
        if kind in (b"jp2c", b"jp2h"):
            inner = list(_jpeg_2000(content) if kind == b"jp2c" else _boxes(content))
            kept = b"".join(part.kept for part in inner)
            yield Part(struct.pack(">I4s", 8 + len(kept), kind) + kept, b"\n".join(p.dropped for p in inner).strip())
        else:
            yield Part(encoded[place:end]) if kind in (*BOXES, *JXL_BOXES) else Part(dropped=content)
        place = end


def _run_lengths(encoded: bytes) -> Iterator[Part]:
    """Yield the parts of an RLE frame. Unused bytes of its header are replaced by 0, as PS3.5 G.5 requires."""
    number = min(struct.unpack_from("<I", encoded)[0], 15)
    used = 4 + 4 * number
    yield Part(encoded[:used] + b"\0" * (64 - used), encoded[used:64].strip(b"\0"))
    yield Part(encoded[64:])


def _ended(encoded: bytes, end: int) -> Iterator[Part]:
    """Yield the end marker of a stream, and the bytes after it as kept (padding) or removed (anything else).

    `end` is the offset just past the marker.
    """
    rest = encoded[end:]
    is_padding = _NOTHING.fullmatch(rest) is not None
    yield Part(encoded[end - 2 :]) if is_padding else Part(encoded[end - 2 : end], rest)
