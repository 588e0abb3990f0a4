"""Rows of a manifest and entries of the quarantine, both identified by pseudonyms, and the crosswalk."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medvit.dataset.quarantine import Quarantined
from medvit.deidentification.patient_ids import same_but_for_issuer, spelled_alike
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.errors import DataError, NotAnImageError
from medvit.ingest.mask_meaning import MaskMeaning
from medvit.ingest.splits.origin import site_names
from medvit.patients import PatientCount
from medvit.readers.channels import UNUSED
from medvit.readers.label_maps import ORPHAN
from medvit.records import Candidate, Refusal, Row, Taken

log = logging.getLogger("medvit")

NO_FAILURE = (NotAnImageError.code, ORPHAN, UNUSED, "leakage", "duplicate", "burned_in")
"""Codes of refusals that are not failures; all others make the exit status 3."""
MAX_MASK_CLASSES = 256
NOT_IN_ROWS = ("num_mask_values", "mask_values", "mask_state", "num_instances", "writing")
"""Fields of `Taken` that only ingest uses."""
SHOWN_REASONS = 5
"""Maximum number of refusal reasons in the error message of an ingest that stored no image."""


def rows(
    candidates: Sequence[Candidate], taken: Mapping[str, Taken], pseudonyms: Pseudonyms, dataset: str
) -> tuple[Row, ...]:
    """Return the rows of all stored candidates, ordered by `image_id`."""
    there = (candidate for candidate in candidates if candidate.key in taken)
    made = (_row(candidate, taken[candidate.key], pseudonyms, dataset) for candidate in there)
    return tuple(sorted(made, key=lambda row: row.image_id))


def quarantined(refusals: Sequence[Refusal], pseudonyms: Pseudonyms, root: Path) -> tuple[Quarantined, ...]:
    """Return the refusals as quarantine entries, sorted; the pseudonym of the first file replaces the paths."""
    return tuple(
        sorted(
            Quarantined(pseudonyms.file(_relative(r.files[0], root)), r.code, r.reason, len(r.files)) for r in refusals
        )
    )


def way_back(
    candidates: Sequence[Candidate], refusals: Sequence[Refusal], pseudonyms: Pseudonyms, root: Path
) -> list[tuple[str, str]]:
    """Return the crosswalk of a dataset, for site use only.

    It has (pseudonym, original) pairs of all patients, studies, series, sites, images and refused files.
    """
    pairs = [(pseudonyms.patient(candidate.patient), candidate.patient.id) for candidate in candidates]
    for candidate in candidates:
        identity = candidate.item.identity
        pairs += [(pseudonyms.study(candidate), identity.study)] if identity.study else []
        pairs += [(pseudonyms.series(candidate), identity.series)] if identity.series else []
    pairs += site_names(candidates, pseudonyms)
    pairs += [(pseudonyms.image(candidate), str(candidate.item.files[0].absolute())) for candidate in candidates]
    pairs += [(pseudonyms.file(_relative(r.files[0], root)), str(r.files[0].absolute())) for r in refusals]
    return pairs


def warn_of_identifiers(candidates: Sequence[Candidate], pseudonyms: Pseudonyms) -> None:
    """Warn about studies that several patients share, and about similar patient IDs, naming only pseudonyms.

    Similar patient IDs may belong to one patient.
    """
    names = {candidate.patient.id: pseudonyms.patient(candidate.patient) for candidate in candidates}
    sharing: dict[str, dict[str, str]] = defaultdict(dict)
    for one in candidates:
        if one.item.identity.study in one.shared_uids:
            sharing[one.item.identity.study][pseudonyms.study(one)] = pseudonyms.patient(one.patient)
    for studies in sharing.values():
        several = (
            f"{len(studies)} patients share"
            if len(studies) > 1
            else ("a patient without any image that was taken shares")
        )
        text = ", ".join(f"{study} of {patient}" for study, patient in sorted(studies.items()))
        log.warning("%s one StudyInstanceUID; they count as separate studies, one per patient: %s", several, text)
    for alike in same_but_for_issuer(candidates):
        text = f"{len(alike)} patients have one PatientID of different issuers, and are kept apart"
        log.warning("%s: %s; if they are one, give scanning.patient_from", text, ", ".join(names[one] for one in alike))
    for alike in spelled_alike(one.patient.id for one in candidates if one.item.identity.patient):
        text = f"{len(alike)} PatientIDs differ only in spaces, case or zeros, and count as {len(alike)} patients"
        of = ", ".join(names[patient] for patient in alike)
        log.warning("%s: %s; if they are one, correct the source, or give scanning.patient_from", text, of)


def check_rows(rows: Sequence[Row], refusals: Sequence[Refusal]) -> None:
    """Check that images were stored, and report missing label maps and assumed patients.

    Raises:
        DataError: If no image was stored.
    """
    require_some(rows, refusals)
    log_unlabeled(rows)
    warn_of_assumed(rows)


def require_some(rows: Sequence[Row], refusals: Sequence[Refusal]) -> None:
    """Check that at least one image was stored.

    Raises:
        DataError: If no image was stored. The message has the number of files by code, and the most frequent reasons.
    """
    if rows:
        return
    counts, reasons = Counter[str](), Counter[str]()
    for refusal in refusals:
        counts[refusal.code] += len(refusal.files)
        reasons[refusal.reason] += len(refusal.files)
    often = [f"{reason} ({number})" for reason, number in reasons.most_common(SHOWN_REASONS)]
    raise DataError(
        f"the source contains no usable image among {counts.total()} file{'' if counts.total() == 1 else 's'} ("
        + ", ".join(f"{number} {code}" for code, number in counts.most_common())
        + f"); most often: {'; '.join(often)}; expected DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF or npz files"
    )


def failures(quarantine: Sequence[Quarantined]) -> list[str]:
    """Return a line for every quarantine entry that is a failure, and not a file that is skipped by design."""
    return [str(entry) for entry in quarantine if entry.code not in NO_FAILURE]


def unmet(made: Sequence[Row]) -> list[str]:
    """Return a line for every option of `values` that could not be applied to some images.

    Those images keep their stored values.
    """
    counts = Counter(row.fallback for row in made if row.fallback)
    return [
        f"{wish}: {number} of {len(made)} images keep their stored values" for wish, number in sorted(counts.items())
    ]


def mask_classes(named: Sequence[str], taken: Iterable[Taken]) -> tuple[str, ...]:
    """Return the names of the label-map values 0, 1, 2...

    These are the names in `named`. If `named` is empty, they are `background`, `class 1` and so on, up to the largest
    value; if there are too many values for that, they are instance numbers, and the result is empty. It is also empty
    without label maps.
    """
    num_values = max((one.num_mask_values for one in taken), default=0)
    if named or not 0 < num_values <= MAX_MASK_CLASSES:
        return tuple(named) if num_values else ()
    return ("background", *(f"class {value}" for value in range(1, num_values)))


def instances(
    candidates: Sequence[Candidate], taken: Mapping[str, Taken], pseudonyms: Pseudonyms, meaning: MaskMeaning
) -> dict[str, int]:
    """Return a mapping from image to its number of instances; empty if label-map values are classes.

    Raises:
        DataError: If an image was stored by an earlier version, which did not count instances.
    """
    if not meaning.are_instances:
        return {}
    masked = [one for one in candidates if one.key in taken and taken[one.key].mask is not None]
    counts = {pseudonyms.image(one): taken[one.key].num_instances for one in masked}
    known = {image: number for image, number in counts.items() if number is not None}
    if len(known) < len(counts):
        raise DataError(
            f"the instances of {len(counts) - len(known)} images were not counted when an earlier version stored them; "
            "ingest again without update"
        )
    return known


def log_unlabeled(made: Sequence[Row]) -> None:
    """Report, by pseudonym, images without a label map in a dataset that has label maps."""
    images = [row for row in made if row.kind != "slide"]
    without = [row.image_id for row in images if row.mask is None]
    if without and len(without) < len(images):
        shown = ", ".join(without[:SHOWN_REASONS]) + (", ..." if len(without) > SHOWN_REASONS else "")
        log.warning("%d of %d images have no label map: %s", len(without), len(images), shown)


def warn_of_assumed(made: Sequence[Row]) -> None:
    """Warn about assumed patients: one person may be in several splits under several pseudonyms."""
    if note := PatientCount.of(made).note:
        log.warning(
            "%s; set scanning.patient_from=... or add a patient column to labeling.table to identify them", note
        )


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _any_issuer(candidate: Candidate, pseudonyms: Pseudonyms) -> str:
    own = candidate.item.identity.patient
    is_of_one_issuer = bool(own) and candidate.patient.id.startswith(f"{own}^^^")
    return pseudonyms.patient(replace(candidate.patient, id=own)) if is_of_one_issuer else ""


def _row(candidate: Candidate, taken: Taken, pseudonyms: Pseudonyms, dataset: str) -> Row:
    assert candidate.split is not None
    fields = {key: value for key, value in vars(taken).items() if key not in NOT_IN_ROWS}
    return Row(
        image_id=pseudonyms.image(candidate),
        patient_id=pseudonyms.patient(candidate.patient),
        study_id=pseudonyms.study(candidate),
        series_id=pseudonyms.series(candidate),
        kind=candidate.item.kind,
        dataset=dataset,
        split=candidate.split,
        labels=dict(candidate.labels),
        part=candidate.item.part,
        patient_is_assumed=candidate.patient.is_assumed,
        patient_any_issuer=_any_issuer(candidate, pseudonyms),
        annotated=None if taken.mask is None else candidate.annotated,
        **fields,
    )
