"""Numbers of operating points, decision curves and resampled metrics are valid JSON and appear on the page."""

from __future__ import annotations

import json

import numpy as np

from medvit.document import Table
from medvit.evaluation import Evaluation
from medvit.evaluation.operating.chosen import Operating, OperatingPlan
from medvit.evaluation.operating_options import OperatingOptions
from medvit.evaluation.report.decision import decision_figure, operating_parts
from medvit.records import Row


def perfect(number: int = 60) -> Evaluation:
    """A model without any error on as many patients: likelihood ratios are infinite."""
    truth = np.arange(number) % 2
    scores = np.where(truth == 1, 0.9, 0.1) + np.linspace(0.0, 0.05, number)
    row = {"study_id": "s", "series_id": "e", "modality": "US", "kind": "image", "dataset": "toy", "split": "test"}
    row |= {"shape": (1, 4, 4), "dtype": "uint8", "sha256": ""}
    rows = tuple(Row(image_id=f"i{n}", patient_id=f"p{n}", **row) for n in range(number))  # type: ignore[arg-type]
    columns = {"truth": truth, "p.well": 1 - scores, "p.ill": scores}
    return Evaluation("classification", ("well", "ill"), rows, {}, columns, positive="ill")


def operating(**options: object) -> Operating:
    plan = OperatingPlan(OperatingOptions.parse(options), (), resamples=100, seed=0)
    return (
        plan.chosen(perfect(), perfect()) if plan.options.goals else plan.with_curves(Operating("image", ()), perfect())
    )


def test_infinite_likelihood_ratios_are_null_in_json() -> None:
    parts = operating_parts(operating(sensitivity=0.9, prevalence=0.1), "test")
    assert [part.name for part in parts] == ["operating_points", "decision_curve", "at_prevalence"]
    numbers = json.loads(json.dumps({part.name: part.numbers for part in parts}, allow_nan=False))
    (point,) = numbers["operating_points"]["points"]
    assert point["evaluated"]["rates"]["lr_positive"]["value"] is None
    assert point["evaluated"]["rates"]["lr_positive"]["low"] > 1.0
    assert len(numbers["decision_curve"]["ill"]["curve"]) == 99
    assert numbers["at_prevalence"]["ill"]["prevalence"] == 0.1


def test_a_prevalence_alone_gives_a_decision_curve_without_points() -> None:
    found = operating(prevalence=0.1)
    assert [part.name for part in operating_parts(found, "test")] == ["decision_curve", "at_prevalence"]
    assert len(decision_figure(found.curves[0]).axes[0].get_lines()) == 3


def test_rates_on_the_val_split_stand_above_those_on_the_evaluated_one() -> None:
    part, *_ = operating_parts(operating(sensitivity=0.9), "test")
    (table,) = [block for block in part.section.blocks if isinstance(block, Table)]
    assert [line[2] for line in table.lines] == ["val", "test"]
