"""Metrics that Metrics Reloaded recommends for a problem, and which of them an evaluation reports.

Source: Maier-Hein et al., Metrics Reloaded, Nature Methods 2024;21:195-212. The fingerprint of the problem is derived
from the evaluation where this is possible; what only the team can judge is listed as a question. The categories and
pools of metrics are those of the paper. When a metric of a pool applies is partly our reading, which the page marks.
Detection of objects, regression and survival are not covered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medvit.document import Bullets, Section, Table
from medvit.evaluation import Evaluation
from medvit.evaluation.part import ReportPart, ReportPlace

TITLE = "Metrics for this problem"
MEANING = (
    "Metrics that Metrics Reloaded (Maier-Hein et al., Nature Methods 2024) lists for problems of this kind, with the "
    "property of the problem that calls for each. A metric that is absent is not always needed: the team decides, by "
    "the questions below. Rows marked * are our reading of the paper, not its text."
)
REPORTED, ABSENT = "reported", "absent"
IMBALANCE = 3.0
"""Ratio of the most to the least frequent class from which classes are called imbalanced; our choice."""


@dataclass(frozen=True)
class Recommended:
    """Metric of a pool: its name, when it applies, and the keys of `metrics.json` that report it."""

    name: str
    when: str
    keys: tuple[str, ...]
    is_reading: bool = False
    """Whether `when` is our reading of the paper."""


OF_CLASSES = (
    Recommended("Balanced accuracy", "classes count equally", ("balanced_accuracy",), True),
    Recommended("Matthews correlation coefficient", "one number that shows false positives of rare classes", ()),
    Recommended("Expected cost", "errors are not equally bad", ()),
    Recommended("Accuracy", "the frequencies of the classes are those of the population", ("accuracy",), True),
)
OF_GRADES = Recommended("Weighted kappa", "classes are ordered", ("kappa_quadratic",), True)
OF_POSITIVES = (
    Recommended("Sensitivity and specificity", "independent of prevalence", ("sensitivity", "specificity"), True),
    Recommended("Positive likelihood ratio", "independent of prevalence", ("operating_points",), True),
    Recommended("Sensitivity at a set specificity, and the reverse", "a threshold is used", ("operating_points",)),
    Recommended("Predictive value at a set sensitivity", "a threshold is used", ("operating_points",)),
    Recommended("Net benefit", "costs of use are known", ("decision_curve",), True),
)
OF_THRESHOLDS = (
    Recommended("AUROC", "default over all thresholds", ("auroc", "auroc_macro"), True),
    Recommended(
        "Average precision",
        "the rare positive class is what counts",
        ("average_precision", "average_precision_macro"),
        True,
    ),
)
OF_CALIBRATION = (
    Recommended("Brier score", "probabilities are used: calibration and discrimination together", ("brier",)),
    Recommended("Expected calibration error", "probabilities are used: calibration alone", ("ece",)),
)
OF_PIXELS = (
    Recommended("Dice (or IoU, not both)", "default overlap", ("dice",)),
    Recommended("Normalized surface distance", "imprecise outlines are to be forgiven", ("nsd",)),
    Recommended("HD95", "outliers of the boundary are to be disregarded", ("hd95_mm", "hd95_px")),
    Recommended("Mean average surface distance", "default boundary metric by distance", ()),
    Recommended("Centerline Dice", "structures are tubular", ()),
    Recommended("Volume error", "the volume matters", ("volume_bias_ml", "volume_error_ml")),
    Recommended("Lesion-wise F1 and false positives", "structures are small or many", ("lesion_f1", "false_lesions")),
)
QUESTIONS_OF_IMAGES = (
    "Are some confusions worse than others? If so, an expected cost shows this.",
    "Are the frequencies of the classes those of the patients that the model is used on? If not, avoid accuracy, "
    "predictive values and average precision, or state them at the prevalence of use.",
    "Are probabilities used as such, and not only the class? If so, calibration matters.",
)
QUESTIONS_OF_PIXELS = (
    "Does the boundary, the volume or the center of a structure matter most?",
    "Are structures tubular, such as vessels? If so, the centerline Dice belongs beside the Dice.",
    "How far apart are two annotators? The tolerance of the surface distance follows from this.",
)


def recommended_parts(evaluation: Evaluation, parts: Collection[str]) -> list[ReportPart]:
    """Return the part with recommended metrics; empty for problems that are not covered, and for several tasks.

    `parts` are the names of the other parts of the report, such as `operating_points`.
    """
    pool = _pool(evaluation)
    if not pool:
        return []
    known = {key.partition(".")[0] for key in evaluation.metrics} | set(parts)
    lines = [[f"{one.name}{' *' * one.is_reading}", one.when, _state(one, known)] for one in pool]
    fingerprint = _fingerprint(evaluation)
    questions = QUESTIONS_OF_PIXELS if evaluation.kind == "segmentation" else QUESTIONS_OF_IMAGES
    section = Section(
        TITLE,
        [
            MEANING,
            Table(["problem", ""], list(fingerprint.items()), is_text=True),
            Table(["metric", "recommended if", "in this report"], lines, is_text=True),
            "Questions that only the team can answer:",
            Bullets(list(questions)),
        ],
        is_folded=True,
    )
    numbers = {"problem": dict(fingerprint), "metrics": {one.name: _state(one, known) for one in pool}}
    return [ReportPart(ReportPlace.CHECKLISTS, section, "metrics_reloaded", numbers)]


def _state(one: Recommended, known: Collection[str]) -> str:
    return REPORTED if any(key in known for key in one.keys) else ABSENT


def _pool(evaluation: Evaluation) -> Sequence[Recommended]:
    if evaluation.kind == "segmentation":
        return OF_PIXELS
    if evaluation.kind == "multilabel":
        return (*OF_POSITIVES, *OF_THRESHOLDS, *OF_CALIBRATION)
    if evaluation.kind != "classification":
        return ()
    graded = (OF_GRADES,) if evaluation.is_graded or len(evaluation.classes) > 2 else ()
    return (*OF_CLASSES, *graded, *OF_POSITIVES, *OF_THRESHOLDS, *OF_CALIBRATION)


def _fingerprint(evaluation: Evaluation) -> Mapping[str, str]:
    """Return the properties of the problem that follow from the evaluation."""
    if evaluation.kind == "segmentation":
        return {"category": "classes of pixels (semantic segmentation)", **_structures(evaluation)}
    if evaluation.kind == "multilabel":
        return {"category": "classes of images, several labels each", "labels": str(len(evaluation.classes))}
    counts = np.bincount(evaluation.truth, minlength=len(evaluation.classes))
    ratio = counts.max() / counts.min() if counts.min() else np.inf
    balance = "a class has no image" if not np.isfinite(ratio) else f"most to least frequent class {ratio:.1f} to 1"
    return {
        "category": "classes of images",
        "classes": str(len(evaluation.classes)),
        "order": "ordered grades" if evaluation.is_graded else "not stated to be ordered",
        "balance": f"{balance}: {'imbalanced' if ratio >= IMBALANCE else 'balanced'}",
    }


def _structures(evaluation: Evaluation) -> Mapping[str, str]:
    """Return how often a class is missing in an image, over the classes and images whose truth is known."""
    sizes = [values for name, values in evaluation.columns.items() if name.startswith("true_voxels.")]
    if not sizes:
        return {}
    known = np.concatenate([values[np.isfinite(values)] for values in sizes])
    empty = float((known == 0).mean()) if known.size else 0.0
    rule = "; values of both empty and of one empty are defined by the notes" if empty else ""
    return {"empty reference": f"{100 * empty:.0f} % of classes and images{rule}"}
