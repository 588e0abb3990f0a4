"""What a header says of stored values beside their slope: whatever the slices of one volume must agree in."""

from __future__ import annotations

from dataclasses import dataclass

RESCALE_TYPES = ("OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
"""Defined terms of (0028,1054) RescaleType (PS3.3 C.11.1.1.2); all else is free text, which no message quotes."""

UNITS = (
    "CNTS",
    "NONE",
    "CM2",
    "CM2ML",
    "PCNT",
    "CPS",
    "BQML",
    "MGMINML",
    "UMOLMINML",
    "MLMING",
    "MLG",
    "1CM",
    "UMOLML",
    "PROPCNTS",
    "PROPCPS",
    "MLMINML",
    "MLML",
    "GML",
    "STDDEV",
    "SUVbw",
)
"""Defined terms of (0054,1001) Units (PS3.3 C.8.9.1.1.3), and what `medvit.dicom.suv` makes of them."""


@dataclass(frozen=True)
class ValueFacts:
    """How real values of a frame come about. Two frames that differ here cannot be compared value by value.

    `scaling` is none, rescale, table or displayed; `rescale_type` is that of the rescale or table after its default.
    """

    scaling: str = "none"
    rescale_type: str = ""
    photometric: str = ""
    is_dark_high: bool = False
    """Whether the file wants high values dark."""
    is_signed: bool = False
    bits: int = 0
    """(0028,0101) BitsStored."""

    @property
    def scaled(self) -> str:
        """The scaling in words that a person may read: `no rescale`, `a rescale to HU`."""
        if self.scaling == "none":
            return "no rescale"
        if self.scaling == "displayed":
            return "values as displayed"
        kind = self.rescale_type if self.rescale_type in RESCALE_TYPES else "another unit"
        return f"a {self.scaling} to {kind}"
