"""Standardized uptake values (SUV) of PET by body weight, if the file contains all required values; nothing is assumed.

SUVbw = activity concentration (Bq/mL) * body weight (g) / dose (Bq), where the dose is decayed to the time to which the
images are decay-corrected (PS3.3 C.8.9.1; the vendor-neutral procedure of QIBA's FDG-PET/CT profile).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from medvit.dicom.modality_lut import is_pet, number

if TYPE_CHECKING:
    from pydicom import Dataset

SUV_UNIT = "SUVbw"

PHILIPS = (0x7053, "Philips PET Private Group")
"""Private elements of Philips: (7053,xx00) is the factor from rescaled counts to SUVbw, (7053,xx09) the factor to Bq/mL
(conformance statement).
"""

GE = (0x0009, "GEMS_PETD_01")
"""Private elements of GE: (0009,xx0D) is the date and time of the scan, to which images are decay-corrected
(conformance statement).
"""

MIN_DOSE_BQ, MAX_DOSE_BQ = 1e5, 1e11
"""Plausible range of an injected dose; a lower value is probably in MBq."""

MIN_WEIGHT_KG, MAX_WEIGHT_KG = 0.2, 700.0
"""Plausible range of a patient's weight, newborns included; a higher value is probably in grams."""

MAX_HALF_LIVES = 8.0
"""Longest plausible uptake time, in half-lives; after it, 1/256 of the dose is left. A longer time indicates a wrong
clock or a shifted date.
"""

LONG_HALF_LIFE_S = 6.0 * 3600.0
"""Longest half-life in seconds for which a time of injection without a date is accepted. A nuclide with a longer
half-life may have been injected days before the scan.
"""

MAX_SPREAD = 1e-3
"""Maximum relative difference between the SUV factors of the slices of one series."""


class _MissingError(Exception):
    """Error with the reason why SUVs cannot be computed."""


@dataclass(frozen=True)
class Suv:
    """Conversion of real values of a PET frame to SUVbw: a `factor`, or the `reason` why it cannot be computed."""

    factor: float | None
    reason: str = ""


def suv(dataset: Dataset) -> Suv | None:
    """Return the conversion of real values of a PET instance to SUVbw; None if it is not PET."""
    if not is_pet(dataset):
        return None
    try:
        return Suv(_factor(dataset))
    except _MissingError as reason:
        return Suv(None, str(reason))
    except OverflowError:
        return Suv(None, "a time in the header is out of range")


def common_factor(found: Sequence[Suv | None]) -> Suv:
    """Return one conversion to SUVbw for all slices of a series.

    It has a reason instead of a factor if a slice lacks a factor, or if the factors of the slices differ.
    """
    factors: list[float] = []
    for one in found:
        if one is None or one.factor is None:
            return Suv(None, "it is not a PET image" if one is None else one.reason)
        factors.append(one.factor)
    if not factors or max(factors) > min(factors) * (1.0 + MAX_SPREAD):
        return Suv(None, "its slices are corrected to different times")
    return Suv(math.fsum(factors) / len(factors))


def _factor(dataset: Dataset) -> float:
    unit = str(dataset.get("Units") or "").strip()
    if unit == "GML":
        kind = str(dataset.get("SUVType") or "BW").strip()
        if kind != "BW":
            raise _MissingError(f"(0054,1006) SUVType is {kind[:8]}; expected BW")
        return 1.0
    if unit == "CNTS":
        direct, to_activity = _philips(dataset, 0x00), _philips(dataset, 0x09)
        if direct:
            return direct
        if to_activity:
            return to_activity * _factor_of_activity(dataset)
    if unit != "BQML":
        raise _MissingError(
            f"(0054,1001) Units is {unit[:8] or 'missing'}; expected BQML, GML, or CNTS with Philips' scale"
        )
    return _factor_of_activity(dataset)


def _factor_of_activity(dataset: Dataset) -> float:
    corrected = {str(word).strip() for word in _several(dataset, "CorrectedImage")}
    if not {"ATTN", "DECY"} <= corrected:
        raise _MissingError("(0028,0051) CorrectedImage does not name both ATTN and DECY")
    weight_kg = _between(dataset, "PatientWeight", "(0010,1030) PatientWeight", MIN_WEIGHT_KG, MAX_WEIGHT_KG, "kg")
    items = list(dataset.get("RadiopharmaceuticalInformationSequence") or ())
    if len(items) != 1:
        raise _MissingError(f"(0054,0016) RadiopharmaceuticalInformationSequence has {len(items)} items; expected 1")
    dose_bq = _between(items[0], "RadionuclideTotalDose", "(0018,1074) dose", MIN_DOSE_BQ, MAX_DOSE_BQ, "Bq")
    return weight_kg * 1000.0 / (dose_bq * _share_left(dataset, items[0]))


def _share_left(dataset: Dataset, dose: Dataset) -> float:
    correction = str(dataset.get("DecayCorrection") or "").strip()
    if correction == "ADMIN":
        return 1.0
    if correction != "START":
        raise _MissingError(f"(0054,1102) DecayCorrection is {correction[:8] or 'missing'}; expected START or ADMIN")
    half_life_s = _between(dose, "RadionuclideHalfLife", "(0018,1075) half-life", 1.0, 1e9, "s")
    scan = _scan_start(dataset, half_life_s)
    elapsed_s = (scan - _administration(dataset, dose, scan, half_life_s)).total_seconds()
    if not 0.0 <= elapsed_s <= MAX_HALF_LIVES * half_life_s:
        raise _MissingError(f"the scan starts {elapsed_s / half_life_s:.2g} half-lives after the dose was given")
    return 2.0 ** (-elapsed_s / half_life_s)


def _administration(dataset: Dataset, dose: Dataset, scan: datetime, half_life_s: float) -> datetime:
    whole = _date_time(str(dose.get("RadiopharmaceuticalStartDateTime") or ""), dataset)
    time = _clock(str(dose.get("RadiopharmaceuticalStartTime") or ""))
    if whole is not None:
        if time is not None and abs((datetime.min + time - whole.replace(1, 1, 1)).total_seconds()) > 1.0:
            raise _MissingError("(0018,1078) and (0018,1072) name two times at which the dose was given")
        return whole
    if time is None:
        raise _MissingError("no (0018,1078) or (0018,1072) time at which the dose was given")
    if half_life_s > LONG_HALF_LIFE_S:
        raise _MissingError("no (0018,1078) date on which a dose of a long-lived nuclide was given")
    start = scan.replace(hour=0, minute=0, second=0, microsecond=0) + time
    # A time without a date is the last such time before the scan: it may be before midnight.
    return start if start <= scan else start - timedelta(days=1)


def _scan_start(dataset: Dataset, half_life_s: float) -> datetime:
    """Return the time to which images with DecayCorrection START are corrected: the start of the scan.

    The start is the series time, unless the series time is later than the acquisition time, as in derived series. In
    that case, the start is read from a private element of GE. For other vendors, it is computed from (0054,1300)
    FrameReferenceTime, which is the time from the start of the scan until the frame had its mean count rate.
    """
    series, acquisition = _moment(dataset, "Series"), _moment(dataset, "Acquisition")
    if acquisition is None:
        raise _MissingError("no (0008,0022) and (0008,0032) date and time of the acquisition")
    if series is not None and series <= acquisition:
        return series
    recorded = _date_time(str(_private_value(dataset, GE, 0x0D) or ""), dataset)
    if recorded is not None:
        return recorded
    reference_ms, duration_ms = number(dataset, "FrameReferenceTime"), number(dataset, "ActualFrameDuration")
    if not reference_ms or not duration_ms or min(reference_ms, duration_ms) <= 0.0:
        raise _MissingError(
            "the series begins after its acquisition, and (0054,1300) FrameReferenceTime, which would give its start, "
            "is missing"
        )
    rate = math.log(2.0) / half_life_s
    decay = rate * duration_ms / 1000.0
    mean_s = math.log(decay / -math.expm1(-decay)) / rate
    return acquisition + timedelta(seconds=mean_s - reference_ms / 1000.0)


def _moment(dataset: Dataset, kind: str) -> datetime | None:
    day, time = str(dataset.get(f"{kind}Date") or "").replace(".", ""), _clock(str(dataset.get(f"{kind}Time") or ""))
    if time is None or not re.fullmatch(r"\d{8}", day):
        return None
    try:
        return datetime.strptime(day, "%Y%m%d") + time
    except ValueError:
        return None


def _date_time(text: str, dataset: Dataset) -> datetime | None:
    """Return a date and time (PS3.5 6.2 DT) in the time zone of the data set; None if the text is not such a value."""
    match = re.fullmatch(r"(\d{8})(\d{4,6}(?:\.\d{1,6})?)([+-]\d{4})?", text.strip())
    if match is None:
        return None
    if match[3] and match[3] != str(dataset.get("TimezoneOffsetFromUTC") or match[3]).strip():
        raise _MissingError("the dose was given on the clock of another time zone")
    time = _clock(match[2])
    try:
        return None if time is None else datetime.strptime(match[1], "%Y%m%d") + time
    except ValueError:
        return None


def _clock(text: str) -> timedelta | None:
    match = re.fullmatch(r"(\d{2}):?(\d{2}):?(\d{2})?(\.\d{1,6})?", text.strip())
    if match is None or int(match[1]) > 23 or int(match[2]) > 59 or int(match[3] or 0) > 60:
        return None
    return timedelta(hours=int(match[1]), minutes=int(match[2]), seconds=int(match[3] or 0) + float(match[4] or 0.0))


def _between(dataset: Dataset, keyword: str, name: str, low: float, high: float, unit: str) -> float:
    value = number(dataset, keyword)
    if value is None:
        raise _MissingError(f"no {name}")
    if not low <= value <= high:
        raise _MissingError(f"{name} is not between {low:g} and {high:g} {unit}")
    return value


def _several(dataset: Dataset, keyword: str) -> Sequence[object]:
    value = dataset.get(keyword) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def _private_value(dataset: Dataset, block: tuple[int, str], element: int) -> object:
    try:
        return dataset.private_block(*block)[element].value
    except KeyError:
        return None


def _philips(dataset: Dataset, element: int) -> float | None:
    value = _private_value(dataset, PHILIPS, element)
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0.0 else None
