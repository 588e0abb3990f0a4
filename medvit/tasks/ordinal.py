"""Ordinal classification: one of several ordered grades for each image, by the CORN loss.

The predicted grade is the median grade, not the most probable one (`medvit.metrics.confusion`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Num
from numpy import ndarray as Array
from torch import Tensor

from medvit.errors import DataError
from medvit.losses.class_balance import ClassBalance
from medvit.losses.ordinal import grade_probabilities, ordinal_loss
from medvit.losses.supervised import Loss
from medvit.metrics.confusion import confusion_matrix, median_grade
from medvit.metrics.kappa_quadratic import METRIC as KAPPA
from medvit.metrics.kappa_quadratic import are_grades, quadratic_kappa
from medvit.records import Row
from medvit.tasks import LabelFacts, LossOptions, Target, class_list
from medvit.tasks.classification import Classification, class_counts


class Ordinal(Classification):
    """Classification of L grades by L - 1 logits, each for exceeding a grade, given that this grade is reached."""

    name = "ordinal"
    metric = KAPPA.key()

    def target(self, rows: Sequence[Row], labels: Sequence[str], facts: LabelFacts) -> Target:
        """Return the label and its grades.

        Raises:
            DataError: If the classes are not at least three whole numbers in ascending order.
        """
        (label,) = labels
        classes = tuple(facts.classes.get(label, ()))
        grades = _grades(classes) if are_grades(classes) else []
        if not grades or grades != sorted(set(grades)):
            raise DataError(
                f"task=ordinal needs at least three grades, which are whole numbers in ascending order; {label} has "
                f"{class_list(classes, 'no classes')}: use task=classification, or number the classes in the label "
                "table"
            )
        return Target(label, classes)

    def num_outputs(self, target: Target) -> int:
        """Return the number of grades minus one; there is a logit for every grade but the first."""
        return len(target.classes) - 1

    def loss(self, rows: Sequence[Row], target: Target, options: LossOptions) -> Loss:
        """Return the CORN loss, with weights for the grades if requested.

        Raises:
            DataError: If logit adjustment is requested, which needs one logit per class.
        """
        if options.balance == "logits":
            raise DataError(
                "balance=logits needs a logit for each class, which task=ordinal does not have; set "
                "balance=loss, deferred, sampler, repeat or off"
            )
        return ordinal_loss(ClassBalance(options.balance, class_counts(rows, target)))

    def predictions(self, logits: Float[Tensor, "b o"], target: Target) -> Float[Tensor, "b l"]:
        """Return the probability of each grade."""
        return grade_probabilities(logits)

    def score(self, truth: Num[Array, "n"], predictions: Float[Array, "n l"], target: Target) -> float:
        """Return the quadratic-weighted kappa of the median grades."""
        counts = confusion_matrix(truth, median_grade(predictions), len(target.classes))
        return quadratic_kappa(counts, _grades(target.classes))


def _grades(classes: Sequence[str]) -> list[int]:
    return [int(name) for name in classes]


TASK = Ordinal()
