"""Evaluations from known probabilities, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.records import Row

Evaluated = Callable[..., Evaluation]


@pytest.fixture
def evaluated() -> Evaluated:
    """A classification of images with these true classes and probabilities; each patient has some images."""

    def make(
        truth: Sequence[int] | Array, probabilities: Array, classes: tuple[str, ...], *, images: int = 1
    ) -> Evaluation:
        rows = tuple(
            Row(
                image_id=f"i{n}",
                patient_id=f"p{n // images}",
                study_id=f"s{n // images}",
                series_id="e",
                modality="US",
                kind="image",
                dataset="toy",
                split="test",
                shape=(1, 4, 4),
                dtype="uint8",
                sha256="",
            )
            for n in range(len(truth))
        )
        columns = {"truth": np.asarray(truth)} | {f"p.{c}": probabilities[:, n] for n, c in enumerate(classes)}
        positive = classes[-1] if len(classes) == 2 else ""
        return Evaluation("classification", classes, rows, {}, columns, positive=positive)

    return make
