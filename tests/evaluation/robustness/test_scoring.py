"""Metric and error of each task, against scikit-learn or by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medvit.errors import ConfigError
from medvit.evaluation.robustness.scoring import scoring_of
from medvit.models.image import ModelConfig
from medvit.types import Image, Prediction

VIT = {"name": "vit", "patch_size": 8, "width": 12, "depth": 1, "heads": 2, "ndim": 2, "channels": 1}


def model(kind: str, classes: tuple[str, ...], **more: Any) -> ModelConfig:
    head = {"name": "dense", "channels": 4} if kind == "segmentation" else {"name": "linear"}
    tree = {"kind": kind, "backbone": VIT, "peft": {"name": "full"}, "head": head, "classes": classes}
    return ModelConfig.parse({**tree, "label": "" if kind == "segmentation" else "label", **more})


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_the_error_of_a_classification_is_1_minus_the_balanced_accuracy(classes: tuple[str, ...]) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, len(classes), 60)
    found = generator.dirichlet(np.ones(len(classes)), 60)
    metric, error = scoring_of(model("classification", classes)).compute(truth[:, None].astype(float), found)
    assert error == pytest.approx(1.0 - balanced_accuracy_score(truth, found.argmax(axis=1)))
    scores = found[:, 1] if len(classes) == 2 else found
    assert metric == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"))


def test_labels_that_are_unknown_do_not_count() -> None:
    truth = np.array([[1, np.nan], [0, 1], [1, 0], [0, 0]], float)
    found = np.array([[0.9, 0.1], [0.8, 0.7], [0.6, 0.2], [0.1, 0.9]])
    pairs = [["no", "yes"], ["no", "yes"]]
    metric, error = scoring_of(model("multilabel", ("x", "y"), pairs=pairs, label="")).compute(truth, found)
    assert error == pytest.approx(np.mean([1 - (1 + 0.5) / 2, 1 - (1 + 0.5) / 2]))
    assert metric == pytest.approx(np.mean([0.75, 0.5]))


def test_the_error_of_a_regression_is_the_mean_absolute_error() -> None:
    scoring = scoring_of(model("regression", ("label",)))
    assert scoring.compute(np.array([[1.0], [4.0]]), np.array([[2.0], [2.0]])) == (1.5, 1.5)


def test_the_error_of_a_segmentation_is_1_minus_dice_over_the_classes_that_are_there() -> None:
    scoring = scoring_of(model("segmentation", ("background", "one", "two")))
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 255]])
    image = Image(np.zeros((1, 2, 4)), "image", mask=mask)
    given = Prediction(("background", "one", "two"), mask=np.array([[1, 0, 0, 0], [0, 0, 0, 1]]))
    row = cast("Any", SimpleNamespace(annotated=None))
    scores = np.array([scoring.found(row, image, given)])
    assert scores[0, 0] == pytest.approx(2 / 3)  # the ignored pixel (255) does not count
    assert np.isnan(scores[0, 1])
    assert scoring.compute(np.empty((1, 0)), scores) == pytest.approx((2 / 3, 1 / 3))


def test_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="the checkpoint is a survival prediction; medvit robustness supports"):
        scoring_of(model("survival", ("time > 1",), event="event"))
