"""Origin of images, their institution and study date: held-out test splits, and attributes that identify nobody.

Institution and date are known only during ingest. They decide which patients are held out for testing. The manifest
contains a pseudonym of the institution, and the number of the year since the first study of the source, but neither
name nor date.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from medvit.attributes import PERIOD, SITE
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.errors import DataError
from medvit.patients import PatientCount
from medvit.records import Candidate, Taken

log = logging.getLogger("medvit")

YEAR_DAYS = 365.25


@dataclass(frozen=True)
class HeldOut:
    """Patients that are held out for testing (by `Patient.id`), and a note for the data card without any identifier."""

    patients: frozenset[str]
    note: str


def held_out(
    candidates: Sequence[Candidate], sites: Sequence[str], since: date | None, pseudonyms: Pseudonyms
) -> HeldOut | None:
    """Return the patients to hold out: those with an image of one of the sites, or of a study on `since` or later.

    `sites` are names of institutions, in which letter case and spaces do not matter, or their pseudonyms. All images of
    such a patient are held out. The result is None if neither sites nor a date are given.

    Raises:
        DataError: If there is no image of a site, or no image has the required element, or no patient or every patient
            is held out.
    """
    if sites:
        chosen = _of_sites(candidates, sites, pseudonyms)
    elif since is not None:
        chosen = _since(candidates, since)
    else:
        return None
    patients = frozenset(one.patient.id for one in chosen)
    everybody = frozenset(one.patient.id for one in candidates)
    what = "splits.test_sites" if sites else "splits.test_since"
    if patients == everybody or not patients:
        raise DataError(
            f"{what} puts {len(patients)} of {len(everybody)} patients into the test split; expected at least one on "
            "either side"
        )
    by_key = {one.key for one in chosen}
    both = frozenset(one.patient.id for one in candidates if one.patient.id in patients and one.key not in by_key)
    if both:
        log.warning(
            "%s: %d of the %d test patients also have images on the other side; all of their images are in the test "
            "split, because a patient is never divided",
            what,
            len(both),
            len(patients),
        )
    note = _note(chosen, sites, pseudonyms, PatientCount(len(patients)), len(both))
    return HeldOut(patients, note)


def with_origin(
    candidates: Iterable[Candidate], taken: Mapping[str, Taken], pseudonyms: Pseudonyms
) -> Mapping[str, Taken]:
    """Add the pseudonym of the site, and the year since the first study of the source, to the attributes of images."""
    known = {one.key: one.item.identity for one in candidates}
    dates = {key: _date(identity.study_date) for key, identity in known.items()}
    first = min((day for day in dates.values() if day is not None), default=None)
    found = {}
    for key, one in taken.items():
        own: dict[str, str] = {}
        if key in known and known[key].institution:
            own[SITE] = pseudonyms.site(known[key].institution)
        day = dates.get(key)
        if day is not None and first is not None:
            own[PERIOD] = f"year {int((day - first).days / YEAR_DAYS) + 1}"
        found[key] = replace(one, attributes={**one.attributes, **own}) if own else one
    return found


def site_names(candidates: Iterable[Candidate], pseudonyms: Pseudonyms) -> list[tuple[str, str]]:
    """Return (pseudonym, name) pairs of all sites, for the crosswalk of the site that makes the dataset."""
    names = {one.item.identity.institution for one in candidates} - {""}
    return [(pseudonyms.site(name), name) for name in sorted(names)]


def _of_sites(candidates: Sequence[Candidate], sites: Sequence[str], pseudonyms: Pseudonyms) -> list[Candidate]:
    named = {one.key: one.item.identity.institution for one in candidates if one.item.identity.institution}
    if not named:
        raise DataError(
            "splits.test_sites: no image has a site; expected DICOM files with (0008,0080) InstitutionName, or set "
            "scanning.site_from"
        )
    known = {pseudonyms.site(name) for name in named.values()}
    wanted = [site if site in known else pseudonyms.site(site) for site in sites]
    # Names of institutions must not be in messages, which are logged into the dataset.
    missing = [str(number) for number, site in enumerate(wanted, start=1) if site not in known]
    if missing:
        raise DataError(
            f"splits.test_sites: no image is of site {', '.join(missing)} of the list; the images are of "
            f"{len(known)} sites: {', '.join(sorted(known))}; compare the spelling with the source"
        )
    if len(named) < len(candidates):
        log.warning(
            "splits.test_sites: %d of %d images have no site, and are not held out",
            len(candidates) - len(named),
            len(candidates),
        )
    return [one for one in candidates if one.key in named and pseudonyms.site(named[one.key]) in wanted]


def _since(candidates: Sequence[Candidate], since: date) -> list[Candidate]:
    dates = {one.key: _date(one.item.identity.study_date) for one in candidates}
    unknown = sum(day is None for day in dates.values())
    if unknown == len(candidates):
        raise DataError(
            "splits.test_since: no image has a date; expected DICOM files with (0008,0020) StudyDate; remove "
            "splits.test_since, or give splits in a label table"
        )
    if unknown:
        log.warning("splits.test_since: %d of %d images have no date, and are not held out", unknown, len(candidates))
    return [one for one in candidates if (day := dates[one.key]) is not None and day >= since]


def _note(
    chosen: Sequence[Candidate], sites: Sequence[str], pseudonyms: Pseudonyms, patients: PatientCount, num_both: int
) -> str:
    if sites:
        names = sorted({pseudonyms.site(one.item.identity.institution) for one in chosen})
        what = f"all patients of {len(names)} held-out {'site' if len(names) == 1 else 'sites'} ({', '.join(names)})"
        other = "from another site"
    else:
        what, other = "all patients with a study on or after a date, which is not stored", "from before"
    both = f"; {num_both} of them also have images {other}, which are in the test split too" if num_both else ""
    return f"test split: {what}, {patients}{both}"


def _date(text: str) -> date | None:
    """Return the date of a value of VR DA (YYYYMMDD, or YYYY.MM.DD in old files); None if it is not a date."""
    digits = text.strip().replace(".", "")[:8]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None
