"""Quality gate: predicted volumes and components that are unlike those of the validation images are flagged.

The limits are determined when a model is fine-tuned, from its predictions for the validation images, and are stored
with the checkpoint. They are widened until at most `MAX_FLAGGED` of the validation images are flagged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array
from scipy import ndimage

from medvit.artifacts import GATE
from medvit.errors import DataError
from medvit.files.atomic import write_text
from medvit.types import Prediction

MIN_IMAGES = 20
"""Smallest number of validation images from which limits are determined."""
TAILS = (0.01, 0.005, 0.0)
"""Shares of the validation images below the lower and above the upper limit. The first one that flags few enough images
is used. With 0, the limits are the lowest and highest volume.
"""
MAX_FLAGGED = 0.05
FLAGGED = "flagged: "
"""Beginning of a note that flags a study."""
MIN_COMPONENT = 0.01
"""Smallest share of the volume of a class at which a connected component counts."""


@dataclass(frozen=True)
class Amounts:
    """Volume in mL and number of components of each class in one prediction, without the background."""

    volumes_ml: Mapping[str, float]
    components: Mapping[str, int]

    @classmethod
    def of(cls, prediction: Prediction) -> Amounts | None:
        """Return the amounts of a label map of a volume; None for other predictions."""
        mask, affine = prediction.mask, prediction.affine
        if mask is None or mask.ndim != 3 or affine is None:
            return None
        names = prediction.classes[1:]
        counts = np.bincount(mask.ravel(), minlength=len(names) + 1)[1:]
        boxes = ndimage.find_objects(mask, max_label=len(names))
        found = {
            name: 0 if box is None else _num_components(mask[box] == label, int(count))
            for label, (name, box, count) in enumerate(zip(names, boxes, counts, strict=True), start=1)
        }
        return cls({name: float(n) * affine.voxel_ml for name, n in zip(names, counts, strict=True)}, found)


def _num_components(mask: Int[Array, "i j k"], num_voxels: int) -> int:
    """Return the number of components, connected by sides, that are not tiny."""
    labels, _ = ndimage.label(mask)
    return int((np.bincount(labels.ravel())[1:] >= MIN_COMPONENT * num_voxels).sum())


@dataclass(frozen=True)
class Expected:
    """Volumes of a class in mL, lowest and highest, and whether it always has one component."""

    low_ml: float
    high_ml: float
    is_single: bool


@dataclass(frozen=True)
class QualityGate:
    """Limits of each class, with the number of validation images and the share of them that they flag."""

    classes: Mapping[str, Expected]
    num_images: int
    num_flagged: int
    tail: float

    @classmethod
    def of(cls, found: Sequence[Amounts]) -> QualityGate | None:
        """Return the limits that validation predictions give; None if there are fewer than `MIN_IMAGES`."""
        if len(found) < MIN_IMAGES:
            return None
        for tail in TAILS:
            gate = cls({name: _expected(name, found, tail) for name in found[0].volumes_ml}, len(found), 0, tail)
            num_flagged = sum(bool(gate.flags(one)) for one in found)
            if num_flagged <= MAX_FLAGGED * len(found):
                break
        return cls(gate.classes, gate.num_images, num_flagged, tail)

    def flags(self, amounts: Amounts) -> list[str]:
        """Return the reasons for which a prediction is flagged, each of which begins with `FLAGGED`."""
        reasons = []
        for name, expected in self.classes.items():
            volume_ml, number = amounts.volumes_ml.get(name, 0.0), amounts.components.get(name, 0)
            if not expected.low_ml <= volume_ml <= expected.high_ml:
                limits = f"{expected.low_ml:.4g} to {expected.high_ml:.4g} mL"
                reasons.append(f"{FLAGGED}{name} has {volume_ml:.4g} mL, and {limits} in validation")
            if expected.is_single and number > 1:
                reasons.append(f"{FLAGGED}{name} has {number} components, and one in validation")
        return reasons

    def text(self) -> str:
        """Return how many validation images the gate flags."""
        quantiles = f"the {self.tail:.1%} and {1 - self.tail:.1%} quantiles of the volumes"
        limits = quantiles if self.tail else "the lowest and highest volume"
        return f"quality gate: {self.num_flagged} of {self.num_images} validation images are flagged, by {limits}"

    def write(self, folder: Path) -> None:
        """Write the limits into the folder of a checkpoint."""
        write_text(folder / GATE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> QualityGate | None:
        """Return the limits of a checkpoint; None if it has none.

        Raises:
            DataError: If the file is damaged.
        """
        path = folder / GATE
        if not path.is_file():
            return None
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {name: Expected(**one) for name, one in tree["classes"].items()},
                int(tree["num_images"]),
                int(tree["num_flagged"]),
                float(tree["tail"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path} is damaged; remove it to predict without the quality gate") from None


def _expected(name: str, found: Sequence[Amounts], tail: float) -> Expected:
    volumes = np.array([one.volumes_ml[name] for one in found])
    low, high = np.quantile(volumes, [tail, 1.0 - tail])
    numbers = np.array([one.components[name] for one in found])
    is_present = numbers > 0
    most = (numbers[is_present] == 1).mean() if is_present.any() else 0.0
    return Expected(float(low), float(high), bool(most >= 1.0 - tail))
