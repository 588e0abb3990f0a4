"""Cards of datasets and models: computed figures, prose written by people, comparison, Croissant metadata.

`card.html` (self-contained) and `card.md` are for people and have the same contents; `card.md` has front matter for
programs, and its pictures are in `card/`. `card.json` contains machine-readable metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float, Num
from numpy import ndarray as Array

from medvit.cards import eye, montage, plots, quality, slides
from medvit.cards.cohort import AGE, NOMINAL, Cohort, cohort_table
from medvit.cards.croissant import write_croissant
from medvit.cards.plots import Intensities, axis_sizes
from medvit.cards.prose import CardHead, Prose
from medvit.cards.variables import is_numeric
from medvit.dataset.intensity_statistics import percentiles, sampled_rows
from medvit.dataset.manifest import Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.document import Block, Bullets, Document, Markdown, Outside, Section, Table
from medvit.files.atomic import write_text
from medvit.leakage import Overlap, find_copies
from medvit.patients import PatientCount
from medvit.records import Row, Split, splits_of

VERSION = 6
"""Version of the content of cards. If it is increased, the next update of a dataset writes the card again."""
FILE_NAME, HTML = "card.md", "card.html"
SHOWN_REASONS = 30


@dataclass(frozen=True)
class _Measured:
    """Measurements on sampled images: intensities by modality, and the fraction of voxels in each label-map class.

    The fraction of a class is that of label maps in which it is annotated; that of the background, of label maps in
    which all classes are. It is NaN without such a label map.
    """

    num_images: int
    intensities: Sequence[Intensities]
    mask_shares: Sequence[float]


def write_card(manifest: Manifest, quarantine: Sequence[Quarantined], prose: Prose | None = None) -> None:
    """Write `card.html`, `card.md`, its pictures and `card.json` into a dataset folder in which only these are missing.

    Raises:
        DataError: If the store lacks pixels that the card shows or measures.
    """
    write_pages(manifest, quarantine, prose, folder=manifest.folder)
    write_croissant(manifest)


def write_pages(
    manifest: Manifest, quarantine: Sequence[Quarantined], prose: Prose | None = None, *, folder: Path
) -> None:
    """Write only `card.html`, `card.md` and its pictures, into any folder.

    Raises:
        DataError: If the store lacks pixels that the card shows or measures.
    """
    head = _head(manifest)
    sections = _sections(manifest, quarantine, prose, head)
    document = Document(Outside(manifest.facts.name), "", sections, facts=_facts(head), has_contents=True)
    document.write_html(folder / HTML)
    front = f"---\n{yaml.safe_dump(head.tree(), sort_keys=False, allow_unicode=True)}---\n\n"
    # The front matter has the facts.
    write_text(folder / FILE_NAME, front + replace(document, facts=None).markdown(folder, plots.FOLDER))


def _sections(
    manifest: Manifest, quarantine: Sequence[Quarantined], prose: Prose | None, head: CardHead
) -> list[Section]:
    measured = _measure(manifest)
    overlaps = find_copies(manifest)
    notes = _notes(manifest, head, prose, overlaps)
    return [
        *_description(manifest, prose),
        Section("Contents", [_contents(manifest)]),
        *_cohorts(manifest),
        *_class_tables(manifest, measured),
        *montage.sections(manifest),
        Section(
            "Sizes and intensities",
            [_sizes(manifest), *_intensity_table(measured), plots.draw(manifest, measured.intensities)],
        ),
        *slides.sections(manifest),
        *quality.sections(manifest, overlaps),
        *eye.sections(manifest),
        Section("Not taken", _not_taken(quarantine)),
        Section("Missing or doubtful", [Bullets(notes) if notes else "Nothing found."]),
    ]


def _description(manifest: Manifest, prose: Prose | None) -> Iterator[Section]:
    """Yield the section with text that people have written."""
    blocks: list[Block] = [manifest.facts.description] if manifest.facts.description else []
    blocks += [Markdown(prose.text)] if prose else []
    if blocks:
        yield Section("Description", blocks)


def _facts(head: CardHead) -> dict[str, str]:
    """Return the facts of the front matter as texts; a missing text is `not stated`."""
    return {
        "License": head.license or "not stated",
        "Source": head.source or "not stated",
        "Images": ", ".join(f"{kind} {number}" for kind, number in head.images.items()),
        "Patients": PatientCount(head.patients or 0, head.assumed_patients).cell,
        "Hash": head.hash,
    }


def _head(manifest: Manifest) -> CardHead:
    facts = manifest.facts
    images = Counter(row.modality or "unknown" for row in manifest)
    patients = PatientCount.of(manifest)
    return CardHead(
        name=facts.name,
        license=facts.license,
        source=facts.source,
        images=dict(sorted(images.items())),
        patients=patients.total,
        assumed_patients=patients.assumed,
        hash=manifest.hash,
    )


def _contents(manifest: Manifest) -> Table:
    splits = splits_of(manifest)
    columns = [("all", manifest.rows)] + [(split, tuple(r for r in manifest if r.split == split)) for split in splits]
    kinds = sorted({(row.kind, row.modality) for row in manifest})
    counted = {f"{_plural(kind)}, {modality or 'unknown modality'}": (kind, modality) for kind, modality in kinds}
    return Table(
        ["", *(name for name, _ in columns)],
        [
            ["patients", *(PatientCount.of(rows).cell for _, rows in columns)],
            ["studies", *(len({(row.patient_id, row.study_id) for row in rows}) for _, rows in columns)],
            *([name, *(_count(rows, what) for _, rows in columns)] for name, what in counted.items()),
            ["with a label map", *(sum(row.mask is not None for row in rows) for _, rows in columns)],
        ],
    )


def _cohorts(manifest: Manifest) -> Iterator[Section]:
    """Yield a section on the patients of each split, if the images have attributes of subjects or scanners."""
    if any({AGE, *NOMINAL} & row.attributes.keys() for row in manifest):
        sets = {split: [row for row in manifest if row.split == split] for split in splits_of(manifest)}
        table = cohort_table({split: Cohort.of(rows, {}) for split, rows in sets.items()})
        yield Section("Patients by split", [table])


def _plural(kind: str) -> str:
    return f"{kind}s"


def _count(rows: Sequence[Row], what: tuple[str, str]) -> int:
    return sum((row.kind, row.modality) == what for row in rows)


def _class_tables(manifest: Manifest, measured: _Measured) -> Iterator[Section]:
    splits = splits_of(manifest)
    for key, names in manifest.facts.classes.items():
        if is_numeric(names):
            yield Section(Outside(f"Values of {key}"), [_value_table(manifest, key)])
            continue
        each = ((name, [row for row in manifest if row.labels.get(key) == name]) for name in names)
        lines: list[list[object]] = [[Outside(name), *_by_split(rows, splits)] for name, rows in each]
        unlabeled = [row for row in manifest if key not in row.labels]
        lines += [["(none)", *_by_split(unlabeled, splits)]] if unlabeled else []
        yield Section(Outside(f"Classes of {key}, images"), [Table(["", "all", *splits], lines)])
    if manifest.facts.mask_classes:
        names, shares = manifest.facts.mask_classes, measured.mask_shares
        columns: dict[str, Sequence[object]] = {"value": range(len(names)), "name": [Outside(name) for name in names]}
        columns |= {f"voxels, {measured.num_images} images": [_percent(share) for share in shares]}
        if any(row.annotated is not None for row in manifest):
            columns |= {"annotated, images": [_num_annotated(manifest, name) for name in names]}
        lines = [list(line) for line in zip(*columns.values(), strict=True)]
        yield Section("Classes of label maps", [Table(list(columns), lines)])


def _value_table(manifest: Manifest, key: str) -> Table:
    """Return the lowest, median and highest value of a label whose classes are numbers, for all images and by split."""
    sets = {"all": list(manifest)} | {s: [row for row in manifest if row.split == s] for s in splits_of(manifest)}
    values = {
        name: np.array([float(row.labels[key]) for row in rows if key in row.labels]) for name, rows in sets.items()
    }
    lines = [
        [name, len(found), len(sets[name]) - len(found), *(_spread(found) if len(found) else ("unknown",) * 3)]
        for name, found in values.items()
    ]
    return Table(["", "images", "without", "lowest", "median", "highest"], lines)


def _percent(share: float) -> str:
    return "unknown" if np.isnan(share) else f"{share:.3%}"


def _num_annotated(manifest: Manifest, name: str) -> int:
    """Return the number of label maps in which a class is annotated."""
    background = manifest.facts.mask_classes[0]
    each = (row.annotated for row in manifest if row.mask is not None)
    return sum(annotated is None or name in (background, *annotated) for annotated in each)


def _by_split(rows: Iterable[Row], splits: Sequence[Split]) -> list[int]:
    counts = Counter(row.split for row in rows)
    return [counts.total(), *(counts[split] for split in splits)]


def _sizes(manifest: Manifest) -> Table:
    lines = [(f"size along {axis}, pixels", *_spread(sizes)) for axis, sizes in axis_sizes(manifest).items()]
    spacings = np.array([row.spacing_mm for row in manifest if row.spacing_mm])
    if len(spacings):
        lines += [(f"spacing along {axis}, mm", *_spread(spacings[:, n])) for n, axis in enumerate("IJK")]
    mpp = [row.mpp for row in manifest if row.mpp is not None]
    lines += [("pixel size, microns", *_spread(np.array(mpp)))] if mpp else []
    return Table(["", "lowest", "median", "highest"], lines)


def _spread(values: Num[Array, "n"]) -> tuple[str, str, str]:
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{low:.5g}", f"{middle:.5g}", f"{high:.5g}"


def _intensity_table(measured: _Measured) -> Iterator[Block]:
    yield f"Intensities of {measured.num_images} sampled images: median [lowest, highest] over images."
    lines = [
        [group.name, len(group.percentiles), *("{1} [{0}, {2}]".format(*_spread(c)) for c in group.percentiles.T)]
        for group in measured.intensities
    ]
    yield Table(["modality", "images", "1st percentile", "median", "99th percentile"], lines)


def _not_taken(quarantine: Sequence[Quarantined]) -> list[Block]:
    if not quarantine:
        return ["No file was refused."]
    items, files = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for entry in quarantine:
        items[entry.code, entry.reason] += 1
        files[entry.code, entry.reason] += entry.num_files
    ordered = sorted(items, key=lambda key: (-items[key], key))
    lines = [[*key, items[key], files[key]] for key in ordered[:SHOWN_REASONS]]
    rest = len(ordered) - SHOWN_REASONS
    return [
        Table(["code", "reason", "items", "files"], lines, is_text=True),
        *([f"And {rest} more reasons; `quarantine.parquet` has all."] if rest > 0 else []),
    ]


def _notes(manifest: Manifest, head: CardHead, prose: Prose | None, overlaps: Sequence[Overlap]) -> list[str]:
    facts, used = manifest.facts, {row.split for row in manifest}
    empty = [split for split in splits_of(manifest) if split not in used]
    copies, alike = (sum(o.check == check and o.crosses for o in overlaps) for check in ("pixel", "perceptual"))
    notes = {
        "license: missing; give facts.license=...": not facts.license,
        "source: missing; give facts.source_url=...": not facts.source,
        "description: missing; give facts.description=... or facts.card=...": not (facts.description or prose),
        f"modality: missing for {head.images.get('unknown', 0)} images; give scanning.modality=...": "unknown"
        in head.images,
        "labels: missing, neither classes nor label maps": not facts.classes and not facts.mask_classes,
        f"splits: no image in {', '.join(empty)}; change splits.*": bool(empty),
        f"patients: {PatientCount.of(manifest).note}; scanning.patient_from=... or a patient column in "
        "labeling.table names them": (head.assumed_patients > 0),
        "patients: each image counts as one; if that is wrong, give scanning.patient_from=...": (
            1 < len(manifest) == head.patients and all(row.patient_is_assumed is None for row in manifest)
        ),
        f"duplicates: images with identical pixels in more than one split: {copies}": copies > 0,
        f"duplicates: groups of near duplicates in more than one split: {alike}": alike > 0,
        f"counts: the project's card states {prose and prose.head.images}, this dataset has {head.images}": (
            prose is not None and bool(prose.head.images) and prose.head.images != head.images
        ),
        f"patients: the project's card states {prose and prose.head.patients}, this dataset has {head.patients}": (
            prose is not None and prose.head.patients not in (None, head.patients)
        ),
        f"classes: the project's card states {prose and prose.head.classes}, this dataset has {_one_label(manifest)}": (
            prose is not None and bool(prose.head.classes) and prose.head.classes != _one_label(manifest)
        ),
    }
    return [*(note for note, is_true in notes.items() if is_true), *facts.notes]


def _one_label(manifest: Manifest) -> dict[str, int]:
    """Return the number of images by class if there is exactly one label, else an empty mapping."""
    keys = list(manifest.facts.classes)
    counts = Counter(row.labels[keys[0]] for row in manifest if keys[0] in row.labels) if len(keys) == 1 else Counter()
    return dict(sorted(counts.items()))


def _measure(manifest: Manifest) -> _Measured:
    rows = sampled_rows(manifest)
    found: dict[tuple[str, str], list[Array]] = {}
    classes = manifest.facts.mask_classes
    counts, totals = np.zeros(len(classes)), np.zeros(len(classes))
    for row in rows:
        levels = percentiles(manifest, row)
        if levels is not None:
            found.setdefault((row.modality, row.unit), []).append(levels)
        if row.mask is not None and classes:
            labels = manifest.store.get(row.mask).ravel().astype(np.int64)
            own = np.bincount(labels[labels < len(classes)], minlength=len(classes))  # without ignored pixels
            known = np.array([row.annotated is None or name in row.annotated for name in classes])
            counts, totals = counts + own * known, totals + own.sum() * known
    intensities = [Intensities(*key, np.stack(values)) for key, values in sorted(found.items())]
    return _Measured(len(rows), intensities, _shares(counts, totals))


def _shares(counts: Float[Array, "l"], totals: Float[Array, "l"]) -> tuple[float, ...]:
    return tuple(float(count / total) if total else float("nan") for count, total in zip(counts, totals, strict=True))
