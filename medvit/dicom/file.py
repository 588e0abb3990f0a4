"""Opening of a DICOM file, or of a data set without preamble."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.dicom.bounded_stream import BoundedReader, check_inflated
from medvit.dicom.direct.fast_dataset import FastDataset, quick
from medvit.errors import UnreadableError
from medvit.files.head import FIRST_BYTES

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE_BYTES = 128

FIRST_VRS = (b"UL", b"UI", b"OB", b"SH", b"CS", b"DA", b"TM")
"""Value representations of a first element without preamble: those of groups 0002 and 0008 (PS3.6)."""
DIRECTORY = "1.2.840.10008.1.3.10"


def begins_as_dicom(head: bytes) -> bool:
    """Return whether a file begins as DICOM: preamble and prefix, or an element of group 0002 or 0008."""
    if head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM":
        return True
    is_first_group = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\0"
    is_big_endian = head[:3] == b"\x00\x08\x00"
    is_explicit, is_implicit = head[4:6] in FIRST_VRS, head[5:8] == b"\0\0\0"
    return (is_first_group and (is_explicit or is_implicit)) or (is_big_endian and is_explicit)


def open_elements(
    path: Path, room: memoryview | None = None, num_bytes: int = FIRST_BYTES, **options: Any
) -> FastDataset | Dataset:
    """Open the elements of a file, with or without preamble; usual files are decoded on access.

    `options` are those of `pydicom.dcmread`. With pixels, the complete file is read, into the buffer `room` if `room`
    has the length of the file. Without pixels, `num_bytes` are read first, and more only if necessary.

    Raises:
        UnreadableError: If the file does not begin as DICOM or is cut short.
    """
    import pydicom

    quiet()
    with path.open("rb", buffering=0) as plain:
        tags, with_pixels = options.get("specific_tags"), not options.get("stop_before_pixels", False)
        wanted = None if tags is None else tuple(tags)
        found = quick(plain, room, tags=wanted, with_pixels=with_pixels, num_bytes=num_bytes)
    if found is not None:
        return found
    with BoundedReader(path) as stream:
        head = stream.read(PREAMBLE_BYTES + 4)
        if not begins_as_dicom(head):
            raise UnreadableError(
                "the file has a DICOM suffix, but does not begin as a DICOM file; it is damaged or has another format"
            )
        check_inflated(stream, len(head) if head.endswith(b"DICM") else 0)
        stream.seek(0)
        dataset = pydicom.dcmread(stream, force=True, **options)
    if len(dataset) == 0 and dataset.file_meta.get("MediaStorageSOPClassUID") != DIRECTORY:
        if options.pop("specific_tags", None) is not None:  # none of these, but perhaps others
            open_elements(path, **options)
            return dataset
        # If a file ends within an element, pydicom drops every element it has read.
        raise UnreadableError("the file begins as DICOM, but no element can be read; it is truncated")
    return dataset


@cache
def quiet() -> None:
    """Silence the log of pydicom, because its warnings quote values of elements, which may be names."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
