"""Reader of Heidelberg OCT volumes in the export format .vol, through the optional package eyepy (MIT license)."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import GeometryError, MedvitError, UnreadableError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_stored
from medvit.geometry import Affine, stacked_to_ras
from medvit.records import FileText, Identity, Item, Refusal
from medvit.types import Image

MAGIC = b"HSF-OCT-"
MODALITY = "OPT"
SIDES = {"OD": "right", "OS": "left"}
VOLUME_PATTERNS = (0, 3, 4)
"""Codes of scan patterns that may be volumes: parallel B-scans, or unspecified. Lines, circles and stars are not."""


HEADER_BYTES, _SPARE = 2048, 258
"""Length of the header and offset of its spare bytes, in bytes. They are copied from eyepy, because texts are read
without eyepy.
"""
_NAMES: Mapping[str, tuple[int, int]] = {
    "ID": (104, 16),
    "ReferenceID": (120, 16),
    "PatientID": (140, 24),
    "VisitID": (176, 24),
    "ProgID": (224, 34),
}
"""Zero-terminated texts in the header: name -> offset and maximum length in bytes."""
_NUMBERS: Mapping[str, int] = {"PID": 136, "VID": 172}
"""32-bit numbers in the header that the viewer assigns to patients and visits: name -> offset in bytes."""
_DAYS: Mapping[str, tuple[int, str, datetime, float]] = {
    "ExamTime": (88, "<Q", datetime(1601, 1, 1), 864e9),
    "DOB": (164, "<d", datetime(1899, 12, 30), 1.0),
    "VisitDate": (200, "<d", datetime(1899, 12, 30), 1.0),
}
"""Dates in the header: name -> offset in bytes, data type, epoch, and number of units per day."""
FLOAT_BYTES = 4
MAX_DAYS = 2_000_000
"""Days in a calendar with four-digit years; more means a damaged header."""


@dataclass(frozen=True)
class HeyexHeader:
    """Header of a .vol file; `side` is right, left or empty."""

    spacing_mm: tuple[float, float, float]
    """Spacing between B-scans, in depth, along a B-scan."""
    num_scans: int
    pattern: int
    side: str
    patient: str = field(repr=False)


class Heyex:
    """Reader of 8-bit OCT volumes (1, I, J, K).

    Values are the displayed brightness, linear in the logarithm of the stored values.
    """

    name = "heyex"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file begins as a Heidelberg OCT export."""
        return head.startswith(MAGIC)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item per volume; if eyepy is not installed, a refusal with install instructions."""
        for file in files:
            try:
                with decoding("the OCT file"):
                    head = _head(file)
                    _check(head)
            except MedvitError as error:
                yield refusal((file,), error)
            else:
                identity = Identity(patient=head.patient)
                yield Item(self.name, (file,), "volume", MODALITY, identity=identity, headers=(head,))

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield the identifiers of scan, patient and visit, and the dates of birth, visit and examination.

        Raises:
            UnreadableError: If the file ends within its header.
        """
        with path.open("rb") as stream:
            head = stream.read(HEADER_BYTES)
        if len(head) < HEADER_BYTES:
            raise UnreadableError("a Heidelberg OCT export ends within its header; the file is truncated")
        for place, (begin, length) in _NAMES.items():
            text = head[begin : begin + length].split(b"\0")[0].decode("latin-1").strip()
            yield FileText(text, f"Heidelberg {place}", "name")
        for place, begin in _NUMBERS.items():
            yield FileText(str(struct.unpack_from("<I", head, begin)[0]), f"Heidelberg {place}", "name")
        for place, (begin, form, origin, per_day) in _DAYS.items():
            (value,) = struct.unpack_from(form, head, begin)
            if math.isfinite(value) and 0 < value / per_day < MAX_DAYS:
                yield FileText(f"{origin + timedelta(value / per_day):%Y%m%d}", f"Heidelberg {place}", "date")
        spare = re.split(rb"\0+", head[_SPARE:HEADER_BYTES])
        yield from (FileText(text.decode("latin-1"), "Heidelberg spare bytes") for text in spare if len(text) > 3)

    def read(self, item: Item) -> Image:
        """Read the volume in RAS+ order.

        B-scans run from inferior to superior, columns to the patient's left, and rows from the surface inward.

        Raises:
            GeometryError: If B-scans are not parallel and evenly spaced.
        """
        volume = _eyepy().import_heyex_vol(item.files[0])
        between = _spacing_mm([scan["start_pos"][1] for scan in volume.meta["bscan_meta"]], volume.scale_z)
        matrix = np.diag([-volume.scale_x, -volume.scale_y, between, 1.0])
        scans = np.clip(np.rint(np.asarray(volume.data, np.float64)), 0, 255).astype(np.uint8)
        voxels, affine = stacked_to_ras([scan.T for scan in scans], Affine(matrix))
        return Image(voxels[None], "volume", MODALITY, affine)


def _head(file: Path) -> HeyexHeader:
    import construct

    fields = _eyepy_format().subcons
    head: Any = construct.Struct(*(one for one in fields if one.name not in ("localizer", "bscans"))).parse_file(file)
    check_stored(int(head.n_bscans) * int(head.size_x) * int(head.size_y) * FLOAT_BYTES, file.stat().st_size)
    return HeyexHeader(
        (float(head.distance), float(head.scale_y), float(head.scale_x)),
        int(head.n_bscans),
        int(head.scan_pattern),
        SIDES.get(_text(head.scan_position).upper(), ""),
        _text(head.patient_id),
    )


def _check(head: HeyexHeader) -> None:
    if head.num_scans < 2 or head.pattern not in VOLUME_PATTERNS:
        raise UnsupportedError(
            f"an OCT file with {head.num_scans} B-scans and scan pattern {head.pattern}; expected a volume scan"
        )
    if min(head.spacing_mm) <= 0:
        raise GeometryError("a voxel spacing of the OCT volume is zero or negative; expected positive millimeters")


def _spacing_mm(heights_mm: Sequence[float], declared_mm: float) -> float:
    """Return the signed distance between B-scans, positive upwards.

    Heights are measured downwards from the top of the SLO image.

    Raises:
        GeometryError: If the B-scans are not evenly spaced, for example because one is missing.
    """
    gaps = np.diff(heights_mm)
    if np.ptp(gaps) > 0.25 * declared_mm or abs(abs(float(np.median(gaps))) - declared_mm) > 0.25 * declared_mm:
        low, high = sorted(map(abs, (float(gaps.min()), float(gaps.max()))))
        raise GeometryError(
            f"B-scans are {low:.3f} to {high:.3f} mm apart; expected {declared_mm:.3f} mm each: are B-scans missing?"
        )
    return -float(np.sign(np.median(gaps))) * declared_mm


def _text(value: object) -> str:
    return str(value).split("\0")[0].strip()


def _eyepy() -> Any:
    try:
        from eyepy import io
    except ImportError:
        raise UnsupportedError(
            "reading a Heidelberg OCT export requires the package eyepy; install it with pip install 'medvit[oct]'"
        ) from None
    return io


def _eyepy_format() -> Any:
    _eyepy()
    from eyepy.io.he.vol_reader import vol_format

    return vol_format


READER = Heyex()
