"""Scores of a model: which cases and pixels count is decided by the truth alone."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medvit.curves.trial import score_images
from medvit.dataset.manifest import Manifest
from medvit.errors import NonFiniteError, TrainingError
from medvit.records import IGNORED
from medvit.types import Image, Prediction
from tests.training.conftest import dataset, row

CONFIG = SimpleNamespace(kind="segmentation", classes=("background", "ball", "cube"), label="")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Label maps with both classes and an ignored row, with the first class alone, and empty."""
    source = Manifest.read(dataset(tmp_path_factory.mktemp("trial") / "dataset", ndim=3))
    both, ball, empty = (np.zeros((4, 4, 4), dtype=np.uint8) for _ in range(3))
    both[0], both[1], both[3], ball[0] = 1, 2, IGNORED, 1
    voxels = np.ones((1, 4, 4, 4), dtype=np.int16)
    rows = [row(source, number, "val", voxels, mask, {}) for number, mask in enumerate((both, ball, empty))]
    return Manifest(tuple(rows), source.facts, Path(source.folder))


@pytest.mark.parametrize("everywhere", [0, 1, 2])
def test_cases_and_classes_count_whatever_is_predicted(manifest: Manifest, everywhere: int) -> None:
    def predict(image: Image) -> Prediction:
        assert image.mask is not None
        return Prediction(CONFIG.classes, mask=np.full_like(image.mask, everywhere))

    dice = [2 * 16 / (16 + 48), 2 * 16 / (16 + 64)]  # the ignored pixels of the first image do not count
    expected = {0: (0, 0), 1: (dice[0] / 2, dice[1]), 2: (dice[0] / 2, 0)}[everywhere]
    scores = score_images(predict, CONFIG, manifest)
    assert scores.score[:2] == pytest.approx(expected)
    assert np.isnan(scores.score[2])


def test_an_output_that_is_not_finite_counts_as_a_training_that_diverged(manifest: Manifest) -> None:
    def predict(image: Image) -> Prediction:
        raise NonFiniteError("2 of 2 predicted probabilities are not finite")

    with pytest.raises(TrainingError, match="not finite"):
        score_images(predict, CONFIG, manifest)
