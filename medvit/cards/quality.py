"""Sections of a data card on possible problems: flags, duplicates, scanners and patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import get_args

from medvit.dataset.manifest import Manifest
from medvit.dataset.thumbnails import montage, showable, thumbnail
from medvit.document import Block, Picture, Section, Table
from medvit.leakage import Overlap
from medvit.leakage.report import NAMES
from medvit.patients import PatientCount, assumed_patients
from medvit.records import Flag, Row, Split, is_frame, splits_of

MEANINGS: dict[Flag, str] = {
    "constant": "all pixels have one value",
    "not_finite": "some pixels are NaN or infinite",
    "blank": "nothing but noise or a uniform background",
    "low_contrast": "less than a tenth of its 8 bits is used",
    "clipped": "the brightest parts are clipped at the highest value",
    "inverted": "bright border, dark center: the polarity may be inverted",
    "padded": "much of the area is empty rows or columns",
    "tiny": "fewer than 16 pixels on its shorter side",
    "spacing": "no scanner has such a voxel or extent",
    "not_fundus": "a photograph of the eye without a round field or the colors of a fundus",
    "blurred": "a fundus without fine detail",
    "underexposed": "a fundus too dark to be judged",
    "overexposed": "a fundus too bright to be judged",
    "cut_field": "much of the field of view is cut off or dark",
}
SHOWN_IMAGES = 4
SHOWN_VALUES = 12
"""Maximum number of values of an attribute that the table contains; these are the most frequent ones."""
_NUMERIC = (
    "age_years",
    "slice_thickness_mm",
    "echo_time_ms",
    "repetition_time_ms",
    "fundus_quality",
    "fundus_sharpness",
    "fundus_exposure",
    "fundus_field",
)


def sections(manifest: Manifest, overlaps: Sequence[Overlap]) -> Iterator[Section]:
    """Yield the sections on flags, copies, and scanners and patients."""
    yield Section("Quality", list(_quality(manifest)))
    yield Section("Copies", list(_copies(overlaps)))
    acquisition = _acquisition(manifest)
    if acquisition is not None:
        yield Section("Scanners and patients", [acquisition])


def _quality(manifest: Manifest) -> Iterator[Block]:
    unseen = sum(row.flags is None for row in manifest)
    if unseen:
        yield f"Flags of {unseen} images were not computed; run ingest again to compute them."
    for wish, count in sorted(Counter(row.fallback for row in manifest if row.fallback).items()):
        yield (
            f"{count} images have stored values although `{wish}` was requested: "
            "their files lack the required elements."
        )
    frames = Counter(row.modality or "unknown" for row in manifest if row.kind == "image" and is_frame(row.part))
    if frames:
        of_each = ", ".join(f"{count} of {modality}" for modality, count in frames.most_common())
        yield (
            f"{frames.total()} images are frames of multi-frame files, taken one by one, without a position in "
            f"the patient: {of_each}. Neighbors among them may be moments of one view, or slices."
        )
    flagged: dict[Flag, list[Row]] = defaultdict(list)
    for row in manifest:
        for flag in row.flags or ():
            flagged[flag].append(row)
    if not flagged:
        if not unseen:
            yield "No image is flagged."
        return
    splits = splits_of(manifest)
    ordered = [flag for flag in get_args(Flag) if flag in flagged]
    lines = [[flag, MEANINGS[flag], len(flagged[flag]), *_by_split(flagged[flag], splits)] for flag in ordered]
    yield Table(["flag", "which says", "all", *splits], lines, is_text=True)
    damaged = [row.num_not_finite for row in manifest if row.num_not_finite]
    if damaged:
        yield (
            f"{sum(damaged)} pixels of {len(damaged)} images are NaN or infinite, up to {max(damaged)} in one "
            "image; statistics exclude them, and preprocessing fills them."
        )
    yield "Flags are hints. Training excludes flagged images with `skip_flags=[...]`."
    seen = {flag: showable(manifest, flagged[flag])[:SHOWN_IMAGES] for flag in ordered}
    shown = [(flag, [("", thumbnail(manifest, row)) for row in rows]) for flag, rows in seen.items() if rows]
    if shown:
        yield [Picture.of("flags", "Some images with each flag", montage(shown))]


def _by_split(rows: Sequence[Row], splits: Sequence[Split]) -> list[int]:
    counts = Counter(row.split for row in rows)
    return [counts[split] for split in splits]


def _copies(overlaps: Sequence[Overlap]) -> Iterator[Block]:
    if not overlaps:
        yield "No two images are identical or near duplicates."
        return
    lines = []
    for check in ("pixel", "perceptual"):
        found = [overlap for overlap in overlaps if overlap.check == check]
        images, crossing = sum(len(o.members) for o in found), sum(o.crosses for o in found)
        lines.append([NAMES[check], len(found), images, crossing])
    yield Table(["", "groups", "images", "groups in several splits"], lines)
    labels = sum(len({tuple(sorted(m.row.labels.items())) for m in o.members}) > 1 for o in overlaps)
    if labels:
        yield f"In {labels} of these groups labels differ."
    yield "`medvit leakage a=DATASET` shows them side by side."


def _acquisition(manifest: Manifest) -> Table | None:
    keys = dict.fromkeys(key for row in manifest for key in row.attributes)
    lines, assumed = [], assumed_patients(manifest)
    for key in sorted(keys):
        # One line per patient and value, so that a study of many series counts once.
        pairs = {(row.patient_id, row.attributes[key]) for row in manifest if key in row.attributes}
        known = PatientCount.among({patient for patient, _ in pairs}, assumed)
        lines.append([key.replace("_", " "), known.cell, _values(key, pairs)])
    return Table(["", "patients with a value", "values (patients)"], lines, is_text=True) if lines else None


def _values(key: str, pairs: set[tuple[str, str]]) -> str:
    counts = Counter(value for _, value in pairs)
    if key in _NUMERIC and len(counts) > SHOWN_VALUES:
        ordered = sorted(float(value) for value in counts.elements())
        return f"{ordered[0]:g} to {ordered[-1]:g}, median {ordered[len(ordered) // 2]:g}"
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{value} ({number})" for value, number in ranked[:SHOWN_VALUES])
    return shown + (f", and {len(ranked) - SHOWN_VALUES} more" if len(ranked) > SHOWN_VALUES else "")
