"""Metrics of segmentation on the grid of the source, in millimeters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.bootstrap import bootstrap
from medvit.samples import Row

Scores = dict[str, float]


def score_case(
    truth: Int[Array, "*s"],
    found: Int[Array, "*s"],
    classes: Sequence[str],
    spacing_mm: tuple[float, ...],
    *,
    tolerance_mm: float,
) -> Scores:
    """Of each foreground class: `dice`, `hd95_mm`, `nsd` and, of volumes, `volume_ml` and `true_volume_ml`.

    Where truth and finding both lack a class, nothing is to be measured and all three are undefined. Where one of them
    lacks it, Dice and NSD are 0 and HD95 is the diagonal of the image: a miss must not make the mean better.
    """
    scores: Scores = {}
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    for index, name in enumerate(classes[1:], start=1):
        true, given = truth == index, found == index
        scores |= {
            f"{metric}.{name}": value for metric, value in _scores(true, given, spacing_mm, tolerance_mm).items()
        }
        if truth.ndim == 3:
            scores |= {f"volume_ml.{name}": given.sum() * voxel_ml, f"true_volume_ml.{name}": true.sum() * voxel_ml}
    return scores


def evaluate_masks(
    rows: Sequence[Row],
    scores: Sequence[Scores],
    classes: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Means over images of all scores, and of their means over the classes, with intervals over patients."""
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    columns |= {metric: _mean_over_classes(columns, metric) for metric in ("dice", "hd95_mm", "nsd")}
    averaged = [name for name in columns if not name.startswith(("volume", "true_volume"))]
    estimates = bootstrap(
        lambda drawn: {name: _mean(columns[name][drawn]) for name in averaged},
        [row.patient_id for row in rows],
        resamples=resamples,
        seed=seed,
    )
    undefined = {name: int(np.isnan(columns[name]).sum()) for name in averaged if name.startswith("dice.")}
    missing = [
        f"{count} images have no {name.removeprefix('dice.')}, in truth or finding, and do not count for it"
        for name, count in undefined.items()
        if count
    ]
    return Evaluation("segmentation", classes, tuple(rows), estimates, columns, (*notes, *missing))


def dice(true: Array, given: Array) -> float:
    """2 |A and B| / (|A| + |B|); undefined where both are empty."""
    total = int(true.sum()) + int(given.sum())
    return float("nan") if total == 0 else 2.0 * int((true & given).sum()) / total


def _scores(true: Array, given: Array, spacing_mm: tuple[float, ...], tolerance_mm: float) -> Mapping[str, float]:
    if not true.any() and not given.any():
        return {"dice": float("nan"), "hd95_mm": float("nan"), "nsd": float("nan")}
    if not true.any() or not given.any():
        diagonal = float(np.linalg.norm(np.array(true.shape) * np.array(spacing_mm)))
        return {"dice": 0.0, "hd95_mm": diagonal, "nsd": 0.0}
    return {"dice": dice(true, given)} | _surface_scores(true, given, spacing_mm, tolerance_mm)


def _surface_scores(true: Array, given: Array, spacing_mm: tuple[float, ...], tolerance_mm: float) -> Scores:
    """HD95 and NSD through MONAI, on the box around both masks, which holds every surface."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    box = _box(true | given)
    y_pred, y = (torch.from_numpy(mask[box][None, None].astype(np.float32)) for mask in (given, true))
    hd95 = compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95, spacing=list(spacing_mm))
    nsd = compute_surface_dice(y_pred, y, [tolerance_mm], include_background=True, spacing=list(spacing_mm))
    return {"hd95_mm": float(hd95), "nsd": float(nsd)}


def _box(mask: Array) -> tuple[slice, ...]:
    """The mask's bounding box with one voxel of margin, so that surfaces at its faces are surfaces inside it too."""
    inside = np.nonzero(mask)
    return tuple(
        slice(max(0, int(axis.min()) - 1), min(size, int(axis.max()) + 2))
        for axis, size in zip(inside, mask.shape, strict=True)
    )


def _mean_over_classes(columns: Mapping[str, Float[Array, "n"]], metric: str) -> Float[Array, "n"]:
    stacked = np.stack([values for name, values in columns.items() if name.startswith(f"{metric}.")])
    defined = ~np.isnan(stacked)
    total = np.where(defined, stacked, 0.0).sum(axis=0)
    return np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)


def _mean(values: Float[Array, "n"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
