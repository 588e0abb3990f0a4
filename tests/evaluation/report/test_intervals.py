"""Notes name the method of every interval."""

from medvit.evaluation.report.intervals import interval_notes
from medvit.statistics import METHODS, Estimate


def estimate(method):
    return Estimate(0.5, 0.4, 0.6, method)


def test_metrics_are_named_with_the_method_of_their_intervals():
    metrics = {
        "auroc": estimate("bootstrap"),
        "auroc.a": estimate("DeLong"),
        "auroc.b": estimate("DeLong"),
        "sensitivity.a": estimate("Wilson"),
        "sensitivity.b": estimate("Wilson"),
        "brier": estimate("bootstrap"),
        "ece": Estimate(float("nan"), float("nan"), float("nan")),
    }
    assert interval_notes(metrics) == [
        f"95 % intervals of AUROC, Brier score: {METHODS['bootstrap']}.",
        f"95 % intervals of AUROC of each class: {METHODS['DeLong']}.",
        f"95 % intervals of Sensitivity: {METHODS['Wilson']}.",
    ]


def test_classes_with_different_methods_are_named_one_by_one():
    metrics = {"auroc.a": estimate("DeLong"), "auroc.b": estimate("Newcombe")}
    assert [note.partition(":")[0] for note in interval_notes(metrics)] == [
        "95 % intervals of AUROC, a",
        "95 % intervals of AUROC, b",
    ]
