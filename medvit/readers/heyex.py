"""Volumes of Heidelberg's OCT in its export format (.vol), through eyepy (MIT), an optional extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import GeometryError, MedvitError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.geometry import Affine, stacked_to_ras
from medvit.records import Identity, Item, Refusal
from medvit.types import Image

MAGIC = b"HSF-OCT-"
MODALITY = "OPT"
SIDES = {"OD": "right", "OS": "left"}
VOLUME_PATTERNS = (0, 3, 4)
"""Scan patterns that are parallel B-scans, or not said; lines, circles and stars are no volumes."""


@dataclass(frozen=True)
class HeyexHeader:
    """What the head of a file says; `side` is right, left or nothing."""

    spacing_mm: tuple[float, float, float]
    """Between B-scans, in depth, along a B-scan."""
    num_scans: int
    pattern: int
    side: str
    patient: str = field(repr=False)


class Heyex:
    """Volumes (1, I, J, K) of 8 bits, brightness as it is shown: linear in the logarithm of what is stored."""

    name = "heyex"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the file opens as an export of Heidelberg's OCT."""
        return head.startswith(MAGIC)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """An item a volume; without eyepy, a refusal that says what to install."""
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

    def read(self, item: Item) -> Image:
        """The volume in RAS+ order: B-scans from below upwards, columns to the patient's left, rows deeper.

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
    return HeyexHeader(
        (float(head.distance), float(head.scale_y), float(head.scale_x)),
        int(head.n_bscans),
        int(head.scan_pattern),
        SIDES.get(_text(head.scan_position).upper(), ""),
        _text(head.patient_id),
    )


def _check(head: HeyexHeader) -> None:
    if head.num_scans < 2 or head.pattern not in VOLUME_PATTERNS:
        raise UnsupportedError(f"an OCT of {head.num_scans} B-scans, scan pattern {head.pattern}; expected a volume")
    if min(head.spacing_mm) <= 0:
        raise GeometryError("a spacing of the OCT is zero or negative; expected millimeters above zero")


def _spacing_mm(heights_mm: Sequence[float], told_mm: float) -> float:
    """The signed distance between B-scans, upwards where positive; heights count downwards from the top of the SLO.

    Raises:
        GeometryError: If their positions are not even, as where one is missing.
    """
    gaps = np.diff(heights_mm)
    if np.ptp(gaps) > 0.25 * told_mm or abs(abs(float(np.median(gaps))) - told_mm) > 0.25 * told_mm:
        low, high = sorted(map(abs, (float(gaps.min()), float(gaps.max()))))
        raise GeometryError(
            f"B-scans lie {low:.3f} to {high:.3f} mm apart; expected {told_mm:.3f} mm each: are B-scans missing?"
        )
    return -float(np.sign(np.median(gaps))) * told_mm


def _text(value: object) -> str:
    return str(value).split("\0")[0].strip()


def _eyepy() -> Any:
    try:
        from eyepy import io
    except ImportError:
        raise UnsupportedError(
            "an export of Heidelberg's OCT, which needs the package eyepy; install it with pip install 'medvit[oct]'"
        ) from None
    return io


def _eyepy_format() -> Any:
    _eyepy()
    from eyepy.io.he.vol_reader import vol_format

    return vol_format


READER = Heyex()
