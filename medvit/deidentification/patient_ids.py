"""PatientIDs that may be one patient's, and studies of several patients: what sources get wrong about identifiers."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def spelled_alike(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of PatientIDs that differ only in spaces, case, width or zeros in front of a number; each group sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for patient in patients:
        groups[_plain(patient)].add(patient)
    return sorted(tuple(sorted(group)) for plain, group in groups.items() if plain and len(group) > 1)


def shared(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Of (study, patient), the studies that several patients have, with these patients, sorted."""
    patients: dict[str, set[str]] = defaultdict(set)
    for study, patient in pairs:
        patients[study].add(patient)
    return {study: tuple(sorted(found)) for study, found in sorted(patients.items()) if study and len(found) > 1}


def _plain(patient: str) -> str:
    text = re.sub(r"\s+", "", unicodedata.normalize("NFKC", patient).casefold())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)
