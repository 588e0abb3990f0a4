"""Reports on overlaps: a table for the terminal, `hits.csv` for programs, `leakage.html` for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.dataset.thumbnails import montage, thumbnail
from medvit.document import Document, Picture, Section, Table
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.leakage import CHECKS, Check, Overlap
from medvit.patients import PatientCount

HITS, HTML = "hits.csv", "leakage.html"
SHOWN_GROUPS, SHOWN_IMAGES = 12, 4
"""Maximum number of examples per kind of overlap, and of images per example, on the page."""
LISTED_GROUPS = 50

NAMES: Mapping[Check, str] = {
    "patient": "same patient",
    "study": "same study",
    "file": "identical files",
    "pixel": "identical pixels",
    "perceptual": "near duplicates",
}
NOTES = (
    "Groups that cross are in more than one split, or in both datasets; the others are repeats within one split.",
    "Identical pixels: all stored values are equal, even if the files differ. Files are compared unless they are "
    "DICOM, or of a dataset made before their hashes were stored. Near duplicates: 256-bit hashes that differ in few "
    "bits, confirmed by fine structure or, for volumes and smooth images, by correlation: a repeated exposure, a copy "
    "re-encoded, resized, shifted or cropped by up to a tenth, or a neighboring frame. Copies without a shift or crop "
    "are also found when mirrored or, for images, rotated by right angles. Some larger shifts and crops are missed, "
    "most of them in images under 64 pixels; copies rotated by other angles are not found.",
    "The same patient is recognized between datasets only where both were ingested with one key and files name their "
    "patient (DICOM PatientID, or the column patient of a table).",
)


def summary(overlaps: Sequence[Overlap], checks: Sequence[Check]) -> Table:
    """Return a table with one row per kind of overlap.

    Each row has the number of groups, the number of groups that are in several splits or datasets, and the number of
    images in these groups.
    """
    lines = []
    for check in checks:
        found = [overlap for overlap in overlaps if overlap.check == check]
        crossing = [overlap for overlap in found if overlap.crosses]
        lines.append([NAMES[check], len(found), len(crossing), sum(len(overlap.members) for overlap in crossing)])
    return Table(["", "groups", "crossing", "images in crossing groups"], lines)


def crossings(overlaps: Sequence[Overlap]) -> Table:
    """Return a table of the groups that are in several splits or datasets.

    Groups are counted for each kind of overlap and each combination of splits and datasets.
    """
    counts = Counter((overlap.check, overlap.places) for overlap in overlaps if overlap.crosses)
    lines = [
        [NAMES[check], " + ".join(places), number] for (check, places), number in sorted(counts.items(), key=_order)
    ]
    return Table(["", "between", "groups"], lines)


def hits(overlaps: Sequence[Overlap]) -> list[str]:
    """Return one sentence per kind of overlap and combination of splits or datasets.

    The sentence states how many groups of this kind the splits or datasets share.
    """
    return [
        f"{name}: {number} group{'' if number == 1 else 's'} in {places}"
        for name, places, number in crossings(overlaps).lines
    ]


def write(
    folder: Path, manifests: Mapping[str, Manifest], overlaps: Sequence[Overlap], checks: Sequence[Check]
) -> None:
    """Write `hits.csv` (one row per image of every group) and `leakage.html` into a folder."""
    write_text(folder / HITS, _csv(overlaps))
    crossing = [overlap for overlap in overlaps if overlap.crosses]
    names = ", ".join(f"{key}: {manifest.facts.name}".removeprefix(": ") for key, manifest in manifests.items())
    tables = [summary(overlaps, checks), *([crossings(overlaps)] if crossing else [])]
    sections = [Section("Found", [*tables, *NOTES, *_of_assumed(manifests)])]
    for check in checks:
        found = [overlap for overlap in overlaps if overlap.check == check]
        if found:
            sections.append(Section(f"{NAMES[check].capitalize()}: {len(found)} groups", _examples(found, manifests)))
    Document(
        f"Leakage: {names}",
        f"{len(crossing)} groups of images cross splits or datasets." if crossing else "Nothing crosses.",
        sections,
        "warning" if crossing else "plain",
    ).write_html(folder / HTML)


def _of_assumed(manifests: Mapping[str, Manifest]) -> list[str]:
    """Return a note for each dataset whose patients are partly assumed, not known from identifiers.

    Two assumed patients may be one person, and this overlap is not found.
    """
    counts = ((manifest.facts.name, PatientCount.of(manifest)) for manifest in manifests.values())
    lost = "who is then not found as the same patient"
    return [f"{name}: {count.note}, {lost}." for name, count in counts if count.assumed]


def _order(counted: tuple[tuple[Check, tuple[str, ...]], int]) -> tuple[int, tuple[str, ...]]:
    (check, places), _ = counted
    return CHECKS.index(check), places


def _examples(found: Sequence[Overlap], manifests: Mapping[str, Manifest]) -> list[Table | list[Picture]]:
    shown = found[:SHOWN_GROUPS]
    lines = [(_heading(number, overlap), _pictures(overlap, manifests)) for number, overlap in enumerate(shown, 1)]
    figure = montage(lines)
    listed = Table(
        ["group", "between", "images", "bits", "turned"],
        [
            [n, " + ".join(o.places), len(o.members), o.distance, "yes" if o.is_turned else ""]
            for n, o in enumerate(found[:LISTED_GROUPS], 1)
        ],
    )
    caption = f"The first {len(shown)} of {len(found)} groups, up to {SHOWN_IMAGES} images each; {HITS} lists all."
    return [[Picture.of(found[0].check, caption, figure)], listed]


def _heading(number: int, overlap: Overlap) -> str:
    return f"{number}. {' + '.join(overlap.places)}: {len(overlap.members)} images"


def _pictures(overlap: Overlap, manifests: Mapping[str, Manifest]) -> list[tuple[str, Float[Array, "h w *c"]]]:
    # One of each split or dataset first, so that both sides of a crossing are shown.
    first = {member.place: member for member in reversed(overlap.members)}
    ordered = [*first.values(), *(m for m in overlap.members if m is not first[m.place])][:SHOWN_IMAGES]
    return [(_title(m.place, m.row.labels), thumbnail(manifests[m.source], m.row)) for m in ordered]


def _title(place: str, labels: Mapping[str, str]) -> str:
    return f"{place}\n{', '.join(labels.values())[:28]}"


def _csv(overlaps: Sequence[Overlap]) -> str:
    lines: list[list[object]] = []
    for number, o in enumerate(overlaps, 1):
        for m in o.members:
            row = m.row
            cells = [number, o.check, *(str(value).lower() for value in (o.crosses, o.distance, o.is_turned))]
            place = [m.source or row.dataset, row.split, row.image_id, row.patient_id, row.study_id]
            lines.append([*cells, *place])
    columns = ("group", "check", "crosses", "bits", "turned", "dataset", "split", "image_id", "patient_id", "study_id")
    return csv_text(columns, lines)
