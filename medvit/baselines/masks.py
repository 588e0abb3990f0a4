"""Baselines of segmentation: background, mean label map, intensity threshold, and a regression on single voxels.

All of them use the stored intensities on the grid of each image, where label maps are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array
from scipy import ndimage

from medvit.baselines.kinds import TITLES, BaselineName, TrainedBaseline
from medvit.baselines.pixels import arranged
from medvit.baselines.subject import LabeledSplits
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError
from medvit.evaluation.tasks.segmentation import score_case, score_columns, spacing, unit_of, without_ignored
from medvit.metrics.dice import dice_from_counts
from medvit.records import IGNORED
from medvit.types import Image

GRID = {2: 64, 3: 32}
"""Side of the common grid of the mean label map, keyed by the number of dimensions."""
SHARES = tuple(np.linspace(0.05, 0.95, 19).tolist())
"""Cut-offs of the share of training label maps that have a structure at a place, to choose from."""
QUANTILES = tuple(np.linspace(0.01, 0.99, 50).tolist())
"""Quantiles of intensities to choose a threshold from."""
SAMPLED = 20_000
"""Maximum number of voxels of an image from which a threshold is chosen."""
SIGMAS = (1.0, 2.0, 4.0)
"""Standard deviations of the Gaussians by which intensities are smoothed, in units of the smallest voxel side."""
VOXELS_OF_CLASS = 500
"""Maximum number of voxels of each class that an image adds to the training of the regression."""
PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the class frequencies by which the regression, trained on equally frequent classes, is corrected."""
CHOOSING_IMAGES = 50
"""Maximum number of validation images on which the correction is chosen."""

Segmenter = Callable[[Image], Int[Array, "*s"]]
"""Function that returns the label map of an image on its grid."""


def train_mask_baseline(
    name: BaselineName, splits: LabeledSplits, *, tolerance_mm: float, seed: int
) -> TrainedBaseline:
    """Train a baseline of a segmentation and return the scores of its label maps.

    Raises:
        DataError: If the images do not allow the baseline.
    """
    kinds = {row.kind for row in splits.train}
    if len(kinds) > 1 or len(splits.classes) < 2:
        raise DataError("expected images or volumes, not both, with label maps of at least one structure")
    makers: dict[str, Callable[[], tuple[Segmenter, str]]] = {
        "background": lambda: (lambda image: np.zeros(image.pixels.shape[1:], np.uint8), "No structure in any image."),
        "mean_mask": lambda: mean_mask(splits.train, len(splits.classes)),
        "threshold": lambda: threshold(splits.train, splits.classes, seed=seed),
        "voxels": lambda: voxel_regression(splits.train, splits.val, len(splits.classes), seed=seed),
    }
    segment, note = makers[name]()
    columns = scored(splits, segment, tolerance_mm=tolerance_mm)
    return TrainedBaseline(name, TITLES[name], note, (*splits.val, *splits.test), columns)


def scored(splits: LabeledSplits, segment: Segmenter, *, tolerance_mm: float) -> dict[str, Float[Array, "n"]]:
    """Return the scores of the label maps of validation and test images, as evaluate computes them."""
    unit, scores = unit_of(splits.test), []
    for part in (splits.val, splits.test):
        for row in part:
            image = load(part, row)
            how: dict[str, Any] = {"tolerance_mm": tolerance_mm, "unit": unit}
            scores.append(score_case(_mask(image), segment(image), splits.classes, spacing(image, unit), **how))
    return score_columns(scores)


def mean_mask(train: Manifest, num_classes: int) -> tuple[Segmenter, str]:
    """Return a segmentation by the mean of the training label maps on a common grid, the same for every image.

    A place has a structure if at least a share of the training label maps has one there, and of the structures the most
    frequent one. The share is the one with the highest Dice on the training label maps.
    """
    side = GRID[len(train.rows[0].shape) - 1]
    maps = np.stack([_on_grid(_without_ignored(_mask(load(train, row)), num_classes), side) for row in train])
    shares = np.stack([(maps == label).mean(axis=0) for label in range(num_classes)])
    if not shares[1:].any():
        raise DataError("no training image has a structure")
    found = [_most_frequent(shares, share) for share in SHARES]
    scores = [float(np.nanmean([_dice_of_classes(one, mask, num_classes) for one in maps])) for mask in found]
    chosen = SHARES[int(np.nanargmax(scores))]

    def segment(image: Image) -> Int[Array, "*s"]:
        return _most_frequent(np.stack([_resized(share, image.pixels.shape[1:]) for share in shares]), chosen)

    grid = " x ".join([str(side)] * (shares.ndim - 1))
    return segment, f"Mean label map of {len(maps)} training images on a grid of {grid}, cut off at {chosen:.2f}."


@dataclass(frozen=True)
class Cut:
    """Threshold on a channel (None: the mean of all): values above it, or below, are the class `label`.

    `level` is an intensity, or the quantile of the intensities of each image if `is_quantile` is true.
    """

    channel: int | None
    level: float
    label: int
    is_above: bool
    is_quantile: bool

    def __call__(self, image: Image) -> Int[Array, "*s"]:
        """Return the label map of an image."""
        gray = _gray(image.without_gaps().intensities(), self.channel)
        level = np.quantile(gray, self.level) if self.is_quantile else self.level
        return np.where(gray > level if self.is_above else gray <= level, self.label, 0).astype(np.uint8)

    def text(self, name: str) -> str:
        """Return a sentence about the threshold; `name` is that of the class."""
        side = "above" if self.is_above else "at most"
        level = f"the {100 * self.level:.0f} % quantile of its image" if self.is_quantile else f"{self.level:.4g}"
        where = "" if self.channel is None else f" in channel {self.channel + 1}"
        return f"Pixels are {name} if their intensity{where} is {side} {level}; chosen by Dice on the training images."


def threshold(train: Manifest, classes: Sequence[str], *, seed: int) -> tuple[Segmenter, str]:
    """Return a segmentation by an intensity threshold for one structure, the one with the highest Dice on `train`.

    Thresholds are quantiles of the intensities of all training images, or of each image. Their Dice is estimated from
    at most 20,000 voxels of an image.
    """
    generator = np.random.default_rng(seed)
    drawn = [_drawn(load(train, row).without_gaps(), generator) for row in train]
    channels = {pixels.shape[0] for pixels, _ in drawn}
    numbers = [None, *range(next(iter(channels)))] if len(channels) == 1 and channels != {1} else [None]
    best, chosen = -1.0, None
    for channel in numbers:
        grays = [_gray(pixels, channel) for pixels, _ in drawn]
        pooled = np.quantile(np.concatenate(grays), QUANTILES)
        own = [np.quantile(gray, QUANTILES) for gray in grays]
        for label in (label for label in range(1, len(classes)) if any((mask == label).any() for _, mask in drawn)):
            for is_quantile, levels in ((False, [pooled] * len(own)), (True, own)):
                counts = [
                    _dice_at(gray[mask < len(classes)], mask[mask < len(classes)] == label, level)
                    for gray, (_, mask), level in zip(grays, drawn, levels, strict=True)
                ]
                scores = np.nanmean(np.stack(counts), axis=0)  # (2, quantiles)
                if np.nanmax(scores) > best:
                    best = float(np.nanmax(scores))
                    side, place = np.unravel_index(int(np.nanargmax(scores)), scores.shape)
                    level = QUANTILES[place] if is_quantile else float(pooled[place])
                    chosen = Cut(channel, level, label, bool(side == 0), is_quantile)
    if chosen is None:
        raise DataError("no training image has a structure")
    return chosen, chosen.text(classes[chosen.label])


def voxel_regression(train: Manifest, val: Manifest, num_classes: int, *, seed: int) -> tuple[Segmenter, str]:
    """Return a segmentation by a logistic regression on the intensities of each voxel and its surroundings.

    Features are the intensities and, standardized within the image, the same smoothed by Gaussians. The classes are
    equally frequent in training. How far the probabilities are corrected for their true frequencies is chosen by Dice
    on validation images, or on training images if there are none.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = sorted({name for row in train for name in row.channels})
    generator, features, labels = np.random.default_rng(seed), [], []
    counts = np.zeros(num_classes)
    for row in train:
        image = load(train, row)
        mask = _mask(image).ravel()
        counts += np.bincount(mask[mask < num_classes], minlength=num_classes)
        places = np.concatenate([_some(np.flatnonzero(mask == label), generator) for label in range(num_classes)])
        features.append(voxel_features(image, names)[places])
        labels.append(mask[places])
    truth = np.concatenate(labels)
    if len(set(truth)) < 2:
        raise DataError("no training image has a structure")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000))
    model.fit(np.concatenate(features), truth)
    log_share = np.log(counts[model.classes_] / counts.sum())

    def logits(image: Image) -> Float[Array, "n l"]:
        return np.asarray(model.predict_log_proba(voxel_features(image, names)))

    def labeled(found: Float[Array, "n l"], prior: float, shape: tuple[int, ...]) -> Int[Array, "*s"]:
        best = model.classes_[(found + prior * log_share).argmax(axis=1)]
        return np.asarray(best.astype(np.min_scalar_type(num_classes)).reshape(shape))

    judged, part = ("validation", val) if len(val) else ("training", train)
    scores = np.zeros(len(PRIORS))
    rows = part.rows[:CHOOSING_IMAGES]
    for row in rows:
        image = load(part, row)
        mask, found = _mask(image), logits(image)
        each = [labeled(found, prior, mask.shape) for prior in PRIORS]
        scores += [np.nan_to_num(_dice_of_classes(mask, one, num_classes)) for one in each]
    prior = PRIORS[int(scores.argmax())]
    note = (
        f"Logistic regression on the intensities of {len(truth)} voxels of {len(train)} training images, alone and "
        f"smoothed by Gaussians of {', '.join(f'{sigma:g}' for sigma in SIGMAS)} voxels; correction for class "
        f"frequencies {prior:g}, chosen by Dice on {len(rows)} {judged} images."
    )
    return lambda image: labeled(logits(image), prior, image.pixels.shape[1:]), note


def voxel_features(image: Image, names: Sequence[str] = ()) -> Float[Array, "n f"]:
    """Return the features of each voxel: its intensity in each channel, and that of smoothed standardized images."""
    image = image.without_gaps()
    pixels = arranged(image, names) * np.float32(image.slope) + np.float32(image.intercept)
    pixels = np.nan_to_num(pixels, posinf=0.0, neginf=0.0)
    sides = (1.0,) * (pixels.ndim - 1) if image.affine is None else image.affine.spacing_mm
    relative = [min(sides) / side for side in sides]
    columns = []
    for channel in pixels:
        standard = (channel - channel.mean()) / (channel.std() or 1.0)
        smooth = [ndimage.gaussian_filter(standard, [sigma * one for one in relative]) for sigma in SIGMAS]
        columns += [channel, standard, *smooth]
    return np.stack([column.ravel() for column in columns], axis=1)


def _mask(image: Image) -> Int[Array, "*s"]:
    assert image.mask is not None, "images without a label map are excluded"
    return image.mask


def _without_ignored(mask: Int[Array, "*s"], num_classes: int) -> Int[Array, "*s"]:
    return np.where(mask == IGNORED, 0, mask) if num_classes <= IGNORED else mask


def _on_grid(mask: Int[Array, "*s"], side: int) -> Int[Array, "*t"]:
    places = [((np.arange(side) + 0.5) * size / side).astype(int) for size in mask.shape]
    return np.asarray(mask[np.ix_(*places)])


def _resized(share: Float[Array, "*t"], shape: tuple[int, ...]) -> Float[Array, "*s"]:
    factors = [size / side for size, side in zip(shape, share.shape, strict=True)]
    return np.asarray(ndimage.zoom(share, factors, order=1, grid_mode=True, mode="nearest"))


def _most_frequent(shares: Float[Array, "l *s"], cutoff: float) -> Int[Array, "*s"]:
    """Return the most frequent structure of places where the share of all structures is at least the cut-off."""
    return np.where(shares[1:].sum(axis=0) >= cutoff, shares[1:].argmax(axis=0) + 1, 0).astype(np.uint8)


def _dice_of_classes(truth: Int[Array, "*s"], found: Int[Array, "*s"], num_classes: int) -> float:
    """Return the mean Dice over the structures in the truth or the prediction; NaN if there are none."""
    found = without_ignored(truth, found, num_classes)
    pairs = [(truth == label, found == label) for label in range(1, num_classes)]
    each = dice_from_counts(
        np.array([(one & two).sum() for one, two in pairs]), np.array([one.sum() + two.sum() for one, two in pairs])
    )
    return float(np.nanmean(each)) if np.isfinite(each).any() else math.nan


def _gray(pixels: Float[Array, "c *s"], channel: int | None) -> Float[Array, "*s"]:
    return np.asarray(np.nan_to_num(pixels.mean(axis=0) if channel is None else pixels[channel]))


def _drawn(image: Image, generator: np.random.Generator) -> tuple[Float[Array, "c n"], Int[Array, "n"]]:
    """Return the intensities and labels of some voxels of an image, ignored ones among them."""
    pixels, mask = image.intensities().reshape(len(image.pixels), -1), _mask(image).ravel()
    places = np.arange(mask.size)
    if len(places) > SAMPLED:
        places = generator.choice(places, SAMPLED, replace=False)
    return pixels[:, places], mask[places]


def _dice_at(gray: Float[Array, "n"], true: Array, levels: Float[Array, "q"]) -> Float[Array, "2 q"]:
    """Return the Dice of the values above each level, and of those at most at it; NaN if the class is absent."""
    order = np.sort(gray)
    inside = np.sort(gray[true])
    num_above = len(order) - np.searchsorted(order, levels, side="right")
    hit_above = len(inside) - np.searchsorted(inside, levels, side="right")
    if not len(inside):
        return np.full((2, len(levels)), math.nan)
    above = 2 * hit_above / (num_above + len(inside))
    below = 2 * (len(inside) - hit_above) / (len(order) - num_above + len(inside))
    return np.stack([above, below])


def _some(places: Int[Array, "n"], generator: np.random.Generator) -> Int[Array, "m"]:
    return generator.choice(places, VOXELS_OF_CLASS, replace=False) if len(places) > VOXELS_OF_CLASS else places
