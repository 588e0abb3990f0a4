"""Which cases of an evaluation are worth a look, and what else a reader must know of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation import Estimate, Evaluation
from medvit.evaluation.segmentation import Unit
from medvit.manifest import Manifest
from medvit.samples import Image, Split


def telling(scores: Float[Array, "n"]) -> dict[str, int]:
    """The best, the median and the worst by a score, by their places; nothing where no score is defined."""
    order = [int(index) for index in np.argsort(scores) if not np.isnan(scores[index])]
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]} if order else {}


def probability_of_truth(evaluation: Evaluation) -> Float[Array, "n"]:
    """What the model gave the true class of each image."""
    probabilities = np.stack([evaluation.columns[f"p.{name}"] for name in evaluation.classes], axis=1)
    return probabilities[np.arange(len(probabilities)), evaluation.columns["truth"]]


def shared_patients(manifest: Manifest, split: Split) -> list[str]:
    """A note on patients of a split who also have images in the train split: the model may know them."""
    if split == "train":
        return []
    known = {row.patient_id for row in manifest if row.split == "train"}
    both = {row.patient_id for row in manifest if row.split == split} & known
    return [f"{len(both)} patients of this split have images in the train split too; the numbers may flatter"] * bool(
        both
    )


def tracked(metrics: Mapping[str, Estimate], split: Split) -> dict[str, float]:
    """The numbers that are defined, as MLflow gets them: `test.dice`, `test.dice.low`, `test.dice.high`."""
    parts = {"": "value", ".low": "low", ".high": "high"}
    found = {f"{split}.{name}{end}": getattr(e, part) for name, e in metrics.items() for end, part in parts.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def unit_of(manifest: Manifest) -> Unit:
    """Millimeters where every image has a physical scale, else pixels: the two cannot be averaged."""
    return "mm" if all(row.affine is not None or row.mpp is not None for row in manifest) else "px"


def spacing(image: Image, unit: Unit) -> tuple[float, ...]:
    """Distance between neighboring pixels or voxels, in a unit."""
    num_axes = image.pixels.ndim - 1
    if unit == "px":
        return (1.0,) * num_axes
    return image.affine.spacing_mm if image.affine is not None else ((image.mpp or 0.0) / 1000.0,) * num_axes
