"""Grouping of patients whose images are near duplicates, to assign them to the same split.

In a source without patient identifiers, each file counts as a patient, so an image may be in the train split and its
copy in the test split. `splits.keep_together=near_duplicates` joins patients whose images `medvit leakage` would list
as identical or near duplicates. If A is joined with B, and B with C, all three are one group.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.dataset.manifest import Facts, Manifest
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.ingest.rows import rows
from medvit.ingest.splits import SplitAssignment, SplitConfig, assign
from medvit.ingest.splits.origin import HeldOut
from medvit.leakage import Groups, find_overlaps
from medvit.records import Candidate, Taken

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class JoinedPatients:
    """Groups of patients whose images are near duplicates of one another.

    `representatives` maps each patient of a group (by `Patient.id`) to the one patient whose hash determines the split
    of the group. `num_images` counts the images with a near duplicate of another patient.
    """

    representatives: Mapping[str, str]
    num_images: int = 0

    @property
    def num_groups(self) -> int:
        """Number of groups of joined patients."""
        return len(set(self.representatives.values()))


def kept_together(
    assigned: SplitAssignment,
    candidates: Sequence[Candidate],
    taken: Mapping[str, Taken],
    config: SplitConfig,
    pseudonyms: Pseudonyms,
    folder: Path,
    held: HeldOut | None = None,
) -> SplitAssignment:
    """Return the splits, with patients whose images are near duplicates in the same split if `config` requests it.

    `assigned` are the splits before such patients are joined. `taken` are the images stored in the dataset `folder`.
    `held` are the patients that are held out for testing.

    Raises:
        DataError: If the store lacks pixels that are required for the comparison.
    """
    if config.keep_together != "near_duplicates" or config.test == 1:
        return assigned
    joined = joined_patients(assigned.candidates, taken, pseudonyms, folder)
    regrouped = assign(candidates, config, joined.representatives, held)
    report(joined, assigned.candidates, regrouped.candidates)
    return regrouped


def joined_patients(
    candidates: Sequence[Candidate], taken: Mapping[str, Taken], pseudonyms: Pseudonyms, folder: Path
) -> JoinedPatients:
    """Find the patients whose images are near duplicates; the pixels are in the store of `folder`.

    Raises:
        DataError: If the store lacks pixels that are required for the comparison.
    """
    made = rows(candidates, taken, pseudonyms, "")
    overlaps = find_overlaps({"": Manifest(made, Facts(""), folder)}, ("pixel", "perceptual"))
    names = {pseudonyms.patient(one.patient): one.patient.id for one in candidates}
    patients = sorted(names.values())
    numbers = {patient: number for number, patient in enumerate(patients)}
    groups, images = Groups(len(patients)), set()
    for overlap in overlaps:
        first, *others = (numbers[names[member.row.patient_id]] for member in overlap.members)
        for other in others:
            groups.join(first, other, 0)
        images |= {member.row.image_id for member in overlap.members if len({first, *others}) > 1}
    joined = {
        patients[number]: min((patients[one] for one in group), key=_digest)
        for group, _ in groups.found()
        for number in group
    }
    return JoinedPatients(joined, len(images))


def report(joined: JoinedPatients, before: Sequence[Candidate], after: Sequence[Candidate]) -> None:
    """Log how many patients were joined, and how many of them changed the split; warn about groups in several splits.

    `before` and `after` are the same candidates with their old and new splits.
    """
    moved = {one.patient.id for one, other in zip(before, after, strict=True) if one.split != other.split}
    log.info(
        "near duplicates: %d images of %d patients, joined into %d groups; %d of these patients changed the split",
        joined.num_images,
        len(joined.representatives),
        joined.num_groups,
        len(moved),
    )
    splits: dict[str, set[object]] = {}
    for one in after:
        if one.patient.id in joined.representatives:
            splits.setdefault(joined.representatives[one.patient.id], set()).add(one.split)
    apart = sum(len(found) > 1 for found in splits.values())
    if apart:
        log.warning(
            "near duplicates in several splits: the official splits of the source separate %d groups of patients; "
            "`medvit leakage` lists their images",
            apart,
        )


def _digest(patient: str) -> bytes:
    """Return a hash of a patient that is independent of the hash that determines splits.

    The representative of a group is chosen by this hash, so that the splits keep the requested fractions.
    """
    return hashlib.sha256(b"representative\0" + patient.encode(errors="surrogateescape")).digest()
