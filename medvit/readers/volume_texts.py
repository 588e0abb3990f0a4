"""Texts in NIfTI, Analyze, MetaImage and NRRD files, in addition to the voxels."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvit.readers.dicom_texts import element_texts, texts
from medvit.readers.picture_texts import name, note
from medvit.records import FileText

DICOM_EXTENSION = 2
"""Code of a NIfTI extension with DICOM elements."""
_FREE_FIELDS = ("descrip", "intent_name")
_NAMING_FIELDS = ("db_name", "aux_file", "patient_id", "scannum", "originator", "generated")
"""Text fields of NIfTI, and of its predecessor Analyze."""

_HEADER_LINE = re.compile(r"#\s*(?P<comment>.+)|(?P<key>[\w .-]+?)\s*(?::=|:|=)\s*(?P<value>.+)")
_GRID = """
objecttype ndims binarydata binarydatabyteordermsb compresseddata compresseddatasize transformmatrix offset
centerofrotation anatomicalorientation elementspacing elementsize dimsize elementtype elementnumberofchannels elementmin
elementmax headersize elementbyteordermsb elementdatafile orientation origin position rotation modality type dimension
sizes spacings kinds endian encoding space centerings thicknesses labels units spaceunits spacedirections spaceorigin
measurementframe spacedimension lineskip byteskip axismins axismaxs datafile
"""
FIELDS_OF_THE_GRID = frozenset(_GRID.split())
"""Fields of MetaImage and NRRD, without spaces, that describe only the grid."""


def nifti_texts(path: Path) -> Iterator[FileText]:
    """Yield the texts in the header of a NIfTI or Analyze file and its extensions, which may contain DICOM."""
    import nibabel as nib

    header: Any = nib.load(path).header
    for field in (*_FREE_FIELDS, *_NAMING_FIELDS):
        if field in header:
            text = bytes(header[field]).split(b"\0")[0].decode("utf-8", "replace")
            yield (note if field in _FREE_FIELDS else name)(text, f"NIfTI {field}")
    for extension in getattr(header, "extensions", ()):
        content = extension.get_content()
        if extension.get_code() == DICOM_EXTENSION and not isinstance(content, bytes | str):
            yield from element_texts(content)
        else:
            yield from (note(text, "a NIfTI extension") for text in texts(content))


def itk_texts(path: Path, num_bytes: int) -> Iterator[FileText]:
    """Yield the header fields and comments of a MetaImage or NRRD, except those of the grid.

    `num_bytes` is the size of the header.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        content = stream.read(num_bytes)
    for line in re.split(rb"\r?\n", content):
        if line.startswith(b"NRRD000"):
            continue
        match = _HEADER_LINE.fullmatch(line.decode("utf-8", "replace").strip())
        if match is None:
            return  # an empty line ends a NRRD header; a MetaImage header ends at the voxels
        key = re.sub(r"\W", "", match["key"] or "").casefold()
        if match["comment"] or key not in FIELDS_OF_THE_GRID:
            yield note(match["comment"] or match["value"], "a header field")
        if key == "elementdatafile":
            return
