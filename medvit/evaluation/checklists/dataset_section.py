"""Sections of a report on the evaluated dataset: its preparation by ingest, and the flow of its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from medvit.attributes import attribute_title
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.document import Block, Section, Table
from medvit.evaluation import Evaluation
from medvit.evaluation.checklists.recorded import described, options_of
from medvit.evaluation.fact import Fact
from medvit.evaluation.judged import OUT_OF_FOLD, Judged
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.models.image import has_truth
from medvit.patients import PatientCount
from medvit.records import Row, splits_of

SCANNER = ("manufacturer", "model", "field_strength_t", "kvp", "kernel", "sequence", "slice_thickness_mm")
"""Attributes that describe how images were acquired."""
SHOWN = 8
"""Maximum number of values of an attribute, and of reasons for refusals."""
CHOICE = {
    "scanning": ("modality", "geometry", "stacks", "channels", "max_volume_gib"),
    "taking": ("values", "tiles"),
    "curation": ("duplicates",),
}
"""Options of ingest, by group, that decide which images are in a dataset. None of them contains a path."""
SPLITS = "Patients without an official split in the source are divided by a hash of the patient"
PSEUDONYMS = "Identifiers of patients, studies and images are pseudonyms; dates are not stored"

_Line = tuple[Fact, str, str]


def dataset_part(manifest: Manifest) -> ReportPart:
    """Return the part of a report on source, acquisition, choice and splits of a dataset."""
    lines = [*_lines(manifest)]
    table = Table(["", ""], [[name, text] for _, name, text in lines], is_text=True)
    return ReportPart(ReportPlace.LINEAGE, Section("Dataset", [table]), facts=frozenset(fact for fact, _, _ in lines))


def _lines(manifest: Manifest) -> Iterator[_Line]:
    facts, options = manifest.facts, options_of(manifest.folder)
    if facts.source:
        yield Fact.DATA_SOURCE, "source", facts.source
    if facts.license:
        yield Fact.DATA_LICENSE, "license", facts.license
    modalities = Counter(row.modality for row in manifest if row.modality)
    scanners = {key: _values(manifest, key) for key in SCANNER}
    if modalities and any(scanners.values()):
        yield Fact.ACQUISITION, "modality", _counted(modalities)
        for key, values in scanners.items():
            if values:
                yield Fact.ACQUISITION, attribute_title(key), _counted(values)
    classes = {key: names for key, names in facts.classes.items() if names}
    if classes or facts.mask_classes:
        each = [f"{key}: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}" for key, names in classes.items()]
        masks = [f"label maps: {', '.join(facts.mask_classes)}"] if facts.mask_classes else []
        yield Fact.LABELS, "labels and classes", "; ".join([*each[:SHOWN], *masks])
    chosen = [described({key: _group(options, group).get(key) for key in keys}) for group, keys in CHOICE.items()]
    if any(chosen):
        yield Fact.RULES_OF_IMAGES, "choice of images", "; ".join(filter(None, chosen))
    if _group(options, "splits"):
        yield Fact.SPLIT_RULE, "splits", f"{SPLITS}: {described(options['splits'])}"
        assumed = PatientCount.of(manifest).note
        yield Fact.SPLIT_RULE, "disjoint by", f"patient, but {assumed}" if assumed else "patient"
    burned_in = _group(_group(options, "taking"), "burned_in")
    if burned_in:
        yield Fact.DEIDENTIFICATION, "de-identification", f"{PSEUDONYMS}; burned-in text: {described(burned_in)}"


def _group(options: object, name: str) -> dict[str, object]:
    group = options.get(name) if isinstance(options, dict) else None
    return group if isinstance(group, dict) else {}


def _values(manifest: Manifest, key: str) -> Counter[str]:
    return Counter(row.attributes[key] for row in manifest if key in row.attributes)


def _counted(values: Counter[str]) -> str:
    shown = [f"{value} ({number})" for value, number in values.most_common(SHOWN)]
    rest = len(values) - len(shown)
    return ", ".join([*shown, *([f"{rest} rarer values"] if rest else [])])


def flow_part(manifest: Manifest, judged: Judged, evaluation: Evaluation) -> ReportPart:
    """Return the part of a report on the flow of images: refused by ingest, in each split, without truth, evaluated."""
    model = judged.predictor.config
    split = [row for row in manifest if judged.split in (OUT_OF_FOLD, row.split)]
    if judged.split == OUT_OF_FOLD:
        split = [row for row in split if row.split in ("train", "val")]
    unlabeled = [row for row in split if not has_truth(row, model)]
    evaluated = list(evaluation.rows)
    steps: list[tuple[str, list[Row]]] = [
        ("in the dataset", list(manifest.rows)),
        *((f"in the split {name}", [row for row in manifest if row.split == name]) for name in splits_of(manifest)),
        (f"evaluated split ({judged.split.replace('_', ' ')})", split),
        ("excluded: without a truth", unlabeled),
        ("excluded: for other reasons, see the notes", _besides(split, [*unlabeled, *judged.measured])),
        ("excluded: not predicted, see the notes", _besides(list(judged.measured), evaluated)),
        ("evaluated", evaluated),
    ]
    lines = [[name, len(rows), PatientCount.of(rows).cell] for name, rows in steps]
    blocks: list[Block] = [Table(["", "images", "patients"], lines)]
    found = {Fact.MISSING}
    path = manifest.folder / quarantine.FILE_NAME
    if path.is_file():
        blocks += list(_refused(quarantine.read(manifest.folder)))
        found |= {Fact.REFUSED, Fact.FLOW}
    numbers = {name: {"images": len(rows), "patients": PatientCount.of(rows).total} for name, rows in steps}
    section = Section("Flow of images", blocks)
    return ReportPart(ReportPlace.COHORT, section, "flow", numbers, facts=frozenset(found))


def _besides(rows: list[Row], others: list[Row]) -> list[Row]:
    known = {row.image_id for row in others}
    return [row for row in rows if row.image_id not in known]


def _refused(found: tuple[Quarantined, ...]) -> Iterator[Block]:
    """Yield a sentence on the files that ingest refused, and a table of the reasons."""
    number = sum(one.num_files for one in found)
    if not number:
        yield "Ingest refused no file of the source."
        return
    yield f"Ingest refused {number} files of the source."
    reasons: Counter[tuple[str, str]] = Counter()
    for one in found:
        reasons[one.code, one.reason] += one.num_files
    lines = [[f"{code}: {reason}", files] for (code, reason), files in reasons.most_common(SHOWN)]
    rest = len(reasons) - len(lines)
    if rest > 0:
        shown = sum(files for _, files in reasons.most_common(SHOWN))
        lines.append([f"{rest} more reasons", number - shown])
    yield Table(["reason", "files"], lines)
