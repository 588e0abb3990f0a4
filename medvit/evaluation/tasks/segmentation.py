"""Metrics of segmentation on the grid of the source, in millimeters if it has a physical scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.evaluation import Evaluation
from medvit.geometry import voxel_ml
from medvit.metrics import (
    COUNTED,
    LengthUnit,
    MaskMetric,
    MaskPair,
    PixelCounts,
    PooledMetric,
    VolumeMetric,
    keys_of,
    metric_of,
    metrics,
)
from medvit.records import IGNORED, Row
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import bootstrap
from medvit.statistics.mean import few_mean
from medvit.transforms.regions import Regions
from medvit.types import Image

Scores = dict[str, float]


def unit_of(manifest: Manifest) -> LengthUnit:
    """Return mm if every image has a physical scale, else px: distances in mm and in pixels cannot be averaged."""
    return "mm" if all(row.affine is not None or row.mpp is not None for row in manifest) else "px"


def spacing(image: Image, unit: LengthUnit) -> tuple[float, ...]:
    """Return the distance between neighboring pixels or voxels, in the given unit."""
    num_axes = image.pixels.ndim - 1
    if unit == "px":
        return (1.0,) * num_axes
    return image.affine.spacing_mm if image.affine is not None else ((image.mpp or 0.0) / 1000.0,) * num_axes


def score_case(
    truth: Int[Array, "*s"],
    found: Int[Array, "*s"],
    classes: Sequence[str],
    spacing_mm: tuple[float, ...],
    *,
    tolerance_mm: float,
    unit: LengthUnit = "mm",
    annotated: Sequence[str] | None = None,
    regions: Regions | None = None,
) -> Scores:
    """Return every `MaskMetric` and the voxel counts of each foreground class, or of each region (`COUNTED`).

    For volumes, the scores `volume_ml` and `true_volume_ml` are added.

    In the unit px, for images without a physical scale, spacing and tolerance are in pixels, HD95 is `hd95_px`, and
    volumes are omitted.

    If neither truth nor prediction contains a class, Dice, NSD and HD95 of the class are undefined. If only one of the
    two contains the class, Dice and NSD are 0 and HD95 is the diagonal of the image: a miss must not improve the mean.
    Pixels where the truth is `IGNORED` do not count. With `annotated`, the scores of all other classes, and of
    regions with another class, are NaN.
    """
    found = without_ignored(truth, found, len(classes))
    num_counted = float(truth.size if len(classes) > IGNORED else (truth != IGNORED).sum())
    scores: Scores = {}
    size_ml = voxel_ml(spacing_mm)
    for name, members in _structures(classes, regions).items():
        true, given = (np.logical_or.reduce([labels == number for number in members]) for labels in (truth, found))
        masks = MaskPair(true, given, spacing_mm, tolerance_mm)
        own = {metric.key(unit): metric.compute(masks) for metric in metrics(MaskMetric)}
        own |= {"voxels": float(given.sum()), "true_voxels": float(true.sum())}
        own |= {"overlap_voxels": float((true & given).sum()), "counted_voxels": num_counted}
        if truth.ndim == 3 and unit == "mm":
            own |= {"volume_ml": own["voxels"] * size_ml, "true_volume_ml": own["true_voxels"] * size_ml}
        is_known = annotated is None or all(classes[member] in annotated for member in members)
        scores |= {f"{metric}.{name}": value if is_known else float("nan") for metric, value in own.items()}
    return scores


def _structures(classes: Sequence[str], regions: Regions | None) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the classes in each structure to score: a region, or a foreground class."""
    if regions is None:
        return {name: (number,) for number, name in enumerate(classes) if number}
    return dict(zip(regions.names, regions.members, strict=True))


def without_ignored(truth: Int[Array, "*s"], found: Int[Array, "*s"], num_classes: int) -> Int[Array, "*s"]:
    """Return a predicted label map with background where the truth is `IGNORED`, so that these pixels do not count."""
    if num_classes <= IGNORED and (truth == IGNORED).any():
        return np.where(truth == IGNORED, 0, found)
    return found


def counted_classes(
    truth: Int[Array, "*s"], found: Int[Array, "*s"], classes: Sequence[str], annotated: Sequence[str] | None
) -> Int[Array, "*s"]:
    """Return a predicted label map with background where the truth is ignored or the class is not annotated."""
    found = without_ignored(truth, found, len(classes))
    if annotated is None:
        return found
    return np.where(np.isin(found, [classes.index(name) for name in annotated]), found, 0)


def evaluate_masks(
    rows: Sequence[Row],
    scores: Sequence[Scores],
    classes: tuple[str, ...],
    *,
    resamples: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Return the mean of each score over the images, by class and over all classes, with intervals over patients."""
    columns = score_columns(scores)
    estimates = mask_estimates(columns, [row.patient_id for row in rows], resamples=resamples, seed=seed)
    return Evaluation("segmentation", classes, tuple(rows), estimates, columns, (*notes, *_absences(columns, classes)))


def score_columns(scores: Sequence[Scores]) -> dict[str, Float[Array, "n"]]:
    """Return a column for each score of the images, by class and as the mean over all classes."""
    columns = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    averaged, known = dict.fromkeys(name.partition(".")[0] for name in columns), keys_of(MaskMetric)
    return {key: _mean_over_classes(columns, key) for key in averaged if key in known} | columns


def mask_estimates(
    columns: Mapping[str, Float[Array, "n"]], patients: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Return every segmentation metric with its interval over patients: bootstrap, or bootstrap-t for few patients."""
    found = bootstrap(
        lambda drawn: mask_metrics({name: values[drawn] for name, values in columns.items()}),
        patients,
        resamples=resamples,
        seed=seed,
    )
    for key in found:
        metric = metric_of(key)
        if isinstance(metric, MaskMetric):
            few = few_mean(columns[key], patients, metric.bounds, resamples=resamples, seed=seed)
            found[key] = few or found[key]
    return found


def mask_metrics(columns: Mapping[str, Float[Array, "n"]]) -> dict[str, float]:
    """Return every segmentation metric over the images.

    These are the mean of every `MaskMetric` over the images for which it is defined, every `VolumeMetric`, and every
    `PooledMetric` by class and as the mean over classes.
    """
    known = keys_of(MaskMetric)
    found = {name: mean_of_defined(values) for name, values in columns.items() if name.partition(".")[0] in known}
    for volume in metrics(VolumeMetric):
        for part in _parts(columns, "volume_ml"):
            true, given = columns[f"true_volume_ml.{part}"], columns[f"volume_ml.{part}"]
            is_known = ~np.isnan(true)
            found[f"{volume.key()}.{part}"] = volume.compute(true[is_known], given[is_known])
    counts = {part: _pooled(columns, part) for part in _parts(columns, "overlap_voxels")}
    for pooled in metrics(PooledMetric) if counts else ():
        values = {part: pooled.compute(pixels) for part, pixels in counts.items()}
        found[pooled.key()] = mean_of_defined(np.array(list(values.values())))
        found |= {f"{pooled.key()}.{part}": value for part, value in values.items()}
    return found


def _parts(columns: Iterable[str], name: str) -> list[str]:
    """Return the classes for which there is a column of this name."""
    return [column.partition(".")[2] for column in columns if column.startswith(f"{name}.")]


def _pooled(columns: Mapping[str, Float[Array, "n"]], part: str) -> PixelCounts:
    found, true, overlap, counted = (float(np.nansum(columns[f"{name}.{part}"])) for name in COUNTED)
    return PixelCounts(overlap=overlap, true=true, found=found, counted=counted)


def _mean_over_classes(columns: Mapping[str, Float[Array, "n"]], metric: str) -> Float[Array, "n"]:
    stacked = np.stack([values for name, values in columns.items() if name.startswith(f"{metric}.")])
    defined = ~np.isnan(stacked)
    total = np.where(defined, stacked, 0.0).sum(axis=0)
    return np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)


def mean_of_defined(values: Float[Array, "n"]) -> float:
    """Return the mean of the values that are not NaN; NaN without such a value."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _absences(columns: Mapping[str, Array], classes: Sequence[str]) -> list[str]:
    """Return notes on images in which the truth or the prediction lacks a class, or in which it is not annotated."""
    notes = []
    for name in classes[1:]:
        is_known = ~np.isnan(columns[f"true_voxels.{name}"])
        if not is_known.all():
            notes.append(f"{name} is annotated in {is_known.sum()} of {len(is_known)} images; others do not count")
        true, found = (columns[f"{key}.{name}"][is_known] > 0 for key in ("true_voxels", "voxels"))
        for images, text in (
            (~true & ~found, "absent from truth and prediction; does not count for it"),
            (true & ~found, "missed completely; Dice and NSD are 0, HD95 is the diagonal of the image"),
            (~true & found, "predicted although absent; Dice and NSD are 0, HD95 is the diagonal of the image"),
        ):
            if images.any():
                notes.append(f"{name}, in {images.sum()} of {len(images)} images: {text}")
    return notes
