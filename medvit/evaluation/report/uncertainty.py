"""Parts of a report about uncertainty: coverage of prediction sets, and the metric if the model abstains."""

from __future__ import annotations

from collections.abc import Sequence

from medvit.document import Block, Picture, Section, Table
from medvit.evaluation import Evaluation
from medvit.evaluation.judged import Judged
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report import plots
from medvit.evaluation.uncertainty.abstention import SHOWN, AbstentionCurve, abstention_curves
from medvit.evaluation.uncertainty.coverage import CoverageRow, coverage_rows
from medvit.inference.out_of_fold import StoredPredictions
from medvit.metrics import metric_title
from medvit.models.conformal import Conformal
from medvit.statistics import Estimate

DPI = 192
"""Pixels per inch of the pictures."""
SAME_PATIENTS = (
    "the prediction sets of this model were computed from these predictions, so their coverage is not evaluated; "
    "evaluate the checkpoint on other patients"
)
SELECTED_SPLIT = "coverage is evaluated on images of the {} split, for which it may be too high; split=test has others"
GUARANTEE = (
    "Conformal prediction ({method}), computed from {patients} calibration patients, which were used for nothing else. "
    "Over many models and calibration patients, sets contain the truth of an image of a new patient with a probability "
    "of at least {coverage:g}. A single evaluation varies about this, because calibration and test patients are few. "
    "The guarantee is for all patients together, not for a class or a subgroup. Each patient has the same weight, "
    "whatever the number of images. Intervals are 95 %, over patients."
)
ABSTENTION = (
    "The metric of the patients with the most confident predictions, if all others are left to a person. Patients are "
    "ordered by the mean confidence of their images. AURC is the mean risk ({risk}) over all numbers of kept patients; "
    "lower is better. A random order has the risk of all patients."
)
RISKS = {"accuracy": "share of wrong images", "mae": "mean absolute error"}


def judged_sets(judged: Judged) -> tuple[Conformal | None, list[str]]:
    """Return the conformal prediction of a model whose coverage can be evaluated, and notes for the report."""
    conformal = judged.predictor.config.conformal
    if conformal is None:
        return None, []
    if isinstance(judged.predictor, StoredPredictions):
        return None, [SAME_PATIENTS]
    if judged.split == "calibration" and judged.is_same_dataset:
        return None, [SAME_PATIENTS]
    used = judged.split in ("train", "val") and judged.is_same_dataset
    return conformal, [SELECTED_SPLIT.format(judged.split)] if used else []


def uncertainty_parts(
    evaluation: Evaluation, conformal: Conformal | None, attributes: Sequence[str], *, resamples: int, seed: int
) -> list[ReportPart]:
    """Return the parts of a report: prediction sets if the model has them, and abstention where it applies.

    `attributes` are those by which subgroups are compared.
    """
    how = {"resamples": resamples, "seed": seed}
    curves = abstention_curves(evaluation, **how)
    rows = [] if conformal is None else coverage_rows(evaluation, conformal, attributes, **how)
    parts = [] if conformal is None else [coverage_part(rows, conformal)]
    return [*parts, *([abstention_part(curves)] if curves else [])]


def coverage_part(rows: Sequence[CoverageRow], conformal: Conformal) -> ReportPart:
    """Return the coverage of prediction sets or intervals for `metrics.json` and the page."""
    is_of_sets = rows[0].empty is not None
    head = ["label", "images", "number", "patients", "coverage", "mean size" if is_of_sets else "mean width"]
    head += ["empty", "single"] * is_of_sets
    has_labels = any(row.label for row in rows)
    lines = [_line(row)[not has_labels :] for row in rows]
    patients = " or ".join(str(one) for one in sorted(set(conformal.patients)))
    text = GUARANTEE.format(method=conformal.method, patients=patients, coverage=conformal.coverage)
    blocks: list[Block] = [text, Table(head[not has_labels :], lines)]
    numbers = {"conformal": conformal.tree(), "coverage": [_numbers(row) for row in rows]}
    title = "Prediction sets" if is_of_sets else "Prediction intervals"
    return ReportPart(ReportPlace.UNCERTAINTY, Section(title, blocks), "prediction_sets", numbers)


def abstention_part(curves: Sequence[AbstentionCurve]) -> ReportPart:
    """Return the metric over the share of kept patients for `metrics.json` and the page."""
    metric = curves[0].metric
    head = [f"{metric_title(metric)}, order by", *(curve.order for curve in curves)]
    lines = [
        *([f"{100 * share:g} % of patients kept", *(str(one.values[share]) for one in curves)] for share in SHOWN),
        ["AURC", *(str(one.aurc) for one in curves)],
        ["AURC, random order", *(f"{one.random:.3f}" for one in curves)],
        ["AURC, best order", *(f"{one.best:.3f}" for one in curves)],
    ]
    numbers = {
        "metric": metric,
        "curves": [
            {
                "order": curve.order,
                "values": {f"{share:g}": one.plain for share, one in curve.values.items()},
                "aurc": curve.aurc.plain,
                "aurc_random": curve.random,
                "aurc_best": curve.best,
            }
            for curve in curves
        ],
    }
    figure = plots.abstention_figure(curves)
    figure.set_dpi(DPI)
    caption = f"{metric_title(metric)} over the share of kept patients, with 95 % intervals"
    blocks: list[Block] = [ABSTENTION.format(risk=RISKS[metric]), Table(head, lines), [Picture.of("", caption, figure)]]
    return ReportPart(ReportPlace.UNCERTAINTY, Section("Abstention", blocks), "abstention", numbers)


def _line(row: CoverageRow) -> list[object]:
    shares = [str(one) for one in (row.empty, row.single) if one is not None]
    size = str(row.size)
    return [row.label, row.name, row.num_images, row.num_patients, str(row.coverage), size, *shares]


def _numbers(row: CoverageRow) -> dict[str, object]:
    estimates: dict[str, Estimate | None] = {"coverage": row.coverage, "size": row.size}
    estimates |= {"empty": row.empty, "single": row.single}
    plain = {name: one.plain for name, one in estimates.items() if one is not None}
    label = {"label": row.label} if row.label else {}
    return label | {"name": row.name, "images": row.num_images, "patients": row.num_patients, **plain}
