"""What the demo draws and what it says of it; `make demo` runs the whole."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medvit import phantoms
from pipelines.demo import NEW_SEED, NEW_STUDIES, DemoConfig, draw_phantoms, figures, new_dice

SMALL = DemoConfig(num_volumes=4, num_unlabeled=3, num_radiographs=20).model_copy(update={"num_slides": 2})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_phantoms(tmp_path_factory.mktemp("demo") / "phantoms", SMALL)


def write_truths(folder: Path, *, seed: int, shift: int = 0) -> None:
    for number in range(1, NEW_STUDIES):
        labels, affine = phantoms.ct_labels(number, seed=seed + NEW_SEED)
        turned = nib.Nifti1Image(np.roll(labels, shift, axis=0), affine.matrix).as_reoriented(
            np.array([[1, -1], [0, 1], [2, -1]])
        )
        (folder / f"s-{number}").mkdir()
        nib.save(turned, folder / f"s-{number}" / "mask.nii.gz")


def test_new_studies_are_not_among_the_training_images(drawn: Path) -> None:
    new = {path.read_bytes() for path in (drawn / "new-radiographs").rglob("*.dcm")}
    assert len(new) == 6
    assert len(list((drawn / "new-studies").iterdir())) == NEW_STUDIES
    assert len(list((drawn / "ct" / "images").iterdir())) == 4
    assert len(list((drawn / "ct" / "unlabeled").iterdir())) == 3


def test_one_new_study_lacks_one_slice(drawn: Path) -> None:
    num_slices = [len(list((study / "abdomen").iterdir())) for study in sorted((drawn / "new-studies").iterdir())]
    assert num_slices == [31, 32, 32, 48]  # axial three times, the first without one of its 32, then coronal


def test_drawing_twice_draws_once(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert draw_phantoms(drawn, SMALL) == drawn
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_the_truth_in_any_orientation_has_a_dice_of_one(tmp_path: Path) -> None:
    write_truths(tmp_path, seed=0)
    assert list(new_dice(tmp_path, DemoConfig())) == [1.0] * (NEW_STUDIES - 1)


def test_a_mask_in_the_wrong_place_has_a_low_dice(tmp_path: Path) -> None:
    write_truths(tmp_path, seed=0, shift=12)
    assert max(new_dice(tmp_path, DemoConfig())) < 0.5


def test_figures_come_with_their_interval(tmp_path: Path) -> None:
    metrics = {
        "dice.liver": {"value": 0.9, "low": 0.85, "high": 0.95},
        "auroc": {"value": 0.7, "low": 0.6, "high": 0.8},
    }
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": metrics}), encoding="utf-8")
    (line,) = figures(tmp_path, ("dice",))
    assert "liver" in line
    assert line.endswith("0.900 [0.850, 0.950]")
