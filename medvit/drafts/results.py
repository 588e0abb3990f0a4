"""Drafts of evaluate and predict."""

from __future__ import annotations

from medvit.drafts.draft import Draft, DraftOption
from medvit.drafts.images import Images, Project
from medvit.drafts.training import DraftedTask
from medvit.ingest.survey.found import Survey


def draft_evaluate(survey: Survey, images: Images, project: Project, task: DraftedTask, suffix: str) -> Draft:
    """Return the configuration that measures the model of a task on the test split."""
    about = "Measure the model on the test split, with 95 % intervals from a bootstrap over patients. Open report.html."
    if survey.num_patients.assumed:
        about += " Some patients are assumed: if test images show people of the training split, results are too good."
    entries = [
        DraftOption("checkpoint", project.place(f"model{suffix}")),
        DraftOption("dataset", project.place("dataset")),
        DraftOption("output", project.place(f"report{suffix}")),
        DraftOption("split", "test", "Compare models on val; use test once, at the end."),
    ]
    if task == "segmentation":
        spacing = images.group.median_spacing_mm if images.group.kind == "volume" else None
        tolerance = float(f"{max(spacing):.2g}") if spacing else 2.0
        text = "Surfaces closer than this agree: about a voxel, in mm; in pixels, if images have no physical scale."
        entries.append(DraftOption("nsd_tolerance_mm", tolerance, text))
    text = "The report of another model on the same split, to test the difference:"
    entries.append(DraftOption("against", project.place("other-report"), text, is_off=True))
    return project.draft("evaluate", about, entries, suffix=suffix)


def draft_predict(images: Images, project: Project, task: DraftedTask, suffix: str) -> Draft:
    """Return the configuration that runs the model of a task on new studies."""
    about = (
        "Run the model on new studies: give source=FOLDER. DICOM results name their patients so that they can return "
        "to the archive, and the output folder is readable by you alone."
    )
    entries = [
        DraftOption("checkpoint", project.place(f"model{suffix}")),
        DraftOption("output", project.place(f"predictions{suffix}")),
    ]
    if images.group.kind == "volume":
        text = "If several series of a study fit, best takes the one with the most slices, all takes each."
        entries.append(DraftOption("series", "best", text))
    if not images.group.modality and images.group.kind != "slide":
        text = "The model's modality is unknown. In DICOM studies, use series of this one:"
        modality = "CT" if images.group.kind == "volume" else "DX"
        entries.append(DraftOption("applies_to.modality", modality, text, is_off=True))
    if task == "segmentation" and any(one.item.reader == "dicom" for one in images.group.candidates):
        text = "Coded terms for DICOM SEG (SCHEME:VALUE:MEANING), for classes that are not found by name:"
        entries.append(DraftOption("codes", {"class 1": "99LOCAL:1:Class 1"}, text, is_off=True))
    return project.draft("predict", about, entries, suffix=suffix, more="source=NEW_STUDIES")
