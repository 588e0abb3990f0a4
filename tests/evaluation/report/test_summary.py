"""Numbers of an evaluation as the terminal and MLflow get them."""

from __future__ import annotations

from medvit.evaluation.report.summary import tracked
from medvit.metrics import metric_title
from medvit.statistics import Estimate


def test_numbers_of_one_of_two_classes_bear_its_name() -> None:
    one = Estimate(0.5, 0.4, 0.6)
    found = tracked({"sensitivity": one, "patient_specificity": one, "auroc": one}, "test", "cancer")
    assert found.keys() >= {
        "test.sensitivity.cancer",
        "test.sensitivity.cancer.lower",
        "test.patient_specificity.cancer",
    }
    assert "test.auroc" in found
    assert metric_title("patient_sensitivity", "cancer") == "Sensitivity, of patients (positive: cancer)"
    assert metric_title("auroc", "cancer") == "AUROC"
