"""Keys of the attributes that are recorded for an image, and strata of image quality that are derived from them."""

from __future__ import annotations

import math

from medvit.records import Row

MODALITIES = ("OP", "OPT")

QUALITY, LATERALITY = "fundus_quality", "laterality"

SITE, PERIOD = "site", "period"
"""Keys of two attributes: the pseudonym of the institution, and the year of the study since the first study."""

MAPPING, OFFERED = "value_mapping", "offered_mappings"
"""Keys of two attributes: the label of the DICOM real-world value mapping that was applied, and the labels of mappings
that were present but not applied.
"""

BURNED_IN_TEXT = "burned_in_text"
"""Key of the attribute of an image with burned-in text: masked (blanked) or kept."""

TITLES = {
    "age_years": "age",
    "field_strength_t": "field strength, T",
    "kvp": "tube voltage, kV",
    "slice_thickness_mm": "slice thickness, mm",
    "echo_time_ms": "echo time, ms",
    "repetition_time_ms": "repetition time, ms",
    "kernel": "convolution kernel",
    "sequence": "scanning sequence",
    "fundus_quality": "quality of the fundus",
}
"""Titles of attributes in tables; those of all others are their keys, with spaces."""

STRATA: tuple[tuple[str, float, float], ...] = (
    ("good", 0.8, 1.01),
    ("usable", 0.5, 0.8),
    ("poor", -0.01, 0.5),
)
"""Name, lower bound and upper bound of each quality stratum; a score equal to the lower bound is in the stratum."""


def attribute_title(key: str) -> str:
    """Return the title of an attribute in tables, with its unit."""
    return TITLES.get(key, key.replace("_", " "))


def finite_number(text: str | None) -> float | None:
    """Return the number that a text states; None for any other text, and for NaN and infinity."""
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def stratum(row: Row) -> str:
    """Return the quality stratum of a photograph: good, usable or poor; `not judged` if it has no quality score."""
    score = row.attributes.get(QUALITY)
    if score is None:
        return "not judged"
    return next(name for name, low, high in STRATA if low <= float(score) < high)
