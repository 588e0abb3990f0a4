"""Cases of a classification that are positive or negative, with a score each: images, eyes, visits or patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.evaluation.aggregation import AggregationLevel, answers, are_ordered, at_level, from_harmless, ranks
from medvit.evaluation.positive import index_of
from medvit.tasks import class_list


@dataclass(frozen=True)
class Cases:
    """Truth, score and patient of N cases."""

    is_positive: Bool[Array, "n"]
    scores: Float[Array, "n"]
    """Summed probability of the positive classes."""
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def prevalence(self) -> float:
        """Share of positive cases."""
        return float(self.is_positive.mean())

    def num_patients(self, *, positive: bool) -> int:
        """Return the number of patients with a positive case, or with a negative one."""
        return len({name for name, own in zip(self.patients, self.is_positive, strict=True) if own == positive})


def positive_groups(evaluation: Evaluation, asked: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the groups of classes that count as positive together, each against all other classes.

    Raises:
        ConfigError: If `asked` names a class that the model does not have, or all of its classes.
    """
    unknown = [name for name in asked if name not in evaluation.classes]
    if unknown:
        raise ConfigError(
            f"operating.positive names {', '.join(unknown)}; the model has {class_list(evaluation.classes)}"
        )
    if evaluation.kind == "multilabel":
        return [(name,) for name in asked or evaluation.classes]
    if set(asked) == set(evaluation.classes):
        raise ConfigError("operating.positive names all classes of the model; leave out those that are negative")
    if asked:
        return [tuple(name for name in evaluation.classes if name in asked)]
    if len(evaluation.classes) == 2:
        return [(evaluation.classes[index_of(evaluation.positive, evaluation.classes)],)]
    return [(name,) for name in evaluation.classes]


def cases_of(
    evaluation: Evaluation, positive: Sequence[str], level: AggregationLevel, order: Sequence[str] = ()
) -> Cases:
    """Return the cases of an evaluation at an aggregation level; `order` names the classes from harmless to worst.

    For several labels, images without the label do not count, and the only level is `image`.

    Raises:
        ConfigError: If another level is requested for several labels.
    """
    if evaluation.kind == "multilabel":
        return _of_label(evaluation, positive, level)
    classes = evaluation.classes
    images = answers(evaluation.rows, evaluation.truth, evaluation.probabilities)
    worst = index_of(evaluation.positive, classes)
    rank = ranks(classes, order or from_harmless(classes, worst))
    found = at_level(images, level, is_ordered=bool(order) or are_ordered(classes), rank=rank)
    columns = [classes.index(name) for name in positive]
    scores = found.probabilities[:, columns].astype(np.float64).sum(axis=1)
    return Cases(np.isin(found.truth, columns), scores, found.patients)


def _of_label(evaluation: Evaluation, positive: Sequence[str], level: AggregationLevel) -> Cases:
    if level != "image":
        raise ConfigError(f"operating.level={level} is for a single label, and the model predicts several; use image")
    (label,) = positive
    truth = evaluation.columns[f"truth.{label}"]
    known = np.flatnonzero(~np.isnan(truth))
    patients = tuple(evaluation.rows[index].patient_id for index in known)
    return Cases(truth[known] == 1.0, evaluation.columns[f"p.{label}"][known].astype(np.float64), patients)
