"""Date shifting by days: values of the VRs DA, DT and TM (DICOM PS3.5 6.2)."""

from __future__ import annotations

import re
from datetime import date, timedelta

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_DATETIME = re.compile(r"(\d{4})(\d{2})?(\d{2})?((?:\d{2}){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)?")

DUMMIES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
"""Replacement of a date that must be removed and may not be empty."""


def shifted(value: str, vr: str, days: int) -> str:
    """Return a DICOM date, shifted by whole days; times of day are kept.

    The result is empty if the value is not a date, or if the shifted date is outside the calendar.
    """
    value = value.strip()
    if vr == "TM":
        return value if _TIME.fullmatch(value) else ""
    match = (_DATE if vr == "DA" else _DATETIME).fullmatch(value)
    if match is None:
        return ""
    year, month, day = match[1], match[2] or "07", match[3] or "01"
    try:
        moved = date(int(year), int(month), int(day)) + timedelta(days)
    except (ValueError, OverflowError):
        return ""
    text = f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"
    if vr == "DA":
        return text
    # A date without day or month remains as coarse as it was.
    return text[: 4 + 2 * (match[2] is not None) + 2 * (match[3] is not None)] + match[4] + (match[5] or "")


def written_forms(value: str) -> tuple[str, ...]:
    """Return common written forms of the date in a DA or DT value; empty if the value has no date."""
    match = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})", value.strip())
    if match is None:
        return ()
    try:
        day = date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return ()
    y, m, d = match.groups()
    parted = {f"{a}{sign}{b}{sign}{c}" for sign in "-./_ " for a, b, c in ((y, m, d), (d, m, y), (m, d, y))}
    short = {f"{day.day}{sign}{day.month}{sign}{y}" for sign in "./-"}
    short |= {f"{day.month}/{day.day}/{y}"}
    named = {f"{day.day} {day:%b} {y}", f"{day.day} {day:%B} {y}", f"{day:%B} {day.day}, {y}", f"{d}-{day:%b}-{y}"}
    return tuple(sorted({f"{y}{m}{d}", f"{d}{m}{y}", *parted, *short, *named}))
