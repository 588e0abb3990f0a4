"""The quality gate flags what is unlike the validation predictions, and few of these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.errors import DataError
from medvit.geometry import Affine
from medvit.inference.review.gate import FLAGGED, GATE, MAX_FLAGGED, MIN_IMAGES, Amounts, QualityGate
from medvit.types import Prediction

CLASSES = ("background", "liver", "spleen")


def prediction(liver: list[int], spleen: int = 4) -> Prediction:
    """Cubes of classes with the given sides in voxels of 1 mL, apart from each other."""
    mask = np.zeros((40, 12, 40), np.uint8)
    for number, side in enumerate(liver):
        mask[12 * number : 12 * number + side, :side, :side] = 1
    mask[:spleen, :spleen, 30 : 30 + spleen] = 2
    return Prediction(CLASSES, mask=mask, affine=Affine.from_spacing((10.0, 10.0, 10.0)))


def amounts(volume_ml: float, components: int = 1) -> Amounts:
    return Amounts({"liver": volume_ml}, {"liver": components})


def test_volumes_and_components_are_those_of_the_mask() -> None:
    found = Amounts.of(prediction([5, 3]))
    assert found is not None
    assert found.volumes_ml == pytest.approx({"liver": 125 + 27, "spleen": 64})
    assert found.components == {"liver": 2, "spleen": 1}
    assert Amounts.of(prediction([10, 1])).components["liver"] == 1  # type: ignore[union-attr] # 1 of 1001 is tiny
    assert Amounts.of(prediction([], 0)).components == {"liver": 0, "spleen": 0}  # type: ignore[union-attr]
    assert Amounts.of(Prediction(CLASSES, mask=np.zeros((4, 4), np.uint8))) is None


def test_what_is_outside_of_the_validation_volumes_is_flagged_with_the_limits() -> None:
    gate = QualityGate.of([amounts(volume) for volume in np.linspace(1000, 2000, 500)])
    assert gate is not None
    assert gate.tail == 0.01
    assert gate.classes["liver"].low_ml == pytest.approx(1010)
    assert gate.flags(amounts(1500)) == []
    for volume in (0.0, 1005.0, 2500.0):
        (flag,) = gate.flags(amounts(volume))
        assert flag.startswith(FLAGGED)
        assert "1010 to 1990 mL in validation" in flag


def test_several_components_are_flagged_where_one_is_usual_only() -> None:
    usual = QualityGate.of([amounts(1000.0 + n) for n in range(100)])
    split = QualityGate.of([amounts(1000.0 + n, 1 + n % 2) for n in range(100)])
    assert usual is not None
    assert split is not None
    assert usual.flags(amounts(1050.0, 3)) == [f"{FLAGGED}liver has 3 components, and one in validation"]
    assert split.flags(amounts(1050.0, 3)) == []


@pytest.mark.parametrize("num_images", [20, 37, 100, 400])
@pytest.mark.parametrize("num_classes", [1, 5, 20])
def test_at_most_one_in_twenty_validation_images_is_flagged(num_images: int, num_classes: int) -> None:
    generator = np.random.default_rng(num_images)
    names = [f"organ {n}" for n in range(num_classes)]
    found = [
        Amounts(
            dict(zip(names, generator.lognormal(size=num_classes).tolist(), strict=True)),
            dict(zip(names, generator.integers(0, 3, num_classes).tolist(), strict=True)),
        )
        for _ in range(num_images)
    ]
    gate = QualityGate.of(found)
    assert gate is not None
    num_flagged = sum(bool(gate.flags(one)) for one in found)
    assert num_flagged == gate.num_flagged <= MAX_FLAGGED * num_images
    assert f"{num_flagged} of {num_images} validation images are flagged" in gate.text()


def test_few_validation_images_give_no_limits() -> None:
    assert QualityGate.of([amounts(1000.0 + n) for n in range(MIN_IMAGES - 1)]) is None


def test_limits_are_read_back_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    gate = QualityGate.of([amounts(1000.0 + n) for n in range(50)])
    assert gate is not None
    assert QualityGate.read(tmp_path) is None
    gate.write(tmp_path)
    assert QualityGate.read(tmp_path) == gate
    (tmp_path / GATE).write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        QualityGate.read(tmp_path)
