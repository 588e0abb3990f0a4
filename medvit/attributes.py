"""Keys of the attributes that are recorded for an image, and strata of image quality that are derived from them."""

from __future__ import annotations

from medvit.records import Row

MODALITIES = ("OP", "OPT")

QUALITY, LATERALITY = "fundus_quality", "laterality"

MAPPING, OFFERED = "value_mapping", "offered_mappings"
"""Keys of two attributes: the label of the DICOM real-world value mapping that was applied, and the labels of mappings
that were present but not applied.
"""

STRATA: tuple[tuple[str, float, float], ...] = (
    ("good", 0.8, 1.01),
    ("usable", 0.5, 0.8),
    ("poor", -0.01, 0.5),
)
"""Name, lower bound and upper bound of each quality stratum; a score equal to the lower bound is in the stratum."""


def stratum(row: Row) -> str:
    """Return the quality stratum of a photograph: good, usable or poor; `not judged` if it has no quality score."""
    score = row.attributes.get(QUALITY)
    if score is None:
        return "not judged"
    return next(name for name, low, high in STRATA if low <= float(score) < high)
