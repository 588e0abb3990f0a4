"""Draft of ingest: labels, label maps, patients, splits and geometry from the survey."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import get_args

from medvit.drafts.draft import Draft, DraftOption
from medvit.drafts.images import Images, Project
from medvit.ingest.splits import NUM_SALTS, SplitConfig, split_of
from medvit.ingest.survey.found import Survey
from medvit.ingest.survey.names import names_nobody
from medvit.ingest.survey.screen import classes_in_words
from medvit.ingest.survey.tables import FoundTable
from medvit.readers.label_maps import FIELD, FIELD_FOLDERS
from medvit.records import Split
from medvit.wsi.slide import FINER
from medvit.wsi.tiles import MPP

KEYS = {
    "modality": "modality",
    "label table": "labels",
    "lines about": "label_by",
    "label columns": "label_columns",
    "lines that match nothing": "label_unmatched",
    "class folders": "label_from",
    "positive class": "positive",
    "names of label-map values": "mask_classes",
    "meaning of label-map values": "mask_values",
    "fields of view": "scanning.field_of_view_folder",
    "patient": "patient_from",
    "irregular grids": "geometry.irregular",
    "NIfTI form": "geometry.nifti",
    "anatomical axes": "geometry.assume",
    "stacks of pictures": "stacks.spacing_mm",
    "copy": "deidentify.copy_to",
    "text in pixels": "burned_in",
    "license": "license",
    "origin": "source_url",
}
"""Keys of the ingest options that depend on the survey: the one place that names them."""
NEGATIVE = ("normal", "healthy", "benign", "negative", "no", "none", "control", "controls", "0")
"""First words of the names of negative classes; of two classes, the draft names the other one as positive."""
WIDER = SplitConfig(val=0.2, test=0.2)
"""Fractions of the val and test splits if there are few patients."""


def draft_ingest(survey: Survey, images: Images, project: Project) -> Draft:
    """Return the configuration that makes a dataset of the surveyed source."""
    audit = f"medvit audit dataset={shlex.quote(project.place('dataset'))} source={shlex.quote(project.source)}"
    about = (
        "Make a dataset from the source. Paths of the source may name patients, so this file is readable by you alone. "
        "Options behind a # may fit: remove the # to use them. The audit searches the dataset for anything that "
        "identifies a patient."
    )
    entries = [
        DraftOption("source", project.source),
        DraftOption(
            "dataset", project.place("dataset"), "Folder to make. Start with its card.md, which describes the dataset."
        ),
        DraftOption("name", _name(project), "Pseudonyms depend on this name: keep it when you update the dataset."),
        *_modality(survey, images, project),
        *_labels(survey),
        *_masks(images),
        *_fields_of_view(survey),
        *_patients(survey),
        *_splits(survey),
        *_geometry(survey),
        *_tiles(images),
        *_privacy(images, project),
        *_card(project),
    ]
    return project.draft("ingest", about, entries, note=f"Audit: {audit}")


def _name(project: Project) -> str:
    name = "".join(one if one.isalnum() or one in "_. -" else "_" for one in project.output.absolute().name)
    return name if name[:1].isalnum() or name[:1] == "_" else f"dataset{name}"


def _modality(survey: Survey, images: Images, project: Project) -> Iterator[DraftOption]:
    if all(one.item.modality for one in survey.candidates):
        return
    if project.modality:
        yield DraftOption(
            KEYS["modality"], project.modality, "As given, for the files that do not state their modality."
        )
        return
    hints = " or ".join(f"{code} (the word {word!r})" for code, word in survey.suggested.items())
    hint = f" Their paths suggest {hints}, but that is not certain enough." if hints else ""
    text = (
        f"Some files do not state their modality.{hint} If you know it, run init again with modality=CODE (CT, MR, US, "
        "DX, OP for fundus photographs, OPT for OCT, SM for tissue): preprocessing depends on it."
    )
    default = "CT" if images.group.kind == "volume" else "DX"
    yield DraftOption(KEYS["modality"], next(iter(survey.suggested), default), text, is_off=True)
    if images.group.kind == "image":
        text = "If the pictures of a folder are slices of one volume: mm between pictures, rows and columns."
        yield DraftOption(KEYS["stacks of pictures"], [0.24, 0.0039, 0.011], text, is_off=True)


def _labels(survey: Survey) -> Iterator[DraftOption]:
    if survey.folders is not None:
        counts = survey.folders.counts
        text = f"{len(counts)} folders look like classes: {classes_in_words(counts)}."
        if survey.folders.are_taken:
            text += " Their names are stored under the label key 'label'."
        else:
            text += " Labels are stored as they are, so use folder names only if they do not name people."
        yield DraftOption(KEYS["class folders"], "folder", text, is_off=not survey.folders.are_taken)
    for table in survey.tables:
        yield from _table(table, is_off=table is not survey.table)
    yield from _positive(survey)
    if not (survey.label_keys or survey.folders or survey.tables):
        text = (
            "No labels were found. A table (CSV or Excel) can bring them: one column per label, and a column file, "
            "StudyInstanceUID (label_by=study) or PatientID (label_by=patient)."
        )
        yield DraftOption(KEYS["label table"], "labels.csv", text, is_off=True)


def _table(table: FoundTable, *, is_off: bool) -> Iterator[DraftOption]:
    text = f"A table: {table.num_matched} of its {table.num_lines} lines name images, by {table.key}."
    if table.by is None:
        text = f"Possibly a table of labels, but not used: {table.problem}."
    elif table.problem:
        text += f" Before you use it: {table.problem}."
    yield DraftOption(KEYS["label table"], str(table.path.absolute()), text, is_off=is_off)
    if table.by not in ("file", None):
        yield DraftOption(KEYS["lines about"], table.by, is_off=is_off)
    if table.classes:
        text = "Columns with few different values. Columns that may name people are not listed."
        yield DraftOption(KEYS["label columns"], list(table.classes), text, is_off=is_off)
    unmatched = table.num_lines - table.num_matched
    if unmatched and not is_off:
        text = f"{unmatched} lines match nothing in the source and are skipped; refuse, the default, stops instead."
        yield DraftOption(KEYS["lines that match nothing"], "warn", text)


def _positive(survey: Survey) -> Iterator[DraftOption]:
    for key in survey.label_keys[:1]:
        classes = survey.classes(key)
        if len(classes) == 2 and all(map(names_nobody, classes)):
            positive = next((c for c in sorted(classes) if c.casefold().split("_")[0] not in NEGATIVE), min(classes))
            text = "The positive class of the two, for sensitivity and average precision:"
            yield DraftOption(KEYS["positive class"], {key: positive}, text, is_off=True)


def _masks(images: Images) -> Iterator[DraftOption]:
    if not images.group.num_masks:
        return
    text = (
        f"{images.group.num_masks} of {len(images.group.candidates)} images have a label map. Its values were not read "
        "yet. Name them for the reports, in the order 0, 1, 2... or by value, as {0: background, 255: lesion}:"
    )
    yield DraftOption(KEYS["names of label-map values"], ["background", "class 1"], text, is_off=True)
    text = "If the values number single objects of one class, such as nuclei:"
    yield DraftOption(KEYS["meaning of label-map values"], "instances", text, is_off=True)


def _fields_of_view(survey: Survey) -> Iterator[DraftOption]:
    number = sum(one.num_files for one in survey.refused if one.text == FIELD)
    if number:
        text = (
            f"{number} files are in folders named mask, beside the label maps. If they are fields of view, which are 0 "
            "outside, pixels outside count in neither losses nor metrics with:"
        )
        yield DraftOption(KEYS["fields of view"], list(FIELD_FOLDERS), text, is_off=True)


def _patients(survey: Survey) -> Iterator[DraftOption]:
    count = survey.num_patients
    if not count.assumed:
        return
    text = (
        f"{count.assumed} of {count.total} patients have no identifier, so each image, series or study counts "
        "as one, and images of one person may end up in both training and test. If paths name patients, give a "
        "regular expression with one group for the patient"
    )
    if survey.patients is not None:
        text += (
            f". This one matches every path and finds {survey.patients.num_patients} patients; check that it is right:"
        )
        yield DraftOption(KEYS["patient"], survey.patients.pattern, text, is_off=True)
    else:
        yield DraftOption(KEYS["patient"], r"(patient-\d+)", f"{text}, such as:", is_off=True)


def _splits(survey: Survey) -> Iterator[DraftOption]:
    default = SplitConfig()
    if survey.official_splits:
        names = ", ".join(sorted(survey.official_splits))
        text = (
            f"The source names its splits ({names}), and they are kept. A missing one is taken from train, with "
            "this fraction:"
        )
        yield DraftOption("splits.val", default.val, text, is_off=True)
        return
    if len(_split_names(survey, default)) == len(get_args(Split)):
        yield DraftOption(
            "splits.val",
            default.val,
            "Fractions of the patients. A patient remains in its split when others are added.",
        )
        yield DraftOption("splits.test", default.test)
        return
    salts = (WIDER.model_copy(update={"salt": salt}) for salt in range(NUM_SALTS))
    best = max(salts, key=lambda one: ("train" in (names := _split_names(survey, one)), len(names)))
    text = "With so few patients, most salts leave a split empty; this one does not. Do not trust the results."
    if len(_split_names(survey, best)) < len(get_args(Split)):
        text = "There are too few patients for train, val and test: enough for a first try, not for results."
    yield DraftOption("splits.val", best.val, text)
    yield DraftOption("splits.test", best.test)
    yield DraftOption("splits.salt", best.salt)


def _split_names(survey: Survey, config: SplitConfig) -> set[Split]:
    """Return the splits that are not empty; if some images have labels or label maps, only these images count."""
    answered = [one for one in survey.candidates if one.labels or one.item.mask is not None]
    return {split_of(patient, config) for patient in {one.patient.id for one in answered or survey.candidates}}


def _geometry(survey: Survey) -> Iterator[DraftOption]:
    refused = [one for one in survey.refused if one.code == "geometry"]
    for name, value in (("NIfTI form", "sform"), ("anatomical axes", "LPS")):
        number = sum(one.num_files for one in refused if KEYS[name] in one.text)
        refused = [one for one in refused if KEYS[name] not in one.text]
        if number:
            text = f"{number} files do not state clearly where their voxels are, and are refused unless you decide:"
            yield DraftOption(KEYS[name], value, text, is_off=True)
    if refused:
        text = (
            f"{sum(one.num_files for one in refused)} files do not form a regular grid and are refused. resample puts "
            "tilted, sheared or unevenly spaced slices on one; slices keeps DICOM slices as single images."
        )
        yield DraftOption(KEYS["irregular grids"], "resample", text, is_off=True)


def _tiles(images: Images) -> Iterator[DraftOption]:
    if images.are_slides_mixed:
        text = (
            "The source contains slides and pictures, and pretraining then excludes the slides. Make a dataset of "
            "each; or copy the tiles of slides into the dataset, as pictures:"
        )
        yield DraftOption("tiles.pack", True, text, is_off=True)
    if images.group.kind != "slide":
        return
    coarsest = max((one.mpp for one in images.group.extents if one.mpp is not None), default=MPP["20x"])
    names = [name for name, mpp in sorted(MPP.items(), key=lambda one: one[1]) if name != "40x"]
    magnification = next((name for name in names if coarsest <= MPP[name] * FINER), names[-1])
    text = f"Tiles of tissue, at a magnification that every slide has (the coarsest: {coarsest:.3g} microns per pixel)."
    yield DraftOption("tiles.magnification", magnification, text)
    yield DraftOption("tiles.size", 256)


def _privacy(images: Images, project: Project) -> Iterator[DraftOption]:
    is_dicom = any(one.item.reader == "dicom" for one in images.group.candidates)
    if is_dicom or images.group.modality == "US":
        text = (
            "Images with text burned into their pixels are excluded. mask blanks the text, keep takes them unchanged."
        )
        yield DraftOption(KEYS["text in pixels"], "mask", text, is_off=True)
    if is_dicom:
        text = "A de-identified copy of the DICOM files, beside the dataset:"
        yield DraftOption(KEYS["copy"], project.place("deidentified"), text, is_off=True)


def _card(project: Project) -> Iterator[DraftOption]:
    yield DraftOption(KEYS["license"], "internal research only", "For the data card:", is_off=True)
    yield DraftOption(KEYS["origin"], "radiology archive, 2019 to 2024", is_off=True)
    if project.num_processes > 1:
        yield DraftOption(
            "engine.num_processes", project.num_processes, "There are many files: several processes read them."
        )
