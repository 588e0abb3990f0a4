"""Summary of the demo: metrics with their intervals, and the outputs that a new user should open first."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvit import phantoms
from medvit.metrics import metric_title
from medvit.metrics.dice import dice
from medvit.phantoms.check import masks_with_truth
from medvit.statistics import Estimate
from medvit.tracking import TrackingConfig
from medvit.tracking.options import SQLITE, database

NSD_TOLERANCE_MM = 7.0
"""Side of a voxel of the phantoms, in mm."""


@dataclass(frozen=True)
class NewStudies:
    """Number and seed of the CT phantoms that the demo predicts on."""

    number: int
    seed: int


@dataclass(frozen=True)
class FirstLook:
    """Output to look at first: its kind, the file or the command, a description, and a file that must exist."""

    kind: str
    where: str
    what: str
    path: Path


def summary(root: Path, studies: NewStudies, looks: Sequence[FirstLook]) -> str:
    """Return the metrics with their intervals, then the outputs to look at first."""
    found = new_dice(root / "ct-predictions", studies).values()
    lines = [
        "",
        "Phantoms are drawings: these numbers show that the pipeline works, and nothing about patients.",
        "",
        "Organs in CT, 3D, LoRA on a pretrained backbone       value [95 % interval over patients]",
        *figures(root / "ct-report", ("dice", "hd95_mm", "nsd")),
        f"  (surfaces within {NSD_TOLERANCE_MM:g} mm, a voxel, count as equal)",
        f"  {'Dice, new DICOM studies':52s}{', '.join(f'{one:.3f}' for one in found)} (masks read back)",
        "Opacities in radiographs, 2D, all weights of a pretrained backbone",
        *figures(root / "radiograph-report", ("auroc", "average_precision", "balanced_accuracy")),
        "Tumor in whole slides, gated attention over tiles",
        *figures(root / "slide-report", ("auroc", "balanced_accuracy", "patient_auroc")),
        "Retinopathy in photographs of both eyes, the worse one decides",
        *figures_by_level(root / "eye-report", "auroc"),
        "",
        "Look at these first",
        *(f"  {one.kind:8s} {one.where}\n{'':11s}{one.what}" for one in looks),
        "",
        f"The rest is in {root}",
        "  *-report       report.html of each model",
        "  *-predictions  results for new studies; status.csv has the reason why a CT study that lacks a slice "
        "was refused",
        "  ct, radiographs, slides, eyes, oct: the datasets, with a card.md each",
    ]
    return "\n".join(lines) + "\n"


def first_look(root: Path, studies: NewStudies, tracking: TrackingConfig) -> list[FirstLook]:
    """Return the outputs to look at first: two pictures, a report and a DICOM object.

    The MLflow page is added if runs were recorded.
    """
    found = new_dice(root / "ct-predictions", studies)
    organs, slide = max(found, key=found.__getitem__), likeliest(root / "slide-predictions", "tumor")
    segmentation, report = organs / "segmentation.dcm", root / "eye-report" / "report.html"
    looks = [
        _file("picture", organs / "preview.png", "organs segmented in a new CT study"),
        _file("picture", slide / "preview.png", "a new slide with attention and tumor maps"),
        _file("report", report, "for a browser: grades by eye, visit and patient, each metric with its interval"),
        _file("DICOM", segmentation, f"the organs, for 3D Slicer or OHIF; as text: {program('pydicom')} show FILE"),
    ]
    store = database(tracking)
    if tracking.enabled and store is not None:
        command = f"{program('mlflow')} ui --backend-store-uri {SQLITE}{store.absolute()}"
        looks.append(
            FirstLook("MLflow", command, "then http://127.0.0.1:5000: options and curves of each stage", store)
        )
    return looks


def _file(kind: str, path: Path, what: str) -> FirstLook:
    return FirstLook(kind, str(path), what, path)


def program(name: str) -> Path:
    """Return the path of a program in the environment of the demo."""
    return Path(sys.executable).with_name(name)


def likeliest(predictions: Path, label: str) -> Path:
    """Return the folder of the study for which a class has its highest probability."""
    with (predictions / "predictions.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["class"] == label]
    return predictions / max(lines, key=lambda line: float(line["probability"]))["study"]


def figures(report: Path, names: tuple[str, ...]) -> list[str]:
    """Return one line for each metric of a report whose name begins with one of `names`."""
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return [_figure(name, metrics[name]) for name in metrics if name.startswith(names)]


def figures_by_level(report: Path, name: str) -> list[str]:
    """Return one line with a metric at each aggregation level except images: eye, visit and patient.

    Images are omitted because each eye has only one image per visit.
    """
    levels = json.loads((report / "metrics.json").read_text(encoding="utf-8"))["breakdowns"]["By level"]
    return [_figure(name, one["metrics"][name], f", by {one['name']}") for one in levels if one["name"] != "image"]


def _figure(name: str, stored: Mapping[str, Any], part: str = "") -> str:
    undefined = float("nan")  # null in JSON stands for an undefined metric
    value, low, high = (undefined if stored[key] is None else stored[key] for key in ("value", "low", "high"))
    return f"  {metric_title(name, stored.get('positive', '')) + part:52s}{Estimate(value, low, high)}"


def new_dice(predictions: Path, studies: NewStudies) -> dict[Path, float]:
    """Return the mean Dice over organs for each new study, keyed by the folder of the study.

    The predicted NIfTI file is compared with the true label map of the phantom.
    """
    organs = range(1, len(phantoms.CT_CLASSES))
    return {
        path.parent: float(np.mean([dice(truth == k, mask == k) for k in organs]))
        for path, truth, mask in masks_with_truth(predictions, studies.number, seed=studies.seed)
    }
